"""Where only some cells of a dense branch are asked for, its last two convolutions run at those cells alone.

| before | after |
|---|---|
| for every level ``Conv1x1(SiLU(Conv3x3(y)))`` | ``Gather`` of 3x3 patches, ``MatMul``, SiLU, ``MatMul`` |
| of a level with no more cells than are asked for | the same convolutions, then ``GatherElements`` |
| ``GatherElements(Concat(levels), cells, axis=2)`` | ``Where`` picks a cell's own level |

The topk head asks for 1000 of 8400 cells: box distributions, mask coefficients, keypoints and angles of the others are
never looked at. Each level computes all the cells asked for (of another level's cells: something, which is dropped), so
shapes stay static; a level that has fewer computes all it has. The numbers are those of the convolutions up to the
order of sums; a cell at the border sees the zeros of the padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnxscript import ir

from edgekit.graph.rules._rule import (
    Activation,
    Operators,
    Rule,
    activation_behind,
    constant,
    initializer,
    int_tensor,
    ints,
    only_user,
    plain_convolution,
    producer,
    static,
)

WORTH = 2  # times as many cells as are computed


@dataclass(frozen=True)
class _Level:
    """One level's branch: the map its 3x3 convolution reads, ``[B, c, height, width]``, and what follows: the values of
    both convolutions, the first's activated, and their weights."""

    source: ir.Value
    hidden: ir.Value
    out: ir.Value
    size: tuple[int, int]
    inner: tuple[np.ndarray, np.ndarray]
    activated: Activation
    last: tuple[np.ndarray, np.ndarray]


class GatheredBranch(Rule):
    NAME = "gathered_branch"

    def pattern(self, op: Operators, joined: object, index: object) -> object:
        return op.GatherElements(joined, index, _outputs=["out"], _allow_other_attributes=True)

    def check(self, context: object, joined: ir.Value, index: ir.Value, out: ir.Value) -> bool:
        concat, gather, cells = producer(joined, "Concat"), out.producer(), _cells(index)
        if concat is None or gather is None or cells is None or not only_user(joined, gather):
            return False  # the class branch, whose every value is looked at, or no branch at all
        if gather.attributes["axis"].as_int() != 2 or concat.attributes["axis"].as_int() != 2:
            return False
        levels = [_level(value) for value in concat.inputs]
        if any(level is None for level in levels):
            return False
        shape = static(cells.shape, first_too=True)
        if shape is None or not all(shape):
            return self.refuse(gather, "the batch and the number of cells must be known")
        cells_of = [level.size[0] * level.size[1] for level in levels if level is not None]
        if WORTH * sum(min(shape[1], count) for count in cells_of) > sum(cells_of):
            return self.refuse(gather, f"{shape[1]} of {sum(cells_of)} cells are too many for it to pay")
        return True

    def rewrite(self, op: Operators, joined: ir.Value, index: ir.Value, out: ir.Value) -> ir.Value:
        concat, cells_BK = producer(joined, "Concat"), _cells(index)
        assert concat is not None and cells_BK is not None
        B, K = static(cells_BK.shape, first_too=True) or (0, 0)
        found, start = None, 0
        for place, value in enumerate(concat.inputs):
            level = _level(value)
            assert level is not None and value is not None
            if level.size[0] * level.size[1] > K:
                values_BKV = self._at(op, level, cells_BK, start, (B, K), f"{out.name}.{place}")
            else:
                values_BKV = _among_all(op, level, value, cells_BK, start, (B, K))
            if found is None:
                found = values_BKV
            else:
                own_BK = op.GreaterOrEqual(cells_BK, op.Constant(value=int_tensor(start)))
                own_BK1 = op.Unsqueeze(own_BK, op.Constant(value=int_tensor(2)))
                found = op.Where(own_BK1, values_BKV, found)
            start += level.size[0] * level.size[1]
        return op.Transpose(found, perm=[0, 2, 1])

    def _at(
        self, op: Operators, level: _Level, cells_BK: ir.Value, start: int, shape: tuple[int, int], name: str
    ) -> ir.Value:
        """The branch's values ``[B, K, V]`` at cells counted from ``start``; any where a cell is of another level."""
        (height, width), (B, K) = level.size, shape

        def number(*values: int) -> ir.Value:
            return op.Constant(value=int_tensor(*values))

        def weight(part: str, array: np.ndarray) -> ir.Value:
            return initializer(op, f"{name}.{part}", array)

        local_BK = _local(op, level, cells_BK, start)
        rows_BK = op.Div(local_BK, number(width))
        # In the padded map, whose rows are two longer, that is the upper left pixel of the cell's neighbourhood.
        corner_BK = op.Add(local_BK, op.Mul(rows_BK, number(2)))
        offsets = np.add.outer(np.arange(3) * (width + 2), np.arange(3)).reshape(1, 1, 9)
        image = np.arange(B).reshape(B, 1, 1) * (height + 2) * (width + 2)
        around = op.Add(
            op.Unsqueeze(corner_BK, number(2)), op.Constant(value=ir.tensor((image + offsets).astype(np.int64)))
        )
        padded = op.Pad(level.source, number(0, 0, 1, 1, 0, 0, 1, 1))
        inner, bias = level.inner
        pixels = op.Reshape(op.Transpose(padded, perm=[0, 2, 3, 1]), number(-1, inner.shape[1]))
        patches = op.Reshape(op.Gather(pixels, op.Reshape(around, number(-1)), axis=0), number(B * K, -1))
        flat = inner.transpose(2, 3, 1, 0).reshape(-1, inner.shape[0])
        hidden = level.activated(op, op.Add(op.MatMul(patches, weight("inner", flat)), weight("inner_bias", bias)))
        last, last_bias = level.last
        values = op.Add(op.MatMul(hidden, weight("last", last[:, :, 0, 0].T)), weight("last_bias", last_bias))
        self.moves(level.hidden, "cells", hidden, local_BK)
        self.moves(level.out, "cells", values, local_BK)
        return op.Reshape(values, number(B, K, -1))


def _local(op: Operators, level: _Level, cells_BK: ir.Value, start: int) -> ir.Value:
    """Cells counted from ``start``, where the level's begin; others become its first or last."""
    local_BK = op.Sub(cells_BK, op.Constant(value=int_tensor(start))) if start else cells_BK
    last = op.Constant(value=int_tensor(level.size[0] * level.size[1] - 1))
    return op.Max(op.Min(local_BK, last), op.Constant(value=int_tensor(0)))


def _among_all(
    op: Operators, level: _Level, value: ir.Value, cells_BK: ir.Value, start: int, shape: tuple[int, int]
) -> ir.Value:
    """The branch's values ``[B, K, V]`` from those of all its cells, ``value [B, V, cells]``."""
    local_B1K = op.Unsqueeze(_local(op, level, cells_BK, start), op.Constant(value=int_tensor(1)))
    index_BVK = op.Expand(local_B1K, op.Constant(value=int_tensor(shape[0], level.last[0].shape[0], shape[1])))
    return op.Transpose(op.GatherElements(value, index_BVK, axis=2), perm=[0, 2, 1])


def _cells(index: ir.Value) -> ir.Value | None:
    """``cells [B, K]`` behind ``Expand(Unsqueeze(cells, 1))``."""
    expand = producer(index, "Expand")
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if unsqueeze is None or ints(unsqueeze, "axes", 1) != [1]:
        return None
    return unsqueeze.inputs[0]


def _level(value: ir.Value | None) -> _Level | None:
    """The branch behind one part of the joined values, ``Reshape(Conv1x1(activation(Conv3x3(source))))``."""
    reshape = producer(value, "Reshape")
    last = plain_convolution(reshape.inputs[0], 1) if reshape is not None else None
    found = activation_behind(last.inputs[0]) if last is not None else None
    inner = plain_convolution(found[0], 3) if found is not None else None
    if last is None or inner is None or found is None or inner.inputs[0] is None or last.inputs[0] is None:
        return None
    shape = static(inner.inputs[0].shape)
    if shape is None or len(shape) != 4:
        return None
    values = inner.inputs[0], last.inputs[0], last.outputs[0]
    return _Level(*values, (shape[2], shape[3]), _weights(inner), found[1], _weights(last))


def _weights(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    weight, bias = (constant(v) for v in node.inputs[1:3])
    assert weight is not None and bias is not None
    return weight, bias
