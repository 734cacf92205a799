"""INT8 through `edgekit build`: the gates, what they leave behind, and the requests that are refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit import checkpoint, targets
from edgekit.bundle import build as building
from edgekit.bundle import loading
from edgekit.bundle.options import BuildOptions
from edgekit.data import open_dataset
from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.graph.export import export
from edgekit.quantize import QuantizeOptions, calibration, ir, needed
from edgekit.runtime import processor
from edgekit.runtime.manifest import Bundle, write_manifest
from edgekit.runtime.processor import adds_exactly
from edgekit.runtime.results import Result
from edgekit.spec import sha256_file
from edgekit.verify import accuracy
from tests.networks import pictures, settled
from tests.test_quantize import plant as bad_group

SIDE = 96  # at 64 stage 8 has as many cells as heads, which OpenVINO gets in plain operators


def _checkpoint(path: Path, plant: bool = False) -> Path:
    """A random classifier; planted, its first projection at stage 8 is one that eight bits cannot hold."""
    made = settled("yolo12n-cls", pictures((SIDE, SIDE)), 1e-3, ("a", "b"), plant=bad_group if plant else None)
    return checkpoint.save(made, path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _checkpoint(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images to calibrate on and 8 to judge on, in two classes."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for i in range(count):
            folder = root / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    return root


@pytest.fixture
def wishes(data: Path) -> QuantizeOptions:
    return QuantizeOptions(data, max_drop=100, timing_s=0)


@pytest.fixture(scope="module")
def int8(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("int8") / "out"
    return building.build(
        model, "ort-int8", out, BuildOptions(quantize=QuantizeOptions(data, max_drop=100, timing_s=1))
    )


def test_an_int8_bundle_says_what_eight_bits_cost_and_gained(int8: Bundle, data: Path) -> None:
    manifest = int8.manifest
    row = manifest["accuracy"]
    assert (row["metric"], row["kind"], row["images"], row["put_back"]) == ("top1", "labels", 8, [])
    assert row["drop_points"] == pytest.approx(100 * (row["before"] - row["after"]))
    chosen = calibration.choose(open_dataset(data, "classify", "train"), 300, 0, open_dataset(data, "classify", "val"))
    assert manifest["calibration"]["sha256"] == chosen.sha256 and manifest["calibration"]["images"] == 16
    assert "16 images" in manifest["calibration"]["warning"]
    assert manifest["quantization"] == {"weight_bits": 8 if adds_exactly() else 7}
    speed = manifest["speed"]
    assert speed["against"] == "ort-fp32" and speed["low"] <= speed["speedup"] <= speed["high"]
    assert (speed["speedup"] <= 1) == ("warning" in speed)
    assert manifest["parity"] == manifest["graph_parity"]
    assert all(entry["pass"] for entry in manifest["parity"].values())
    executed = loading.open_session(int8.path).precision_by_type()
    assert executed["u8"] + executed.get("i8", 0) > 100


def test_accuracy_is_that_of_the_artifact_itself(int8: Bundle, data: Path) -> None:
    predictor = loading.load(int8.path)
    samples = open_dataset(data, "classify", "val").samples
    right = [predictor(str(s.path))[0].probs.argmax() == s.labels.class_id for s in samples]
    assert int8.manifest["accuracy"]["after"] == pytest.approx(np.mean(right))


def test_two_builds_with_one_seed_are_the_same_bytes(
    int8: Bundle, model: Path, wishes: QuantizeOptions, tmp_path: Path
) -> None:
    again = building.build(
        model, "ort-int8", tmp_path / "again", BuildOptions(quantize=dataclasses.replace(wishes, judged=False))
    )
    assert again.manifest["files"] == int8.manifest["files"]
    assert "accuracy" not in again.manifest and again.manifest["calibration"] == int8.manifest["calibration"]


def test_a_trial_is_quantized_alike_and_judged_by_nobody_and_an_export_serves_twice(
    int8: Bundle, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = building.Exports(tmp_path)
    trial = building.build(
        model,
        "ort-int8",
        tmp_path / "trial",
        BuildOptions(quantize=QuantizeOptions(data, timing_s=0, judged=False)),
        exports=exports,
    )
    assert "accuracy" not in trial.manifest
    kinds = [[node.op_type for node in onnx.load(b.path / "model.onnx").graph.node] for b in (trial, int8)]
    assert kinds[0] == kinds[1]
    monkeypatch.setattr("edgekit.graph.export.export", None)
    wishes = QuantizeOptions(data, max_drop=100, timing_s=0)
    full = building.build(model, "ort-int8", tmp_path / "full", BuildOptions(quantize=wishes), exports=exports)
    assert full.manifest["files"] == int8.manifest["files"]


def test_weights_take_the_bits_asked_for(model: Path, wishes: QuantizeOptions, tmp_path: Path) -> None:
    for bits, largest in ((7, 63), (8, 127)):
        asked = dataclasses.replace(wishes, weight_bits=bits)
        built = building.build(model, "ort-int8", tmp_path / str(bits), BuildOptions(quantize=asked))
        assert built.manifest["quantization"] == {"weight_bits": bits}
        eight = [t for t in onnx.load(built.path / "model.onnx").graph.initializer if t.name.endswith("weight/int8")]
        assert {int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in eight} == {largest}
    with pytest.raises(UsageError, match="`weight_bits` 4: 8, or 7 for processors without VNNI"):
        building.build(
            model, "ort-int8", tmp_path / "out", BuildOptions(quantize=dataclasses.replace(wishes, weight_bits=4))
        )


def test_opening_eight_bits_where_sums_saturate_is_warned_of(
    int8: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(processor, "adds_exactly", lambda *_: False)
    for bits in (7, 8):
        shutil.copytree(int8.path, tmp_path / str(bits))
        write_manifest(tmp_path / str(bits), int8.manifest | {"quantization": {"weight_bits": bits}})
    loading.open_session(tmp_path / "7")
    assert not [w for w in recwarn if "saturate" in str(w.message)]
    with pytest.warns(RuntimeWarning, match=r"8: its weights take eight bits.*saturate.*`weight_bits` 7"):
        loading.open_session(tmp_path / "8")


def _judged(monkeypatch: pytest.MonkeyPatch, after: Any) -> None:
    """The float model scores 0.9, an artifact what ``after`` says of its graph."""

    def by_labels(dataset: Any) -> accuracy.Evaluator:
        def measure(session: Any) -> accuracy.Measured:
            return accuracy.Measured(0.9 if session.target == "ort-fp32" else after(onnx.load(session.path)))

        return accuracy.Evaluator("top1", "labels", 8, "data", measure)

    monkeypatch.setattr(accuracy, "by_labels", by_labels)


def test_the_planted_group_is_named_and_put_back(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = _checkpoint(tmp_path / "planted.pt", plant=True)
    name = "model.8.m.0.0.attn.proj.conv/Conv/weight/int8"
    _judged(monkeypatch, lambda graph: 0.5 if name in {t.name for t in graph.graph.initializer} else 0.897)
    built = building.build(
        planted, "ort-int8", tmp_path / "out", BuildOptions(quantize=QuantizeOptions(data, timing_s=0))
    )
    row = built.manifest["accuracy"]
    assert row["ranking"][0]["group"] == "stage 8 proj" and row["put_back"] == ["stage 8 proj"]
    assert row["drop_points"] == pytest.approx(0.3) and len(row["tried"]) == 1
    assert name not in {t.name for t in onnx.load(built.path / "model.onnx").graph.initializer}


@pytest.mark.slow
def test_a_build_that_nothing_saves_fails_and_says_what_it_tried(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _judged(monkeypatch, lambda graph: 0.5)
    with pytest.raises(GateError, match=r"top1 drops by 40\.00 points, 0\.5 are allowed \(`max_drop`\); .* trials"):
        building.build(model, "ort-int8", tmp_path / "out", BuildOptions(quantize=QuantizeOptions(data, timing_s=0)))
    assert [p.name for p in tmp_path.iterdir()] == ["out.failed.json"]
    evidence = json.loads((tmp_path / "out.failed.json").read_text())["accuracy"]
    assert evidence["ranking"] and [len(t["put_back"]) for t in evidence["tried"]][:3] == [1, 2, 4]


@pytest.mark.slow
def test_a_speedup_that_is_not_reached_fails_the_build(model: Path, data: Path, tmp_path: Path) -> None:
    asked = QuantizeOptions(data, max_drop=100, require_speedup=1000, timing_s=1)
    with pytest.raises(GateError, match="`require_speedup` asks for 1000") as caught:
        building.build(model, "ort-int8", tmp_path / "out", BuildOptions(quantize=asked))
    assert caught.value.exit_code == 1
    assert json.loads((tmp_path / "out.failed.json").read_text())["speed"]["speedup"] < 1000


def test_without_labels_agreement_with_the_float_model_stands_in(model: Path, data: Path, tmp_path: Path) -> None:
    unlabelled = tmp_path / "set"
    shutil.copytree(data / "train", unlabelled / "train")
    asked = QuantizeOptions(unlabelled, images=data / "val" / "a", max_drop=100, timing_s=0)
    row = building.build(model, "ort-int8", tmp_path / "out", BuildOptions(quantize=asked)).manifest["accuracy"]
    assert (row["metric"], row["kind"], row["before"], row["images"]) == ("agreement", "agreement", 1.0, 4)
    assert row["seen"] == 4 and set(row["sha256"]) == {sha256_file(path) for path in (data / "val" / "a").iterdir()}


def test_photographs_without_labels_are_all_it_takes(model: Path, data: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, path in enumerate(sorted(data.rglob("*.png"))):
        shutil.copyfile(path, photos / f"{i}.png")
    (photos / "cut.png").write_bytes((photos / "0.png").read_bytes()[:99])
    said: list[str] = []
    asked = QuantizeOptions(photos, max_drop=100, timing_s=0)
    manifest = building.build(
        model, "ort-int8", tmp_path / "out", BuildOptions(quantize=asked), say=said.append
    ).manifest
    row, calibrated = manifest["accuracy"], manifest["calibration"]
    assert (row["metric"], row["kind"], row["before"], row["images"], calibrated["images"]) == (
        *("agreement", "agreement", 1.0, 8, 16),
    )
    contents = {sha256_file(path) for path in photos.glob("[0-9]*.png")}
    assert set(row["sha256"]) | set(calibrated["files"].values()) == contents and len(contents) == 24
    told = [line for line in said if line.startswith("note: ")]
    assert len(told) == 1 and "cut.png" in told[0] and "photos: images that cannot be read" in calibrated["notes"][0]
    assert str(tmp_path) not in json.dumps(manifest)
    floats, narrow = loading.load(model), loading.load(tmp_path / "out")
    judged = [path for path in photos.glob("[0-9]*.png") if sha256_file(path) in row["sha256"]]
    same = [floats(path)[0].probs.argmax() == narrow(path)[0].probs.argmax() for path in judged]
    assert row["after"] == pytest.approx(np.mean(same))


def _result(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Result:
    return Result(
        (100, 100),
        ("a", "b"),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
    )


def test_agreement_counts_objects_that_both_see() -> None:
    one = _result([[0, 0, 10, 10], [50, 50, 70, 70]], [0.9, 0.3], [0, 1])
    moved = _result([[1, 0, 11, 10], [50, 50, 70, 70]], [0.8, 0.2], [0, 1])  # the second is still seen at half of 0.25
    other = _result([[0, 0, 10, 10], [50, 50, 70, 70]], [0.9, 0.3], [0, 0])  # the second is of another class
    nothing = _result([], [], [])
    assert accuracy._agreement(one, one) == 1 and accuracy._agreement(nothing, nothing) is None
    assert accuracy._agreement(one, moved) == pytest.approx(3 / 3)
    assert accuracy._agreement(one, other) == pytest.approx(2 / 4)
    assert accuracy._agreement(one, nothing) == 0


# Refusals


def test_int8_without_data_and_calibration_without_int8(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`target` ort-int8: INT8 is calibrated and judged on images; give `data`"):
        building.build(model, "ort-int8", tmp_path / "out")
    with pytest.raises(UsageError, match="`calibration` goes with INT8 and trt-. targets, not with ort-fp32"):
        needed(targets.get("ort-fp32"), QuantizeOptions(calibration=tmp_path / "c.json"))
    with pytest.raises(UsageError, match="`require_speedup` goes with ort-int8 and ov-int8.*not with trt-rtx-int8"):
        needed(targets.get("trt-rtx-int8"), QuantizeOptions(data, require_speedup=1.1))
    with pytest.raises(UsageError, match="`weight_bits` goes with INT8 targets, not with ov-fp16"):
        needed(targets.get("ov-fp16"), QuantizeOptions(weight_bits=7))


def test_a_dynamic_batch_is_refused(model: Path, wishes: QuantizeOptions, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"model\.pt: INT8 needs a fixed batch and size, not a dynamic shape; leave `dynamic_batch` out",
    ):
        building.build(model, "ort-int8", tmp_path / "out", BuildOptions(batch=None, quantize=wishes))


def test_a_set_of_another_kind_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: {0: a, 1: b}\n")
    with pytest.raises(EdgekitError, match="classify reads a folder of class folders"):
        building.build(
            model, "ort-int8", tmp_path / "out", BuildOptions(quantize=QuantizeOptions(tmp_path / "data.yaml"))
        )


def test_calibrating_on_what_is_judged_is_refused(model: Path, data: Path, tmp_path: Path) -> None:
    judged = calibration.choose(open_dataset(data, "classify", "val"), 8, force=True)
    calibration.write(judged, tmp_path / "val.json")
    with pytest.raises(InputError, match=r"\.png: in the val split that accuracy is judged on"):
        building.build(
            model,
            "ort-int8",
            tmp_path / "out",
            BuildOptions(quantize=QuantizeOptions(data, tmp_path / "val.json", force=True)),
        )
    with pytest.raises(InputError, match=r"val\.json: 8 images; fewer than 16"):
        building.build(
            model, "ort-int8", tmp_path / "out", BuildOptions(quantize=QuantizeOptions(data, tmp_path / "val.json"))
        )


def test_an_int8_bundle_is_no_source_for_another(int8: Bundle, wishes: QuantizeOptions, tmp_path: Path) -> None:
    for target in ("ort-int8", "ov-int8"):
        with pytest.raises(EdgekitError, match=r"model\.onnx: already quantized .*; give the floating-point model"):
            building.build(int8.path, target, tmp_path / "out", BuildOptions(quantize=wishes))


# OpenVINO


@pytest.fixture(scope="module")
def quantized(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("ir,folder")  # a comma once ended the path
    graph = export(checkpoint.load(model), folder / "model.onnx", recipe=targets.get("ov-int8").recipe)
    chosen = calibration.choose(open_dataset(data, "classify", "train"), 16)
    images = calibration.tensors(calibration.located(chosen, [data])[:4], graph.info)
    ir.quantize(graph.path, folder / "int8.xml", images)
    return folder


def test_openvino_keeps_attention_whole_and_swish_in_one(quantized: Path) -> None:
    import openvino

    graph = openvino.Core().read_model(str(quantized / "int8.xml"))
    kinds: dict[str, list[Any]] = {}
    for operation in graph.get_ops():
        kinds.setdefault(operation.get_type_name(), []).append(operation)
    assert len(kinds["ScaledDotProductAttention"]) == 8 and len(kinds["Swish"]) > 20 and "Sigmoid" not in kinds
    assert len(kinds["FakeQuantize"]) > 60
    assert all(_free_of_rounding(core) for core in kinds["ScaledDotProductAttention"])


def test_nncf_is_quiet_and_its_logger_as_it_was_afterwards(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level that was left on other people's handlers kept later warnings from them, pytest's among them."""
    nncf, logger, heard = pytest.importorskip("nncf"), logging.getLogger("nncf"), []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.levelno)

    def narrated(*_: object, **__: object) -> None:
        logger.info("a step")
        logger.error("a fault")
        raise InputError("enough")

    monkeypatch.setattr(nncf, "quantize", narrated)
    handler, before = Kept(logging.INFO), logger.level
    logger.addHandler(handler)
    with pytest.raises(InputError, match="enough"):
        ir.quantize(quantized / "model.onnx", tmp_path / "int8.xml", [np.zeros((1, 3, 64, 64), np.float32)])
    logger.removeHandler(handler)
    assert (heard, handler.level, logger.level) == ([logging.ERROR], logging.INFO, before)


def _free_of_rounding(operation: Any) -> bool:
    """No FakeQuantize between the convolutions that make queries, keys and values and their product."""
    for port in operation.inputs():
        source = port.get_source_output().get_node()
        if source.get_type_name() == "FakeQuantize":
            return False
        if source.get_type_name() in ("Convolution", "Constant", "Parameter"):
            continue
        if not _free_of_rounding(source):
            return False
    return True


def test_openvino_answers_like_the_float_model(quantized: Path, model: Path, data: Path) -> None:
    info = checkpoint.load(model).info((SIDE, SIDE), batch=1, head="topk")
    backend = targets.get("ov-int8")
    folder = quantized / "bundle"
    folder.mkdir()
    backend.build(building.Graph(quantized / "int8.xml", info, ""), folder)
    session = backend.open(folder, info)
    runner = targets.get("ort-fp32").open(quantized / "model.onnx", info)
    batch = pictures((SIDE, SIDE), 1)
    np.testing.assert_allclose(
        session.run(batch)["class_probabilities"], runner.run(batch)["class_probabilities"], atol=0.1
    )
    assert session.precision_by_type()["i8"] > 60
    text = (quantized / "int8.xml").read_text()
    assert str(quantized) not in text and "nncf" not in text


@pytest.mark.slow
def test_openvino_builds_twice_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    asked = QuantizeOptions(data, max_drop=100, timing_s=0)
    first, second = (
        building.build(model, "ov-int8", tmp_path / n, BuildOptions(quantize=asked)).manifest["files"] for n in "ab"
    )
    assert first == second


# Floating-point targets are judged, too


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp16"])
def test_data_judges_floating_point_bundles_in_the_same_form(
    target: str, model: Path, data: Path, tmp_path: Path
) -> None:
    if target.startswith("ov"):
        pytest.importorskip("openvino")
    asked = QuantizeOptions(data, max_drop=100)
    row = building.build(model, target, tmp_path / "out", BuildOptions(quantize=asked)).manifest["accuracy"]
    assert (row["metric"], row["kind"], row["images"], row["put_back"]) == ("top1", "labels", 8, [])
    assert row["before"] == pytest.approx(row["after"], abs=0.26)  # of eight, bf16 may turn two
    assert row["drop_points"] == pytest.approx(100 * (row["before"] - row["after"]))
    assert row["worst_class"]["limit_points"] == 400


def test_a_floating_point_bundle_that_loses_too_much_fails(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")

    def by_labels(dataset: Any) -> accuracy.Evaluator:
        measure = {"ort-fp32": accuracy.Measured(0.9), "ov-fp32": accuracy.Measured(0.6)}
        return accuracy.Evaluator("top1", "labels", 8, "data", lambda session: measure[session.target])

    monkeypatch.setattr(accuracy, "by_labels", by_labels)
    with pytest.raises(GateError, match=r"ov-fp32: top1 drops by 30\.00 points, 0\.5 are allowed \(`max_drop`\)"):
        building.build(model, "ov-fp32", tmp_path / "out", BuildOptions(quantize=QuantizeOptions(data)))
    assert json.loads((tmp_path / "out.failed.json").read_text())["accuracy"]["after"] == 0.6
