"""Reshapes and Transposes that undo one another go; what is left of such a chain is at most one Reshape.

| before | after |
|---|---|
| ``Reshape(Reshape(x, s), t)`` | ``Reshape(x, t)`` |
| ``Transpose(Transpose(x))`` in the old order | ``x`` |
| any chain of the two that leaves all elements in their order | ``Reshape(x, t)``, or ``x`` if of that shape |

What a chain does is computed with indices (``_index.py``). Chains that do move elements stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnxscript import ir

from edgekit.graph.rules import _index
from edgekit.graph.rules._area import DOMAIN
from edgekit.graph.rules._rule import Operators, Pattern, Rule, int_tensor

CHAIN = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity")
ENDS = ("Reshape", "Transpose")


class LayoutChain(Rule):
    NAME = "layout_chain"

    def __init__(self) -> None:
        super().__init__()
        # What ``check`` found, for ``rewrite``, which follows at once.
        self._source: ir.Value | None = None
        self._same_shape = False
        self._target: list[int] = []

    def patterns(self) -> Sequence[Pattern]:
        return [self._reshape, self._transpose]

    def _reshape(self, op: Operators, x: object, shape: object) -> object:
        return op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["out"])

    def _transpose(self, op: Operators, x: object) -> object:
        return op.Transpose(x, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: object, x: ir.Value, out: ir.Value, shape: ir.Value | None = None) -> bool:
        users = [node for node, _ in out.uses()]
        if users and all(node.op_type in ENDS for node in users) and not out.is_graph_output():
            return False  # the chain goes on
        found = _index.follow(out, CHAIN)
        if found is None or (len(found.chain) < 2 and found.shape != found.index.shape):
            return False
        if not np.array_equal(found.index.ravel(), np.arange(found.index.size)):
            return False
        other = _index.follow(out, CHAIN, batch=_index.BATCH + 1)  # equal, but where a dynamic batch went
        assert other is not None
        self._source, self._same_shape = found.source, found.shape == found.index.shape
        shapes = list(zip(found.index.shape, other.index.shape, strict=True))
        self._target = [size if size == again else -1 for size, again in shapes]
        return self._target.count(-1) < 2

    def rewrite(self, op: Operators, x: ir.Value, out: ir.Value, shape: ir.Value | None = None) -> ir.Value:
        assert self._source is not None
        if self._same_shape:
            node = self._source.producer()
            if node is not None and node.domain == DOMAIN:
                self._source.name = out.name  # an attention just found takes the name of what it stands for
            return op.Identity(self._source)
        return op.Reshape(self._source, op.Constant(value=int_tensor(*self._target)))
