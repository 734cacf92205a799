"""A rule in one file.

| before | after |
|---|---|
| ``Relu(Relu(x))`` | ``Relu(x)`` |
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule


class DoubledRelu(Rule):
    NAME = "doubled_relu"
    RECIPES = ("portable",)
    BEFORE = "reshape_static"

    def pattern(self, op: Operators, x: object) -> object:
        return op.Relu(op.Relu(x))

    def check(self, context: object, x: ir.Value) -> bool:
        return True

    def rewrite(self, op: Operators, x: ir.Value) -> ir.Value:
        return op.Relu(x)
