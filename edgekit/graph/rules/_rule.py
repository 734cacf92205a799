"""What every rewrite shares: it remembers which nodes it refused, and why, and what became of values it took apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from onnxscript import ir

ACTIVATIONS = ("Relu", "LeakyRelu", "HardSwish", "Swish", "Sigmoid")
GATES = ("Sigmoid", "HardSigmoid")  # what an activation of two operators multiplies its input by


class Operators(Protocol):
    """What patterns and rewrites are written with: ``op.Conv(x, w, pads=…)`` is what that operator puts out. Of several
    outputs (``_outputs``) it is a sequence."""

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]: ...

    def initializer(self, tensor: ir.TensorProtocol, name: str) -> ir.Value: ...


Activation = Callable[[Operators, ir.Value], ir.Value]
Pattern = Callable[..., object]  # of Operators and the values that it names


@dataclass(frozen=True)
class Moved:
    """Where the elements of a value are that a rewrite no longer makes as it was.

    | form | the old value ``[B, C, H, W]`` |
    |---|---|
    | ``channels`` | its channels ``detail`` are ``value`` |
    | ``times`` | is ``value`` times ``detail`` |
    | ``cells`` | its columns, flattened, at the cells ``detail [B, K]`` (a value) are the rows of ``value [B·K, C]`` |
    """

    old: str
    form: str
    value: ir.Value
    detail: ir.Value | float | list[int]


class Rule:
    """A rewrite for onnxscript's rewriter: ``pattern`` (or ``patterns``), ``check``, ``rewrite``.

    ``NAME`` is what reports call it and what adds it to or drops it from a target's rules. ``COUNT`` is the key of its
    expected count in ``models/*.toml`` (its name unless said otherwise). ``check`` returns ``self.refuse(node, why)``
    where a candidate will not be rewritten, and plain False where there is none; ``refused`` collects the sentences.
    A rule that ``graph/rewrite.py`` does not name says by itself which recipes it is part of (``RECIPES``) and which
    rule it comes before (``BEFORE``; the end otherwise).

    What a pattern puts out keeps its name and its elements. A value inside of it that is gone afterwards, or another
    than before, may be a stage of the network all the same: ``rewrite`` says where it is now with ``self.moves``.
    """

    NAME = ""
    COUNT = ""
    OPSET = 0  # the first one that has the operators it makes
    RECIPES: tuple[str, ...] = ()
    BEFORE = ""

    # onnxscript binds what a pattern names to parameters of that name, so every rule has its own signatures.
    pattern: Pattern
    check: Callable[..., bool]
    rewrite: Callable[..., object]

    def __init__(self) -> None:
        self.refused: list[dict[str, str]] = []
        self.moved: list[Moved] = []

    def patterns(self) -> Sequence[Pattern]:
        """What the rule looks for; several where a form can end in several operators."""
        return (self.pattern,)

    def moves(self, old: ir.Value | None, form: str, value: ir.Value, detail: ir.Value | float | list[int]) -> None:
        """Record what became of ``old`` (see ``Moved``)."""
        if old is not None and old.name:
            self.moved.append(Moved(old.name, form, value, detail))

    def refuse(self, node: ir.Node | None, why: str) -> bool:
        """Record the refusal and return False, for ``return self.refuse(...)`` in ``check``."""
        entry = {"node": (node.name if node is not None else None) or "unnamed", "why": why}
        if entry not in self.refused:
            self.refused.append(entry)
        return False


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes ``value`` if it is one of these standard operators."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array behind a constant value, or None where it is computed (an absent input counts as that too)."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def ints(node: ir.Node, name: str, place: int | None = None) -> list[int] | None:
    """A list of integers that is an attribute or, in later opsets, the constant input at ``place``."""
    if name in node.attributes:
        return list(node.attributes[name].as_ints())
    array = constant(node.inputs[place]) if place is not None and place < len(node.inputs) else None
    return None if array is None else [int(v) for v in np.atleast_1d(array)]


def static(shape: ir.Shape | None, first_too: bool = False) -> tuple[int, ...] | None:
    """The shape as integers (0 for an unknown first dimension), or None where another dimension is unknown."""
    if shape is None or not all(isinstance(d, int) for d in list(shape)[0 if first_too else 1 :]):
        return None
    return tuple(d if isinstance(d, int) else 0 for d in shape)


def int_tensor(*values: int) -> ir.TensorProtocol:
    """An int64 tensor, for ``op.Constant(value=...)``."""
    return ir.tensor(np.array(values, dtype=np.int64))


def initializer(op: Operators, name: str, array: np.ndarray) -> ir.Value:
    """A constant of the graph with this name, which no other has."""
    return op.initializer(ir.tensor(np.ascontiguousarray(array), name=name), name)


def activation_behind(value: ir.Value | None) -> tuple[ir.Value, Activation] | None:
    """What an activated value was before, and ``apply(op, x)``, which activates another: ``x·g(x)`` (SiLU, Hardswish)
    or one operator of ``ACTIVATIONS``. None where the value is nothing of the kind."""
    node = producer(value, "Mul", *ACTIVATIONS)
    if node is None:
        return None
    if node.op_type != "Mul":
        return _activated_by(node)
    for x, gate in (node.inputs, node.inputs[::-1]):
        inner = producer(gate, *GATES)
        if inner is not None and x is not None and inner.inputs[0] is x:
            return x, partial(_gated, _activated_by(inner)[1])
    return None


def _gated(gate: Activation, op: Operators, value: ir.Value) -> ir.Value:
    return op.Mul(value, gate(op, value))


def _activated_by(node: ir.Node) -> tuple[ir.Value, Activation]:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    assert node.inputs[0] is not None
    return node.inputs[0], lambda op, v: getattr(op, node.op_type)(v, **attributes)


def only_user(value: ir.Value, *users: ir.Node | None) -> bool:
    """Whether nothing but these nodes uses ``value``."""
    return not value.is_graph_output() and {id(node) for node, _ in value.uses()} <= {id(node) for node in users}


def plain_convolution(value: ir.Value | None, kernel: int) -> ir.Node | None:
    """The convolution that makes ``value`` if it is square, of one group, stride 1 and "same" padding, with constant
    weights and bias."""
    node = producer(value, "Conv")
    if node is None or len(node.inputs) != 3 or any(constant(v) is None for v in node.inputs[1:]):
        return None
    weight = constant(node.inputs[1])
    assert weight is not None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    usual = {
        "group": 1,
        "strides": [1, 1],
        "dilations": [1, 1],
        "pads": [kernel // 2] * 4,
        "kernel_shape": [kernel, kernel],
        "auto_pad": "NOTSET",
    }
    given = {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in attributes.items()}
    same = weight.shape[2:] == (kernel, kernel) and all(given.get(k, v) == v for k, v in usual.items())
    return node if same and (kernel == 1 or "pads" in given) else None
