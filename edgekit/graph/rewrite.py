"""Which rules graphs go through, in which order, and what they did.

    recipe = recipe_for("openvino")       # targets say which one is theirs
    reports = apply(model, recipe, expected={"attention": 8})
    reports[2].to_dict()     # {'rule': 'attention_operator', 'fired': 8, 'expected': 8, 'refused': []}

A graph from a file is first searched for attention in any spelling (``FINDING``); one fresh from the exporter has it
as one operator already.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from onnx_ir.passes import common
from onnxscript import ir
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from edgekit.errors import GateError, UsageError
from edgekit.graph import rules as package
from edgekit.graph.opset import lower_opset, raise_opset
from edgekit.graph.rules._rule import Moved, Rule
from edgekit.graph.rules.attention_decomposed import AttentionDecomposed
from edgekit.graph.rules.attention_found import AttentionFound
from edgekit.graph.rules.attention_operator import AttentionOperator
from edgekit.graph.rules.channel_selection import ChannelSelection
from edgekit.graph.rules.gathered_branch import GatheredBranch
from edgekit.graph.rules.integer_division import IntegerDivision
from edgekit.graph.rules.layout_chain import LayoutChain
from edgekit.graph.rules.reduce_axes import ReduceAxes
from edgekit.graph.rules.reshape_static import ReshapeStatic
from edgekit.graph.rules.resize_by_two import ResizeByTwo
from edgekit.graph.rules.selected_convolution import SelectedConvolution
from edgekit.graph.rules.softmax_spelled_out import SoftmaxSpelledOut
from edgekit.graph.rules.split_convolution import SplitConvolution
from edgekit.graph.rules.split_sizes import SplitSizes
from edgekit.graph.rules.upsampled_convolution import UpsampledConvolution
from edgekit.spec import Json

_ORDERED: tuple[type[Rule], ...] = (
    SoftmaxSpelledOut,  # before attention is looked for: that starts at a Softmax
    AttentionFound,
    LayoutChain,  # before attention is lowered: through a lowered one, chains would reach further and not cancel
    ChannelSelection,
    SelectedConvolution,
    SplitConvolution,
    UpsampledConvolution,
    GatheredBranch,
    AttentionDecomposed,
    AttentionOperator,
    ReshapeStatic,
    IntegerDivision,
    ResizeByTwo,
    SplitSizes,
    ReduceAxes,
)


def _discovered() -> list[type[Rule]]:
    """Rules in files of ``rules/`` that are not imported above."""
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    found = {v: None for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, Rule)}
    return [rule for rule in found if rule.NAME and rule not in _ORDERED]


def _placed(more: Sequence[type[Rule]]) -> tuple[type[Rule], ...]:
    order = list(_ORDERED)
    for rule in more:
        place = next((i for i, other in enumerate(order) if rule.BEFORE == other.NAME), len(order))
        order.insert(place, rule)
    return tuple(order)


_MORE = _discovered()
RULES = _placed(_MORE)  # every rule, in the order they are applied
FINDING = (SoftmaxSpelledOut, AttentionFound)
LOWERINGS = (AttentionDecomposed.NAME, AttentionOperator.NAME)  # one of them is in every recipe
_MAPS = (LayoutChain, ChannelSelection, SelectedConvolution)
_COPIES = (SplitConvolution, UpsampledConvolution, GatheredBranch)  # saves copies and cells that nobody reads
_FORMS = (ReshapeStatic, IntegerDivision, ResizeByTwo)
_OLD_FORMS = (SplitSizes, ReduceAxes)
LARGEST_CONSTANT = 1 << 22  # elements of what is folded; cell centres of a 4096-pixel image are a tenth of it


@dataclass(frozen=True)
class Recipe:
    """What a target's graphs are turned into: an opset, by rules in order."""

    opset: int
    rules: tuple[type[Rule], ...]


# By measurement (benchmarks/rules.py) where that was possible, else what the vendor's documentation asks for.
PORTABLE = Recipe(18, (*_MAPS, AttentionDecomposed, *_FORMS))
_OPERATOR = Recipe(23, (*_MAPS, AttentionOperator, *_FORMS))
_OPENVINO = Recipe(23, (*_MAPS, *_COPIES, AttentionOperator, *_FORMS))
_OLDER = Recipe(17, (*_MAPS, AttentionDecomposed, *_FORMS, *_OLD_FORMS))  # TensorRT 8.6 reads up to 17
_NAMED = {"portable": PORTABLE, "openvino": _OPENVINO, "operator": _OPERATOR, "older": _OLDER}
RECIPES: dict[str, Recipe] = {
    name: Recipe(recipe.opset, tuple(r for r in RULES if r in recipe.rules or (r in _MORE and name in r.RECIPES)))
    for name, recipe in _NAMED.items()
}


@dataclass(frozen=True)
class RuleReport:
    """What one rule did: how often it fired, how often it should have, and where it would not."""

    rule: str
    fired: int
    expected: int | None
    refused: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> Json:
        return asdict(self)


def recipe_for(name: str | None, opset: int | None = None, add: Iterable[str] = (), drop: Iterable[str] = ()) -> Recipe:
    """The recipe called ``name`` (None: one that most runtimes read), with rules added or dropped by name.

    Raises:
        UsageError: no such recipe or rule, or an opset that a rule's operator is not in.
    """
    if name is not None and name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; recipes are {', '.join(RECIPES)}")
    base = RECIPES[name or "portable"]
    chosen = {*base.rules, *(_named(name) for name in add)} - {_named(name) for name in drop}
    lowerings = {rule for rule in chosen if rule.NAME in LOWERINGS}
    if len(lowerings) == 2:  # one was added: it replaces the target's own
        chosen -= lowerings & set(base.rules)
    elif not lowerings:
        raise UsageError(f"attention must become something: keep one of the rules {' and '.join(LOWERINGS)}")
    rules = tuple(rule for rule in RULES if rule in chosen)
    latest = max(rules, key=lambda rule: rule.OPSET, default=Rule)
    if opset is not None and opset < latest.OPSET:
        raise UsageError(
            f"`opset` {opset}: the rule {latest.NAME} makes an operator of opset {latest.OPSET}; drop one of them"
        )
    return Recipe(opset or max(base.opset, latest.OPSET), rules)


def _named(name: str) -> type[Rule]:
    by_name = {rule.NAME: rule for rule in RULES}
    if name not in by_name:
        raise UsageError(f"there is no rule {name!r}; rules are {', '.join(by_name)}")
    return by_name[name]


def apply(model: ir.Model, recipe: Recipe, expected: Mapping[str, int] | None = None) -> list[RuleReport]:
    """Bring ``model`` to the recipe's opset and apply its rules, in place.

    Returns:
        Reports of the rules that fired, refused something or were expected to fire.

    Raises:
        InputError: an operator has no form in the recipe's opset.
        GateError: a rule fired more or less often than ``expected`` says.
    """
    fold(model)
    raise_opset(model, recipe.opset)
    reports = rewrite(model, recipe.rules, expected)
    lower_opset(model, recipe.opset)
    return [r for r in reports if r.fired or r.refused or r.expected is not None]


def fold(model: ir.Model) -> None:
    """Compute what does not depend on the input, and drop what nobody uses; shapes must have been inferred."""
    fold_constants(model, input_size_limit=LARGEST_CONSTANT, output_size_limit=LARGEST_CONSTANT)
    _tidy(model)


def _tidy(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "Identity" and node.inputs[0] is not None:
            kept, gone = (v.name for v in (node.inputs[0], node.outputs[0]))
            if node.outputs[0].is_graph_output():  # then it is the output's name that stays
                kept, gone = gone, kept
            became(model)[str(gone)] = {"same": kept}
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def became(model: ir.Model) -> dict[str, Json]:
    """What rewrites have said about values that are no longer made as they were, by which ``verify/stages.py`` puts
    them together again (``rules._rule.Moved`` says how): name -> one of ``{"same": name}``,
    ``{"times": [name, factor]}``, ``{"channels": [[name, runs], …]}`` with runs ``[first, behind the last]``,
    ``{"cells": [name, cells' name]}``.
    """
    found: dict[str, Json] = model.meta.setdefault("edgekit.became", {})
    return found


def _note(model: ir.Model, moved: Sequence[Moved]) -> None:
    for row in moved:
        if isinstance(row.detail, list):
            entry = became(model).setdefault(row.old, {"channels": []})
            entry["channels"].append([row.value.name, _runs(row.detail)])
        else:
            detail = row.detail.name if isinstance(row.detail, ir.Value) else row.detail
            became(model)[row.old] = {row.form: [row.value.name, detail]}


def _runs(channels: Sequence[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for channel in channels:
        if runs and runs[-1][1] == channel:
            runs[-1][1] += 1
        else:
            runs.append([channel, channel + 1])
    return runs


def rewrite(
    model: ir.Model, rules: Sequence[type[Rule]], expected: Mapping[str, int] | None = None
) -> list[RuleReport]:
    """Apply ``rules`` in order to ``model``, in place.

    Args:
        expected: rule's count (``Rule.COUNT`` or its name) -> how often it must fire; others may do as they like.

    Raises:
        GateError: a rule fired more or less often than ``expected`` says; the sentence names the nodes it refused.
    """
    reports = []
    for kind in rules:
        rule = kind()
        wanted = (expected or {}).get(kind.COUNT or kind.NAME)
        fired = RewriteRuleSet([RewriteRule(p, rule.rewrite, rule.check) for p in rule.patterns()]).apply_to_model(
            model
        )
        if fired:
            _note(model, rule.moved)
            _tidy(model)
        reports.append(RuleReport(kind.NAME, fired, wanted, rule.refused))
        if wanted is not None and fired != wanted:
            refusals = "; ".join(f"{r['node']}: {r['why']}" for r in rule.refused) or "no other candidates were seen"
            raise GateError(
                f"the rewrite {kind.NAME} fired {fired} times where this model needs {wanted} ({refusals})",
                {"rewrites": [r.to_dict() for r in reports]},
            )
    common.RemoveUnusedOpsetsPass()(model)
    return reports
