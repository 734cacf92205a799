"""The axes of a reduction as an attribute, as parsers up to opset 17 want them.

| before | after |
|---|---|
| ``ReduceMax(x, [1]; keepdims)`` (opset 18) | ``ReduceMax(x; axes=[1], keepdims)`` |

ReduceSum, which takes its axes as an input since opset 13, is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Pattern, Rule, ints

KINDS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")


class ReduceAxes(Rule):
    NAME = "reduce_axes"

    def patterns(self) -> Sequence[Pattern]:
        def of(kind: str) -> Pattern:
            def pattern(op: Operators, x: object, axes: object) -> object:
                return getattr(op, kind)(x, axes, _allow_other_attributes=True, _outputs=["out"])

            return pattern

        return [of(kind) for kind in KINDS]

    def check(self, context: object, x: ir.Value, axes: ir.Value, out: ir.Value) -> bool:
        node = out.producer()
        assert node is not None
        return ints(node, "axes", 1) is not None or self.refuse(node, "its axes are computed")

    def rewrite(self, op: Operators, x: ir.Value, axes: ir.Value, out: ir.Value) -> object:
        node = out.producer()
        assert node is not None
        keep = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        return getattr(op, node.op_type)(x, axes=ints(node, "axes", 1), keepdims=keep)
