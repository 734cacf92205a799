"""Area Attention in plain operators, the scale applied to q first and one Softmax.

| before | after |
|---|---|
| ``edgekit::AreaAttention(q, k, v; area)`` | ``MatMul(Softmax(MatMul(q · 32^-0.5, k)), v)`` |
| maps q, v, result ``[B, C, H, W]`` | ``[B·N, 32, A·T]``, exchanged to ``[B·N, A·T, 32]``, as ``[B·N, A, T, 32]`` |
| map k ``[B, C, H, W]`` | ``[B·N, 32, A, T]``, exchanged to ``[B·N, A, 32, T]`` |
| of one area (A = 1) | q, v, result ``[B, N, 32, T]``, exchanged to ``[B, N, T, 32]``; k as ``[B, N, 32, T]`` |

Scaling q before the product and a single Softmax is the form fused attention kernels recognise. Areas stand where
heads usually do: the channels of a map are heads first and its tokens areas first, so one exchange of two axes is all
that q, v and the result need. One area leaves heads in their usual place instead: with a lone area there,
TensorRT-RTX 1.7 fused none of those attentions, and with the heads all of them. Letters as in ``_area.py``.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._area import HEAD_WIDTH as D
from edgekit.graph.rules._area import AreaRule, Sizes
from edgekit.graph.rules._rule import Operators, int_tensor


class AttentionDecomposed(AreaRule):
    NAME = "attention_decomposed"

    def rewrite(self, op: Operators, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> ir.Value:
        sizes = self.sizes(q, out)
        A, T = sizes.A, sizes.T

        def reshape(x: ir.Value, *shape: int) -> ir.Value:
            return op.Reshape(x, op.Constant(value=int_tensor(*shape)))

        def tokens(x_BCHW: ir.Value) -> ir.Value:
            """``[B, C, H, W]`` -> ``[B·N, A, T, D]``."""
            return reshape(op.Transpose(reshape(x_BCHW, -1, D, A * T), perm=[0, 2, 1]), -1, A, T, D)

        if A == 1:
            return self.one_area(op, q, k, v, sizes)
        keys = op.Transpose(reshape(k, -1, D, A, T), perm=[0, 2, 1, 3])
        weights = op.Softmax(op.MatMul(self.scale(op, tokens(q), q), keys), axis=-1)
        result = reshape(op.MatMul(weights, tokens(v)), -1, A * T, D)
        return reshape(op.Transpose(result, perm=[0, 2, 1]), -1, sizes.C, sizes.H, sizes.W)

    def one_area(self, op: Operators, q: ir.Value, k: ir.Value, v: ir.Value, sizes: Sizes) -> ir.Value:
        """Heads where heads usually are: a lone area in their place would keep TensorRT from fusing."""
        N, T = sizes.N, sizes.T

        def heads(x_BCHW: ir.Value) -> ir.Value:
            """``[B, C, H, W]`` -> ``[B, N, D, T]``."""
            return op.Reshape(x_BCHW, op.Constant(value=int_tensor(-1, N, D, T)))

        def tokens(x_BCHW: ir.Value) -> ir.Value:
            """``[B, C, H, W]`` -> ``[B, N, T, D]``."""
            return op.Transpose(heads(x_BCHW), perm=[0, 1, 3, 2])

        weights = op.Softmax(op.MatMul(self.scale(op, tokens(q), q), heads(k)), axis=-1)
        result = op.Transpose(op.MatMul(weights, tokens(v)), perm=[0, 1, 3, 2])
        return op.Reshape(result, op.Constant(value=int_tensor(-1, sizes.C, sizes.H, sizes.W)))
