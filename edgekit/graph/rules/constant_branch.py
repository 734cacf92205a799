"""A convolution whose weights are all zero answers the same everywhere: what is added to a map is a constant.

| before | after |
|---|---|
| ``Add(x, Conv(y; 0, b))``, both of the same shape | ``Add(x, b)``; with a bias of zeros ``x`` |

What made ``y`` goes too, where nobody else reads it. That is how ``bundle/pruned.py`` leaves attention and MLPs out, in
a checkpoint that stays in its format. The last rule of all, so that others find as many places as the model has.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant, initializer, producer


class ConstantBranch(Rule):
    NAME = "constant_branch"
    RECIPES = ("portable", "operator", "openvino", "older")

    def pattern(self, op: Operators, a: object, b: object) -> object:
        return op.Add(a, b, _outputs=["out"])

    def check(self, context: object, a: ir.Value, b: ir.Value, out: ir.Value) -> bool:
        return any(
            _bias(branch) is not None and kept.shape is not None and kept.shape == branch.shape == out.shape
            for kept, branch in ((a, b), (b, a))
        )

    def rewrite(self, op: Operators, a: ir.Value, b: ir.Value, out: ir.Value) -> ir.Value:
        kept, bias = next((kept, found) for kept, branch in ((a, b), (b, a)) if (found := _bias(branch)) is not None)
        if not bias.any():
            return op.Identity(kept)
        return op.Add(kept, initializer(op, f"{out.name}.constant", bias.reshape(1, -1, 1, 1)))


def _bias(value: ir.Value) -> np.ndarray | None:
    """What every place of ``value`` holds, by channel, if it is of a convolution of no weights."""
    convolution = producer(value, "Conv")
    if convolution is None or len(convolution.inputs) != 3:
        return None
    weight, bias = (constant(each) for each in convolution.inputs[1:])
    return bias if weight is not None and bias is not None and not weight.any() else None
