"""Area Attention as the standard operator ``Attention`` (opset 23), the scale applied to q before it.

| before | after |
|---|---|
| ``edgekit::AreaAttention(q, k, v; area)`` | ``Attention(q · 32^-0.5, k, v; scale=1)`` |
| of as many tokens as heads (T = N) | as ``attention_decomposed`` writes it |
| maps ``[B, C, H, W]`` | exchanged to ``[B, H, W, C]``, as ``[B·A, T, N, 32]``, exchanged to ``[B·A, N, T, 32]`` |

The operator's own scale stays 1 because TensorRT wants the multiplication in sight, before the product. Channels last
is how OpenVINO holds maps, so the outer exchanges of axes cost nothing there, and the inner ones are part of its fused
attention kernel. In bf16 that kernel (OpenVINO 2026.4) takes heads for tokens where there are as many of both: 2 x 2
cells and four heads, say. Letters as in ``_area.py``.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._area import HEAD_WIDTH as D
from edgekit.graph.rules._area import AreaRule
from edgekit.graph.rules._rule import Operators, int_tensor
from edgekit.graph.rules.attention_decomposed import AttentionDecomposed


class AttentionOperator(AreaRule):
    NAME = "attention_operator"
    OPSET = 23

    def rewrite(self, op: Operators, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> ir.Value:
        sizes = self.sizes(q, out)
        if sizes.T == sizes.N:
            return AttentionDecomposed().rewrite(op, q, k, v, out)

        def reshape(x: ir.Value, *shape: int) -> ir.Value:
            return op.Reshape(x, op.Constant(value=int_tensor(*shape)))

        def tokens(x_BCHW: ir.Value) -> ir.Value:
            """``[B, C, H, W]`` -> ``[B·A, N, T, D]``."""
            x_BATND = reshape(op.Transpose(x_BCHW, perm=[0, 2, 3, 1]), -1, sizes.T, sizes.N, D)
            return op.Transpose(x_BATND, perm=[0, 2, 1, 3])

        result = op.Attention(self.scale(op, tokens(q), q), tokens(k), tokens(v), scale=1.0)
        maps = reshape(op.Transpose(result, perm=[0, 2, 1, 3]), -1, sizes.H, sizes.W, sizes.C)
        return op.Transpose(maps, perm=[0, 3, 1, 2])
