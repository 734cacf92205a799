"""The rewrites that save copies and cells nobody reads: operators left, and numbers held against ONNX Runtime's of the
graph as it was.

Tolerance: float32 sums in another order, rtol 1e-5 and atol 1e-5.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.graphs import Builder
from tests.test_rewrite import operators, random_map, rewritten, run

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SIZES = ((8, 10), (4, 5), (2, 3))  # of three levels, 106 cells
RNG = np.random.default_rng(3)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def activate(b: Builder, x: str, kind: str) -> str:
    if kind in ("Sigmoid", "HardSigmoid"):  # the gates of SiLU and of Hardswish taken apart
        return b.op("Mul", b.op(kind, x), x)
    return b.op(kind, x, **({"alpha": 0.3} if kind == "LeakyRelu" else {}))


def cut_in_two(kind: str = "Sigmoid", group: int = 1) -> Builder:
    """``Split(activation(Conv(x)))`` into 4 and 8 channels, ``a`` and ``b``."""
    b = Builder()
    y = b.op("Conv", "x", weights(12, 8 // group, 3, 3), weights(12), pads=[1, 1, 1, 1], group=group, name="cut")
    b.op("Split", activate(b, y, kind), np.array([4, 8], np.int64), outputs=2, axis=1, name="halves")
    b.nodes[-1].output[:] = ["a", "b"]
    return b


def cut_model(b: Builder, **more: tuple[int, ...]) -> onnx.ModelProto:
    return b.model({"x": (2, 8, 6, 5)}, {"a": (2, 4, 6, 5), "b": (2, 8, 6, 5), **more})


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid", "HardSwish", "Relu", "LeakyRelu"])
def test_a_convolution_that_is_cut_becomes_two(kind: str) -> None:
    model = cut_model(cut_in_two(kind))
    found, reports = rewritten(model, "split_convolution")
    assert reports["split_convolution"]["fired"] == 1
    own = {kind: 2, "Mul": 2} if "Sig" in kind else {kind: 2}
    assert operators(found) == {"Conv": 2, **own}
    x = random_map(2, 8, 6, 5)
    for before, after in zip(run(model, x=x), run(found, x=x), strict=True):
        np.testing.assert_allclose(after, before, **CLOSE)


def test_convolutions_that_stay_whole_say_why() -> None:
    grouped = rewritten(cut_model(cut_in_two(group=2)), "split_convolution")[1]["split_convolution"]
    assert grouped["refused"] == [{"node": "halves", "why": "cut is a grouped convolution"}]
    b = cut_in_two()
    b.op("Neg", "cut_out0")
    b.nodes[-1].output[0] = "c"
    used = rewritten(cut_model(b, c=(2, 12, 6, 5)), "split_convolution")[1]["split_convolution"]
    assert used["fired"] == 0 and used["refused"][0]["why"] == "other nodes use cut as a whole"


def joined(mode: str = "nearest") -> Builder:
    """``Conv1x1(Concat(Resize(x), s))``, seven channels ``y``."""
    b = Builder()
    scales = np.array([1, 1, 2, 2], np.float32)
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = b.op("Resize", "x", "", scales, mode=mode, name="up", **how)
    b.op("Conv", b.op("Concat", up, "s", axis=1, name="both"), weights(7, 8, 1, 1), weights(7), name="mix")
    b.nodes[-1].output[0] = "y"
    return b


def joined_model(b: Builder, **more: tuple[int, ...]) -> onnx.ModelProto:
    return b.model({"x": (2, 5, 4, 3), "s": (2, 3, 8, 6)}, {"y": (2, 7, 8, 6), **more})


def test_upsampling_changes_places_with_a_small_convolution() -> None:
    model = joined_model(joined())
    found, reports = rewritten(model, "upsampled_convolution")
    assert reports["upsampled_convolution"]["fired"] == 1
    assert operators(found) == {"Conv": 2, "Resize": 1, "Add": 1}
    resize = next(n for n in found.graph.node if n.op_type == "Resize")
    assert next(n.op_type for n in found.graph.node if resize.input[0] in n.output) == "Conv"
    x, s = random_map(2, 5, 4, 3), random_map(2, 3, 8, 6, seed=1)
    np.testing.assert_allclose(run(found, x=x, s=s)[0], run(model, x=x, s=s)[0], **CLOSE)


def test_upsamplings_that_stay_say_why() -> None:
    linear = rewritten(joined_model(joined("linear")), "upsampled_convolution")[1]["upsampled_convolution"]
    assert linear["refused"] == [{"node": "mix", "why": "up does not repeat pixels"}]
    b = joined()
    b.op("Neg", "both_out0")
    b.nodes[-1].output[0] = "z"
    used = rewritten(joined_model(b, z=(2, 8, 8, 6)), "upsampled_convolution")[1]["upsampled_convolution"]
    assert used["refused"] == [{"node": "mix", "why": "other nodes use both too"}]


def branches(batch: int | str, count: int, kind: str = "Sigmoid", kernel: int = 3) -> onnx.ModelProto:
    """Three levels' branches, flattened and joined, of which ``GatherElements`` takes the columns ``cells``."""
    b, parts = Builder(), []
    for level, (height, width) in enumerate(SIZES):
        pads = [kernel // 2] * 4
        inner = b.op("Conv", f"x{level}", weights(6, 4, kernel, kernel), weights(6), pads=pads)
        last = b.op("Conv", activate(b, inner, kind), weights(5, 6, 1, 1), weights(5))
        parts.append(b.op("Reshape", last, np.array([0, 5, height * width], np.int64)))
    cells = b.op("Cast", "cells", to=onnx.TensorProto.INT64)
    wide = np.array([1, 5, 1], np.int64)
    index = b.op("Expand", b.op("Unsqueeze", cells, np.array([1], np.int64)), wide)
    b.op("GatherElements", b.op("Concat", *parts, axis=2), index, axis=2, name="taken")
    b.nodes[-1].output[0] = "y"
    inputs = {f"x{i}": (batch, 4, *size) for i, size in enumerate(SIZES)}
    return b.model({**inputs, "cells": (batch, count)}, {"y": (batch, 5, count)})


@pytest.mark.parametrize("kind", ["Sigmoid", "HardSwish", "LeakyRelu"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_branch_is_computed_only_where_it_is_read(kind: str, batch: int) -> None:
    model = branches(batch, 17, kind)
    found, reports = rewritten(model, "gathered_branch")
    assert reports["gathered_branch"]["fired"] == 1 and not reports["gathered_branch"]["refused"]
    left = operators(found)  # of the last level, which has six cells, all are computed
    assert left["MatMul"] == 4 and left["Conv"] == 2 and left["GatherElements"] == 1 and "Concat" not in left
    maps = {f"x{i}": random_map(batch, 4, *size, seed=i) for i, size in enumerate(SIZES)}
    corners = [0, 9, 70, 79, 80, 84, 95, 99, 100, 102, 103, 105]  # of every level: the padding is theirs too
    every = [np.array([*corners, *np.random.default_rng(i).integers(0, 106, 5)], np.float32) for i in range(batch)]
    feeds = {**maps, "cells": np.stack(every)}
    np.testing.assert_allclose(run(found, **feeds)[0], run(model, **feeds)[0], **CLOSE)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (branches(1, 28), "28 of 106 cells are too many for it to pay"),
        (branches("batch", 17), "the batch and the number of cells must be known"),
    ],
)
def test_branches_that_stay_dense_say_why(model: onnx.ModelProto, sentence: str) -> None:
    report = rewritten(model, "gathered_branch")[1]["gathered_branch"]
    assert report["fired"] == 0 and report["refused"] == [{"node": "taken", "why": sentence}]


def test_other_branches_are_no_candidates() -> None:
    assert "gathered_branch" not in rewritten(branches(1, 17, kernel=5), "gathered_branch")[1]
