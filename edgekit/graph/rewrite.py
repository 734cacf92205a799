"""Applies rewrite rules to a graph and says what they did.

reports = rewrite(model, LOWERING, expected={"area_attention": 8})
reports[0].to_dict()     # {'rule': 'area_attention', 'fired': 8, 'expected': 8, 'refused': []}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxscript import ir
from onnxscript.rewriter import RewriteRuleSet

from edgekit.errors import GateError
from edgekit.graph.rules._rule import Rule
from edgekit.graph.rules.attention_decomposed import AttentionDecomposed

# Order matters only where a comment says so.
LOWERING: tuple[type[Rule], ...] = (AttentionDecomposed,)


@dataclass(frozen=True)
class RuleReport:
    """What one rule did: how often it fired, how often it should have, and where it would not."""

    rule: str
    fired: int
    expected: int | None
    refused: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rewrite(
    model: ir.Model, rules: Sequence[type[Rule]] = LOWERING, expected: Mapping[str, int] | None = None
) -> list[RuleReport]:
    """Apply ``rules`` in order to ``model``, in place.

    Raises:
        GateError: a rule fired more or less often than ``expected`` says; the sentence names the nodes it refused.
    """
    reports = []
    for kind in rules:
        rule = kind()
        as_rewrite = RewriteRuleSet([_with_state(rule)])
        fired = as_rewrite.apply_to_model(model)
        wanted = (expected or {}).get(kind.NAME)
        reports.append(RuleReport(kind.NAME, fired, wanted, rule.refused))
        if wanted is not None and fired != wanted:
            refusals = "; ".join(f"{r['node']}: {r['why']}" for r in rule.refused) or "no other candidates were seen"
            raise GateError(
                f"the rewrite {kind.NAME} fired {fired} times where this model needs {wanted} ({refusals})",
                {"rewrites": [r.to_dict() for r in reports]},
            )
    return reports


def _with_state(rule: Rule) -> Any:
    """onnxscript's ``.rule()`` makes its own instance; ours must be kept for its refusals."""
    from onnxscript.rewriter import RewriteRule

    return RewriteRule(rule.pattern, rule.rewrite, rule.check, name=rule.name)
