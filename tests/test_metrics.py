"""Scoring against references that share no code with it: pycocotools, slow plain-Python evaluators, closed forms."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.data import Dataset, Labels, Sample, open_dataset
from edgekit.errors import InputError, UsageError
from edgekit.metrics import Options, confusion_matrix, ground_truth, threshold_curves
from edgekit.metrics.coco import coco_scores
from edgekit.metrics.matching import (
    Matches,
    average_precision,
    by_overlap,
    by_score,
    coco_precision,
    peer_precision,
    same_objects,
)
from edgekit.metrics.overlap import box_overlap, keypoint_similarity
from edgekit.metrics.rotated import polygon_iou, probabilistic_iou
from edgekit.runtime.boxes import corners
from edgekit.runtime.masks import encode_rle
from edgekit.runtime.results import Result
from edgekit.verify.evaluate import score

Prediction = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


# ---- pycocotools ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def coco_mix(shared: Path) -> Path:
    pytest.importorskip("pycocotools")
    pytest.importorskip("faster_coco_eval")
    return shared / "data" / "coco_mix" / "annotations"


def reference(path: Path, predictions: list[Prediction], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' summary and its AP of each category."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes([dict(p) for p in predictions]), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    return evaluator.stats, np.array(
        [p[p > -1].mean() if (p > -1).any() else np.nan for p in precision.transpose(2, 0, 1)]
    )


def perturbed(path: Path, seed: int = 0) -> list[Prediction]:
    """The file's own objects, moved, rescored, partly left out, partly of the wrong class, with some inventions;
    crowd regions are predicted too, several times, as a model would."""
    from pycocotools import mask as rle_of
    from pycocotools.coco import COCO

    rng = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
    categories = truth.getCatIds()
    predictions: list[Prediction] = []
    for annotation in truth.dataset["annotations"]:
        for _ in range(3 if annotation["iscrowd"] else rng.integers(0, 3)):
            x, y, w, h = annotation["bbox"]
            x, y = x + rng.normal(0, 0.08) * w, y + rng.normal(0, 0.08) * h
            shift = rng.integers(-6, 7, 2)
            mask = np.roll(rle_of.decode(truth.annToRLE(annotation)), shift, (0, 1))
            rle = rle_of.encode(np.asfortranarray(mask))
            prediction = {
                "image_id": annotation["image_id"],
                "category_id": int(rng.choice(categories)) if rng.random() < 0.1 else annotation["category_id"],
                "bbox": [x, y, w * rng.uniform(0.8, 1.2), h * rng.uniform(0.8, 1.2)],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                "score": round(float(rng.random()), 2),  # ties on purpose
            }
            if "keypoints" in annotation:
                points = np.array(annotation["keypoints"], float).reshape(-1, 3)
                points[:, :2] += rng.normal(0, 0.05 * math.sqrt(annotation["area"]), (len(points), 2))
                prediction["keypoints"] = points.reshape(-1).tolist()
            predictions.append(prediction)
    return predictions


@pytest.mark.parametrize(
    ("name", "kind", "task"),
    [
        ("instances_val2017", "bbox", "detect"),
        ("instances_val2017", "segm", "segment"),
        ("person_keypoints_mini_val2017", "keypoints", "pose"),
        ("person_keypoints_mini_train2017", "keypoints", "pose"),
    ],
)
def test_coco_metrics_equal_pycocotools(coco_mix: Path, name: str, kind: str, task: str) -> None:
    path = coco_mix / f"{name}.json"
    predictions = perturbed(path)
    stats, per_category = reference(path, predictions, kind)
    prefix = {"bbox": "", "segm": "mask_", "keypoints": "pose_"}[kind]
    dataset = open_dataset(path, task)
    scores = score(dataset, predictions)
    keys = ["map50_95", "map50", "map_small", "map_medium", "map_large"]
    places = [0, 1, 3, 4, 5]
    if kind == "keypoints":
        keys, places = ["map50_95", "map50", "map_medium", "map_large"], [0, 1, 3, 4]
    for key, place in zip(keys, places, strict=True):
        assert scores.metrics[prefix + key] == pytest.approx(stats[place], abs=5e-5), key
    assert 0.05 < stats[0] < 0.95  # the comparison means something
    mine = {row["class"]: row.get(f"{prefix}map50_95") for row in scores.per_class}
    for label, expected in enumerate(per_category):
        if not np.isnan(expected):
            assert mine[dataset.names[label]] == pytest.approx(expected, abs=5e-5)
    assert "COCO" in scores.protocol


def test_exported_ground_truth_gives_pycocotools_the_same(coco_mix: Path, tmp_path: Path) -> None:
    """What edgekit writes as COCO JSON is scored by pycocotools as the original file is."""
    path = coco_mix / "instances_val2017.json"
    predictions = perturbed(path, 1)
    written = tmp_path / "truth.json"
    written.write_text(json.dumps(ground_truth(open_dataset(path, "segment"))))
    for kind in ("bbox", "segm"):
        np.testing.assert_allclose(reference(written, predictions, kind)[0], reference(path, predictions, kind)[0])


def test_perfect_masks_and_crowds(coco_mix: Path) -> None:
    """Every object predicted exactly, and the crowds thrice: all ones, because crowds are ignored."""
    path = coco_mix / "instances_val2017.json"
    dataset = open_dataset(path, "segment")
    predictions: list[Prediction] = []
    for annotation in ground_truth(dataset)["annotations"]:
        predictions += [{**annotation, "score": 0.5}] * (3 if annotation["iscrowd"] else 1)
    scores = coco_scores(dataset, predictions, "bbox")
    # Two objects of one class with the same box cost nothing either: each has a prediction.
    assert scores.metrics["map50_95"] == pytest.approx(1.0, abs=1e-9)
    assert all(row["map50"] == pytest.approx(1.0) for row in scores.per_class)


# ---- sets made here ---------------------------------------------------------------------------------------------


def make(task: str, images: list[dict[str, Any]], names: tuple[str, ...] = ("cat", "dog"), **fields: Any) -> Dataset:
    """A set in pixels of 100 x 80 images; each image a dict of Labels' arrays."""
    samples = []
    for i, arrays in enumerate(images, 1):
        count = len(arrays["classes"])
        defaults = {"boxes": np.zeros((count, 4)), "crowd": np.zeros(count, bool), "area": np.full(count, np.nan)}
        arrays = {key: value if key == "polygons" else np.array(value) for key, value in arrays.items()}
        labels = Labels(**{**defaults, **arrays}, size=(100, 80))
        samples.append(Sample(Path(f"{i}.png"), i, labels, 100, 80))
    return Dataset(task, names, tuple(samples), Path("made.yaml"), "val", **fields)


def row(image: int, label: int, value: float, box: Any, **more: Any) -> Prediction:
    x1, y1, x2, y2 = np.asarray(box, float).tolist()
    return {"image_id": image, "category_id": label, "score": value, "bbox": [x1, y1, x2 - x1, y2 - y1], **more}


def oriented(image: int, label: int, value: float, box: Any) -> Prediction:
    points = corners(np.array([box], float))[0]
    return row(image, label, value, [*points.min(0), *points.max(0)], segmentation=[points.reshape(-1).tolist()])


def random_rotated(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.column_stack(
        [rng.uniform(10, 90, (count, 2)), rng.uniform(5, 40, (count, 2)), rng.uniform(-np.pi / 2, np.pi / 2, count)]
    )


def oriented_set(seed: int, images: int = 12) -> tuple[Dataset, list[Prediction], list[np.ndarray]]:
    """A random set, predictions near its objects and elsewhere, and the objects' boxes."""
    rng = np.random.default_rng(seed)
    arrays, predictions, truths = [], [], []
    for image in range(1, images + 1):
        truth = random_rotated(rng, int(rng.integers(0, 7)))
        classes = rng.integers(0, 2, len(truth))
        arrays.append({"classes": classes, "corners": corners(truth).reshape(-1, 4, 2)})
        truths.append(truth)
        for box, label in zip(truth, classes, strict=True):
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 1, 5) * [2, 2, 1.5, 1.5, 0.08]
                moved[2:4] = np.maximum(moved[2:4], 1)
                wrong = rng.random() < 0.1
                predictions.append(oriented(image, int(label) ^ int(wrong), float(rng.random()), moved))
        for box in random_rotated(rng, 3):
            predictions.append(oriented(image, int(rng.integers(0, 2)), float(rng.random()), box))
    return make("obb", arrays), predictions, truths


# ---- oriented boxes against slow, independent code --------------------------------------------------------------


def slow_probiou(a: np.ndarray, b: np.ndarray) -> float:
    """Hellinger distance of two Gaussians by 2 x 2 matrices and the textbook Bhattacharyya distance."""

    def gaussian(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, w, h, angle = box
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return np.array([x, y]), turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T

    (m1, s1), (m2, s2) = gaussian(a), gaussian(b)
    middle = (s1 + s2) / 2
    distance = (m1 - m2) @ np.linalg.inv(middle) @ (m1 - m2) / 8
    distance += 0.5 * math.log(np.linalg.det(middle) / math.sqrt(np.linalg.det(s1) * np.linalg.det(s2)))
    return 1 - math.sqrt(max(1 - math.exp(-distance), 0))


def slow_polygon_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Sutherland and Hodgman's clipping, one half plane at a time, and Gauss's area formula."""

    def points(box: np.ndarray) -> list[tuple[float, float]]:
        x, y, w, h, angle = (float(v) for v in box)
        c, s = math.cos(angle), math.sin(angle)
        return [
            (x + dx * c - dy * s, y + dx * s + dy * c)
            for dx, dy in ((-w / 2, -h / 2), (w / 2, -h / 2), (w / 2, h / 2), (-w / 2, h / 2))
        ]

    def area(polygon: list[tuple[float, float]]) -> float:
        turned = polygon[1:] + polygon[:1]
        return sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(polygon, turned, strict=True)) / 2

    clipped, frame = points(a), points(b)
    for p, q in zip(frame, frame[1:] + frame[:1], strict=True):

        def side(v: tuple[float, float], p: tuple[float, float] = p, q: tuple[float, float] = q) -> float:
            return (q[0] - p[0]) * (v[1] - p[1]) - (q[1] - p[1]) * (v[0] - p[0])

        kept: list[tuple[float, float]] = []
        for v, w in zip(clipped, clipped[1:] + clipped[:1], strict=True):
            if side(v) >= 0:
                kept.append(v)
            if (side(v) >= 0) != (side(w) >= 0):
                t = side(v) / (side(v) - side(w))
                kept.append((v[0] + t * (w[0] - v[0]), v[1] + t * (w[1] - v[1])))
        clipped = kept
        if not clipped:
            return 0.0
    common = area(clipped)
    return common / (area(points(a)) + area(frame) - common)


def slow_map(truths: list[np.ndarray], dataset: Dataset, predictions: list[Prediction], boxes: Any, iou: Any) -> Any:
    """COCO's evaluation with loops and lists: AP [classes][thresholds]. ``boxes``: predictions' [cx, cy, w, h, θ]."""
    answer = []
    for label in range(len(dataset.names)):
        total = sum(int((s.labels.classes == label).sum()) for s in dataset.samples)
        of_thresholds = []
        for threshold in [0.5 + 0.05 * i for i in range(10)]:
            mine = [i for i, p in enumerate(predictions) if p["category_id"] == label]
            mine.sort(key=lambda i: -predictions[i]["score"])
            taken: set[tuple[int, int]] = set()
            hits = []
            for i in mine:
                image = predictions[i]["image_id"] - 1
                best, where = threshold - 1e-12, None
                for j, truth in enumerate(truths[image]):
                    if dataset.samples[image].labels.classes[j] == label and (image, j) not in taken:
                        overlap = iou(boxes[i], truth)
                        if overlap >= best:
                            best, where = overlap, j
                hits.append(where is not None)
                if where is not None:
                    taken.add((image, where))
            curve = [(sum(hits[: k + 1]) / total, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
            levels = [max([p for r, p in curve if r >= level / 100 - 1e-12], default=0.0) for level in range(101)]
            of_thresholds.append(sum(levels) / 101)
        answer.append(of_thresholds)
    return answer


@pytest.mark.parametrize(("rotated_iou", "slow"), [("probiou", slow_probiou), ("polygon", slow_polygon_iou)])
@pytest.mark.parametrize("seed", [0, 1])
def test_rotated_map_equals_a_slow_evaluator(rotated_iou: str, slow: Any, seed: int) -> None:
    dataset, predictions, truths = oriented_set(seed)
    boxes = []
    for p in predictions:  # centre, sides and angle again from the corners, in plain arithmetic
        a, b, c, d = np.array(p["segmentation"][0]).reshape(4, 2)
        boxes.append([*(a + b + c + d) / 4, np.hypot(*(b - a)), np.hypot(*(c - b)), math.atan2(*(b - a)[::-1])])
    expected = np.array(slow_map(truths, dataset, predictions, np.array(boxes), slow))
    scores = score(dataset, predictions, Options(rotated_iou=rotated_iou))
    assert scores.metrics["map50_95"] == pytest.approx(expected.mean(), abs=1e-9)
    assert scores.metrics["map50"] == pytest.approx(expected[:, 0].mean(), abs=1e-9)
    assert [r["map50_95"] for r in scores.per_class] == pytest.approx(expected.mean(1).tolist(), abs=1e-9)
    assert 0.1 < expected.mean() < 0.9


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_overlaps_of_oriented_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = random_rotated(rng, 5), random_rotated(rng, 4)
    b[0] = a[0]  # the same box
    b[1] = a[1] + [0, 0, 0, 0, np.pi]  # the same, written otherwise
    b[2] = [*a[2, :2], *a[2, 2:4] / 2, a[2, 4]]  # inside, parallel
    b[3] = a[3] + [a[3, 2] * math.cos(a[3, 4]), a[3, 2] * math.sin(a[3, 4]), 0, 0, 0]  # side by side
    for fast, slow in ((polygon_iou, slow_polygon_iou), (probabilistic_iou, slow_probiou)):
        expected = np.array([[slow(x, y) for y in b] for x in a])
        np.testing.assert_allclose(fast(a, b), expected, atol=2e-6)
        np.testing.assert_allclose(fast(b, a), fast(a, b).T, atol=1e-9)


def test_polygon_iou_in_closed_form() -> None:
    square = np.array([[10, 10, 2, 2, 0.0]])
    octagon = 8 * (math.sqrt(2) - 1)  # a unit-2 square with itself turned by 45 degrees
    others = np.array(
        [[10, 10, 2, 2, np.pi / 4], [11, 10, 2, 2, 0], [12, 10, 2, 2, 0], [30, 10, 2, 2, 0], [10, 10, 2, 2, 0]]
    )
    expected = [octagon / (8 - octagon), 2 / 6, 0, 0, 1]
    np.testing.assert_allclose(polygon_iou(square, others)[0], expected, atol=1e-12)
    thin = np.array([[0, 0, 1000, 1e-3, 0.3]])
    assert polygon_iou(thin, thin)[0, 0] == pytest.approx(1, abs=1e-6)
    assert polygon_iou(square, np.zeros((0, 5))).shape == (1, 0)
    assert polygon_iou(np.zeros((1, 5)), square)[0, 0] == 0


def test_probabilistic_iou_of_flat_predictions_is_finite() -> None:
    flat = np.array([[5, 5, 0, 0, 0], [5, 5, 10, 0, 1], [5, 5, -3, 2, 0]])
    values = probabilistic_iou(flat, np.array([[5.0, 5, 10, 4, 0]]))
    assert np.isfinite(values).all()
    assert (values < 0.5).all()


# ---- closed forms -----------------------------------------------------------------------------------------------

SQUARES = [[10, 10, 30, 30], [50, 10, 70, 30], [10, 40, 30, 60]]
POSE = np.array([[[12, 12, 2], [28, 28, 1]], [[55, 15, 2], [0, 0, 0]], [[15, 45, 2], [25, 55, 2]]], float)


def every_task() -> dict[str, tuple[Dataset, list[Prediction]]]:
    """One small set per task and its perfect predictions."""
    outlines = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float) for x1, y1, x2, y2 in SQUARES]
    plain = {"classes": [0, 1, 0], "boxes": np.array(SQUARES, float)}
    found = [row(1, label, 0.9 - i / 10, box) for i, (label, box) in enumerate(zip([0, 1, 0], SQUARES, strict=True))]
    masks = []
    for x1, y1, x2, y2 in SQUARES:
        mask = np.zeros((80, 100), bool)
        mask[y1:y2, x1:x2] = True
        masks.append(encode_rle(mask))
    empty: dict[str, Any] = {"classes": np.zeros(0, int), "boxes": np.zeros((0, 4))}
    return {
        "detect": (make("detect", [plain, empty]), found),
        "segment": (
            make("segment", [{**plain, "polygons": tuple((o,) for o in outlines)}, {**empty, "polygons": ()}]),
            [{**p, "segmentation": m} for p, m in zip(found, masks, strict=True)],
        ),
        "pose": (
            make(
                "pose",
                [{**plain, "keypoints": POSE}, {**empty, "keypoints": np.zeros((0, 2, 3))}],
                keypoint_shape=(2, 3),
            ),
            [{**p, "keypoints": k.reshape(-1).tolist()} for p, k in zip(found, POSE, strict=True)],
        ),
        "obb": (
            make("obb", [{**plain, "corners": np.array(outlines)}, empty]),
            [{**p, "segmentation": [o.reshape(-1).tolist()]} for p, o in zip(found, outlines, strict=True)],
        ),
    }


MAIN = {
    "detect": ["map50_95"],
    "segment": ["map50_95", "mask_map50_95"],
    "pose": ["map50_95", "pose_map50_95"],
    "obb": ["map50_95"],
}


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "obb"])
@pytest.mark.parametrize(
    "options", [Options(), Options("ultralytics", imgsz=(320, 320)), Options(rotated_iou="polygon")]
)
def test_perfect_is_one_and_nothing_is_zero(task: str, options: Options) -> None:
    dataset, predictions = every_task()[task]
    if options.protocol == "coco" and task != "obb":
        pytest.importorskip("faster_coco_eval")
    # The peer's line falls to zero at the last recall, which takes half of the last of a hundred steps.
    best = 0.995 if options.protocol == "ultralytics" else 1.0
    scores = score(dataset, predictions, options)
    assert [scores.metrics[key] for key in MAIN[task]] == pytest.approx([best] * len(MAIN[task]))
    assert [(r["class"], r["images"], r["instances"]) for r in scores.per_class] == [("cat", 1, 2), ("dog", 1, 1)]
    assert set(MAIN[task]) <= set(scores.per_class[0])
    assert json.loads(json.dumps(scores.to_dict())) == scores.to_dict()
    nothing = score(dataset, [], options)
    assert [nothing.metrics[key] for key in MAIN[task]] == [0.0] * len(MAIN[task])
    assert len(nothing.per_class) == 2
    assert scores.protocol == nothing.protocol != ""


def test_one_right_one_wrong_by_hand() -> None:
    """Two objects of a class; found: a wrong box (0.9), then one of the two (0.8). Precision 1/2 up to recall 1/2."""
    dataset = make("detect", [{"classes": [0, 0], "boxes": np.array(SQUARES[:2], float)}], ("cat",))
    predictions = [row(1, 0, 0.9, [80, 60, 90, 70]), row(1, 0, 0.8, SQUARES[0])]
    pytest.importorskip("faster_coco_eval")
    assert score(dataset, predictions).metrics["map50_95"] == pytest.approx(0.5 * 51 / 101)
    # The peer's line is at 1/2 for 49 of its hundred steps, falls to zero in the fiftieth and stays there.
    peer = score(dataset, predictions, Options("ultralytics")).metrics["map50_95"]
    assert peer == pytest.approx((49 * 0.5 + 0.25) / 100)


def test_integrals_by_hand() -> None:
    assert coco_precision(np.array([0.5, 1.0]), np.array([1.0, 2 / 3])) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # What the peer itself (version 8.4.190) answers for these curves.
    for recall, precision, area in (
        ([1.0], [1.0], 0.995),
        ([0.5], [1.0], 0.495),
        ([0.5, 1.0], [1.0, 1.0], 0.995),
        ([0.2, 0.4], [1.0, 0.5], 0.3475),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ):
        assert peer_precision(np.array(recall), np.array(precision)) == pytest.approx(area)


def test_matching_by_hand() -> None:
    """A sure prediction takes its best object; the second best gets what is left; crowds only excuse."""
    iou = np.array([[0.8, 0.9, 0.0], [0.6, 0.95, 0.0], [0.55, 0.7, 0.85]])
    correct, ignored = by_score(
        iou,
        np.array([0.9, 0.8, 0.7]),
        np.zeros(3, int),
        np.zeros(3, int),
        np.array([False, False, True]),
        np.array([0.5, 0.75]),
    )
    assert correct.tolist() == [[True, True], [True, False], [False, False]]
    assert ignored.tolist() == [[False, False], [False, False], [True, True]]
    matches = Matches(np.array([0.9, 0.8, 0.7]), np.zeros(3, int), correct, ignored, np.array([2, 0]))
    ap = average_precision(matches, coco_precision)
    assert ap[0] == pytest.approx([1.0, 51 / 101])
    assert np.isnan(ap[1]).all()


def test_objects_of_two_answers_that_are_the_same() -> None:
    """Best scores first, whatever their order; of its class only, each once, and only who is sure is asked about."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60], [80, 80, 90, 90]], np.float32)
    one = Result((99, 99), ("a", "b"), boxes, np.array([0.6, 0.9, 0.8, 0.2]), np.array([0, 0, 1, 0]))
    other = Result((99, 99), ("a", "b"), boxes[[3, 2, 0]], np.array([0.9, 0.5, 0.4]), np.array([0, 0, 0]))
    assert same_objects(one, other).tolist() == [-1, 2, -1, 0]
    assert same_objects(one, other, sure=0.25).tolist() == [-1, 2, -1, -1]
    assert same_objects(other, one).tolist() == [3, -1, 0]
    nothing = Result((99, 99), ("a", "b"), boxes[:0], np.zeros(0), np.zeros(0, int))
    assert same_objects(one, nothing).tolist() == [-1] * 4 and same_objects(nothing, one).tolist() == []
    turned = [[5, 5, 8, 4, 0.0], [5, 5, 8, 4, np.pi / 2], [50, 50, 8, 4, 0.3]]
    first, second = (
        Result((99, 99), ("a",), scores=s, labels=np.zeros(3, int), rotated_boxes=np.array(r, np.float32))
        for s, r in ((np.array([0.9, 0.8, 0.7]), turned), (np.array([0.9, 0.8, 0.7]), turned[::-1]))
    )
    assert same_objects(first, second).tolist() == [2, 1, 0]


def test_pairs_by_overlap_whatever_the_scores() -> None:
    assert by_overlap(np.array([[0.9, 0.0], [0.85, 0.6], [0.0, 0.8]]), 0.5).tolist() == [0, -1, 1]
    assert by_overlap(np.zeros((2, 0)), 0.5).tolist() == [-1, -1]


def test_crowds_overlap_by_the_predictions_area() -> None:
    boxes, truth = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 5, 20], [0, 0, 5, 20], [50, 50, 60, 60]])
    overlap = box_overlap(boxes, truth, np.array([False, True, True]))
    np.testing.assert_allclose(overlap, [[50 / 150, 50 / 100, 0]])


def test_keypoint_similarity_by_hand() -> None:
    """One point off by s·k, one exact, one not labelled: (e^-1/2 · … ) as cocodataset.org/#keypoints-eval says."""
    truth = np.array([[[0, 0, 2], [10, 10, 1], [0, 0, 0]]], float)
    points = np.array([[[3, 4], [10, 10], [99, 99]]], float)
    sigmas = np.array([0.1, 0.2, 0.3])
    (similarity,) = keypoint_similarity(points, truth, np.array([400.0]), sigmas)[0]
    assert similarity == pytest.approx((math.exp(-25 / (2 * 400 * (2 * 0.1) ** 2)) + 1) / 2)
    truth[..., 2] = 0
    assert keypoint_similarity(points, truth, np.array([400.0]), sigmas)[0, 0] == 0


def test_peer_keypoints_ignore_the_stated_area() -> None:
    dataset, predictions = every_task()["pose"]
    moved = [{**p, "keypoints": (np.array(p["keypoints"]) + 1.5).tolist()} for p in predictions]
    small = [
        dataclasses.replace(s, labels=dataclasses.replace(s.labels, area=np.full(len(s.labels), 4.0)))
        for s in dataset.samples
    ]
    stated = dataclasses.replace(dataset, samples=tuple(small))
    options = Options("ultralytics")
    assert score(stated, moved, options).metrics == score(dataset, moved, options).metrics
    pytest.importorskip("faster_coco_eval")
    assert score(stated, moved).metrics["pose_map50_95"] < score(dataset, moved).metrics["pose_map50_95"]


def test_peer_masks_let_the_smaller_object_cover_the_larger() -> None:
    """The larger of two nested objects is scored without what the smaller one covers."""
    outer = np.array([[8, 8], [72, 8], [72, 72], [8, 72]], float)
    inner = np.array([[24, 24], [56, 24], [56, 56], [24, 56]], float)
    boxes = np.array([[8, 8, 72, 72], [24, 24, 56, 56]], float)
    dataset = make("segment", [{"classes": [0, 1], "boxes": boxes, "polygons": ((outer,), (inner,))}])
    ring = np.zeros((80, 100), bool)
    ring[8:72, 8:72] = True
    hole = np.zeros_like(ring)
    hole[24:56, 24:56] = True
    predictions = [
        row(1, 0, 0.9, boxes[0], segmentation=encode_rle(ring & ~hole)),
        row(1, 1, 0.8, boxes[1], segmentation=encode_rle(hole)),
    ]
    scores = score(dataset, predictions, Options("ultralytics", imgsz=(320, 320)))
    assert scores.metrics["mask_map50"] == pytest.approx(0.995)
    assert scores.metrics["mask_map50_95"] > 0.85
    whole = [{**predictions[0], "segmentation": encode_rle(ring)}, predictions[1]]
    assert score(dataset, whole, Options("ultralytics", imgsz=(320, 320))).metrics["mask_map50_95"] < 0.8


# ---- classification ---------------------------------------------------------------------------------------------


def classified(truth: list[int], names: int = 6) -> Dataset:
    samples = tuple(Sample(Path(f"{i}.png"), i, Labels.empty(c), 9, 9) for i, c in enumerate(truth, 1))
    return Dataset("classify", tuple("abcdef"[:names]), samples, Path("folder"), "val")


def test_top_k() -> None:
    dataset = classified([0, 1, 1, 5])
    probs = [
        [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],  # right
        [0.5, 0.3, 0.05, 0.05, 0.05, 0.05],  # second
        [0.3, 0.05, 0.2, 0.2, 0.15, 0.1],  # last
    ]
    predictions = [{"image_id": i, "probs": p} for i, p in enumerate(probs, 1)]
    scores = score(dataset, predictions)  # the fourth image has no prediction
    assert scores.metrics == {"top1": 0.25, "top5": 0.5}
    assert scores.per_class == [
        {"class": "a", "images": 1, "instances": 1, "top1": 1.0, "top5": 1.0},
        {"class": "b", "images": 2, "instances": 2, "top1": 0.0, "top5": 0.5},
        {"class": "f", "images": 1, "instances": 1, "top1": 0.0, "top5": 0.0},
    ]
    assert confusion_matrix(dataset, predictions)[:2, 0].tolist() == [1, 2]
    with pytest.raises(InputError, match="3 class probabilities, folder has 6"):
        score(dataset, [{"image_id": 1, "probs": [0.2, 0.3, 0.5]}])


# ---- advice -----------------------------------------------------------------------------------------------------


def test_curves_and_the_best_threshold_by_hand() -> None:
    dataset = make("detect", [{"classes": [0, 0], "boxes": np.array(SQUARES[:2], float)}])
    predictions = [row(1, 0, 0.9, SQUARES[0]), row(1, 0, 0.6, SQUARES[1]), row(1, 0, 0.3, [80, 60, 90, 70])]
    curves = threshold_curves(dataset, predictions)
    at = {round(t, 3): i for i, t in enumerate(curves.thresholds)}
    for threshold, precision, recall in ((0.95, 1, 0), (0.9, 1, 0.5), (0.7, 1, 0.5), (0.5, 1, 1), (0.2, 2 / 3, 1)):
        i = at[threshold]
        assert (curves.precision[0, i], curves.recall[0, i]) == pytest.approx((precision, recall))
    assert np.isnan(curves.f1[1]).all()
    best, overall = curves.best()
    assert (best["class"], overall["class"]) == ("cat", "all")
    assert best["f1"] == best["precision"] == best["recall"] == 1.0
    assert best["threshold"] == pytest.approx(0.45, abs=0.002)  # the middle between 0.3 and 0.6
    assert curves.precision_at_recall[0].tolist() == [1.0] * 101
    empty = threshold_curves(dataset, [])
    assert empty.best()[0]["f1"] == 0.0


def slow_iou(a: Any, b: Any) -> tuple[float, float]:
    """Of two xyxy boxes: intersection over union, and over the first one's area."""
    common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    first, second = ((v[2] - v[0]) * (v[3] - v[1]) for v in (a, b))
    return common / (first + second - common), common / first


def slow_hits(labels: Labels, boxes: list[list[float]]) -> tuple[int, int]:
    """How many of one class's boxes, surest first, are right and wrong at IoU 0.5."""
    free = [box for box, crowd in zip(labels.boxes, labels.crowd, strict=True) if not crowd]
    crowds = [box for box, crowd in zip(labels.boxes, labels.crowd, strict=True) if crowd]
    right = wrong = 0
    for x, y, w, h in boxes:
        found = [x, y, x + w, y + h]
        overlaps = [slow_iou(found, box)[0] for box in free]
        if overlaps and max(overlaps) >= 0.5:
            free.pop(overlaps.index(max(overlaps)))
            right += 1
        else:
            wrong += not any(slow_iou(found, box)[1] >= 0.5 for box in crowds)
    return right, wrong


def test_f1_curve_equals_counting(coco_mix: Path) -> None:
    """At a few thresholds: the same precision and recall as keeping the surer predictions and matching anew."""
    path = coco_mix / "instances_val2017.json"
    dataset, predictions = open_dataset(path, "detect"), perturbed(path)
    curves = threshold_curves(dataset, predictions)
    person = dataset.names.index("person")
    mine = sorted((p for p in predictions if p["category_id"] == 1), key=lambda p: -p["score"])
    for threshold in (0.25, 0.505, 0.8):
        i = round(threshold * 1000)
        right = wrong = 0
        for sample in dataset.samples:
            kept = [p["bbox"] for p in mine if p["image_id"] == sample.image_id and p["score"] >= threshold]
            hits = slow_hits(sample.labels.select(sample.labels.classes == person), kept)
            right, wrong = right + hits[0], wrong + hits[1]
        assert curves.recall[person, i] == pytest.approx(right / dataset.counts()[1][person])
        assert curves.precision[person, i] == pytest.approx(right / (right + wrong))


def test_confusion_by_hand() -> None:
    dataset = make("detect", [{"classes": [0, 1, 0], "boxes": np.array(SQUARES, float)}])
    predictions = [
        row(1, 0, 0.9, SQUARES[0]),
        row(1, 0, 0.9, SQUARES[1]),  # a dog taken for a cat
        row(1, 1, 0.9, [80, 60, 90, 70]),  # nothing there
        row(1, 0, 0.1, SQUARES[2]),  # not sure enough
    ]
    assert confusion_matrix(dataset, predictions).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    oriented_data, found = every_task()["obb"]
    assert confusion_matrix(oriented_data, found).tolist() == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]


# ---- predictions that do not belong -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["coco", "ultralytics"])
def test_strangers_are_refused_in_a_sentence(protocol: str) -> None:
    if protocol == "coco":
        pytest.importorskip("faster_coco_eval")
    dataset, predictions = every_task()["detect"]
    options = Options(protocol)
    with pytest.raises(InputError, match="image 9, which made.yaml does not have"):
        score(dataset, [{**predictions[0], "image_id": 9}], options)
    for change in ({"category_id": 9}, {"score": None}, {"bbox": [1, 2]}):
        with pytest.raises(InputError, match="no usable category_id, score or bbox"):
            score(dataset, [{**predictions[0], **change}], options)
    dataset, predictions = every_task()["obb"]
    with pytest.raises(InputError, match="no segmentation of 8 numbers"):
        score(dataset, [row(1, 0, 0.5, SQUARES[0])], options)
    dataset, _ = every_task()["pose"]
    with pytest.raises(InputError, match="no keypoints of 6 numbers"):
        score(dataset, [row(1, 0, 0.5, SQUARES[0])], options)
    dataset, _ = every_task()["segment"]
    with pytest.raises(InputError, match="mask"):
        score(dataset, [row(1, 0, 0.5, SQUARES[0])], options)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="`protocol` voc: choose from coco, ultralytics"):
        Options("voc")
    with pytest.raises(UsageError, match="`rotated_iou` iou: choose from probiou, polygon"):
        Options(rotated_iou="iou")


def test_results_go_straight_in() -> None:
    """What ``Result.to_coco`` gives is what scoring takes, for upright and oriented boxes."""
    dataset, _ = every_task()["detect"]
    fields = {"shape": (80, 100), "names": dataset.names, "scores": np.array([0.9, 0.8, 0.7], np.float32)}
    labels = np.array([0, 1, 0])
    upright = Result(**fields, boxes=np.array(SQUARES, np.float32), labels=labels)
    predictions = upright.to_coco(1, dataset.category_ids)
    assert score(dataset, predictions, Options("ultralytics")).metrics["map50_95"] == pytest.approx(0.995)
    dataset, _ = every_task()["obb"]
    turned = np.array([[20, 20, 20, 20, 0], [60, 20, 20, 20, 0], [20, 50, 20, 20, 0]], np.float32)
    result = Result(**fields, rotated_boxes=turned, labels=labels)
    assert score(dataset, result.to_coco(1, dataset.category_ids)).metrics["map50_95"] == pytest.approx(1.0)
