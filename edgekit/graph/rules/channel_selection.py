"""Layout operators that only pick channels of a convolution become one Gather that says which.

| before | after |
|---|---|
| ``Conv``, ``Reshape [B, N, 96, H, W]``, ``Split``, ``Reshape [B, C, H, W]`` | ``Conv``, ``Gather(channels, axis=1)`` |
| ``Conv``, ``Split(axis=1)`` | ``Conv``, one ``Gather`` an output |
| the same through Transposes, Slices and Reshapes in any order | the same |

A stepping stone: ``selected_convolution`` then gives every selection a convolution of its own. What a chain does is
computed with indices (``_index.py``), so every exporter's spelling of the same selection is one form afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxscript import ir

from edgekit.graph.rules._index import channels_of, follow
from edgekit.graph.rules._rule import Operators, Pattern, Rule, int_tensor, producer


class ChannelSelection(Rule):
    NAME = "channel_selection"

    def __init__(self) -> None:
        super().__init__()
        self._found: tuple[ir.Value, list[list[int]]] | None = None

    def patterns(self) -> Sequence[Pattern]:
        def ends_in(op_type: str, outputs: list[str]) -> Pattern:
            def pattern(op: Operators, x: object) -> object:
                return getattr(op, op_type)(x, _outputs=outputs, _allow_other_inputs=True, _allow_other_attributes=True)

            return pattern

        names = ["a", "b", "c"]
        return [*(ends_in(t, ["a"]) for t in ("Reshape", "Transpose")), *(ends_in("Split", names[:n]) for n in (2, 3))]

    def check(self, context: object, x: ir.Value, a: ir.Value, **others: ir.Value) -> bool:
        self._found = None
        outputs = [a, *others.values()]
        if not all(v.shape is not None and len(v.shape) == 4 for v in outputs):
            return False
        found = [follow(v) for v in outputs]
        channels = [channels_of(f) if f is not None else None for f in found]
        if any(c is None for c in channels) or found[0] is None or producer(found[0].source, "Conv") is None:
            return False
        self._found = found[0].source, [c.tolist() for c in channels if c is not None]
        return True

    def rewrite(self, op: Operators, x: ir.Value, a: ir.Value, **others: ir.Value) -> tuple[ir.Value, ...]:
        assert self._found is not None
        source, channels = self._found
        return tuple(op.Gather(source, op.Constant(value=int_tensor(*c)), axis=1) for c in channels)
