"""Models of other tools: their documented layouts read as roles, and everything else refused in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.external import models
from edgekit.bundle.loading import load, open_session
from edgekit.errors import EdgekitError, InputError, UsageError

SIDE = 64
CELLS = 8 * 8 + 4 * 4 + 2 * 2
NAMES = {0: "cat", 1: "dog"}


def save(
    path: Path,
    *outputs: np.ndarray,
    metadata: Mapping[str, Any] | None = None,
    image: tuple[Any, ...] = (1, 3, SIDE, SIDE),
    dtype: int = TensorProto.FLOAT,
    shapes: Mapping[int, tuple[Any, ...]] | None = None,
) -> Path:
    """An ONNX file that answers with ``outputs`` whatever it sees."""
    values, nodes = [], []
    for i, array in enumerate(outputs):
        nodes.append(helper.make_node("Constant", [], [f"output{i}"], value=numpy_helper.from_array(array)))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        values.append(helper.make_tensor_value_info(f"output{i}", kind, (shapes or {}).get(i, array.shape)))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("images", dtype, image)], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {key: str(value) for key, value in (metadata or {}).items()})
    onnx.save(model, path)
    return path


def predictions(extra: int = 0, classes: int = 2, seed: int = 0) -> np.ndarray:
    """[1, 4 + classes + extra, CELLS]: boxes inside the image, probabilities, then anything."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(4, 40, (1, 4, CELLS))
    return np.concatenate([boxes, rng.random((1, classes, CELLS)), rng.normal(size=(1, extra, CELLS))], 1).astype("f")


def roles(path: Path, **how: Any) -> dict[str, np.ndarray]:
    session = open_session(path, foreign=True, **how)
    outputs = session.run(np.zeros((1, 3, *session.info.imgsz), np.float32))
    assert {port.role: port.shape for port in session.info.outputs} == {r: v.shape for r, v in outputs.items()}
    return outputs


def test_detections_are_turned_into_corners_cell_by_cell(tmp_path: Path) -> None:
    raw = predictions()
    outputs = roles(save(tmp_path / "m.onnx", raw, metadata={"task": "detect", "names": NAMES}))
    for cell in range(CELLS):
        cx, cy, w, h, *scores = raw[0, :, cell].tolist()
        assert outputs["boxes"][0, cell] == pytest.approx([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1e-4)
        assert outputs["scores"][0, :, cell].tolist() == pytest.approx(scores)


def test_rotated_boxes_end_in_the_angle(tmp_path: Path) -> None:
    raw = predictions(extra=1)
    outputs = roles(save(tmp_path / "m.onnx", raw, metadata={"task": "obb", "names": NAMES}))
    assert np.array_equal(outputs["rotated_boxes"][0, 7], raw[0, [0, 1, 2, 3, 6], 7])


def test_keypoints_with_and_without_visibility(tmp_path: Path) -> None:
    raw = predictions(extra=15)
    three = roles(save(tmp_path / "3.onnx", raw, metadata={"task": "pose", "names": NAMES, "kpt_shape": [5, 3]}))
    assert np.array_equal(three["keypoints"][0, 9, 2], raw[0, 12:15, 9])
    raw = predictions(extra=10)
    two = roles(save(tmp_path / "2.onnx", raw, metadata={"task": "pose", "names": NAMES, "kpt_shape": [5, 2]}))
    assert two["keypoints"][0, 9, 2].tolist() == [*raw[0, 10:12, 9].tolist(), 1.0]


@pytest.mark.parametrize("swapped", [False, True])
def test_masks_whatever_the_order_of_outputs(swapped: bool, tmp_path: Path) -> None:
    raw, prototypes = predictions(extra=8), np.random.default_rng(1).normal(size=(1, 8, 16, 16)).astype("f")
    outputs = (prototypes, raw) if swapped else (raw, prototypes)
    found = roles(save(tmp_path / "m.onnx", *outputs))  # two such outputs need no metadata
    assert np.array_equal(found["mask_coefficients"][0, 5], raw[0, 6:, 5])
    assert np.array_equal(found["mask_prototypes"], prototypes)


def test_probabilities_of_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", np.array([[0.25, 0.75]], "f"), metadata={"task": "classify", "names": NAMES})
    assert roles(path)["class_probabilities"].tolist() == [[0.25, 0.75]]
    assert models.read(path).info.preprocess.mode == "centre_crop"


def test_the_host_code_runs_it(tmp_path: Path) -> None:
    raw = np.zeros((1, 6, CELLS), "f")
    raw[0, :, 70] = [32, 24, 20, 10, 0.1, 0.9]
    path = save(tmp_path / "m.onnx", raw, metadata={"task": "detect", "names": NAMES, "license": "AGPL-3.0"})
    with load(path, foreign=True) as predictor:
        (result,) = predictor(np.zeros((128, 128, 3), np.uint8))  # twice the model's size
        assert result.boxes.tolist() == [[44, 38, 84, 58]]
        assert result.class_names == ["dog"]
        assert predictor.info.license == "AGPL-3.0"
        assert predictor.session.target == "onnxruntime"


def test_openvino_folders(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    raw = predictions(extra=1)
    model = openvino.convert_model(save(tmp_path / "m.onnx", raw))
    model.output(0).get_tensor().set_names(set())  # as the peer's exporter leaves it
    folder = tmp_path / "m_openvino_model"
    openvino.save_model(model, folder / "m.xml", compress_to_fp16=False)
    (folder / "metadata.yaml").write_text("task: obb\nnames:\n  0: cat\n  1: dog\nimgsz:\n- 64\n- 64\n")
    for path in (folder, folder / "m.xml"):
        assert np.allclose(roles(path)["rotated_boxes"][0, 7], raw[0, [0, 1, 2, 3, 6], 7])
    assert models.read(folder).info.names == ("cat", "dog")
    (folder / "metadata.yaml").write_text("names: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match=r"metadata\.yaml: not readable"):
        models.read(folder)
    (folder / "metadata.yaml").unlink()
    assert models.read(folder, task="obb").named is False
    (folder / "second.xml").write_text("<net/>")
    with pytest.raises(InputError, match=r"2 \.xml files"):
        models.read(folder)
    with pytest.raises(InputError, match="OpenVINO cannot read it"):
        models.read(folder / "second.xml")


def test_sizes_and_types_that_are_left_open(tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.onnx",
        predictions(),
        image=("batch", 3, "height", "width"),
        dtype=TensorProto.FLOAT16,
        shapes={0: ("batch", 6, "cells")},
    )
    with pytest.raises(UsageError, match="takes images of any size; say which with `imgsz`"):
        models.read(path, task="detect")
    model = models.read(path, (SIDE, SIDE), "detect")
    assert (model.info.batch, model.info.imgsz, model.info.names, model.named) == (None, (64, 64), ("0", "1"), False)
    session = open_session(path, imgsz=SIDE, foreign=True, task="detect")
    assert session.run(np.zeros((1, 3, SIDE, SIDE), np.float32))["boxes"].shape == (1, CELLS, 4)
    said = {"task": "detect", "imgsz": [SIDE, SIDE]}
    onnx.save(_with(onnx.load(path), said), path)
    assert models.read(path).info.imgsz == (SIDE, SIDE)


def _with(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> onnx.ModelProto:
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    return model


@pytest.mark.parametrize(
    ("outputs", "metadata", "task", "message"),
    [
        ([predictions()], {}, None, "does not say what it does; say so with `task`"),
        ([predictions()], {"task": "detect"}, "pose", "`task` pose: .* says that it is a detect model"),
        ([predictions()], {"task": "flow"}, None, "there is no task 'flow'"),
        ([predictions() * 10], {"task": "detect"}, None, "no probabilities"),
        ([np.array([[3.0, -1.0]], "f")], {"task": "classify"}, None, "no probabilities"),
        ([np.array([[0.9, 0.9]], "f")], {"task": "classify"}, None, "no probabilities"),
        ([predictions().transpose(0, 2, 1)], {}, "detect", r"\[1, 84, 6\] where a detect model of 64x64 pixels"),
        ([predictions()[:, :4]], {}, "detect", "of 1 classes has 5 values"),
        ([predictions()], {"names": {0: "a", 1: "b", 2: "c"}}, "detect", "of 3 classes has 7 values"),
        ([predictions(), predictions()], {}, "detect", "where a detect model gives"),
        ([predictions()], {}, "segment", "and prototypes"),
        ([predictions().astype(np.int64)], {}, "detect", "where a detect model gives"),
        ([np.zeros((1, 300, 6), "f")], {"task": "detect"}, None, "finished detections, and no names"),
        ([np.zeros((1, 300, 8), "f")], {"task": "detect"}, None, "edgekit understands exports"),
    ],
)
def test_what_is_not_understood_gets_a_sentence(
    outputs: list[np.ndarray], metadata: dict[str, Any], task: str | None, message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.onnx", *outputs, metadata=metadata)
    with pytest.raises(EdgekitError, match=message):
        open_session(path, foreign=True, task=task)


def test_inputs_that_are_no_image(tmp_path: Path) -> None:
    for shape, dtype in (((1, 3, SIDE), 1), ((1, 4, SIDE, SIDE), 1), ((1, 3, SIDE, SIDE), TensorProto.UINT8)):
        path = save(tmp_path / "m.onnx", predictions(), image=shape, dtype=dtype)
        with pytest.raises(InputError, match="not one image"):
            models.read(path, task="detect")


@pytest.mark.parametrize(
    "names",
    ["__import__('os').system('true')", "[" * 100_000, "{0: 'a', 2: 'b'}", "", "{'cat': 0}", "x" * (2 << 20), "17"],
)
def test_hostile_names_are_no_names(names: str, tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", predictions(), metadata={"task": "detect", "names": names, "imgsz": "(1,"})
    assert models.read(path).info.names == ("0", "1")


def test_only_on_request(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", predictions(), metadata={"task": "detect"})
    assert models.is_foreign(path)
    with pytest.raises(InputError, match="without edgekit's metadata"):
        load(path)
    with pytest.raises(InputError, match="not a readable ONNX file"):
        (tmp_path / "junk.onnx").write_bytes(b"junk")
        load(tmp_path / "junk.onnx", foreign=True)


@pytest.mark.parametrize(
    "name", ["yolo12n-bccd", "yolo12n-seg-balloon", "yolo12n-pose-person", "yolo12n-obb-table-tennis"]
)
def test_recorded_outputs_of_the_peer_mean_the_same(name: str, shared: Path, raw: Any, tmp_path: Path) -> None:
    """The fixtures' stored outputs are laid out as the peer's exports; ``conftest.Raw`` reads them by itself."""
    stored = np.load(shared / "fixtures" / f"{name}.npz")
    batch, expected = raw(name)
    task = {"seg": "segment", "pose": "pose", "obb": "obb"}.get(name.split("-")[1], "detect")
    outputs = [stored[key] for key in ("output", "prototypes") if key in stored]
    found = roles(save(tmp_path / "m.onnx", *outputs, image=batch.shape, metadata={"task": task}))
    raw.assert_close(found, expected, 1e-3, 0, 0)


# ---- finished detections ----------------------------------------------------------------------------------------


def finished(extra: int = 0, count: int = 20, found: int = 3) -> np.ndarray:
    """[1, count, 6 + extra]: ``found`` detections, then zeros."""
    rng = np.random.default_rng(0)
    rows = np.zeros((1, count, 6 + extra), "f")
    rows[0, :found, :2], rows[0, :found, 2:4] = rng.uniform(2, 20, (found, 2)), rng.uniform(30, 60, (found, 2))
    rows[0, :found, 4], rows[0, :found, 5] = np.linspace(0.9, 0.3, found), np.arange(found) % 2
    rows[0, :found, 6:] = rng.uniform(0.1, 1, (found, extra))
    return rows


@pytest.mark.parametrize("count", [20, 300])
@pytest.mark.filterwarnings("ignore:.*suppresses by itself")
def test_suppression_inside_the_file_is_taken_as_it_is(count: int, tmp_path: Path) -> None:
    rows = finished(count=count)
    rows[0, 1, :4] = rows[0, 0, :4] + 0.5  # a crowd: suppressing again would lose one
    rows[0, 1, 5] = rows[0, 0, 5]
    path = save(tmp_path / "m.onnx", rows, metadata={"task": "detect", "names": NAMES})
    with load(path, foreign=True) as predictor:
        assert predictor.info.head == "nms"
        (result,) = predictor(np.zeros((128, 128, 3), np.uint8))
        with pytest.raises(UsageError, match="`iou` 0.1"):
            predictor(np.zeros((128, 128, 3), np.uint8), iou=0.1)
    assert result.boxes == pytest.approx(rows[0, :3, :4] * 2, abs=1e-3)
    assert result.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert result.labels.tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("ignore:.*suppresses by itself")
def test_finished_detections_of_every_task(tmp_path: Path) -> None:
    rows = finished(extra=1)
    found = roles(save(tmp_path / "obb.onnx", rows, metadata={"task": "obb", "names": NAMES}))
    assert np.array_equal(found["rotated_boxes"][0, 1], rows[0, 1, [0, 1, 2, 3, 6]])
    rows = finished(extra=15)
    found = roles(save(tmp_path / "pose.onnx", rows, metadata={"task": "pose", "names": NAMES, "kpt_shape": [5, 3]}))
    assert np.array_equal(found["keypoints"][0, 2, 4], rows[0, 2, 18:])
    rows, prototypes = finished(extra=8), np.random.default_rng(1).normal(size=(1, 8, 16, 16)).astype("f")
    found = roles(save(tmp_path / "segment.onnx", rows, prototypes, metadata={"task": "segment", "names": NAMES}))
    assert np.array_equal(found["mask_coefficients"][0], rows[0, :, 6:])
    assert np.array_equal(found["labels"], rows[..., 5])


def test_options_that_can_do_nothing_are_pointed_out(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", finished(), metadata={"task": "detect", "names": NAMES})
    with pytest.warns(RuntimeWarning, match=r"m\.onnx"):
        open_session(path, foreign=True)
