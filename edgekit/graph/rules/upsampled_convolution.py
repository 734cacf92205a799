"""A 1x1 convolution of an upsampled map joined to another becomes two, the first before the upsampling.

| before | after |
|---|---|
| ``Conv1x1(Concat(Resize(x), s); W, b)`` | ``Conv1x1(s; W[:, c:], b) + Resize(Conv1x1(x; W[:, :c]))`` |

Upsampling by repetition and a 1x1 convolution change places freely: each output pixel reads one pixel of either map. A
quarter of the first map's products remain, the joined map is never made, and the sum is part of a convolution's kernel.
Sums are added in another order, so results differ by rounding.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant, initializer, only_user, plain_convolution, producer


class UpsampledConvolution(Rule):
    NAME = "upsampled_convolution"

    def pattern(self, op: Operators, joined: object) -> object:
        return op.Conv(joined, _outputs=["out"], _allow_other_inputs=True, _allow_other_attributes=True)

    def check(self, context: object, joined: ir.Value, out: ir.Value) -> bool:
        concat = producer(joined, "Concat")
        resize = producer(concat.inputs[0], "Resize") if concat is not None and len(concat.inputs) == 2 else None
        if concat is None or resize is None or concat.attributes["axis"].as_int() != 1:
            return False
        convolution = plain_convolution(out, 1)
        if convolution is None:
            return self.refuse(out.producer(), "not a plain 1x1 convolution with constant weights")
        if not only_user(joined, convolution) or not only_user(resize.outputs[0], concat):
            return self.refuse(convolution, f"other nodes use {concat.name} too")
        if resize.attributes["mode"].as_string() != "nearest":
            return self.refuse(convolution, f"{resize.name} does not repeat pixels")
        return True

    def rewrite(self, op: Operators, joined: ir.Value, out: ir.Value) -> ir.Value:
        concat, convolution = producer(joined, "Concat"), out.producer()
        assert concat is not None and convolution is not None
        resize, weight = producer(concat.inputs[0], "Resize"), constant(convolution.inputs[1])
        assert resize is not None and weight is not None and concat.inputs[1] is not None
        attributes = {name: attribute.value for name, attribute in convolution.attributes.items()}
        kept = concat.inputs[1].shape
        assert kept is not None and isinstance(kept[1], int)
        cut = weight.shape[1] - kept[1]
        low = op.Conv(resize.inputs[0], initializer(op, f"{out.name}.low", weight[:, :cut]), **attributes)
        high = initializer(op, f"{out.name}.high", weight[:, cut:])
        sizes = {name: attribute.value for name, attribute in resize.attributes.items()}
        kept_map = op.Conv(concat.inputs[1], high, convolution.inputs[2], **attributes)
        return op.Add(kept_map, op.Resize(low, *resize.inputs[1:], **sizes))
