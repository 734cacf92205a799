"""SiLU as the standard operator ``Swish`` (opset 24).

| before | after |
|---|---|
| ``Mul(x, Sigmoid(x))`` | ``Swish(x; alpha=1)`` |

No target has this rule on. OpenVINO makes the left form part of the convolution's kernel by itself; ONNX Runtime fuses
it too (QuickGelu), but 1.32 has no kernel for the operator on the CPU, takes it apart again and runs a tenth slower;
and few parsers read opset 24.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Pattern, Rule


class Swish(Rule):
    NAME = "swish"
    OPSET = 24

    def patterns(self) -> Sequence[Pattern]:
        return [self._left, self._right]

    def _left(self, op: Operators, x: object) -> object:
        return op.Mul(x, op.Sigmoid(x))

    def _right(self, op: Operators, x: object) -> object:
        return op.Mul(op.Sigmoid(x), x)

    def check(self, context: object, x: ir.Value) -> bool:
        return True

    def rewrite(self, op: Operators, x: ir.Value) -> ir.Value:
        return op.Swish(x, alpha=1.0)
