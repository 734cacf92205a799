"""Training for masks, keypoints and oriented boxes: end to end on drawn sets, and what each refuses or remarks on."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgekit import checkpoint
from edgekit.errors import InputError
from edgekit.train import loop, report
from edgekit.train.options import TrainOptions
from tests.watchers import Interrupted, Watching

SMALL = TrainOptions(epochs=2, batch=4, imgsz=(64, 64), workers=0, patience=0, close_mosaic=1, seed=5)
TASKS = ("segment", "pose", "obb")
METRIC = {"segment": "mask_map50_95", "pose": "pose_map50_95", "obb": "map50_95"}
TERMS = {"segment": {"mask"}, "pose": {"keypoint", "visibility"}, "obb": {"angle"}}
YAML = "train: images/train\nval: images/val\nnames: [bar]\n"
POSE = YAML + "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n"


def draw(rng: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """A turned bar on noise: the image, and its four corners [4, 2] in order around it, fractions of the image."""
    image = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
    angle, half = rng.uniform(0, math.pi), np.array([0.3, 0.12]) * side
    centre = rng.uniform(0.4, 0.6, 2) * side
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = centre + (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half) @ turn
    cv2.fillPoly(image, [np.round(corners).astype(np.int32)], (60, 200, 240))
    return image, np.clip(corners / side, 0, 1)


def row(task: str, corners: np.ndarray) -> str:
    """The label of a bar: its outline, or its box and three keypoints: the middle and both ends."""
    if task == "pose":
        low, high = corners.min(0), corners.max(0)
        middle, one, other = corners.mean(0), corners[[0, 3]].mean(0), corners[[1, 2]].mean(0)
        values = [*(low + high) / 2, *(high - low)]
        for x, y in (middle, one, other):
            values += [x, y, 2]
    else:
        values = corners.reshape(-1).tolist()
    return "0 " + " ".join(f"{v:.6f}" for v in values) + "\n"


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``make("obb")``: a set of six bars to train on and two to validate on."""

    def made(task: str, yaml: str | None = None) -> Path:
        root = tmp_path_factory.mktemp(task)
        rng = np.random.default_rng(0)
        for split, count in (("train", 6), ("val", 2)):
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True)
            for i in range(count):
                image, corners = draw(rng, 80)
                cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
                (root / "labels" / split / f"{i}.txt").write_text(row(task, corners))
        (root / "data.yaml").write_text(yaml or (POSE if task == "pose" else YAML))
        return root

    return made


@pytest.mark.long
@pytest.mark.parametrize("task", [t if t != "pose" else pytest.param(t, marks=pytest.mark.slow) for t in TASKS])
def test_a_task_trains_resumes_and_draws(task: str, make: Callable[[str], Path], tmp_path: Path) -> None:
    data, options = make(task), SMALL.replace(augment={"degrees": 10.0, "copy_paste": 0.5})
    watcher = Watching()
    whole = loop.train(data, "yolo12n", tmp_path / "whole", options, task=task, watch=watcher)
    assert set(whole.history[0]) >= {METRIC[task]} | {f"loss_{name}" for name in TERMS[task]}
    assert all(math.isfinite(v) for r in whole.history for v in r.values()) and not watcher.notes
    assert checkpoint.load(whole.best).spec.task == task
    report.ended(whole, watcher.note)
    assert not watcher.notes
    for name in ("labels", "batch", "curves", "predictions"):
        assert cv2.imread(str(tmp_path / "whole" / f"{name}.png")) is not None, name
    with pytest.raises(Interrupted):
        loop.train(data, "yolo12n", tmp_path / "cut", options.replace(save_minutes=0), task=task, watch=Watching(3))
    again = loop.train(data, None, tmp_path / "cut", options, resume=True)
    assert again.metrics == whole.metrics
    one, other = (checkpoint.load(tmp_path / name / "last.pt").net.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def refused(data: Path, task: str, out: Path, says: str) -> None:
    with pytest.raises(InputError, match=says):
        loop.train(data, "yolo12n", out, SMALL, task=task)


def noted(data: Path, task: str, out: Path, watcher: Watching | None = None) -> list[str]:
    """What is said before the first batch is through."""
    watcher = watcher or Watching(1)
    with pytest.raises(Interrupted):
        loop.train(data, "yolo12n", out, SMALL, task=task, watch=watcher)
    return watcher.notes


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("kpt_shape: [4, 3]\n", "13 numbers after the class, kpt_shape \\[4, 3\\] asks for 16"),
        ("kpt_shape: [3, 3]\nflip_idx: [0, 1]\n", "number 0 to 2 once, as kpt_shape \\[3, 3\\] says; it holds 2"),
        ("kpt_shape: [3, 3]\nflip_idx: [1, 2, 0]\n", "keypoint 0 becomes 1, which becomes 2; each of a pair"),
        ("kpt_shape: [3]\n", "kpt_shape must be"),
        ("", "has no kpt_shape"),
    ],
)
def test_keypoints_that_do_not_match(line: str, says: str, make: Callable[..., Path], tmp_path: Path) -> None:
    refused(make("pose", YAML + line), "pose", tmp_path / "run", says)


def test_keypoints_without_a_mirror_are_remarked_on(make: Callable[..., Path], tmp_path: Path) -> None:
    notes = noted(make("pose", YAML + "kpt_shape: [3, 3]\n"), "pose", tmp_path / "run")
    assert any("has no flip_idx" in note for note in notes)


def test_boxes_where_polygons_are_needed(make: Callable[[str], Path], tmp_path: Path) -> None:
    data = make("segment")
    files = sorted((data / "labels/train").iterdir())
    files[0].write_text("0 0.5 0.5 0.4 0.4\n")
    notes = noted(data, "segment", tmp_path / "some")
    assert any("a box (4 numbers) where segmentation needs a polygon" in n and str(files[0]) in n for n in notes)
    for file in files:
        file.write_text("0 0.5 0.5 0.4 0.4\n")
    refused(data, "segment", tmp_path / "all", "usable label.*where segmentation needs a polygon")


def test_polygons_that_cross_themselves(make: Callable[[str], Path], tmp_path: Path) -> None:
    data = make("segment")
    (data / "labels/train/2.txt").write_text("0 0.2 0.2 0.8 0.8 0.8 0.2 0.2 0.9\n")
    notes = noted(data, "segment", tmp_path / "run")
    assert any("1 polygons of train cross themselves" in n and "2.png" in n for n in notes)


def test_corners_in_the_wrong_order(make: Callable[[str], Path], tmp_path: Path) -> None:
    data = make("obb")
    (data / "labels/train/1.txt").write_text("0 0.2 0.2 0.8 0.4 0.8 0.2 0.2 0.4\n")
    notes = noted(data, "obb", tmp_path / "run")
    assert any("1 crossing" in n and "1.txt:1" in n and "corners were put in order" in n for n in notes)
    (data / "labels/train/1.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    notes = noted(data, "obb", tmp_path / "run2")
    assert any("an oriented box has 8" in n for n in notes)


# ---- minutes each -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "source", "side", "metrics"),
    [
        ("segment", "balloon", 448, ("map50", "mask_map50")),  # at 320 the smallest balloon is two mask cells wide
        ("pose", "person_pose", 320, ("map50", "pose_map50")),
        ("obb", "table_tennis_obb", 320, ("map50",)),
    ],
)
def test_eight_images_are_learnt_by_heart(
    task: str, source: str, side: int, metrics: tuple[str, ...], shared: Path, tmp_path: Path
) -> None:
    root = shared / "data" / source
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for image in sorted((root / "images/train").glob("*.jpg"))[:8]:
            shutil.copy(image, tmp_path / "images" / split)
            shutil.copy(root / "labels/train" / f"{image.stem}.txt", tmp_path / "labels" / split)
    shutil.copy(root / "data.yaml", tmp_path)
    options = TrainOptions(
        epochs=300,
        batch=8,
        nominal_batch=8,
        imgsz=(side, side),
        workers=0,
        augment={"none": 1},
        val_every=50,
        patience=0,
    )
    result = loop.train(tmp_path, "yolo12n", tmp_path / "run", options, task=task)
    for name in metrics:
        assert result.metrics[name] > 0.95, result.metrics
