"""Ranges, explicit INT8, FP16 and the search, each against arithmetic written out here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks import clipping
from edgekit import checkpoint, targets
from edgekit.errors import InputError, UsageError
from edgekit.graph import narrow
from edgekit.graph.export import export
from edgekit.quantize import fp16, groups, qdq, ranges, search, sensitivity
from tests.networks import noise, settled

SIDE = 64


def _settled(scale: Callable[[torch.nn.Module], None] = lambda net: None) -> checkpoint.Checkpoint:
    """A classifier with random weights: its values are of order one."""
    return settled("yolo12n-cls", noise(6, 3, SIDE, SIDE, seed=1), 1e-3, ("a", "b", "c"), plant=scale)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        _settled(), tmp_path_factory.mktemp("graph") / "model.onnx", recipe=targets.get("ort-int8").recipe
    ).path


@pytest.fixture(scope="module")
def batches() -> list[np.ndarray]:
    return np.split(noise(6, 3, SIDE, SIDE, seed=1), 6)


@pytest.fixture(scope="module")
def statistics(graph: Path, batches: list[np.ndarray]) -> dict[str, ranges.Statistics]:
    return ranges.collect(graph, batches)


def _run(path: Path, batch: np.ndarray, names: list[str] | None = None) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(names, {session.get_inputs()[0].name: batch})


def _means(statistics: dict[str, ranges.Statistics]) -> dict[str, np.ndarray]:
    return {n: s.channel_means for n, s in statistics.items() if s.channel_means is not None}


# Ranges


def test_statistics_are_those_of_all_values_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(0, 10**k, (1, 2, 8, 8)).astype(np.float32) for k in range(-2, 3)]
    forward, backward = ranges.Statistics(), ranges.Statistics()
    for part in parts:
        forward.add(part)
    for part in reversed(parts):
        backward.add(part)
    every = np.concatenate([p.ravel() for p in parts])
    for found in (forward, backward):
        assert (found.low, found.high) == (every.min(), every.max())
        assert found.counts.sum() == every.size
        assert found.channel_means == pytest.approx(np.stack([p.mean((0, 2, 3)) for p in parts]).mean(0), abs=1e-4)
    np.testing.assert_array_equal(forward.counts, backward.counts)
    width = 2 * forward.reach / ranges.BINS
    assert abs((forward.counts * forward.centres).sum() / every.size - every.mean()) < width


@pytest.mark.parametrize("method", [*ranges.METHODS, *clipping.METHODS])
def test_a_range_covers_what_matters_and_not_the_outlier(method: str) -> None:
    found = ranges.Statistics()
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    for part in np.split(values, 40):  # small enough to be counted whole
        found.add(part)
    found.add(np.array([300.0], np.float32))
    low, high = clipping.limits({"x": found}, method)["x"]
    assert low == -high
    if method == "minmax":
        assert high == 300
        return

    def error(reach: float) -> float:
        step = 2 * reach / 254
        every = np.append(values, 300.0)
        return float(((np.clip(np.round(every / step), -127, 127) * step - every) ** 2).mean())

    if method == "mse":
        assert high < 300 and error(high) <= min(error(r) for r in np.linspace(60, 300, 40)) * 1.01
    else:
        assert 2 < high <= 32  # 128 of the bins, the fewest that eight bits can be told from


def test_ranges_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Each image enters with the same values, whether it comes alone or with others."""
    chain = _changed(_chain(tmp_path / "one.onnx"), tmp_path / "any.onnx", _any_batch)
    images = np.random.default_rng(0).normal(0, 1, (6, 1, 1, 3 * ranges.SAMPLED)).astype(np.float32)
    images *= np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1, 1)
    alone, together = (ranges.collect(chain, np.split(images, parts)) for parts in (6, 2))
    assert alone.keys() == together.keys() >= {"x", "a"}
    for name, found in alone.items():
        np.testing.assert_array_equal(found.counts, together[name].counts)
        assert (found.low, found.high) == (together[name].low, together[name].high)
        assert found.channel_means == pytest.approx(together[name].channel_means)


def test_ranges_of_one_sided_values_may_be_asymmetric() -> None:
    found = ranges.Statistics()
    found.add(np.linspace(-0.25, 8, 1000, dtype=np.float32))
    assert ranges.limits({"x": found}, "minmax", symmetric=False)["x"] == (-0.25, 8.0)
    assert ranges.limits({"x": found}, "minmax")["x"] == (-8.0, 8.0)
    with pytest.raises(UsageError, match="no calibration method 'guess'"):
        ranges.limits({"x": found}, "guess")


# Explicit INT8


def test_weights_are_rounded_to_the_nearest_step_of_their_channel() -> None:
    weights = np.random.default_rng(0).normal(0, 1, (5, 4, 3, 3)).astype(np.float32)
    weights[2] *= 1000
    eight, scales = qdq.int8_weights(weights)
    back = eight * scales[:, None, None, None]
    assert eight.dtype == np.int8 and np.abs(eight).max() == 63
    assert (np.abs(back - weights) <= scales[:, None, None, None] / 2 * 1.001).all()
    np.testing.assert_allclose(scales, np.abs(weights).max((1, 2, 3)) / 63, rtol=1e-6)


@pytest.mark.parametrize("fuse", qdq.FUSE)
def test_what_is_quantized_and_what_is_left_alone(
    fuse: str, graph: Path, statistics: dict, batches: list[np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    limits = ranges.limits(statistics, "minmax", symmetric=fuse == "tensorrt")
    placed = qdq.quantize(graph, out, limits, fuse=fuse, means=_means(statistics))
    model = onnx.load(out)
    made = {name: node for node in model.graph.node for name in node.output}
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    quantized = [n for n in convolutions if n.input[1] in made]
    assert len(quantized) == placed.convolutions >= len(convolutions) - 2 > 50
    for node in quantized:
        weight = made[node.input[1]]
        assert tensors[weight.input[0]].dtype == np.int8 and not tensors[weight.input[2]].any()
        assert tensors[weight.input[1]].shape == (tensors[node.input[2]].size,)
        assert tensors[node.input[2]].dtype == np.float32  # no quantized bias
        assert made[node.input[0]].op_type == "DequantizeLinear"
    for node in (n for n in model.graph.node if n.op_type == "QuantizeLinear"):
        zero = tensors[node.input[2]]
        assert zero.dtype == (np.int8 if fuse == "tensorrt" else np.uint8)
        assert fuse == "onnxruntime" or zero == 0
    for node in model.graph.node:  # attention in floating point, and with nothing before it
        if node.op_type in ("MatMul", "Softmax"):
            assert all(name not in made or made[name].op_type != "DequantizeLinear" for name in node.input)
        if fuse == "tensorrt" and node.op_type == "Sigmoid":
            assert made[node.input[0]].op_type == "Conv"
    before, after = (_run(p, batches[0])[0] for p in (graph, out))
    assert np.abs(before - after).max() < 0.1


def test_only_the_chosen_groups_are_touched(graph: Path, statistics: dict, tmp_path: Path) -> None:
    limits = ranges.limits(statistics, "minmax")
    known = groups.collect(n.name for n in onnx.load(graph).graph.node)
    placed = qdq.quantize(graph, tmp_path / "one.onnx", limits, [g for g in known if g != "stage 6 mlp"])
    assert placed.convolutions == 8 and all(".mlp." in v or "/Add" in v for v in placed.values)
    nothing = qdq.quantize(graph, tmp_path / "none.onnx", limits, list(known))
    assert nothing.convolutions == 0
    batch = noise(1, 3, SIDE, SIDE, seed=1)
    np.testing.assert_allclose(_run(tmp_path / "none.onnx", batch)[0], _run(graph, batch)[0], atol=1e-6)
    with pytest.raises(UsageError, match=r"no group or node 'stage 99'; groups are stem"):
        qdq.quantize(graph, tmp_path / "x.onnx", limits, ["stage 99"])
    with pytest.raises(InputError, match="no calibrated range for"):
        qdq.quantize(graph, tmp_path / "x.onnx", {})


def test_biases_make_up_for_the_mean_error_of_rounded_weights(tmp_path: Path) -> None:
    """On maps that are constant, the corrected convolution's output is the float one's, wherever no border is near."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (6, 2, 3, 3)).astype(np.float32)  # two groups of two channels
    means = rng.normal(0, 1, 4)
    found = qdq._mean_output(weights, means)
    image = torch.tensor(means, dtype=torch.float32)[None, :, None, None].expand(1, 4, 5, 5)
    expected = torch.nn.functional.conv2d(image, torch.tensor(weights), groups=2)[0, :, 1, 1]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def _changed(graph: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(graph)
    change(model)
    onnx.save(model, out)
    return out


def _any_batch(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.type.tensor_type.shape.dim[3].dim_param = "many"


def _with_nan(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name.endswith("conv.weight"))
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _without_attention(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.op_type = node.op_type.replace("Softmax", "Softsign")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_with_nan, "hold NaN or infinity"),
        (_dynamic, "dynamic shape; INT8 needs a fixed batch"),
        (_without_attention, "none of YOLO12's attention"),
    ],
    ids=["NaN", "dynamic", "no attention"],
)
def test_graphs_that_cannot_be_quantized(change: Callable, sentence: str, graph: Path, tmp_path: Path) -> None:
    path = _changed(graph, tmp_path / "bad.onnx", change)
    with pytest.raises(InputError, match=f"bad.onnx: .*{sentence}"):
        qdq.check(onnx.load(path), path)


def test_a_quantized_graph_is_not_quantized_again(graph: Path, statistics: dict, tmp_path: Path) -> None:
    limits = ranges.limits(statistics, "minmax")
    qdq.quantize(graph, tmp_path / "once.onnx", limits)
    with pytest.raises(InputError, match=r"once\.onnx: already quantized \(QuantizeLinear"):
        qdq.quantize(tmp_path / "once.onnx", tmp_path / "twice.onnx", limits)


def test_two_runs_give_the_same_bytes(graph: Path, batches: list[np.ndarray], tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        found = ranges.collect(graph, batches[:2])
        qdq.quantize(graph, tmp_path / name, ranges.limits(found, "percentile"), means=_means(found))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def _with_constant_output(model: onnx.ModelProto) -> None:
    """As of a detector with one class, whose labels are known."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 3), np.int64), "labels"))
    model.graph.output.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 3]))


def test_an_output_that_is_a_constant_stays(graph: Path, statistics: dict, tmp_path: Path) -> None:
    path = _changed(graph, tmp_path / "one.onnx", _with_constant_output)
    qdq.quantize(path, tmp_path / "int8.onnx", ranges.limits(statistics, "minmax"))
    fp16.to_fp16(tmp_path / "int8.onnx", tmp_path / "half.onnx")
    for name in ("int8.onnx", "half.onnx"):
        assert "labels" in {t.name for t in onnx.load(tmp_path / name).graph.initializer}


# FP16


def test_fp16_keeps_ports_and_the_decode_tail_and_halves_the_rest(graph: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    assert fp16.to_fp16(graph, half) == []
    model = onnx.load(half)
    assert {v.type.tensor_type.elem_type for v in [*model.graph.input, *model.graph.output]} == {TensorProto.FLOAT}
    weights = [t for t in model.graph.initializer if t.name.startswith("model.") and len(t.dims) == 4]
    assert {t.data_type for t in weights} == {TensorProto.FLOAT16} and len(weights) > 50
    assert half.stat().st_size < 0.6 * graph.stat().st_size
    with pytest.raises(InputError, match="in FP16 already"):
        fp16.to_fp16(half, tmp_path / "again.onnx")


def test_fp16_around_explicit_int8(graph: Path, statistics: dict, batches: list[np.ndarray], tmp_path: Path) -> None:
    qdq.quantize(graph, tmp_path / "int8.onnx", ranges.limits(statistics, "percentile"))
    fp16.to_fp16(tmp_path / "int8.onnx", tmp_path / "both.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "both.onnx"), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    back = [n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert {kinds[name] for name in back} == {TensorProto.FLOAT16} and len(back) > 100
    narrow.rounded(tmp_path / "both.onnx", tmp_path / "judge.onnx")
    found, expected = (_run(tmp_path / n, batches[0])[0] for n in ("judge.onnx", "int8.onnx"))
    assert np.abs(found - expected).max() < 0.03


def _chain(path: Path) -> Path:
    """x → x·0.1 + 3 → ·2000, in float32."""
    nodes = [
        helper.make_node("Mul", ["x", "tenth"], ["a"], name="model.0.conv/Mul"),
        helper.make_node("Add", ["a", "three"], ["b"], name="model.0.conv/Add"),
        helper.make_node("Mul", ["b", "many"], ["y"], name="model.1.conv/Mul"),
    ]
    constants = {"tenth": 0.1, "three": 3.0, "many": 2000.0}
    initializers = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 1, 64]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_the_judge_rounds_every_operators_output(tmp_path: Path) -> None:
    """Step by step in numpy's own half precision; a runtime that removed the casts would give other numbers."""
    chain = _chain(tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(0, 1, (1, 1, 1, 64)).astype(np.float32)
    h = np.float16
    expected = (((x.astype(h) * h(0.1)).astype(h) + h(3)).astype(h) * h(2000)).astype(h)
    fp16.to_fp16(chain, tmp_path / "half.onnx")
    count = narrow.rounded(tmp_path / "half.onnx", tmp_path / "judge.onnx")
    np.testing.assert_array_equal(_run(tmp_path / "judge.onnx", x)[0], expected.astype(np.float32))
    assert count == 4  # the input's cast and three operators
    exact = (x * np.float32(0.1) + 3) * 2000
    assert (_run(tmp_path / "judge.onnx", x)[0] != exact).mean() > 0.5


def test_the_judge_of_a_float_graph_rounds_to_bfloat16(tmp_path: Path) -> None:
    chain = _chain(tmp_path / "model.onnx")
    x = np.random.default_rng(0).normal(0, 1, (1, 1, 1, 64)).astype(np.float32)
    narrow.rounded(chain, tmp_path / "judge.onnx", "bfloat16")

    def bf16(v: np.ndarray) -> np.ndarray:
        return torch.tensor(v).bfloat16().float().numpy()

    expected = bf16(bf16(x * bf16(np.float32(0.1))) + 3) * 2000
    np.testing.assert_allclose(_run(tmp_path / "judge.onnx", x)[0], expected, rtol=1e-6)


def test_what_would_overflow_or_vanish_is_named_and_stays_float32(tmp_path: Path) -> None:
    chain = _chain(tmp_path / "model.onnx")
    limits = {"a": (-1e-5, 1e-5), "b": (-3.0, 3.0), "y": (-6000.0, 40_000.0)}
    found = fp16.to_fp16(chain, tmp_path / "half.onnx", limits)
    assert [(f.value, f.node, f.kind) for f in found] == [
        ("a", "model.0.conv/Mul", "vanish"),
        ("y", "model.1.conv/Mul", "overflow"),  # within the range of FP16, but without the margin
    ]
    x = np.full((1, 1, 1, 64), 25.0, np.float32)
    narrow.rounded(tmp_path / "half.onnx", tmp_path / "judge.onnx")
    np.testing.assert_allclose(_run(tmp_path / "judge.onnx", x)[0], 5.5 * 2000, rtol=1e-3)


# Groups, ranking, search


def test_every_convolution_but_the_tails_belongs_to_a_group(graph: Path) -> None:
    names = [n.name for n in onnx.load(graph).graph.node if n.op_type == "Conv"]
    known = groups.collect(names)
    assert sorted(n for members in known.values() for n in members) == sorted(names)
    assert {"stem", "stage 2 C3k2", "stage 3", "stage 6 qkv", "stage 6 pe", "stage 6 proj", "stage 6 mlp"} <= set(known)
    assert {"stage 6 outer", "stage 8 mlp", "head"} <= set(known)
    assert groups.of("model.21.cv3.1.2/Conv") == "head class stride 16"
    assert groups.of("model.14.cv1.conv/Conv") == "neck stage 14"
    assert groups.of("model.21/TopK") is groups.of("model.21.dfl/Softmax") is groups.of("theirs/Conv") is None


def plant(net: torch.nn.Module) -> None:
    """One channel of V at stage 8 a thousandth, its column in the projection a thousandfold: the same function, but the
    projection's weights and input then have a scale that nothing else survives."""
    attention = net.model[8].m[0][0].attn
    channel = 64  # the first of V of the first head
    attention.qkv.bn.weight[channel] *= 1e-3
    attention.qkv.bn.bias[channel] *= 1e-3
    attention.pe.bn.bias[0] *= 1e-3
    attention.pe.bn.running_mean[0] *= 1e-3
    attention.pe.bn.running_var[0] *= 1e-6
    attention.pe.bn.weight[0] *= 1e-3
    attention.proj.conv.weight[:, 0] *= 1e3


def test_a_planted_bad_group_is_ranked_first(batches: list[np.ndarray], tmp_path: Path) -> None:
    planted = export(_settled(plant), tmp_path / "planted.onnx", recipe=targets.get("ort-int8").recipe).path
    found = ranges.collect(planted, batches)
    rows = sensitivity.rank(planted, ranges.limits(found, "minmax"), batches, tmp_path, _means(found))
    assert rows[0]["group"] == "stage 8 proj"
    assert rows[0]["error"] > 2 * rows[1]["error"]
    assert sum(row["cost"] for row in rows) == pytest.approx(1)


def _ranking(*names: str) -> list[dict[str, object]]:
    return [{"group": n, "error": 1.0, "cost": c} for n, c in zip(names, (0.1, 0.5, 0.2, 0.05, 0.15), strict=True)]


def test_of_the_last_doubling_only_as_many_as_it_takes() -> None:
    """Of 16 groups each of the first five costs a fifth of a point: the limit holds from the third on."""
    ranking = [{"group": str(n), "error": 16.0 - n, "cost": 0.1} for n in range(16)]
    found = search.put_back(ranking, lambda back: 0.5 - 0.002 * (5 - len({*"01234"} & {*back})), 0.0045, 0.5, 0.49)
    assert [len(t["put_back"]) for t in found.tried[:4]] == [1, 2, 4, 3] and len(found.groups or ()) == 3


@pytest.mark.parametrize(
    ("bad", "expected"),
    [({"a"}, {"a"}), ({"b", "d"}, {"b", "d"}), ({"e"}, {"e"}), ({"a", "b", "c", "d", "e"}, {"a", "b", "c", "d", "e"})],
)
def test_the_search_puts_back_what_is_needed_and_no_more(bad: set[str], expected: set[str]) -> None:
    """Each bad group left in eight bits costs a point; half a point is allowed."""
    found = search.put_back(_ranking(*"abcde"), lambda back: 0.5 - 0.01 * len(bad - set(back)), 0.005, 0.5, 0.4)
    assert set(found.groups or ()) == expected and found.after == 0.5
    assert found.tried[0]["put_back"] == ["a"]


def test_a_search_without_an_answer_says_what_it_tried() -> None:
    found = search.put_back(_ranking(*"abcde"), lambda back: 0.3, 0.005, 0.5, 0.3)
    assert found.groups is None
    assert [len(t["put_back"]) for t in found.tried] == [1, 2, 4, 5]
    assert found.tried[0]["drop_points"] == pytest.approx(20)
