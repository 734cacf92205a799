"""Scores moved back to what they meant: the fit in closed form, the graph, when it is refused, and a build."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import checkpoint
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
from edgekit.errors import InputError
from edgekit.quantize import QuantizeOptions, logits, qdq
from edgekit.verify.accuracy import Measured, Objects
from edgekit.verify.recalibration import fitted, pairs, verdict
from tests.networks import noise, pictures, settled
from tests.test_operating import curves

SHIFTS = np.array([0.4, -0.7, 0.0])
IMAGES, EACH = 12, 9  # objects an image
NAMES = ("a", "b", "c")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def seen(shifts: np.ndarray, noise: float = 0.0) -> list[Objects]:
    """Objects in a row, of three classes in turn; each class's logits moved by its shift."""
    rng, added = np.random.default_rng(1), np.random.default_rng(2)
    answers = []
    for _ in range(IMAGES):
        classes = np.arange(EACH) % 3
        true = rng.uniform(-1.0, 3.0, EACH)
        left = 20.0 * np.arange(EACH)
        boxes = np.stack([left, left * 0, left + 10, left * 0 + 10], 1)
        scores = sigmoid(true + shifts[classes] + added.normal(0, noise, EACH))
        answers.append(Objects(scores, classes, boxes))
    return answers


def test_a_planted_shift_is_found_class_by_class() -> None:
    found = pairs(seen(np.zeros(3)), seen(-SHIFTS))
    assert len(found.images) == IMAGES * EACH
    assert fitted(found, 3) == pytest.approx(list(SHIFTS), abs=1e-4)
    assert fitted(found, 4)[3] == 0  # of a class that is not there


def test_only_objects_that_both_find_count_and_few_say_nothing() -> None:
    one, other = seen(np.zeros(3)), seen(-SHIFTS)
    elsewhere = [each._replace(boxes=each.boxes + 500) for each in other]
    assert fitted(pairs(one, elsewhere), 3) == [0, 0, 0]
    renamed = [each._replace(classes=(each.classes + 1) % 3) for each in other]
    assert fitted(pairs(one, renamed), 3) == [0, 0, 0]
    assert fitted(pairs(one[:2], other[:2]), 3) == [0, 0, 0]  # six of each
    faint = [each._replace(scores=each.scores * 0.05) for each in one]
    assert not len(pairs(faint, faint).images)


def measured(objects: list[Objects], value: float = 0.5) -> Measured:
    """All right but the third class, of which nothing is; it is what F1 depends on the threshold by."""
    rows = [np.concatenate([each.scores[each.classes == c] for each in objects]) for c in range(3)]
    right = [(rows[0], rows[2], rows[0].size), (rows[1], rows[2], rows[1].size)]
    return Measured(value, {}, {"a": rows[0].size, "b": rows[1].size}, curves(right), objects)


def _none(each: Objects) -> dict[str, np.ndarray]:
    return {name: value[:0] for name, value in each._asdict().items()}


def test_it_is_kept_where_scores_and_f1_come_nearer() -> None:
    before, after, moved = seen(np.zeros(3)), seen(np.array([-1.5, -1.5, 0.0]), 0.1), seen(np.zeros(3), 0.1)
    row = verdict(measured(before), measured(after), measured(moved))
    assert row["kept"] and "why" not in row and row["certain"] == 1
    assert row["apart"] == pytest.approx(1.0, abs=0.1) and row["apart_moved"] < 0.1  # (1.5 + 1.5 + 0) / 3
    assert abs(row["f1_drop_points_moved"]) < abs(row["f1_drop_points"])
    plain = [dataclasses.replace(measured(each, value), curves=None) for each, value in ((after, 0.8), (moved, 0.9))]
    assert verdict(dataclasses.replace(measured(before), curves=None), *plain)["kept"]  # agreement
    blind = dataclasses.replace(measured(after), objects=[each._replace(**_none(each)) for each in after])
    assert verdict(measured(before), blind, measured(moved))["kept"]


def test_it_is_refused_where_it_does_not_help() -> None:
    zero = np.zeros(3)
    before, after, moved = measured(seen(zero)), measured(seen(np.array([-1.5, -1.5, 0.0]))), measured(seen(zero))
    assert not verdict(before, moved, after)["kept"]  # it makes things worse
    assert not verdict(before, after, after)["kept"]
    noisy = [measured(seen(zero, 0.3)) for _ in range(2)]
    assert verdict(before, *noisy)["certain"] == 0
    same_f1 = dataclasses.replace(moved, curves=after.curves)
    assert "F1" in verdict(before, after, same_f1)["why"]
    assert "metric" in verdict(before, after, dataclasses.replace(moved, value=0.499))["why"]
    assert verdict(before, after, dataclasses.replace(moved, value=0.4996))["kept"]
    assert "agreement" in verdict(before, dataclasses.replace(after, curves=None, value=0.6), moved)["why"]
    with pytest.raises(ValueError):
        verdict(before, dataclasses.replace(after, objects=None), moved)


def two_branches(path: Path, name: str = "model.21.cv3.{}.2/Conv") -> Path:
    """Class branches of two strides that share a bias, and one of boxes."""
    rng = np.random.default_rng(0)
    weights = {"w0": (3, 4, 1, 1), "w1": (3, 4, 1, 1), "b": (3,), "w2": (4, 4, 1, 1), "b2": (4,)}
    tensors = [numpy_helper.from_array(rng.normal(size=n).astype(np.float32), k) for k, n in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b"], ["y0"], name=name.format(0)),
        helper.make_node("Conv", ["x", "w1", "b"], ["y1"], name=name.format(1)),
        helper.make_node("Conv", ["x", "w2", "b2"], ["y2"], name="model.21.cv2.0.2/Conv"),
    ]
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 2, 2])
        for n, c in (("x", 4), ("y0", 3), ("y1", 3), ("y2", 4))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_logits_move_by_what_was_asked_and_nothing_else_does(tmp_path: Path) -> None:
    paths = [two_branches(tmp_path / "model.onnx"), tmp_path / "moved.onnx", tmp_path / "again.onnx"]
    logits.shifted(paths[0], paths[1], list(SHIFTS))
    logits.shifted(paths[1], paths[2], list(SHIFTS))
    x = noise(1, 4, 2, 2)
    plain, once, twice = (onnxruntime.InferenceSession(str(path)).run(None, {"x": x}) for path in paths)
    for times, found in ((1, once), (2, twice)):
        for branch in (0, 1):
            np.testing.assert_allclose(found[branch], plain[branch] + times * SHIFTS.reshape(3, 1, 1), atol=1e-5)
        np.testing.assert_array_equal(found[2], plain[2])
    with pytest.raises(InputError, match=r"3 classes, not of 2"):
        logits.shifted(paths[0], tmp_path / "out.onnx", [0.1, 0.2])
    with pytest.raises(InputError, match="class scores"):
        logits.shifted(two_branches(tmp_path / "other.onnx", "conv.{}"), tmp_path / "out.onnx", list(SHIFTS))


def _centred(net: Any) -> None:
    """Half of all candidates are surer than 0.5; of the others those seen now are lost when scores fall as planted."""
    import torch

    with torch.no_grad():
        best = net(torch.from_numpy(pictures()))["scores"].amax(1)
        for branch in net.head.cv3:
            branch[-1].bias -= best.logit().median()


def test_a_build_undoes_what_quantizing_did_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = checkpoint.save(settled("yolo12n", pictures(), 4e-3, NAMES, plant=_centred), tmp_path / "model.pt")
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(photos / f"{i}.png"), cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))
    honest = qdq.quantize

    def shifting(graph: Path, out: Path, *rest: Any) -> qdq.Placement:
        logits.shifted(graph, tmp_path / "planted.onnx", [-1.95] * 3)  # about half too faint
        return honest(tmp_path / "planted.onnx", out, *rest)

    monkeypatch.setattr(qdq, "quantize", shifting)
    asked = QuantizeOptions(photos, max_drop=100, timing_s=0, recalibrate_scores=True)
    row = build(model, "ort-int8", tmp_path / "out", BuildOptions(self_test="none", quantize=asked)).manifest[
        "accuracy"
    ]
    told = row["recalibration"]
    assert told["kept"] and told["images"] == 16, str(told)
    assert [told["logits"][name] for name in NAMES] == pytest.approx([1.95] * 3, abs=0.1)
    assert row["after"] > 0.5 and abs(row["score_shift"]["mean"]) < 0.05
