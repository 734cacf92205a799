"""Doubling a map by nearest neighbour, in the one form every parser and kernel knows.

| before | after |
|---|---|
| ``Resize(x, sizes=[…, 2H, 2W]; nearest)``, any rounding that doubles pixels | ``Resize(x, scales=[1, 1, 2, 2]; …)`` |
| ``Resize(x, scales; nearest, half_pixel, round_prefer_floor)`` | ``…; nearest, asymmetric, floor)`` |

All of these copy every pixel into a square of four. Constant scales with asymmetric coordinates are what ONNX Runtime's
blocked layout and TensorRT's resize have a kernel for.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant

FORM = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_DEFAULT = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
# Where output pixel i reads from, in input pixels, when a side is doubled; each rounds to i // 2.
_DOUBLING = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
    ("pytorch_half_pixel", "round_prefer_ceil"),
}


class ResizeByTwo(Rule):
    NAME = "resize_by_two"

    def pattern(self, op: Operators, x: object) -> object:
        return op.Resize(x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: object, x: ir.Value, out: ir.Value) -> bool:
        node = out.producer()
        assert node is not None
        form = {name: _text(node, name) for name in FORM}
        scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        by_scales = scales is not None and scales.tolist() == [1, 1, 2, 2]
        if form == FORM and by_scales:
            return False  # as it should be
        if "axes" in node.attributes or form["mode"] != "nearest" or not (by_scales or _doubles(x.shape, out.shape)):
            return self.refuse(
                node, "it does not double height and width by nearest neighbour, or its shapes are unknown"
            )
        rounding = (form["coordinate_transformation_mode"], form["nearest_mode"])
        return rounding in _DOUBLING or self.refuse(node, f"{rounding[0]} with {rounding[1]} is no plain doubling")

    def rewrite(self, op: Operators, x: ir.Value, out: ir.Value) -> ir.Value:
        scales = op.Constant(value=ir.tensor(np.array([1, 1, 2, 2], dtype=np.float32)))
        return op.Resize(x, None, scales, **FORM)


def _text(node: ir.Node, name: str) -> str:
    return node.attributes[name].as_string() if name in node.attributes else _DEFAULT[name]


def _doubles(before: ir.Shape | None, after: ir.Shape | None) -> bool:
    if before is None or after is None or len(before) != 4 or len(after) != 4 or before[1] != after[1]:
        return False
    sides = [(before[i], after[i]) for i in (2, 3)]
    return all(isinstance(b, int) and isinstance(a, int) and a == 2 * b for b, a in sides) and before[0] == after[0]
