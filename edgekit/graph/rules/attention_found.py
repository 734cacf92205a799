"""Attention in anybody's spelling, recognised as Area Attention.

| before | after |
|---|---|
| ``MatMul(Softmax(MatMul(q, k) · s), v)`` | ``edgekit::AreaAttention(q, k, v; area)`` |
| … the scale s on q, on k or on the product, the second product either way round | … |
| ``Attention(q, k, v; scale=s)`` | … |
| q, k, v cut out of feature maps by any layout operators | maps ``[B, C, H, W]``, the result in the old layout |

Which channels and tokens of the maps each head sees is computed with indices (``_index.py``), never read off the
spelling; ``layout_chain`` then removes the old layout operators behind it, ``channel_selection`` those before the
positional convolution. Attention that is not YOLO12's is left alone with the reason. Letters as in ``_area.py``; J runs
over all products of one MatMul, B·A·N of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._area import DOMAIN, HEAD_WIDTH
from edgekit.graph.rules._index import Followed, follow, scalar_factor
from edgekit.graph.rules._rule import Operators, Pattern, Rule, int_tensor, producer

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

    def patterns(self) -> Sequence[Pattern]:
        return [self._product, self._operator]

    def _product(self, op: Operators, x: object, y: object) -> object:
        return op.MatMul(x, y, _outputs=["out"])

    def _operator(self, op: Operators, x: object, y: object, z: object) -> object:
        return op.Attention(x, y, z, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: object, x: ir.Value, y: ir.Value, out: ir.Value, z: ir.Value | None = None) -> bool:
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

    def rewrite(self, op: Operators, x: ir.Value, y: ir.Value, out: ir.Value, z: ir.Value | None = None) -> ir.Value:
        core, (q, k, v) = self._core, self._heads
        assert core is not None
        _, A, N = v.sizes
        _, _, H, W = v.map

        def reshape(value: ir.Value, *shape: int) -> ir.Value:
            return op.Reshape(value, op.Constant(value=int_tensor(*shape)))

        def chosen(heads: _Heads) -> ir.Value:
            rows = heads.channels.ravel().tolist()
            if rows == list(range(heads.map[1])):
                return heads.source
            value = op.Gather(heads.source, op.Constant(value=int_tensor(*rows)), axis=1)
            value.type = heads.source.type
            assert heads.source.shape is not None
            value.shape = ir.Shape([heads.source.shape[0], len(rows), H, W])
            return value

        inputs = [chosen(heads) for heads in (q, k, v)]
        maps = op.AreaAttention(*inputs, area=A, _domain=DOMAIN, _version=1)
        maps.type, maps.shape = inputs[2].type, inputs[2].shape
        T = H * W // A
        x_BNDAT = reshape(maps, -1, N, HEAD_WIDTH, A, T)
        products = (0, 3, 1) if v.order == _orders(v.sizes)[0] else (0, 1, 3)
        tail, last = ((2, 4), (HEAD_WIDTH, T)) if core.v_turned else ((4, 2), (T, HEAD_WIDTH))
        return reshape(op.Transpose(x_BNDAT, perm=[*products, *tail]), -1, *self._batch_dims[1:], *last)


def _core_of_products(product: ir.Node) -> _Core | None:
    """The attention that ends in this MatMul, or None where it is an ordinary product."""
    x, y = product.inputs
    for weights, values, weights_first in ((x, y, True), (y, x, False)):
        softmax, turned = _softmax_behind(weights)
        if softmax is None or values is None:
            continue
        scores, factor = _without_factors(softmax.inputs[0])
        first = producer(scores, "MatMul")
        if first is None:
            if producer(scores, "Add", "Where") is not None and _adds_to_product(scores):
                raise _Refusal("something is added to its scores (a mask or a position bias), which YOLO12 does not do")
            return None
        a, b = first.inputs
        assert a is not None and b is not None
        keys_last = _axis(softmax) == -1  # the softmax runs over keys
        # The weights' rows are queries where keys are last; turning exchanges the two. What is summed over in the
        # second product (columns of a left operand, rows of a right one) must be the keys.
        if (keys_last != turned) != weights_first:
            raise _Refusal("its softmax does not run over the keys")
        q, k, q_turned, k_turned = (a, b, False, True) if keys_last else (b, a, True, False)
        return _Core(q, k, values, q_turned, k_turned, not weights_first, factor)
    return None


def _core_of_operator(node: ir.Node) -> _Core | None:
    for name in ("q_num_heads", "kv_num_heads", "softcap", "is_causal"):
        if name in node.attributes and node.attributes[name].value:
            raise _Refusal(f"it has {name}; YOLO12's is over [batch, heads, tokens, channels] without extras")
    q, k, v = node.inputs[:3]
    assert q is not None and k is not None and v is not None
    if "scale" in node.attributes:
        factor = node.attributes["scale"].as_float()
    else:
        factor = HEAD_WIDTH**-0.5  # the default of the operator, for the only head width that is accepted
    return _Core(q, k, v, False, False, False, factor)


def _softmax_behind(value: ir.Value | None) -> tuple[ir.Node | None, bool]:
    """The Softmax over one of the last two axes that ``value`` is, and whether these axes have been exchanged since."""
    turned = False
    while (node := producer(value, "Transpose")) is not None:
        order = list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []
        if len(order) < 2 or order != [*range(len(order) - 2), len(order) - 1, len(order) - 2]:
            return None, False
        turned, value = not turned, node.inputs[0]
    softmax = producer(value, "Softmax")
    return (softmax, turned) if softmax is not None and _axis(softmax) in (-1, -2) else (None, False)


def _axis(softmax: ir.Node) -> int:
    """The axis counted from the end."""
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    shape = softmax.outputs[0].shape or (softmax.inputs[0].shape if softmax.inputs[0] is not None else None)
    return axis if axis < 0 or shape is None else axis - len(shape)


def _without_factors(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    factor = 1.0
    while (node := producer(value, "Mul", "Div")) is not None and (found := scalar_factor(node)) is not None:
        value, factor = found[0], factor * found[1]
    return value, factor


def _adds_to_product(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and any(producer(_without_factors(v)[0], "MatMul") is not None for v in node.inputs)


def _heads_of(core: _Core) -> tuple[list[_Heads], tuple[int, ...]]:
    """Where q, k and v come from, and the batch dimensions of the products."""
    found, factor = [], core.factor
    for name, value, turned in (
        ("q", core.q, core.q_turned),
        ("k", core.k, core.k_turned),
        ("v", core.v, core.v_turned),
    ):
        followed = follow(value, scalars=True)
        if followed is None:
            raise _Refusal(f"the shapes behind its {name} are not fixed; export the model with a fixed image size")
        index = followed.index.swapaxes(-1, -2) if turned else followed.index
        if index.ndim < 3 or index.shape[-1] != HEAD_WIDTH:
            raise _Refusal(f"heads of {index.shape[-1]} channels; YOLO12's have {HEAD_WIDTH}")
        factor *= followed.factor if name != "v" else 1.0
        found.append((name, followed, index))
    if abs(factor / HEAD_WIDTH**-0.5 - 1) > SCALE_TOLERANCE or found[2][1].factor != 1.0:
        raise _Refusal(f"its scale is {factor:.4g}; heads of {HEAD_WIDTH} channels have {HEAD_WIDTH**-0.5:.4g}")
    batch_dims = found[0][2].shape[:-2]
    if any(index.shape[:-2] != batch_dims for _, _, index in found):
        raise _Refusal("q, k and v are not the same number of heads")
    return _agreed([_cut(*parts) for parts in found]), batch_dims


def _cut(name: str, followed: Followed, index: np.ndarray) -> tuple[Followed, np.ndarray, np.ndarray]:
    """``(followed, places [J, 2] of (b, a), channels [J, D])`` of one operand."""
    if len(followed.shape) != 4:
        raise _Refusal(f"its {name} does not come from the channels of a feature map")
    _, C, H, W = followed.shape
    T, D = index.shape[-2:]
    flat = index.reshape(-1, T, D)
    tokens, channels, batch = flat % (H * W), flat // (H * W) % C, flat // (C * H * W)
    areas = tokens[:, 0, 0] // T
    whole = (tokens == (areas[:, None] * T + np.arange(T))[:, :, None]) & (channels == channels[:, :1])
    if H * W % T or not (whole & (batch == batch[:, :1, :1])).all():
        raise _Refusal(f"its {name} is not made of heads over consecutive chunks of the map's tokens")
    return followed, np.stack((batch[:, 0, 0], areas), 1), channels[:, 0]


def _agreed(cuts: list[tuple[Followed, np.ndarray, np.ndarray]]) -> list[_Heads]:
    """The operands as heads in one order: that in which the products first come to them."""
    (_, places, _), (_, places_k, _), (v, places_v, channels_v) = cuts
    B, _, H, W = v.shape
    numbers: dict[bytes, int] = {}
    n = [numbers.setdefault(row.tobytes(), len(numbers)) for row in channels_v]
    A, N = int(places[:, 1].max()) + 1, len(numbers)
    order = [(int(b), int(a), head) for (b, a), head in zip(places, n, strict=True)]
    if not (np.array_equal(places, places_k) and np.array_equal(places, places_v)):
        raise _Refusal("q, k and v of one product come from different places of the map")
    if order not in _orders((B, A, N)) or any(f.shape[2:] != (H, W) or f.shape[0] != B for f, _, _ in cuts):
        raise _Refusal("its heads and areas do not come one after the other")
    heads = []
    for followed, _, channels in cuts:
        first = np.array([channels[n.index(head)] for head in range(N)])
        if not np.array_equal(first[n], channels):
            raise _Refusal("its heads are cut differently from area to area")
        heads.append(_Heads(followed.source, first, order, (B, A, N), followed.shape))
    return heads


def _orders(sizes: tuple[int, int, int]) -> list[list[tuple[int, int, int]]]:
    """The orders of products that can be written with one Transpose: areas outside heads, or heads outside areas."""
    B, A, N = (range(size) for size in sizes)
    return [[(b, a, n) for b in B for a in A for n in N], [(b, a, n) for b in B for n in N for a in A]]
