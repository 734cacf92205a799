"""What every rewrite shares: it remembers which nodes it refused, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnxscript import ir


class Rule:
    """A rewrite for onnxscript's rewriter: ``pattern`` (or ``patterns``), ``check``, ``rewrite``.

    ``NAME`` is what reports call it and what adds it to or drops it from a target's rules. ``COUNT`` is the key of its
    expected count in ``models/*.toml`` (its name unless said otherwise). ``check`` returns ``self.refuse(node, why)``
    where a candidate will not be rewritten, and plain False where there is none; ``refused`` collects the sentences.
    """

    NAME = ""
    COUNT = ""
    OPSET = 0  # the first one that has the operators it makes

    # onnxscript binds what a pattern names to parameters of that name, so every rule has its own signatures.
    pattern: Any
    check: Any
    rewrite: Any

    def __init__(self) -> None:
        self.refused: list[dict[str, str]] = []

    def patterns(self) -> Sequence[Callable[..., Any]]:
        """What the rule looks for; several where a form can end in several operators."""
        return (self.pattern,)

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
