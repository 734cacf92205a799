"""Keypoints, masks and angles in detections that others wrote: planted faults are named, sound ones pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from edgekit.bundle.external.doubtful import read_detections
from edgekit.bundle.external.referee import diagnose
from edgekit.bundle.loading import open_session
from edgekit.errors import InputError
from edgekit.runtime.image import Geometry, letterbox, read_image, to_input
from edgekit.runtime.masks import Masks
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result

SIZE = 288
MODELS = {
    "pose": ("yolo12n-pose-person.pt", "person_pose"),
    "segment": ("yolo12n-seg-balloon.pt", "balloon"),
    "obb": ("yolo12n-obb-table-tennis.pt", "table_tennis_obb"),
}

Plant = Callable[[Result, Geometry], None]
Answers = list[tuple[str, np.ndarray, Result, Geometry]]


@pytest.fixture(scope="module")
def answers(shared: Path) -> Callable[[str], Answers]:
    """Task -> of two pictures what the checkpoint finds, by the library."""
    kept: dict[str, Answers] = {}

    def of(task: str) -> Answers:
        if task not in kept:
            name, data = MODELS[task]
            session = open_session(shared / "fixtures" / name, imgsz=SIZE)
            found = []
            for path in sorted((shared / "data" / data / "images").rglob("*.jpg"))[:12]:
                image = read_image(path)
                if task == "obb":  # whose objects lie flat, and would look the same with angles of the other sign
                    turn = cv2.getRotationMatrix2D((image.shape[1] / 2, image.shape[0] / 2), 12, 1)
                    image = cv2.warpAffine(image, turn, image.shape[1::-1])
                else:
                    image = cv2.resize(image, (480, 300))  # padded above and below
                canvas, geometry = letterbox(image, (SIZE, SIZE))
                [result] = postprocess(session.run(to_input([canvas])), session.info, [geometry], Options())
                if len(result):
                    found.append((path.name, image, result, geometry))
            kept[task] = sorted(found, key=lambda one: -len(one[2]))[:2]
        return kept[task]

    return of


def words(shared: Path, task: str, made: Answers, folder: Path, plant: Plant | None) -> list[str]:
    rows = []
    for name, _, result, geometry in made:
        changed = Result(**{**vars(result)})
        if plant is not None:
            plant(changed, geometry)
        for row in changed.to_coco(0):
            rows.append(row | {"image_id": Path(name).stem})
    path = folder / "detections.json"
    path.write_text(json.dumps(rows))
    pictures = [(name, image) for name, image, _, _ in made]
    found = diagnose(path, shared / "fixtures" / MODELS[task][0], pictures, imgsz=(SIZE, SIZE))
    return [finding.word for finding in found.findings]


def plant_input_pixels(result: Result, geometry: Geometry) -> None:
    assert result.keypoints is not None
    result.keypoints = result.keypoints.copy()
    result.keypoints[..., :2] = geometry.points_to_canvas(result.keypoints[..., :2])


def plant_padding(result: Result, geometry: Geometry) -> None:
    assert result.keypoints is not None
    result.keypoints = result.keypoints + np.float32([0, geometry.top / geometry.scale_y, 0])


def plant_fractions(result: Result, geometry: Geometry) -> None:
    assert result.keypoints is not None
    result.keypoints = result.keypoints / np.float32([geometry.width, geometry.height, 1])


def plant_y_first(result: Result, geometry: Geometry) -> None:
    assert result.keypoints is not None
    result.keypoints = result.keypoints[..., [1, 0, 2]]


def on_canvas(result: Result, geometry: Geometry) -> np.ndarray:
    """Dense masks ``[N, H, W]`` uint8 on the canvas."""
    assert result.masks is not None
    matrix = np.float32([[geometry.scale_x, 0, geometry.left], [0, geometry.scale_y, geometry.top]])
    masks = result.masks.dense().astype(np.uint8)
    return np.stack([cv2.warpAffine(mask, matrix, (SIZE, SIZE), flags=cv2.INTER_NEAREST) for mask in masks])


def plant_stretched(result: Result, geometry: Geometry) -> None:
    """The whole canvas brought to the picture's size, padding and all."""
    masks = [cv2.resize(m, (geometry.width, geometry.height)) for m in on_canvas(result, geometry)]
    result.masks = Masks.from_dense(np.stack(masks) > 0)


def plant_shifted(result: Result, geometry: Geometry) -> None:
    """The canvas enlarged by the ratio, and the upper left part of that."""
    whole = (round(SIZE / geometry.scale_x), round(SIZE / geometry.scale_y))
    masks = [cv2.resize(m, whole)[: geometry.height, : geometry.width] for m in on_canvas(result, geometry)]
    result.masks = Masks.from_dense(np.stack(masks) > 0)


def plant_canvas(result: Result, geometry: Geometry) -> None:
    result.masks = Masks.from_dense(on_canvas(result, geometry) > 0)


def plant_other_side(result: Result, geometry: Geometry) -> None:
    assert result.rotated_boxes is not None
    result.rotated_boxes = result.rotated_boxes * np.float32([1, 1, 1, 1, -1])


def plant_quarter(result: Result, geometry: Geometry) -> None:
    assert result.rotated_boxes is not None
    result.rotated_boxes = result.rotated_boxes[:, [0, 1, 3, 2, 4]]


def plant_degrees(result: Result, geometry: Geometry) -> None:
    assert result.rotated_boxes is not None
    result.rotated_boxes = np.concatenate([result.rotated_boxes[:, :4], np.degrees(result.rotated_boxes[:, 4:])], 1)


@pytest.mark.parametrize("task", list(MODELS))
def test_sound_detections_pass(task: str, answers: Callable[[str], Answers], shared: Path, tmp_path: Path) -> None:
    assert len(answers(task)) == 2
    assert words(shared, task, answers(task), tmp_path, None) == []


@pytest.mark.parametrize(
    ("task", "plant", "word"),
    [
        ("pose", plant_input_pixels, "keypoints"),
        pytest.param("pose", plant_padding, "keypoints", marks=pytest.mark.slow),
        pytest.param("pose", plant_fractions, "keypoints", marks=pytest.mark.slow),
        pytest.param("pose", plant_y_first, "keypoints", marks=pytest.mark.slow),
        ("segment", plant_stretched, "masks"),
        pytest.param("segment", plant_shifted, "masks", marks=pytest.mark.slow),
        pytest.param("segment", plant_canvas, "masks", marks=pytest.mark.slow),
        ("obb", plant_other_side, "angle"),
        pytest.param("obb", plant_quarter, "angle", marks=pytest.mark.slow),
        pytest.param("obb", plant_degrees, "angle", marks=pytest.mark.slow),
    ],
)
def test_a_planted_fault_is_named(
    task: str, plant: Plant, word: str, answers: Callable[[str], Answers], shared: Path, tmp_path: Path
) -> None:
    assert words(shared, task, answers(task), tmp_path, plant) == [word]


BAD = {
    "corners that are none": ("obb", {"segmentation": []}),
    "a turned box of four numbers": ("obb", {"rbox": [1, 2, 3, 4]}),
    "a box of two numbers": ("detect", {"bbox": [1, 2]}),
    "a keypoint without a score": ("pose", {"bbox": [1, 2, 3, 4], "keypoints": [1, 2]}),
    "an outline of three numbers": ("segment", {"bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3]]}),
}


@pytest.mark.parametrize("bad", list(BAD))
def test_detections_that_are_none(bad: str, tmp_path: Path) -> None:
    """Two of a kind: what one lacks the other cannot make up for."""
    task, own = BAD[bad]
    path = tmp_path / "d.json"
    path.write_text(json.dumps([{"image_id": "a", "category_id": 0, "score": 0.5, **own}] * 2))
    with pytest.raises(InputError, match=r"d\.json"):
        read_detections(path, [("a.png", np.zeros((8, 8, 3), np.uint8))], task)


def test_masks_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Run lengths, a polygon, and nothing."""
    full = np.zeros((3, 9, 12), bool)
    full[:2, 2:5, 3:8] = True
    [a, _, empty] = Masks.from_dense(full).rle()
    square = [[3, 2, 7, 2, 7, 4, 3, 4]]
    rows = [{"image_id": "a", "category_id": 0, "score": 0.5, "bbox": [3, 2, 5, 3], "segmentation": s}
            for s in (a, square, empty)]  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps(rows))
    image = np.zeros((9, 12, 3), np.uint8)
    found = read_detections(tmp_path / "d.json", [("a.png", image)], "segment")
    result = found.answer(0, image, Geometry(9, 12, 1, 1, 0, 0), Options())
    assert result.masks is not None and (result.masks.dense() == full).all()
