"""Channels picked from a convolution become a convolution with those channels.

| before | after |
|---|---|
| ``y = Conv(x; W, b)``; ``Gather(y, q, axis=1)`` | ``Conv(x; W[q], b[q])`` |
| ``Gather(y, k, axis=1)``, ``Gather(y, v, axis=1)`` | ``Conv(x; W[k], b[k])``, ``Conv(x; W[v], b[v])`` |

The numbers are the same: a convolution computes every output channel for itself. It fires only where the selections
share out all channels, so that nothing is computed twice, and never on grouped convolutions. What it saves is cutting
up and moving the result: the three maps of an attention come out of the convolutions where they are needed.
"""

from __future__ import annotations

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import Operators, Rule, constant, initializer, producer


class SelectedConvolution(Rule):
    NAME = "selected_convolution"

    def __init__(self) -> None:
        super().__init__()
        # Convolutions being replaced -> what has been made of them so far, by channels.
        self._made: dict[ir.Value, dict[tuple[int, ...], ir.Value]] = {}

    def pattern(self, op: Operators, y: object, channels: object) -> object:
        return op.Gather(y, channels, axis=1, _outputs=["out"])

    def check(self, context: object, y: ir.Value, channels: ir.Value, out: ir.Value) -> bool:
        convolution, wanted = producer(y, "Conv"), constant(channels)
        if convolution is None or wanted is None or wanted.ndim != 1:
            return False
        if y in self._made:
            return True
        node = out.producer()
        weights = [constant(v) for v in convolution.inputs[1:] if v is not None]
        if any(array is None for array in weights) or weights[0] is None:
            return self.refuse(node, f"the weights of {convolution.name} are computed")
        if "group" in convolution.attributes and convolution.attributes["group"].as_int() != 1:
            return self.refuse(node, f"{convolution.name} is a grouped convolution")
        if not _shared_out(y, len(weights[0])):
            return self.refuse(node, f"other nodes use {convolution.name} as a whole, or some of its channels twice")
        return True

    def rewrite(self, op: Operators, y: ir.Value, channels: ir.Value, out: ir.Value) -> ir.Value:
        convolution, rows = producer(y, "Conv"), constant(channels)
        assert convolution is not None and rows is not None
        made = self._made.setdefault(y, {})
        key = tuple(rows.tolist())
        if key in made:
            return op.Identity(made[key])
        number = sum(len(others) for others in self._made.values())  # convolutions may share a bias, so count them all
        chosen = [_rows(op, value, rows, number) for value in convolution.inputs[1:] if value is not None]
        attributes = {name: attribute.value for name, attribute in convolution.attributes.items()}
        made[key] = op.Conv(convolution.inputs[0], *chosen, **attributes)
        self.moves(y, "channels", made[key], rows.tolist())
        return made[key]


def _rows(op: Operators, value: ir.Value, rows: np.ndarray, number: int) -> ir.Value:
    array, name = constant(value), f"{value.name}.{number}"
    assert array is not None
    return initializer(op, name, array[rows])


def _shared_out(y: ir.Value, outputs: int) -> bool:
    """Whether selections are all that uses ``y``, each of its channels in exactly one (equal ones counted once)."""
    if y.is_graph_output():
        return False
    selections = set()
    for node, place in y.uses():
        wanted = constant(node.inputs[1]) if node.op_type == "Gather" and place == 0 else None
        if wanted is None or wanted.ndim != 1 or node.attributes["axis"].as_int() != 1:
            return False
        selections.add(tuple(wanted.tolist()))
    return sorted(c for chosen in selections for c in chosen) == list(range(outputs))
