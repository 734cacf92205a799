"""Area Attention in plain operators, the scale applied to q first and one Softmax.

| before | after |
|---|---|
| ``edgekit::AreaAttention(q, k, v; area)``, maps ``[B, C, H, W]`` | ``q, k, v -> [B·A, N, T, 32]`` (Reshape, Transpose); ``MatMul(Softmax(MatMul(q · 32^-0.5, kᵀ)), v)``; Transpose and Reshape back to ``[B, C, H, W]`` |

Scaling q before the product and a single Softmax is the form TensorRT's fused attention and OpenVINO's
``ScaledDotProductAttention`` fusion recognise. With one area the transposes around areas vanish. Letters as in
``nn/attention.py``: N heads of 32 channels, A areas, T tokens of an area.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Rule

HEAD_WIDTH = 32


class AttentionDecomposed(Rule):
    NAME = "area_attention"

    def pattern(self, op, q, k, v):
        return op.AreaAttention(q, k, v, _domain="edgekit", _outputs=["out"])

    def check(self, context, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value):
        node = out.producer()
        if q.shape is None or len(q.shape) != 4 or not all(isinstance(d, int) for d in q.shape[1:]):
            return self.refuse(node, f"its map has shape {q.shape}; channels, height and width must be known")
        _, channels, height, width = q.shape
        area = node.attributes["area"].as_int()
        if channels % HEAD_WIDTH:
            return self.refuse(node, f"{channels} channels are not heads of {HEAD_WIDTH}")
        if height * width % area:
            return self.refuse(node, f"{height}x{width} tokens do not divide into {area} areas")
        return True

    def rewrite(self, op, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value):
        area = out.producer().attributes["area"].as_int()
        _, channels, height, width = q.shape
        heads, tokens = channels // HEAD_WIDTH, height * width // area

        def ints(*values: int) -> ir.Value:
            return op.Constant(value=ir.tensor(np.array(values, dtype=np.int64)))

        def split(x: ir.Value, transposed: bool) -> ir.Value:
            """``[B, C, H, W]`` -> ``[B·A, N, T, 32]``, or ``[B·A, N, 32, T]`` where the product wants it so."""
            if area == 1:
                maps = op.Reshape(x, ints(0, heads, HEAD_WIDTH, tokens))
                return maps if transposed else op.Transpose(maps, perm=[0, 1, 3, 2])
            maps = op.Reshape(x, ints(0, heads, HEAD_WIDTH, area, tokens))
            chunks = op.Transpose(maps, perm=[0, 3, 1, 2, 4] if transposed else [0, 3, 1, 4, 2])
            tail = (HEAD_WIDTH, tokens) if transposed else (tokens, HEAD_WIDTH)
            return op.Reshape(chunks, ints(-1, heads, *tail))

        scale = op.Constant(value=ir.tensor(np.array(HEAD_WIDTH**-0.5, dtype=np.float32)))
        weights = op.Softmax(op.MatMul(op.Mul(split(q, False), scale), split(k, True)), axis=-1)
        result = op.MatMul(weights, split(v, False))
        if area == 1:
            maps = op.Transpose(result, perm=[0, 1, 3, 2])
        else:
            chunks = op.Reshape(result, ints(-1, area, heads, tokens, HEAD_WIDTH))
            maps = op.Transpose(chunks, perm=[0, 2, 4, 1, 3])
        return op.Reshape(maps, ints(0, channels, height, width))
