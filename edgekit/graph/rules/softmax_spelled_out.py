"""A softmax written as exponentials and their sum becomes Softmax.

| before | after |
|---|---|
| ``e = Exp(x - ReduceMax(x, a))``; ``e / ReduceSum(e, a)`` | ``Softmax(x; axis=a)`` |
| ``e = Exp(x)``; ``e / ReduceSum(e, a)`` | ``Softmax(x; axis=a)`` |

Spelled out, it hides attention from every fused kernel, and without the maximum it overflows at x = 89 in float32,
where Softmax does not.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, ints, producer


class SoftmaxSpelledOut(Rule):
    NAME = "softmax_spelled_out"

    def pattern(self, op: Operators, x: object) -> object:
        e = op.Exp(x)
        total = op.ReduceSum(e, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["total"])
        return op.Div(e, total, _outputs=["out"])

    def check(self, context: object, x: ir.Value, total: ir.Value, out: ir.Value) -> bool:
        sum_node, node = total.producer(), out.producer()
        assert sum_node is not None
        axes = ints(sum_node, "axes", 1)
        if not _kept(sum_node) or axes is None or len(axes) != 1:
            return self.refuse(node, f"{sum_node.name} does not sum along one axis, kept as 1")
        return True

    def rewrite(self, op: Operators, x: ir.Value, total: ir.Value, out: ir.Value) -> ir.Value:
        sum_node = total.producer()
        assert sum_node is not None
        axes = ints(sum_node, "axes", 1)
        assert axes is not None
        return op.Softmax(_without_maximum(x, axes), axis=axes[0])


def _kept(node: ir.Node) -> bool:
    return "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1


def _without_maximum(x: ir.Value, axes: list[int]) -> ir.Value:
    """y where ``x = y - max(y)`` along these axes (whatever is subtracted from a whole row cancels), else x itself."""
    node = producer(x, "Sub")
    highest = producer(node.inputs[1], "ReduceMax") if node is not None else None
    if node is None or highest is None or highest.inputs[0] is not node.inputs[0] or node.inputs[0] is None:
        return x
    y: ir.Value = node.inputs[0]
    rank = len(y.shape) if y.shape is not None else None
    found = ints(highest, "axes", 1)
    same = found is not None and rank and [a % rank for a in found] == [a % rank for a in axes]
    return y if same and _kept(highest) else x
