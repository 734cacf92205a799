"""Which element of which value stands where: layout operators followed backwards by computing with indices.

However a graph spells a layout (Reshape, Transpose, Split, Slice, … in any order), what it does to the elements is a
selection of the source's. ``follow`` runs the operators on the numbers 0, 1, 2, … instead of data, so rules compare
what a chain does, never how it is written:

    found = follow(value)                  # value = Transpose(Reshape(x))
    found.source, found.index              # x and, for every element of value, its flat position in x

An unknown first dimension (a dynamic batch) is followed as ``BATCH``; chains only ever carry it along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import constant, ints, producer, static

BATCH = 2
LAYOUT = ("Reshape", "Transpose", "Split", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Identity")


@dataclass(frozen=True)
class Followed:
    """A value as a selection of ``source``'s elements times ``factor``.

    ``index`` has the value's shape and holds flat positions in a source of shape ``shape``; ``chain`` are the nodes
    between the two, the value's own first.
    """

    source: ir.Value
    shape: tuple[int, ...]
    index: np.ndarray
    factor: float = 1.0
    chain: tuple[ir.Node, ...] = ()


def follow(
    value: ir.Value, operators: tuple[str, ...] = LAYOUT, scalars: bool = False, batch: int = BATCH
) -> Followed | None:
    """Follow ``value`` back through ``operators`` (and, with ``scalars``, constant factors) to what they select from.

    Args:
        batch: stands for an unknown first dimension of the source.

    Returns:
        None where a shape on the way is unknown.
    """
    node = producer(value, *operators, *(("Mul", "Div") if scalars else ()))
    if node is not None and node.op_type in ("Mul", "Div"):
        found = scalar_factor(node)
        if found is not None:
            before = follow(found[0], operators, scalars, batch)
            return before and Followed(
                before.source, before.shape, before.index, before.factor * found[1], (node, *before.chain)
            )
        node = None
    if node is None or node.inputs[0] is None:
        shape = static(value.shape)
        if shape is None:
            return None
        shape = tuple(d or batch for d in shape)
        return Followed(value, shape, np.arange(np.prod(shape, dtype=np.int64), dtype=np.int32).reshape(shape))
    before = follow(node.inputs[0], operators, scalars, batch)
    index = None if before is None else _APPLY[node.op_type](node, value, before.index)
    if before is None or index is None:
        return None
    return Followed(before.source, before.shape, index, before.factor, (node, *before.chain))


def scalar_factor(node: ir.Node) -> tuple[ir.Value, float] | None:
    """``(x, s)`` where the Mul or Div node computes x · s with a constant single number s."""
    left, right = node.inputs
    for x, s in ((left, right), (right, left)) if node.op_type == "Mul" else ((left, right),):
        array = constant(s)
        if x is not None and array is not None and array.size == 1 and constant(x) is None:
            number = float(array.reshape(()))
            if node.op_type == "Mul" or number:
                return x, number if node.op_type == "Mul" else 1.0 / number
    return None


def channels_of(found: Followed) -> np.ndarray | None:
    """The channels c with ``value == source[:, c]`` for a source map ``[B, C, H, W]``, or None if that is not so."""
    if len(found.shape) != 4 or found.index.ndim != 4 or found.factor != 1.0:
        return None
    if found.index.shape[2:] != found.shape[2:] or found.index.shape[0] != found.shape[0]:
        return None
    area = found.shape[2] * found.shape[3]
    channels = found.index[0, :, 0, 0] // area % found.shape[1]
    whole = np.arange(np.prod(found.shape, dtype=np.int64), dtype=np.int32).reshape(found.shape)
    return channels if np.array_equal(whole[:, channels], found.index) else None


def _reshape(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    wanted = constant(node.inputs[1])
    if wanted is None:  # computed, as with a dynamic batch: its inferred shape says the same
        shape = static(value.shape)
        return None if shape is None else _reshaped(x, tuple(d or -1 for d in shape))
    keeps_zero = "allowzero" in node.attributes and node.attributes["allowzero"].as_int()
    return _reshaped(x, tuple(int(d) if d or keeps_zero else x.shape[i] for i, d in enumerate(wanted)))


def _reshaped(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        return x.reshape(shape)
    except ValueError:
        return None


def _transpose(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    order = ints(node, "perm")
    return np.transpose(x, order)


def _split(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    sizes = ints(node, "split", 1)
    if sizes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        return None  # computed sizes
    if sizes is None:
        each = -(-x.shape[axis] // len(node.outputs))
        starts = [i * each for i in range(1, len(node.outputs))]
    else:
        starts = list(np.cumsum(sizes[:-1]))
    return np.split(x, starts, axis)[list(node.outputs).index(value)]


def _slice(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    starts, ends = ints(node, "starts", 1), ints(node, "ends", 2)
    if starts is None or ends is None:
        return None
    axes = ints(node, "axes", 3) or list(range(len(starts)))
    steps = ints(node, "steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            return None
        x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
    return x


def _squeeze(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    axes = ints(node, "axes", 1)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    axes = ints(node, "axes", 1)
    return None if axes is None else np.expand_dims(x, tuple(axes))


def _flatten(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return x.reshape(int(np.prod(x.shape[: axis % (x.ndim + 1)], dtype=np.int64)), -1)


def _same(node: ir.Node, value: ir.Value, x: np.ndarray) -> np.ndarray | None:
    return x


_APPLY = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Identity": _same,
}
