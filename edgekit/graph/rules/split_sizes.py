"""A Split into equal parts says the parts' sizes, the form every parser since opset 13 reads.

| before | after |
|---|---|
| ``Split(x; num_outputs=2)`` over 128 channels (opset 18) | ``Split(x, [64, 64])`` |
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Pattern, Rule, int_tensor

MOST = 4  # outputs of a Split in these networks


class SplitSizes(Rule):
    NAME = "split_sizes"

    def patterns(self) -> Sequence[Pattern]:
        def into(parts: int) -> Pattern:
            def pattern(op: Operators, x: object) -> object:
                return op.Split(x, _allow_other_attributes=True, _outputs=[f"part{i}" for i in range(parts)])

            return pattern

        return [into(parts) for parts in range(2, MOST + 1)]

    def check(self, context: object, x: ir.Value, part0: ir.Value, **others: ir.Value) -> bool:
        node = part0.producer()
        if _sizes([part0, *others.values()]) is None:
            return self.refuse(node, "the sizes of its parts are unknown; export with a fixed image size")
        return True

    def rewrite(self, op: Operators, x: ir.Value, part0: ir.Value, **others: ir.Value) -> object:
        sizes, axis = _sizes([part0, *others.values()]), _axis(part0)
        assert sizes is not None
        return op.Split(x, op.Constant(value=int_tensor(*sizes)), axis=axis, _outputs=len(sizes))


def _axis(part: ir.Value) -> int:
    node = part.producer()
    assert node is not None
    return node.attributes["axis"].as_int() if "axis" in node.attributes else 0


def _sizes(parts: list[ir.Value]) -> list[int] | None:
    sizes = [part.shape[_axis(part)] if part.shape is not None else None for part in parts]
    known = [size for size in sizes if isinstance(size, int)]
    return known if len(known) == len(sizes) else None
