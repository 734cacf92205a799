"""Figures of a run: the numbers behind them against plain counting, and that each file holds a picture."""

from __future__ import annotations

import csv
import dataclasses
import math
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError, MissingPackageError, UsageError
from edgekit.metrics import confusion_matrix, threshold_curves
from edgekit.metrics.images import image_f1, worst_images
from edgekit.metrics.labels import Labels
from edgekit.nn.targets import Targets
from edgekit.runtime.boxes import corners
from edgekit.runtime.masks import encode_rle
from edgekit.train import plots, previews
from edgekit.train.loggers import open_loggers

SIDE = 80
TASKS = ("detect", "segment", "pose", "obb", "classify")


def looks_drawn(path: Path, width: int = 0) -> np.ndarray:
    """The picture in ``path``, which is not blank and which nothing unfinished lies beside."""
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 1, path
    assert not width or abs(picture.shape[1] - width) <= 2
    assert not list(path.parent.glob("*.partial"))
    return picture


def make(tmp_path: Path, task: str, classes: int = 3, images: int = 6, seed: int = 0) -> tuple[Dataset, list[dict]]:
    """Random objects of a task on random images, and predictions of which most are near."""
    rng = np.random.default_rng(seed)
    samples, rows = [], []
    for i in range(1, images + 1):
        path = tmp_path / f"{task}{i}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
        if task == "classify":
            probs = rng.dirichlet(np.ones(classes))
            samples.append(Sample(path, i, Labels.empty(int(rng.integers(classes))), SIDE, SIDE))
            rows.append({"image_id": i, "probs": probs.tolist()})
            continue
        n = int(rng.integers(0, 5))
        centre, size = rng.uniform(25, 55, (n, 2)), rng.uniform(10, 24, (n, 2))
        boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
        outline = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(n, 4, 2)
        fields: dict[str, Any] = {}
        if task == "segment":
            fields["polygons"] = tuple((part,) for part in outline)
        elif task == "pose":
            fields["keypoints"] = np.concatenate([outline, np.full((n, 4, 1), 2.0)], -1)
        elif task == "obb":
            fields["corners"] = outline
        labels = Labels(
            rng.integers(0, classes, n), boxes, np.zeros(n, bool), np.full(n, np.nan), (SIDE, SIDE), **fields
        )
        samples.append(Sample(path, i, labels, SIDE, SIDE))
        for k in range(n):
            x1, y1, x2, y2 = (boxes[k] + rng.normal(0, 1, 4)).tolist()
            label = int(labels.classes[k]) if rng.random() < 0.7 else int(rng.integers(classes))
            row = {
                "image_id": i,
                "category_id": label,
                "score": float(rng.random()),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            if task == "segment":
                mask = np.zeros((SIDE, SIDE), bool)
                mask[int(y1) : int(y2), int(x1) : int(x2)] = True
                row["segmentation"] = encode_rle(mask)
            elif task == "pose":
                row["keypoints"] = fields["keypoints"][k].reshape(-1).tolist()
            elif task == "obb":
                row["segmentation"] = [[x1, y1, x2, y1, x2, y2, x1, y2]]
            rows.append(row)
    names = tuple(f"class {c}" for c in range(classes))
    shape = (4, 3) if task == "pose" else None
    return Dataset(task, names, tuple(samples), tmp_path / "data.yaml", "val", shape), rows


# ---- the run ----------------------------------------------------------------------------------------------------


def test_results_are_written_as_rows(tmp_path: Path) -> None:
    history = [{"epoch": 1, "box": 2.5}, {"epoch": 2, "box": 1.25, "map50": 0.5}]
    plots.results_csv(history, tmp_path / "results.csv")
    with open(tmp_path / "results.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "1", "box": "2.5", "map50": ""},
            {"epoch": "2", "box": "1.25", "map50": "0.5"},
        ]


def test_curves_of_any_history(tmp_path: Path) -> None:
    full = [
        {"epoch": e, "box": 1 / e, "cls": 2 / e, "lr": 0.01 / e, "skipped": 0, "note": "text", "device": None}
        | ({"map50": 0.1 * e, "map50_95": 0.05 * e, "pose_map50_95": math.nan} if e % 2 else {"map50": None})
        for e in range(1, 8)
    ]
    for name, history in {"full": full, "one": full[:1], "none": [], "nan": [{"epoch": 1, "box": math.nan}]}.items():
        plots.curves(history, tmp_path / "new folder" / f"{name}.png")
        looks_drawn(tmp_path / "new folder" / f"{name}.png")
    assert looks_drawn(tmp_path / "new folder" / "full.png").shape[1] == 1100
    panels = plots._panels(full)
    assert panels == {"mAP": ["map50", "map50_95"], "box": ["box"], "cls": ["cls"], "learning rate": ["lr"]}


def test_without_matplotlib_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"edgekit\[train\]"):
        plots.curves([], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


# ---- the evaluation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_figures(tmp_path: Path, task: str) -> None:
    dataset, predictions = make(tmp_path, task)
    if task in ("obb", "classify"):
        written = plots.evaluation_figures(dataset, predictions, tmp_path / "out")
        assert len(written) == (1 if task == "classify" else 5)
        for path in written:
            looks_drawn(path)
    for worst in (False, True):
        previews.predictions_sheet(dataset, predictions, tmp_path / "sheet.png", count=4, worst=worst)
        looks_drawn(tmp_path / "sheet.png", 1630)


@pytest.mark.parametrize("classes", [1, 15, 25])
def test_one_class_and_many(tmp_path: Path, classes: int) -> None:
    dataset, predictions = make(tmp_path, "detect", classes, images=60)
    odd = dataclasses.replace(dataset, names=tuple(f"_${c}$ 日本 with a very long name indeed" for c in range(classes)))
    plots.confusion(odd, predictions, tmp_path / "confusion.png")
    plots.pr_curve(threshold_curves(odd, predictions), tmp_path / "pr.png")
    plots.label_statistics(odd, tmp_path / "labels.png")
    for name in ("confusion", "pr", "labels"):
        looks_drawn(tmp_path / f"{name}.png")


def test_nothing_found_and_nothing_there(tmp_path: Path) -> None:
    dataset, _ = make(tmp_path, "detect")
    bare = dataclasses.replace(
        dataset, samples=tuple(dataclasses.replace(s, labels=Labels.empty()) for s in dataset.samples)
    )
    for path in plots.evaluation_figures(bare, [], tmp_path / "out"):
        looks_drawn(path)
    plots.pr_curve(threshold_curves(dataset, []), tmp_path / "pr.png")
    plots.label_statistics(bare, tmp_path / "labels.png")
    previews.predictions_sheet(bare, [], tmp_path / "sheet.png")
    with pytest.raises(InputError):
        plots.evaluation_figures(dataset, [{"image_id": 99}], tmp_path / "out")


def test_confusion_is_returned_as_counted_by_hand(tmp_path: Path) -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], float)
    labels = Labels(np.array([0, 1, 1]), boxes, np.zeros(3, bool), np.full(3, np.nan), (SIDE, SIDE))
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((SIDE, SIDE, 3), np.uint8))
    dataset = Dataset("detect", ("a", "b"), (Sample(path, 1, labels, SIDE, SIDE),), path, "val")
    found = [(0, 0.9, [0, 0, 10, 10]), (0, 0.8, [20, 20, 10, 9]), (1, 0.7, [60, 60, 5, 5]), (1, 0.2, [40, 40, 10, 10])]
    rows = [{"image_id": 1, "category_id": c, "score": s, "bbox": b} for c, s, b in found]
    expected = [[1, 0, 0], [1, 0, 1], [0, 1, 0]]  # the last pair lies under the confidence of 0.25
    assert plots.confusion(dataset, rows, tmp_path / "c.png").tolist() == expected
    assert image_f1(dataset, rows).tolist() == pytest.approx([2 * 1 / 6])


def overlap(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("seed", range(5))
def test_confusion_and_f1_against_plain_loops(tmp_path: Path, seed: int) -> None:
    dataset, rows = make(tmp_path, "detect", classes=3, images=20, seed=seed)
    matrix = np.zeros((4, 4), int)
    scores = []
    for sample in dataset.samples:
        truth = list(zip(sample.labels.classes.tolist(), sample.labels.boxes.tolist(), strict=True))
        mine = [r for r in rows if r["image_id"] == sample.image_id and r["score"] >= 0.25]
        found = [
            (r["category_id"], [x, y, x + w, y + h], r["score"]) for r in mine for x, y, w, h in [tuple(r["bbox"])]
        ]
        pairs = sorted(
            ((overlap(f[1], t[1]), i, j) for i, f in enumerate(found) for j, t in enumerate(truth)), reverse=True
        )
        used_i, used_j = set(), set()
        for iou, i, j in pairs:
            if iou >= 0.5 and i not in used_i and j not in used_j:
                used_i.add(i)
                used_j.add(j)
                matrix[truth[j][0], found[i][0]] += 1
        for j, (label, _) in enumerate(truth):
            matrix[label, 3] += j not in used_j
        for i, (label, *_) in enumerate(found):
            matrix[3, label] += i not in used_i
        taken: set[int] = set()
        for label, box, _ in sorted(found, key=lambda f: -f[2]):
            near = [(overlap(box, t[1]), j) for j, t in enumerate(truth) if t[0] == label and j not in taken]
            if near and max(near)[0] >= 0.5:
                taken.add(max(near)[1])
        scores.append(2 * len(taken) / (len(truth) + len(found)) if truth or found else 1.0)
    np.testing.assert_array_equal(confusion_matrix(dataset, rows), matrix)
    np.testing.assert_allclose(image_f1(dataset, rows), scores)
    worst = worst_images(dataset, rows, 5)
    assert [score for score, _ in worst] == pytest.approx(sorted(scores)[:5])


def test_classification_confuses_by_the_likeliest_class(tmp_path: Path) -> None:
    dataset, rows = make(tmp_path, "classify", images=12)
    matrix = np.zeros((3, 3), int)
    for sample, row in zip(dataset.samples, rows, strict=True):
        matrix[sample.labels.class_id, row["probs"].index(max(row["probs"]))] += 1
    np.testing.assert_array_equal(plots.confusion(dataset, rows, tmp_path / "c.png"), matrix)
    score, place = worst_images(dataset, rows, 1)[0]
    truth = [row["probs"][s.labels.class_id] for s, row in zip(dataset.samples, rows, strict=True)]
    assert score == min(truth) and place == truth.index(score)


def test_a_curve_is_refused_that_is_none(tmp_path: Path) -> None:
    dataset, rows = make(tmp_path, "detect")
    with pytest.raises(KeyError):
        plots.threshold_curve(threshold_curves(dataset, rows), "accuracy", tmp_path / "a.png")


# ---- batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_shows_its_labels(tmp_path: Path, task: str) -> None:
    boxes = torch.tensor([[8.0, 8.0, 40.0, 24.0], [20.0, 20.0, 60.0, 50.0], [4.0, 30.0, 20.0, 44.0]])
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    masks = torch.zeros(3, 16, 16, dtype=torch.int16)
    masks[0, 2:6, 2:10], masks[0, 5:12, 5:15], masks[2, 8:11, 1:5] = 1, 2, 1
    targets = Targets(
        size=(64, 64),
        count=3,
        image=torch.tensor([0, 0, 2]),
        classes=torch.tensor([0, 1, 1]),
        boxes=boxes,
        rotated=torch.cat([centre, size, torch.full((3, 1), 0.3)], 1) if task == "obb" else None,
        keypoints=torch.cat([boxes.reshape(3, 2, 2), torch.full((3, 2, 1), 2.0)], 2) if task == "pose" else None,
        masks=masks if task == "segment" else None,
        class_id=torch.tensor([0, 1, 0]) if task == "classify" else None,
    )
    grey = torch.full((3, 3, 64, 64), 90, dtype=torch.uint8)
    grey[:, 0] = 140  # RGB: reddish
    previews.batch_sheet(grey, targets, ("cat", "dog"), tmp_path / "batch.png")
    picture = looks_drawn(tmp_path / "batch.png", 1630)
    plain = (np.abs(picture.astype(int) - [90, 90, 140]).max(2) < 3).sum() / 400**2  # tiles nothing is drawn on
    assert plain > 2.999 if task == "classify" else 1 < plain < 2.99


def test_labels_of_a_batch_come_through(tmp_path: Path) -> None:
    rotated = torch.tensor([[30.0, 20.0, 16.0, 8.0, 0.5]])
    targets = Targets((64, 96), 2, torch.tensor([1]), torch.tensor([0]), torch.tensor([[20.0, 10, 40, 30]]), rotated)
    labels = previews._labels_of(targets, 1)
    assert labels.size == (96, 64) and len(previews._labels_of(targets, 0)) == 0
    assert labels.corners is not None
    np.testing.assert_allclose(labels.corners[0], corners(rotated[0].numpy().astype(float)[None])[0])


# ---- other places numbers go to ---------------------------------------------------------------------------------


class Fake:
    """Stands for any of the three packages and writes down what it is told."""

    def __init__(self, fail: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fail = fail

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Fake:
            if self.fail and name.startswith(("log", "add_scalar", "finish")):
                raise OSError("the network is gone")
            self.calls.append((name, *args, *options.items()))
            return self

        return call


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    made = {name: Fake() for name in ("tensorboard", "mlflow", "wandb")}
    for name in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, made[name])  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda folder: made["tensorboard"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    return made


def test_numbers_reach_every_sink(fakes: dict[str, Fake], tmp_path: Path) -> None:
    sinks = open_loggers(
        ["tensorboard", "mlflow", "wandb", "wandb"], tmp_path / "run7", {"epochs": 3, "augment": {"flip": 0.5}}
    )
    assert sinks.log(4, {"box": 1.5, "map50": None, "bad": math.nan, "note": "x"}) == []
    assert sinks.close() == []
    assert ("add_scalar", "box", 1.5, 4) in fakes["tensorboard"].calls
    assert ("log_params", {"epochs": 3, "augment.flip": 0.5}) in fakes["mlflow"].calls
    assert ("log_metrics", {"box": 1.5}, ("step", 4)) in fakes["mlflow"].calls
    assert ("log", {"box": 1.5}, ("step", 4)) in fakes["wandb"].calls
    assert [name for name, *_ in fakes["wandb"].calls] == ["init", "log", "finish"]
    assert fakes["mlflow"].calls[-1] == ("end_run",) and fakes["tensorboard"].calls[-1] == ("close",)


def test_a_sink_that_fails_is_turned_off_once(fakes: dict[str, Fake], tmp_path: Path) -> None:
    sinks = open_loggers(["wandb", "mlflow"], tmp_path, {})
    fakes["wandb"].fail = True
    (sentence,) = sinks.log(1, {"box": 1.0})
    assert "wandb" in sentence and "the network is gone" in sentence
    assert sinks.log(2, {"box": 0.5}) == [] and sinks.close() == []
    assert ("log_metrics", {"box": 0.5}, ("step", 2)) in fakes["mlflow"].calls


def test_sinks_that_cannot_be_opened(fakes: dict[str, Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="choose from tensorboard, mlflow, wandb"):
        open_loggers(["mlflow", "aim"], tmp_path, {})
    assert fakes["mlflow"].calls == []
    fakes["mlflow"].fail = True
    with pytest.raises(InputError, match="could not be started"):
        open_loggers(["mlflow"], tmp_path, {"epochs": 1})
    for name in ("tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingPackageError, match=f"pip install {name}"):
            open_loggers([name], tmp_path, {})
    assert open_loggers([], tmp_path, {}).log(1, {"box": 1.0}) == []


@pytest.mark.parametrize("names", [("玫瑰", "雏菊"), ("роза", "мак"), ("गुलाब", "कमल")])
@pytest.mark.filterwarnings("error:Glyph")
@pytest.mark.filterwarnings("ignore:.*no font here")
def test_names_in_any_script_can_be_told_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    dataset, predictions = make(tmp_path, "detect", classes=2, images=2)
    seen = []
    for number, shown in enumerate((names, names[::-1])):
        named = dataclasses.replace(dataset, names=shown)
        files = [tmp_path / f"{name}{number}.png" for name in ("confusion", "curve")]
        plots.confusion(named, predictions, files[0])  # names below and beside the axes
        plots.threshold_curve(threshold_curves(named, predictions), "recall", files[1])  # in a legend
        seen.append([looks_drawn(path) for path in files])
    for picture, other in zip(*seen, strict=True):  # signs for missing letters would be the same for both
        assert picture.shape == other.shape and (picture != other).any()
