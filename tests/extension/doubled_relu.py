"""A rule in one file.

| before | after |
|---|---|
| ``Relu(Relu(x))`` | ``Relu(x)`` |
"""

from __future__ import annotations

from typing import Any

from edgekit.graph.rules._rule import Rule


class DoubledRelu(Rule):
    NAME = "doubled_relu"
    RECIPES = ("portable",)
    BEFORE = "reshape_static"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Relu(op.Relu(x))

    def check(self, context: Any, x: Any) -> bool:
        return True

    def rewrite(self, op: Any, x: Any) -> Any:
        return op.Relu(x)
