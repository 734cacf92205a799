"""Small ONNX graphs with attention in many spellings, made by hand: quick, and independent of every exporter.

All compute one YOLO12 attention block, ``proj(attention(q, k, v) + pe(v)) + x``, on a random map; ``expected`` computes
the same with loops over heads, areas and tokens in double precision.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

D = 32


class Builder:
    """Collects nodes and constants; ``op`` returns the name of what it made."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str | np.ndarray, outputs: int = 1, name: str = "", **attributes):
        names = [self.constant(v) if isinstance(v, np.ndarray) else v for v in inputs]
        name = name or f"{kind}_{len(self.nodes)}"
        name += f"_{len(self.nodes)}" * (name in {node.name for node in self.nodes})
        made = [f"{name}_out{i}" for i in range(outputs)]
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(kind, names, made, name, domain=domain, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, np.array(shape, np.int64))

    def transpose(self, x: str, *order: int) -> str:
        return self.op("Transpose", x, perm=order)

    def split(self, x: str, axis: int, *sizes: int) -> list[str]:
        return self.op("Split", x, np.array(sizes, np.int64), outputs=len(sizes), axis=axis)

    def scale(self, x: str, factor: float) -> str:
        return self.op("Mul", x, np.array(factor, np.float32))

    def model(self, inputs: dict[str, tuple], outputs: dict[str, tuple], opset: int = 18) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "made by hand",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            self.constants,
        )
        own = [helper.make_opsetid("edgekit", 1)] * any(n.domain for n in self.nodes)
        version = helper.OP_SET_ID_VERSION_MAP[("ai.onnx", opset)]
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), *own], ir_version=version)


def fused(b: Builder, q: str, k: str, v: str, area: int, heads: int, side: tuple[int, int]) -> str:
    """edgekit's own operator."""
    return b.op("AreaAttention", q, k, v, area=area, domain="edgekit", name="attention")


def _tokens(b: Builder, x: str, area: int, heads: int, side: tuple[int, int]) -> str:
    """``[B, C, H, W]`` -> ``[B·A, N, T, D]``, channels last on the way."""
    tokens = side[0] * side[1] // area
    flat = b.transpose(b.reshape(x, 1, heads * D, -1), 0, 2, 1)
    return b.transpose(b.reshape(flat, area, tokens, heads, D), 0, 2, 1, 3)


def _map(b: Builder, x: str, area: int, heads: int, side: tuple[int, int]) -> str:
    flat = b.reshape(b.transpose(x, 0, 2, 1, 3), 1, side[0] * side[1], heads * D)
    return b.reshape(b.transpose(flat, 0, 2, 1), 1, heads * D, *side)


def _after(b: Builder, q: str, k: str, v: str, area: int, heads: int, side: tuple[int, int], weights: Callable) -> str:
    """The scale after the product, the second product transposed; ``weights`` is the softmax's spelling."""
    q, k, v = (_tokens(b, x, area, heads, side) for x in (q, k, v))
    scores = b.scale(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), D**-0.5)
    product = b.op("MatMul", b.transpose(v, 0, 1, 3, 2), b.transpose(weights(scores), 0, 1, 3, 2), name="product")
    return _map(b, b.transpose(product, 0, 1, 3, 2), area, heads, side)


def _exponentials(b: Builder, scores: str, minus_maximum: bool) -> str:
    if minus_maximum:
        highest = b.op("ReduceMax", scores, np.array([-1], np.int64), keepdims=1)
        scores = b.op("Sub", scores, highest)
    e = b.op("Exp", scores)
    return b.op("Div", e, b.op("ReduceSum", e, np.array([-1], np.int64), keepdims=1), name="division")


def exp_sum_div(b: Builder, q, k, v, area, heads, side) -> str:
    return _after(b, q, k, v, area, heads, side, lambda s: _exponentials(b, s, True))


def exp_sum_div_bare(b: Builder, q, k, v, area, heads, side) -> str:
    return _after(b, q, k, v, area, heads, side, lambda s: _exponentials(b, s, False))


def scale_after(b: Builder, q, k, v, area, heads, side) -> str:
    return _after(b, q, k, v, area, heads, side, lambda s: b.op("Softmax", s, axis=-1))


def scale_first(b: Builder, q, k, v, area, heads, side) -> str:
    q, k, v = (_tokens(b, x, area, heads, side) for x in (q, k, v))
    scores = b.op("MatMul", b.scale(q, D**-0.5), b.transpose(k, 0, 1, 3, 2))
    return _map(b, b.op("MatMul", b.op("Softmax", scores, axis=3), v, name="product"), area, heads, side)


def scale_shared(b: Builder, q, k, v, area, heads, side) -> str:
    """The root of the scale on q and on k, as PyTorch takes scaled_dot_product_attention apart."""
    q, k, v = (_tokens(b, x, area, heads, side) for x in (q, k, v))
    scores = b.op("MatMul", b.scale(q, D**-0.25), b.transpose(b.scale(k, D**-0.25), 0, 1, 3, 2))
    return _map(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v, name="product"), area, heads, side)


def divided(b: Builder, q, k, v, area, heads, side) -> str:
    """Planar layout, areas as an axis of their own, divided by the root of the head width."""
    tokens = side[0] * side[1] // area

    def cut(x: str) -> str:
        return b.transpose(b.reshape(x, 1, heads, D, area, tokens), 0, 1, 3, 4, 2)  # [B, N, A, T, D]

    scores = b.op("MatMul", cut(q), b.transpose(cut(k), 0, 1, 2, 4, 3))
    weights = b.op("Softmax", b.op("Div", scores, np.array([D**0.5], np.float32)), axis=-1)
    product = b.op("MatMul", weights, cut(v), name="product")
    return b.reshape(b.transpose(product, 0, 1, 4, 2, 3), 1, heads * D, *side)


def keys_as_rows(b: Builder, q, k, v, area, heads, side) -> str:
    """kᵀq with the softmax over rows, then v · weights: nothing is transposed behind."""
    tokens = side[0] * side[1] // area

    def cut(x: str) -> str:
        return b.transpose(b.reshape(x, heads, D, area, tokens), 0, 2, 1, 3)  # [N, A, D, T]

    scores = b.op("MatMul", b.transpose(cut(k), 0, 1, 3, 2), b.scale(cut(q), D**-0.5))
    product = b.op("MatMul", cut(v), b.op("Softmax", scores, axis=-2), name="product")
    return b.reshape(b.transpose(product, 0, 2, 1, 3), 1, heads * D, *side)


def operator(b: Builder, q, k, v, area, heads, side) -> str:
    """The standard operator of opset 23 with its own scale."""
    q, k, v = (_tokens(b, x, area, heads, side) for x in (q, k, v))
    return _map(b, b.op("Attention", q, k, v, name="product"), area, heads, side)


SPELLINGS = {
    f.__name__: f
    for f in (
        exp_sum_div,
        exp_sum_div_bare,
        scale_after,
        scale_first,
        scale_shared,
        divided,
        keys_as_rows,
        operator,
    )
}


def block(
    spell: Callable = fused,
    family: str = "v1.0",
    heads: int = 2,
    side: tuple[int, int] = (6, 8),
    area: int = 4,
    opset: int = 18,
    blocks: int = 1,
    batch: int | str = 1,
    seed: int = 0,
) -> onnx.ModelProto:
    """``blocks`` attention blocks one after another; input and output are called ``x`` and ``y``."""
    b = Builder(seed)
    channels, x = heads * D, "x"
    for _ in range(blocks):

        def weights(out: int, into: int, kernel: int = 1, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
            spread = gain * (into * kernel * kernel) ** -0.5
            kernels = b.rng.normal(0, spread, (out, into, kernel, kernel)).astype(np.float32)
            return kernels, b.rng.normal(0, 0.1, out).astype(np.float32)

        if family == "turbo":
            q, k = b.split(b.op("Conv", x, *weights(2 * channels, channels)), 1, channels, channels)
            v = b.op("Conv", x, *weights(channels, channels))
            kernel = 5
        else:
            qkv = b.op("Conv", x, *weights(3 * channels, channels), name="qkv")
            parts = b.split(b.reshape(qkv, 0, heads, 3 * D, *side), 2, D, D, D)
            q, k, v = (b.reshape(part, 0, channels, *side) for part in parts)
            kernel = 7
        attended = spell(b, q, k, v, area, heads, side)
        pads = [kernel // 2] * 4
        position = b.op("Conv", v, *weights(channels, 1, kernel), group=channels, pads=pads)
        projected = b.op("Conv", b.op("Add", attended, position), *weights(channels, channels, gain=0.3))
        x = b.op("Add", projected, x)  # the gain keeps a row of blocks from growing what is rounding at first
    b.nodes[-1].output[0] = "y"
    shape = (batch, channels, *side)
    model = onnx.shape_inference.infer_shapes(b.model({"x": shape}, {"y": shape}, opset))
    return model


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, area: int) -> np.ndarray:
    """Area attention on maps ``[B, C, H, W]`` by loops, in double precision."""
    B, C, H, W = q.shape
    T = H * W // area
    out = np.empty((B, C, H * W))
    flat = [x.astype(np.float64).reshape(B, C, H * W) for x in (q, k, v)]
    for image in range(B):
        for head in range(C // D):
            for a in range(area):
                part = np.s_[image, head * D : (head + 1) * D, a * T : (a + 1) * T]
                queries, keys, values = (x[part] for x in flat)
                scores = queries.T @ keys / np.sqrt(D)
                weights = np.exp(scores - scores.max(1, keepdims=True))
                out[part] = values @ (weights / weights.sum(1, keepdims=True)).T
    return out.reshape(B, C, H, W)
