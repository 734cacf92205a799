"""A Reshape whose target is computed from shapes gets it as a constant, where all but one dimension are known.

| before | after |
|---|---|
| ``Reshape(x, Concat(Gather(Shape(x), 0), 64, -1))`` inferred as ``[batch, 64, 400]`` | ``Reshape(x, [-1, 64, 400])`` |

Exports with a dynamic batch are full of these. The known dimensions come from shape inference.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant, int_tensor


class ReshapeStatic(Rule):
    NAME = "reshape_static"

    def pattern(self, op: Operators, x: object, shape: object) -> object:
        return op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: object, x: ir.Value, shape: ir.Value, out: ir.Value) -> bool:
        if constant(shape) is not None or out.shape is None:
            return False
        sizes = [d if isinstance(d, int) else -1 for d in out.shape]
        return sizes.count(-1) < 2 and 0 not in sizes

    def rewrite(self, op: Operators, x: ir.Value, shape: ir.Value, out: ir.Value) -> ir.Value:
        assert out.shape is not None
        return op.Reshape(x, op.Constant(value=int_tensor(*(d if isinstance(d, int) else -1 for d in out.shape))))
