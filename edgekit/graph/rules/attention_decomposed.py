"""Area Attention in plain operators, the scale applied to q first and one Softmax.

| before | after |
|---|---|
| ``edgekit::AreaAttention(q, k, v; area)`` | ``MatMul(Softmax(MatMul(q · 32^-0.5, k)), v)`` |
| maps q, v, result ``[B, C, H, W]`` | ``[B·N, 32, A·T]``, exchanged to ``[B·N, A·T, 32]``, as ``[B·N, A, T, 32]`` |
| map k ``[B, C, H, W]`` | ``[B·N, 32, A, T]``, exchanged to ``[B·N, A, 32, T]`` |

Scaling q before the product and a single Softmax is the form fused attention kernels recognise. Areas stand where
heads usually do: the channels of a map are heads first and its tokens areas first, so one exchange of two axes is all
that q, v and the result need, and k needs none where there is one area. Letters as in ``_area.py``.
"""

from __future__ import annotations

from typing import Any

from onnxscript import ir

from edgekit.graph.rules._area import HEAD_WIDTH as D
from edgekit.graph.rules._area import AreaRule
from edgekit.graph.rules._rule import int_tensor


class AttentionDecomposed(AreaRule):
    NAME = "attention_decomposed"

    def rewrite(self, op: Any, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> Any:
        sizes = self.sizes(q, out)
        A, T = sizes.A, sizes.T

        def reshape(x: Any, *shape: int) -> Any:
            return op.Reshape(x, op.Constant(value=int_tensor(*shape)))

        def tokens(x_BCHW: Any) -> Any:
            """``[B, C, H, W]`` -> ``[B·N, A, T, D]``."""
            return reshape(op.Transpose(reshape(x_BCHW, -1, D, A * T), perm=[0, 2, 1]), -1, A, T, D)

        keys = reshape(k, -1, 1, D, T) if A == 1 else op.Transpose(reshape(k, -1, D, A, T), perm=[0, 2, 1, 3])
        weights = op.Softmax(op.MatMul(self.scale(op, tokens(q), q, sizes), keys), axis=-1)
        result = reshape(op.MatMul(weights, tokens(v)), -1, A * T, D)
        return reshape(op.Transpose(result, perm=[0, 2, 1]), -1, sizes.C, sizes.H, sizes.W)
