"""From raw outputs to Results: every head and task, against a slow reference written out in loops."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import InputError, UsageError
from edgekit.runtime.boxes import box_iou, probiou, regularise
from edgekit.runtime.image import Geometry, letterbox
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import assemble_masks, best_first, postprocess
from edgekit.spec import ModelInfo
from tests.hostile import fuzz

SIZE = (96, 128)
CLASSES = 5


def info(head: str = "raw", classes: int = CLASSES) -> ModelInfo:
    return ModelInfo("any", SIZE, head, tuple(f"c{i}" for i in range(classes)), (), ())


def geometry(height: int = 150, width: int = 260) -> Geometry:
    return letterbox(np.zeros((height, width, 3), np.uint8), SIZE)[1]


def outputs(n: int = 200, seed: int = 0, rotated: bool = False, batch: int = 1) -> dict[str, np.ndarray]:
    """Raw outputs of a model that sees heaps of overlapping things."""
    rng = np.random.default_rng(seed)
    heap = rng.integers(0, 6, (batch, n))
    centre = np.take_along_axis(rng.random((batch, 6, 2)) * SIZE[::-1], heap[..., None], 1)
    centre = centre + rng.normal(0, 2, centre.shape)
    size = np.take_along_axis(10 + rng.random((batch, 6, 2)) * 40, heap[..., None], 1)
    size = size * np.exp(rng.normal(0, 0.1, size.shape))
    found = {"scores": rng.random((batch, CLASSES, n)).astype(np.float32) ** 3}
    if rotated:
        angle = heap[..., None] * 0.5 - 0.7 + rng.normal(0, 0.05, (batch, n, 1))
        found["rotated_boxes"] = np.concatenate([centre, size, angle], 2).astype(np.float32)
    else:
        found["boxes"] = np.concatenate([centre - size / 2, centre + size / 2], 2).astype(np.float32)
    return found


def decoded(raw: dict[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """What a `topk` head makes of raw outputs: the K best (anchor, class) pairs."""
    scores = raw["scores"].transpose(0, 2, 1)
    batch, _, classes = scores.shape
    flat = scores.reshape(batch, -1)
    best = np.argsort(-flat, axis=1, kind="stable")[:, :k]
    anchor, label = best // classes, best % classes
    out = {"scores": np.take_along_axis(flat, best, 1), "labels": label}
    for role, array in raw.items():
        if role not in ("scores", "mask_prototypes"):
            out[role] = np.stack([a[i] for a, i in zip(array, anchor, strict=True)])
        elif role == "mask_prototypes":
            out[role] = array
    return out


def reference(raw: dict[str, np.ndarray], options: Options) -> list[tuple[int, int, float]]:
    """(anchor, label, score) of the first image by the textbook, best first."""
    shape = "rotated_boxes" if "rotated_boxes" in raw else "boxes"
    boxes, scores = raw[shape][0], raw["scores"][0]
    candidates = []
    for anchor in range(scores.shape[1]):
        labels = (
            range(len(scores)) if options.multi_label else [max(range(len(scores)), key=lambda c: scores[c, anchor])]
        )
        candidates += [(anchor, label, float(scores[label, anchor])) for label in labels]
    candidates = [c for c in candidates if c[2] > options.conf]
    if options.classes is not None:
        candidates = [c for c in candidates if c[1] in options.classes]
    candidates.sort(key=lambda c: -c[2])  # stable: equal scores stay in the order anchor, class
    overlap = probiou(boxes, boxes) if shape == "rotated_boxes" else box_iou(boxes, boxes)
    kept: list[tuple[int, int, float]] = []
    for place, (anchor, label, score) in enumerate(candidates):
        # Rotated boxes are removed by any earlier one, axis-aligned boxes by one that stays.
        earlier = candidates[:place] if shape == "rotated_boxes" else kept
        rivals = [k for k in earlier if options.agnostic or k[1] == label]
        if all(overlap[anchor, k[0]] <= options.iou for k in rivals):
            kept.append((anchor, label, score))
    return kept[: options.max_det]


def visible(raw: dict[str, np.ndarray], options: Options, g: Geometry) -> list[int]:
    """The anchors of ``reference`` whose boxes are not all in the padding."""
    anchors = [anchor for anchor, _, _ in reference(raw, options)]
    places = g.boxes_to_image(raw["boxes"][0, anchors])
    return [a for a, (x1, y1, x2, y2) in zip(anchors, places, strict=True) if x1 < x2 and y1 < y2]


SETTINGS = [
    Options(),
    Options(conf=0.001, multi_label=True),
    Options(conf=0.5, iou=0.3, agnostic=True),
    Options(conf=0.1, classes=(1, 3), max_det=7),
    Options(conf=0.0, iou=1.0, multi_label=True, max_det=100_000),
]


# ---- boxes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SETTINGS)
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_raw_head_is_the_textbook(options: Options, rotated: bool, seed: int) -> None:
    raw = outputs(seed=seed, rotated=rotated)
    g = geometry()
    result = postprocess(raw, info(), [g], options)[0]
    expected = reference(raw, options)
    anchors = [anchor for anchor, _, _ in expected]
    if rotated:
        assert result.boxes is None
        places = regularise(g.rotated_to_image(raw["rotated_boxes"][0, anchors]))
        np.testing.assert_array_equal(result.rotated_boxes, places)
        inside = np.ones(len(expected), bool)
    else:
        places = g.boxes_to_image(raw["boxes"][0, anchors])
        inside = (places[:, :2] < places[:, 2:]).all(1)
        np.testing.assert_array_equal(result.boxes, places[inside])
    expected = [e for e, there in zip(expected, inside, strict=True) if there]
    assert result.labels.tolist() == [label for _, label, _ in expected]
    assert result.scores.tolist() == [score for _, _, score in expected]
    assert result.labels.dtype == np.int64 and result.scores.dtype == np.float32
    assert result.shape == (150, 260) and result.names == info().names


@pytest.mark.parametrize("options", [*SETTINGS[:4], Options(conf=0.3, multi_label=True)])
@pytest.mark.parametrize("rotated", [False, True])
def test_topk_and_nms_heads_agree_with_raw(options: Options, rotated: bool) -> None:
    raw = outputs(seed=3, rotated=rotated)
    expected = postprocess(raw, info(), [geometry()], options)[0]
    every_pair = decoded(raw, CLASSES * 200)
    found = postprocess(every_pair, info("topk"), [geometry()], options)[0]
    assert found.to_dict() == expected.to_dict()
    # A finished head: what the textbook keeps, shuffled and padded with empty rows.
    kept = reference(raw, options)
    shape = "rotated_boxes" if rotated else "boxes"
    order = np.random.default_rng(0).permutation(len(kept))
    finished = {
        "scores": np.zeros((1, 400), np.float32),
        "labels": np.full((1, 400), -1, np.int64),
        shape: np.zeros((1, 400, 5 if rotated else 4), np.float32),
    }
    for row, (anchor, label, score) in enumerate(kept[i] for i in order):
        finished["scores"][0, row], finished["labels"][0, row] = score, label
        finished[shape][0, row] = raw[shape][0, anchor]
    found = postprocess(finished, info("nms"), [geometry()], options)[0]
    expected.truncated = ()  # of what the textbook kept nothing more is known
    assert found.to_dict() == expected.to_dict()


def test_a_topk_anchor_answers_once_although_its_boxes_differ_in_the_last_bits() -> None:
    box = np.array([10, 10, 50, 60], np.float32)
    boxes = np.stack([box, box + np.float32(1e-4), box + 20])[None]
    found = {"boxes": boxes, "scores": np.array([[0.6, 0.5, 0.4]]), "labels": np.array([[2, 4, 1]])}
    one = postprocess(found, info("topk"), [geometry()], Options())[0]
    assert one.labels.tolist() == [2, 1]
    every = postprocess(found, info("topk"), [geometry()], Options(multi_label=True))[0]
    assert every.labels.tolist() == [2, 4, 1]


def test_boxes_return_to_the_image_and_stay_inside() -> None:
    # A 260 x 150 image on a canvas of 128 x 96: a factor of 128/260, 11 rows of padding above.
    boxes = np.array([[[0, 11, 128, 85], [32, 30, 64, 48], [-50, -50, 300, 300], [10, 0, 20, 9], [0, 88, 128, 96]]])
    scores = np.zeros((1, CLASSES, 5), np.float32)
    scores[0, [0, 1, 2, 3, 4], range(5)] = [0.9, 0.8, 0.7, 0.6, 0.5]
    result = postprocess({"boxes": boxes, "scores": scores}, info(), [geometry()], Options())[0]
    factor = 128 / 260
    expected = [[0, 0, 260, 150], [32 / factor, 19 * 150 / 74, 64 / factor, 37 * 150 / 74], [0, 0, 260, 150]]
    np.testing.assert_allclose(result.boxes, expected, atol=1e-3)  # the last two lie in the padding: dropped
    assert result.labels.tolist() == [0, 1, 2]


def test_images_of_a_batch_are_independent_and_padding_is_ignored() -> None:
    raw = outputs(batch=4)
    g = [geometry(), geometry(90, 90), geometry(500, 100)]
    together = postprocess(raw, info(), g, Options())
    assert len(together) == 3
    for i in range(3):
        alone = postprocess({role: a[i : i + 1] for role, a in raw.items()}, info(), [g[i]], Options())[0]
        assert together[i].to_dict() == alone.to_dict()


def test_results_keep_nothing_of_the_outputs() -> None:
    raw = outputs() | {"keypoints": np.ones((1, 200, 3, 3), np.float32)}
    result = postprocess(raw, info(), [geometry()], Options())[0]
    before = result.to_dict()
    for array in raw.values():
        array[:] = 0.5
    assert result.to_dict() == before
    probabilities = np.array([[0.1, 0.2, 0.3, 0.2, 0.2]], np.float32)
    result = postprocess({"class_probabilities": probabilities}, info(), [geometry()], Options())[0]
    probabilities[:] = 0
    np.testing.assert_allclose(result.probs, [0.1, 0.2, 0.3, 0.2, 0.2])
    assert result.boxes is None and result.labels is None


@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
@pytest.mark.parametrize("rotated", [False, True])
def test_nothing_found(head: str, rotated: bool) -> None:
    raw = outputs(rotated=rotated) | {
        "keypoints": np.ones((1, 200, 17, 3), np.float32),
        "mask_coefficients": np.ones((1, 200, 4), np.float32),
        "mask_prototypes": np.ones((1, 4, 24, 32), np.float32),
    }
    given = raw if head == "raw" else decoded(raw, 50)
    result = postprocess(given, info(head), [geometry()], Options(conf=1.0))[0]
    assert len(result) == 0 and result.scores.shape == (0,) and result.keypoints.shape == (0, 17, 3)
    if rotated:
        assert result.rotated_boxes.shape == (0, 5)
    else:
        assert result.boxes.shape == (0, 4) and result.masks.dense().shape == (0, 150, 260)


# ---- ties, caps and values that are no numbers ------------------------------------------------------------------


def test_equal_scores_keep_the_order_anchor_then_class() -> None:
    boxes = np.array([[[0, 20, 9, 29], [20, 20, 29, 29], [40, 20, 49, 29]]], np.float32)
    scores = np.full((1, CLASSES, 3), 0.5, np.float32)
    result = postprocess({"boxes": boxes, "scores": scores}, info(), [geometry()], Options(multi_label=True))[0]
    assert result.labels.tolist() == [0, 1, 2, 3, 4] * 3
    assert (np.diff(result.boxes[::5, 0]) > 0).all()
    result = postprocess({"boxes": boxes, "scores": scores}, info(), [geometry()], Options())[0]
    assert result.labels.tolist() == [0, 0, 0]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 70))
def test_best_first_is_a_stable_sort_cut_off(values: list[int], limit: int) -> None:
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda i: -values[i])[:limit]
    assert best_first(scores, limit).tolist() == expected


def test_a_flood_of_candidates_is_cut_at_the_best_30000() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 9000, (1, 50_000)).astype(np.float32) / 9000  # many are equal, also at the cut
    start = rng.random((1, 50_000, 2)) * 80
    flood = {"boxes": np.concatenate([start, start + 9], 2), "scores": scores, "labels": np.zeros((1, 50_000))}
    whole = Geometry(96, 128, 1, 1, 0, 0)
    result = postprocess(flood, info("nms"), [whole], Options(conf=0.0, max_det=100_000))[0]
    order = np.argsort(-scores[0], kind="stable")[:30_000]
    np.testing.assert_array_equal(result.scores, scores[0, order])
    np.testing.assert_array_equal(result.boxes, flood["boxes"][0, order].astype(np.float32))


BAD = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("head", ["raw", "topk", "nms"])
def test_candidates_with_values_that_are_no_numbers_are_dropped(head: str, multi_label: bool, bad: float) -> None:
    clean = outputs(60) | {
        "keypoints": np.ones((1, 60, 2, 3), np.float32),
        "mask_coefficients": np.ones((1, 60, 4), np.float32),
        "mask_prototypes": np.ones((1, 4, 24, 32), np.float32),
    }
    options = Options(conf=0.05, multi_label=multi_label)
    clean = clean if head == "raw" else decoded(clean, 60)
    dirty = {role: array.copy() for role, array in clean.items()}
    dirty["boxes"][0, 3, 1] = bad
    dirty["keypoints"][0, 5, 1, 0] = bad
    dirty["mask_coefficients"][0, 7, 2] = bad
    dirty["scores"][..., 9] = bad
    dirty["boxes"][0, 11, 2:] = dirty["boxes"][0, 11, :2]  # no area
    gone = [3, 5, 7, 9, 11]
    clean["scores"][..., gone] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = postprocess(dirty, info(head), [geometry()], options)[0]
    assert len(found) > 0
    assert found.to_dict() == postprocess(clean, info(head), [geometry()], options)[0].to_dict()


@pytest.mark.parametrize("bad", [*BAD, 3e38, -3e38])
def test_outputs_of_nothing_but_nonsense_do_not_fail(bad: float) -> None:
    shapes: dict[str, Any] = {"boxes": (1, 9, 4), "keypoints": (1, 9, 2, 3), "mask_coefficients": (1, 9, 4)}
    raw = {role: np.full(shape, bad, np.float32) for role, shape in shapes.items()}
    raw |= {
        "scores": np.full((1, CLASSES, 9), 0.9, np.float32),
        "mask_prototypes": np.full((1, 4, 24, 32), bad, np.float32),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(postprocess(raw, info(), [geometry()], Options())[0]) == 0
        raw["boxes"][:] = [-9e5, -9e5, 9e5, 9e5]
        raw["keypoints"][:] = raw["mask_coefficients"][:] = 1
        result = postprocess(raw, info(), [geometry()], Options())[0]
    assert len(result) > 0 and np.isfinite(result.boxes).all() and result.masks.dense().shape[1:] == (150, 260)
    labels = {"labels": np.full((1, 9), bad, np.float32), "scores": np.full((1, 9), 0.9, np.float32)}
    assert len(postprocess(raw | labels, info("topk"), [geometry()], Options())[0]) == 0


def test_outputs_that_do_not_belong_together_are_refused() -> None:
    raw = outputs()
    for head, lacking, missing in [
        ("raw", {"scores": raw["scores"]}, "boxes"),
        ("raw", {"boxes": raw["boxes"]}, "scores"),
        ("topk", raw, "labels"),
        ("raw", raw | {"mask_coefficients": np.ones((1, 200, 4))}, "mask_prototypes"),
    ]:
        with pytest.raises(InputError, match=missing):
            postprocess(lacking, info(head), [geometry()], Options())


# ---- keypoints and masks ----------------------------------------------------------------------------------------


def test_keypoints_follow_their_boxes() -> None:
    raw = outputs()
    g = geometry()
    points = np.random.default_rng(5).random((1, 200, 17, 3)).astype(np.float32) * [128, 96, 1]
    raw["keypoints"] = points
    result = postprocess(raw, info(), [g], Options(conf=0.5))[0]
    kept = visible(raw, Options(conf=0.5), g)
    expected = points[0, kept].copy()
    expected[..., 0] = (expected[..., 0] - g.left) / g.scale_x
    expected[..., 1] = (expected[..., 1] - g.top) / g.scale_y
    assert len(kept) > 5
    np.testing.assert_allclose(result.keypoints, expected, rtol=1e-5, atol=1e-4)


def slow_masks(
    weights: np.ndarray, prototypes: np.ndarray, boxes: np.ndarray, g: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the whole image, sampled bilinearly at every pixel's centre, then cut to the boxes."""
    logits = np.einsum("nm,mhw->nhw", weights.astype(float), prototypes.astype(float))
    _, h, w = logits.shape
    x = np.clip(((np.arange(g.width) + 0.5) * g.scale_x + g.left) * w / SIZE[1] - 0.5, 0, w - 1)
    y = np.clip(((np.arange(g.height) + 0.5) * g.scale_y + g.top) * h / SIZE[0] - 0.5, 0, h - 1)
    x0, y0 = np.minimum(x.astype(int), w - 2), np.minimum(y.astype(int), h - 2)
    dx, dy = x - x0, (y - y0)[:, None]
    rows = lambda r: logits[:, r][:, :, x0] * (1 - dx) + logits[:, r][:, :, x0 + 1] * dx  # noqa: E731
    full = rows(y0) * (1 - dy) + rows(y0 + 1) * dy
    centre_x, centre_y = np.arange(g.width) + 0.5, np.arange(g.height) + 0.5
    inside = [
        (centre_x >= x1) & (centre_x < x2) & ((centre_y >= y1) & (centre_y < y2))[:, None] for x1, y1, x2, y2 in boxes
    ]
    return full, np.array(inside)


@pytest.mark.parametrize(("height", "width"), [(150, 260), (96, 128), (40, 33), (700, 500)])
def test_masks_are_bilinear_logits_above_zero_inside_the_box(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    prototypes = np.stack([cv2.GaussianBlur(rng.normal(size=(24, 32)), (0, 0), 1.5) for _ in range(6)]).astype(
        np.float32
    )
    weights = rng.normal(size=(12, 6)).astype(np.float32)
    start = rng.random((12, 2)) * [width, height] * 0.8
    boxes = np.concatenate([start, np.minimum(start + 1 + rng.random((12, 2)) * [width, height], [width, height])], 1)
    boxes = boxes.astype(np.float32)
    boxes[0] = [0, 0, width, height]
    boxes[1] = [3.6, 4.6, 4.4, 9.0]  # no pixel's centre is inside
    g = geometry(height, width)
    found = assemble_masks(weights, prototypes, boxes, SIZE, g).dense()
    logits, inside = slow_masks(weights, prototypes, boxes, g)
    assert found.shape == (12, height, width)
    assert not found[1].any()
    assert not found[~inside].any()
    # OpenCV may round positions to 1/32 of a pixel: only pixels on the very outline may fall either way.
    steep = np.abs(np.diff(logits, axis=1)).max() + np.abs(np.diff(logits, axis=2)).max() + np.ptp(logits) / 32
    differs = found != ((logits > 0) & inside)
    assert differs.mean() < 2e-3
    assert np.abs(logits[differs]).max(initial=0) < steep


def test_masks_come_with_their_detections() -> None:
    raw = outputs()
    rng = np.random.default_rng(6)
    raw["mask_coefficients"] = rng.normal(size=(1, 200, 6)).astype(np.float32)
    raw["mask_prototypes"] = rng.normal(size=(1, 6, 24, 32)).astype(np.float32)
    options = Options(conf=0.5)
    g = geometry()
    result = postprocess(raw, info(), [g], options)[0]
    kept = visible(raw, options, g)
    expected = assemble_masks(raw["mask_coefficients"][0, kept], raw["mask_prototypes"][0], result.boxes, SIZE, g)
    np.testing.assert_array_equal(result.masks.dense(), expected.dense())
    assert result.masks.dense().any()


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("conf", -0.1, "`conf`"),
        ("conf", 1.5, "`conf`"),
        ("conf", math.nan, "`conf`"),
        ("conf", "high", "`conf`"),
        ("iou", 2, "`iou`"),
        ("max_det", 0, "`max_det`"),
        ("max_det", 2.5, "`max_det`"),
        ("max_det", True, "`max_det`"),
        ("classes", (1, -1), "`classes`"),
        ("classes", ("dog",), "`classes`"),
        ("classes", (1.5,), "`classes`"),
    ],
)
def test_options_out_of_range_name_their_flag(field: str, value: object, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        Options(**{field: value})


def test_options_in_range() -> None:
    assert Options(classes=[np.int64(2), 3]).classes == (2, 3)
    assert Options(classes=1).classes == (1,)
    assert Options(conf=0, iou=1, max_det=np.int32(5)).max_det == 5
    Options(classes=(0, CLASSES - 1)).check(info())
    with pytest.raises(UsageError, match="`classes` 5"):
        Options(classes=(CLASSES,)).check(info())


def test_what_fuzzers_found_and_start_from_gets_a_result_or_a_sentence(tmp_path: Path) -> None:
    for data in fuzz.seeds():
        fuzz.one(data, tmp_path)  # raises what is neither
