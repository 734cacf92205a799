"""Attention in anybody's spelling, recognised as Area Attention.

| before | after |
|---|---|
| ``MatMul(Softmax(MatMul(q, k) · s), v)``, the scale before or after the product or on k, the second product either way round, q, k and v cut out of feature maps by any layout operators | ``edgekit::AreaAttention(q, k, v; area)`` on maps ``[B, C, H, W]``, its result brought into the old layout |
| ``Attention(q, k, v; scale=s)`` | the same |

Which channels and tokens of the maps each head sees is computed with indices (``_index.py``), never read off the
spelling; ``layout_chain`` then removes the old layout operators behind it, ``channel_selection`` those before the
positional convolution. Attention that is not YOLO12's is left alone with the reason. Letters as in ``_area.py``; J runs
over all products of one MatMul, B·A·N of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._area import DOMAIN, HEAD_WIDTH
from edgekit.graph.rules._index import Followed, follow, scalar_factor
from edgekit.graph.rules._rule import Rule, int_tensor, producer

SCALE_TOLERANCE = 2e-3  # relative: a scale stored in half precision still is the scale


class _Core(NamedTuple):
    """The operands of an attention, and which way its result lies."""

    q: ir.Value
    k: ir.Value
    v: ir.Value
    q_turned: bool  # [..., D, T] where [..., T, D] is the rule
    k_turned: bool
    v_turned: bool
    factor: float  # between the products


class _Heads(NamedTuple):
    """What an operand [J, T, D] is cut from: channels [N, D] of ``source``, chunk by chunk."""

    source: ir.Value
    channels: np.ndarray
    order: list[tuple[int, int, int]]  # (b, a, n) of every product
    sizes: tuple[int, int, int]  # B, A, N
    map: tuple[int, ...]  # shape of the source


class _Refusal(Exception):
    """Why an attention is not YOLO12's."""


class AttentionFound(Rule):
    NAME = "attention_found"
    COUNT = "attention"

    def __init__(self) -> None:
        super().__init__()
        self._core: _Core | None = None
        self._heads: list[_Heads] = []
        self._batch_dims: tuple[int, ...] = ()

    def patterns(self) -> Any:
        return [self._product, self._operator]

    def _product(self, op: Any, x: Any, y: Any) -> Any:
        return op.MatMul(x, y, _outputs=["out"])

    def _operator(self, op: Any, x: Any, y: Any, z: Any) -> Any:
        return op.Attention(x, y, z, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, out: ir.Value, z: ir.Value | None = None) -> bool:
        node = out.producer()
        assert node is not None
        try:
            self._core = _core_of_products(node) if z is None else _core_of_operator(node)
            if self._core is None:
                return False
            self._heads, self._batch_dims = _heads_of(self._core)
        except _Refusal as why:
            return self.refuse(node, str(why))
        return True

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, out: ir.Value, z: ir.Value | None = None) -> Any:
        core, (q, k, v) = self._core, self._heads
        assert core is not None
        _, A, N = v.sizes
        _, _, H, W = v.map

        def reshape(value: Any, *shape: int) -> Any:
            return op.Reshape(value, op.Constant(value=int_tensor(*shape)))

        def chosen(heads: _Heads) -> Any:
            rows = heads.channels.ravel().tolist()
            value = op.Gather(heads.source, op.Constant(value=int_tensor(*rows)), axis=1)
            value.dtype = heads.source.dtype
            value.shape = ir.Shape([heads.source.shape[0] if heads.source.shape else None, len(rows), H, W])
            return value

        maps = op.AreaAttention(*(chosen(h) for h in (q, k, v)), area=A, _domain=DOMAIN, _version=1)
        maps.dtype, maps.shape = v.source.dtype, ir.Shape([v.map[0] and out_batch(v), N * HEAD_WIDTH, H, W])
        T = H * W // A
        x_BNDAT = reshape(maps, -1, N, HEAD_WIDTH, A, T)
        products = (0, 3, 1) if v.order == _orders(v.sizes)[0] else (0, 1, 3)
        tail, last = ((2, 4), (HEAD_WIDTH, T)) if core.v_turned else ((4, 2), (T, HEAD_WIDTH))
        return reshape(op.Transpose(x_BNDAT, perm=[*products, *tail]), -1, *self._batch_dims[1:], *last)
