"""A convolution whose activated result is cut in two becomes two convolutions.

| before | after |
|---|---|
| ``y = SiLU(Conv(x; W, b))``; ``a, b = Split(y, axis=1)`` | ``a = SiLU(Conv(x; W[:k], b[:k]))``; ``b`` likewise |

The numbers are the same: a convolution computes every output channel for itself, an activation every value. OpenVINO
keeps channels side by side, so it cuts and joins maps by copying them; without the cut, the halves are made where they
are needed, and the Concat behind takes them as they are.
"""

from __future__ import annotations

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, activation_behind, constant, initializer, only_user, producer


class SplitConvolution(Rule):
    NAME = "split_convolution"

    def pattern(self, op: Operators, y: object) -> object:
        return op.Split(y, _outputs=["a", "b"], _allow_other_inputs=True, _allow_other_attributes=True)

    def check(self, context: object, y: ir.Value, a: ir.Value, b: ir.Value) -> bool:
        found = activation_behind(y)
        convolution = producer(found[0], "Conv") if found else None
        split = a.producer()
        if found is None or convolution is None or split is None:
            return False
        if "axis" not in split.attributes or split.attributes["axis"].as_int() != 1:
            return False
        if not only_user(y, split) or len(list(found[0].uses())) > 2:
            return self.refuse(split, f"other nodes use {convolution.name} as a whole")
        if len(convolution.inputs) != 3 or any(constant(v) is None for v in convolution.inputs[1:]):
            return self.refuse(split, f"the weights of {convolution.name} are computed")
        if "group" in convolution.attributes and convolution.attributes["group"].as_int() != 1:
            return self.refuse(split, f"{convolution.name} is a grouped convolution")
        if not all(v.shape is not None and isinstance(v.shape[1], int) for v in (a, b)):
            return self.refuse(split, "the sizes of its parts are not known")
        return True

    def rewrite(self, op: Operators, y: ir.Value, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ...]:
        found = activation_behind(y)
        assert found is not None and a.shape is not None
        before, activated = found
        convolution = producer(before, "Conv")
        assert convolution is not None
        attributes = {name: attribute.value for name, attribute in convolution.attributes.items()}
        weights = [constant(v) for v in convolution.inputs[1:]]
        cut = int(a.shape[1])  # type: ignore[arg-type]
        parts = []
        for place, rows in enumerate((slice(0, cut), slice(cut, None))):
            chosen = [initializer(op, f"{before.name}.{place}.{i}", w[rows]) for i, w in enumerate(weights)]  # type: ignore[index]
            parts.append(activated(op, op.Conv(convolution.inputs[0], *chosen, **attributes)))
            self.moves(y, "channels", parts[-1], list(range(len(weights[0])))[rows])  # type: ignore[arg-type]
        return tuple(parts)
