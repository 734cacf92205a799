"""The attention scale multiplied into the convolution that makes q.

| before | after |
|---|---|
| ``AreaAttention(Conv(x; W, b), k, v)`` | ``AreaAttention(Conv(x; W · 32^-0.5, b · 32^-0.5), k, v; scaled=1)`` |

One multiplication less, but the runtimes measured fold it into a neighbour themselves, and TensorRT looks for it in
plain sight: no target has this rule on. It must come before the lowering of attention.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._area import DOMAIN, HEAD_WIDTH
from edgekit.graph.rules._rule import Operators, Rule, constant, producer


class ScaleIntoWeights(Rule):
    NAME = "scale_into_weights"
    COUNT = "attention"

    def pattern(self, op: Operators, q: object, k: object, v: object) -> object:
        return op.AreaAttention(q, k, v, _domain=DOMAIN, _outputs=["out"])

    def check(self, context: object, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> bool:
        node, convolution = out.producer(), producer(q, "Conv")
        assert node is not None
        if "scaled" in node.attributes:
            return False  # a product of this rule
        if convolution is None or any(constant(p) is None for p in convolution.inputs[1:] if p is not None):
            return self.refuse(
                node, "its q does not come from a convolution of its own; selected_convolution makes one"
            )
        if len(q.uses()) != 1 or q.is_graph_output():
            return self.refuse(node, f"{convolution.name} is used by others too")
        return True

    def rewrite(self, op: Operators, q: ir.Value, k: ir.Value, v: ir.Value, out: ir.Value) -> ir.Value:
        convolution, node = producer(q, "Conv"), out.producer()
        assert convolution is not None and node is not None
        arrays = [constant(p) for p in convolution.inputs[1:] if p is not None]
        scaled = [(a.astype(np.float64) * HEAD_WIDTH**-0.5).astype(a.dtype) for a in arrays if a is not None]
        attributes = {name: attribute.value for name, attribute in convolution.attributes.items()}
        ready = op.Conv(convolution.inputs[0], *(op.Constant(value=ir.tensor(a)) for a in scaled), **attributes)
        ready.shape, ready.type = q.shape, q.type
        self.moves(q, "times", ready, HEAD_WIDTH**0.5)
        area = node.attributes["area"].as_int()
        return op.AreaAttention(ready, k, v, area=area, scaled=1, _domain=DOMAIN, _version=1)
