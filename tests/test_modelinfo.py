"""What IRs and ONNX files say of themselves, and Model API running a bundle from that alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("openvino")

import openvino

import edgekit
from edgekit import targets
from edgekit.errors import UsageError
from edgekit.runtime.manifest import manifest_of, read_bundle, write_manifest
from edgekit.spec import Graph
from edgekit.targets.openvino import OpenVinoOptions
from tests.tiny import NAMES, crowded_bundle, tiny_bundle


def image() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    return cv2.resize(noise, (200, 150), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("pixels", [False, True])
def test_an_ir_says_what_it_is(tmp_path: Path, pixels: bool) -> None:
    folder = tiny_bundle(tmp_path / "b", "detect", "ov-fp16", pixels=pixels)
    said = openvino.Core().read_model(folder / "model.xml").get_rt_info(["model_info"]).value
    said = {key: getattr(value, "value", value) for key, value in said.items()}
    assert said["labels"].split() == list(NAMES) and said["pad_value"] == "114"
    assert said["resize_type"] == "fit_to_window_letterbox"
    assert said["reverse_input_channels"] == ("NO" if pixels else "YES")
    assert said.get("scale_values") == (None if pixels else "255")
    assert "model_type" not in said  # no wrapper reads boxes and scores like these


def test_model_api_classifies(tmp_path: Path) -> None:
    models = pytest.importorskip("model_api.models")
    folder = tiny_bundle(tmp_path / "b", "classify", "ov-fp32")
    found = models.Model.create_model(str(folder / "model.xml"), device="CPU")(image())
    [ours] = edgekit.load(folder)(image())
    [label] = found.top_labels
    assert label.name == NAMES[int(np.argmax(ours.probs))]


def test_model_api_finds_the_same_boxes(tmp_path: Path) -> None:
    models = pytest.importorskip("model_api.models")
    crowd = crowded_bundle(tmp_path / "crowd", "ov-fp32")
    info = read_bundle(crowd).info
    folder, target = tmp_path / "ssd", targets.get("ov-fp32")
    folder.mkdir()
    target.build(Graph(crowd.parent / "crowd.onnx", info, ""), folder, OpenVinoOptions(input="float", wrapper="ssd"))
    write_manifest(folder, manifest_of(info, "ov-fp32", folder))
    [ours] = edgekit.load(folder)(image())
    theirs = models.Model.create_model(str(folder / "model.xml"), device="CPU")(image())
    assert len(ours) == len(theirs.bboxes) > 10
    order, other = np.argsort(-ours.scores), np.argsort(-theirs.scores)
    np.testing.assert_allclose(
        theirs.bboxes[other], ours.boxes[order], atol=1.5
    )  # theirs are whole pixels, scaled by whole sides
    np.testing.assert_allclose(theirs.scores[other], ours.scores[order], atol=1e-5)
    assert list(theirs.labels[other]) == list(ours.labels[order])
    assert [str(name) for name in theirs.label_names] == [NAMES[n] for n in theirs.labels]


def test_no_such_outputs(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "b", "pose", "ov-fp32")
    graph = Graph(tmp_path / "b.onnx", read_bundle(folder).info, "")
    with pytest.raises(UsageError):
        targets.get("ov-fp32").build(graph, folder, OpenVinoOptions(input="float", wrapper="ssd"))
