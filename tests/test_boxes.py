"""Overlap of boxes and non-maximum suppression, against loops, integrals and other libraries."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.runtime.boxes import FORMS, box_iou, corners, enclosing, nms, probiou, regularise


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union else 0.0


def slow_nms(
    overlap: np.ndarray, labels: np.ndarray | None, iou: float, limit: int, any_earlier: bool = False
) -> list[int]:
    """The textbook loop over an overlap matrix of boxes sorted by score; ``any_earlier``: removed ones remove too."""
    kept: list[int] = []
    for i in range(len(overlap)):
        rivals = range(i) if any_earlier else kept
        if all(overlap[i, k] <= iou or (labels is not None and labels[i] != labels[k]) for k in rivals):
            kept.append(i)
    return kept[:limit]


def crowd(n: int, clusters: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in heaps, as a detector gives them: float32 ``[n, 4]`` and labels."""
    rng = np.random.default_rng(seed)
    heap = rng.integers(0, clusters, n)
    centre = (rng.random((clusters, 2)) * 500)[heap] + rng.normal(0, 5, (n, 2))
    size = (20 + rng.random((clusters, 2)) * 150)[heap] * np.exp(rng.normal(0, 0.1, (n, 2)))
    labels = np.where(rng.random(n) < 0.8, heap % classes, rng.integers(0, classes, n))
    return np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32), labels


def turned(boxes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Axis-aligned boxes as rotated ones, with small random angles."""
    angle = np.random.default_rng(seed).normal(0, 0.3, len(boxes))
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([centre, size, angle]).astype(np.float32)


# ---- overlap ----------------------------------------------------------------------------------------------------


def test_box_iou_agrees_with_a_loop() -> None:
    a, b = crowd(40, 4, 3, 0)[0].astype(float), crowd(30, 4, 3, 0)[0].astype(float)
    expected = [[slow_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-12)
    point = np.array([[5.0, 5, 5, 5]])
    assert box_iou(point, point) == 0
    assert box_iou(np.zeros((0, 4)), b).shape == (0, 30)


def gaussian_density(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    x, y, w, h, angle = box
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    covariance = turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T
    offset = points - [x, y]
    power = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset)
    return np.exp(-power / 2) / (2 * math.pi * math.sqrt(np.linalg.det(covariance)))


def test_probiou_is_one_minus_the_hellinger_distance_of_the_densities() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack([rng.normal(0, 4, (8, 2)), 6 + rng.random((8, 2)) * 14, rng.random(8) * 3])
    axis = np.linspace(-60, 60, 601)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    roots = np.sqrt([gaussian_density(b, points) for b in boxes])
    coefficient = roots @ roots.T * (axis[1] - axis[0]) ** 2  # Bhattacharyya's, integrated numerically
    expected = 1 - np.sqrt(np.clip(1 - coefficient, 0, None))
    # The square root is steep at 0, where boxes are equal: compare those apart.
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(probiou(boxes, boxes)[off], expected[off], atol=1e-6)
    np.testing.assert_allclose(np.diag(probiou(boxes, boxes)), 1, atol=1e-6)


def test_probiou_of_a_shifted_box_in_closed_form() -> None:
    shift = np.array([0.0, 1, 5, 10, 30, 1000])
    moved = np.column_stack([shift, np.zeros(6), np.full(6, 20.0), np.full(6, 8.0), np.zeros(6)])
    distance = shift**2 / (8 * 20**2 / 12)
    expected = 1 - np.sqrt(1 - np.exp(-distance))
    np.testing.assert_allclose(probiou(moved[:1], moved)[0], expected, atol=1e-9)


def test_probiou_does_not_mind_how_a_box_is_written() -> None:
    boxes = turned(crowd(30, 4, 3, 1)[0], 1)
    swapped = boxes[:, [0, 1, 3, 2, 4]] + np.array([0, 0, 0, 0, math.pi / 2])
    np.testing.assert_allclose(probiou(swapped, boxes), probiou(boxes, boxes), atol=1e-5)
    np.testing.assert_allclose(probiou(regularise(boxes), boxes), probiou(boxes, boxes), atol=1e-5)


def test_probiou_orders_pairs_as_polygon_iou_does() -> None:
    boxes = turned(crowd(40, 3, 3, 2)[0], 2)

    def polygon_iou(a: np.ndarray, b: np.ndarray) -> float:
        first, second = ((tuple(x[:2].tolist()), tuple(x[2:4].tolist()), math.degrees(x[4])) for x in (a, b))
        _, shape = cv2.rotatedRectangleIntersection(first, second)
        shared = cv2.contourArea(cv2.convexHull(shape)) if shape is not None and len(shape) > 2 else 0.0
        return shared / (a[2] * a[3] + b[2] * b[3] - shared)

    exact = np.array([polygon_iou(boxes[0], b) for b in boxes[1:]])
    soft = probiou(boxes[:1], boxes[1:])[0]
    close = exact > 0.2
    assert close.sum() > 5
    assert np.corrcoef(exact[close], soft[close])[0, 1] > 0.8
    assert (soft[exact == 0] < 0.35).all()


# ---- rotated boxes ----------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.floats(0.5, 500), st.floats(0.5, 500), st.floats(-20, 20))
def test_regularise_keeps_the_shape_and_bounds_the_angle(w: float, h: float, angle: float) -> None:
    box = np.array([[100.0, 50.0, w, h, angle]])
    found = regularise(box)
    assert found.dtype == np.float32
    assert found[0, 2] >= found[0, 3]
    assert -math.pi / 2 <= float(found[0, 4]) < math.pi / 2
    before, after = corners(box)[0], corners(found)[0]
    nearest = np.abs(before[:, None] - after).max(2).min(1)  # the corners, in whichever order
    assert nearest.max() < 1e-2


@pytest.mark.parametrize("angle", [k * math.pi / 4 for k in range(-9, 10)])
def test_regularise_at_the_ends_of_the_range(angle: float) -> None:
    for shift in (-1e-7, -1e-15, 0, 1e-15, 1e-7):
        found = float(regularise(np.array([[0, 0, 9, 3, angle + shift]]))[0, 4])
        assert -math.pi / 2 <= found < math.pi / 2
        assert abs(math.sin(found - angle)) < 1e-6


def test_corners_agree_with_opencv() -> None:
    for x, y, w, h, angle in turned(crowd(20, 4, 3, 3)[0], 3).tolist():
        expected = cv2.boxPoints(((x, y), (w, h), math.degrees(angle)))
        found = corners(np.array([[x, y, w, h, angle]]))[0]
        assert np.abs(found[:, None] - expected).max(2).min(1).max() < 1e-2
        np.testing.assert_allclose(enclosing(np.array([[x, y, w, h, angle]]))[0],
                                   [*expected.min(0), *expected.max(0)], atol=1e-2)  # fmt: skip
    first = corners(np.array([[10, 10, 8, 4, 0]]))[0]
    np.testing.assert_allclose(first, [[6, 8], [14, 8], [14, 12], [6, 12]])
    # Clockwise positive: the right end of a box turned by a little goes down.
    assert corners(np.array([[10, 10, 8, 4, 0.1]]))[0, 1, 1] > 8


# ---- suppression ------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.data())
def test_nms_on_whole_numbers_is_exactly_the_loop(data: st.DataObject) -> None:
    # Whole pixels and thresholds that are powers of two: overlaps equal to the threshold do occur.
    n = data.draw(st.integers(0, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    start = rng.integers(0, 6, (n, 2))
    boxes = np.concatenate([start, start + rng.integers(1, 9, (n, 2))], 1).astype(np.float32)
    labels = None if data.draw(st.booleans()) else rng.integers(0, 3, n)
    iou = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    limit = data.draw(st.sampled_from([1, 5, 300]))
    overlap = np.array([[slow_iou(a, b) for b in boxes] for a in boxes.astype(float)]).reshape(n, n)
    assert nms(boxes, labels, iou, limit).tolist() == slow_nms(overlap, labels, iou, limit)


@pytest.mark.parametrize(("n", "clusters"), [(1, 1), (127, 3), (128, 3), (129, 3), (700, 5), (1500, 40)])
@pytest.mark.parametrize("agnostic", [False, True])
def test_nms_of_many_boxes_is_the_loop(n: int, clusters: int, agnostic: bool) -> None:
    boxes, labels = crowd(n, clusters, 4, n)
    given_labels = None if agnostic else labels
    expected = slow_nms(box_iou(boxes, boxes), given_labels, 0.6, 10**9)
    assert nms(boxes, given_labels, 0.6, 10**9).tolist() == expected
    assert nms(boxes, given_labels, 0.6, 7).tolist() == expected[:7]

    rotated = turned(boxes)
    expected = slow_nms(probiou(rotated, rotated), given_labels, 0.6, 10**9, any_earlier=True)
    assert nms(rotated, given_labels, 0.6, 10**9).tolist() == expected


def test_nms_agrees_with_opencv() -> None:
    boxes, labels = crowd(3000, 40, 5, 4)
    scores = np.linspace(0.99, 0.01, len(boxes))
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(float)
    expected = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), labels.tolist(), 0.0, 0.7)
    assert nms(boxes, labels, 0.7, 10**9).tolist() == sorted(expected)


def test_nms_of_a_long_chain_alternates() -> None:
    # Each box overlaps the next only: the loop keeps every other one, however long the chain.
    start = np.arange(1000, dtype=np.float32)[:, None] * 4
    boxes = np.concatenate([start, start * 0, start + 10, start * 0 + 10], 1)
    assert box_iou(boxes[:1], boxes[1:3])[0].tolist() == pytest.approx([6 / 14, 2 / 18])
    assert nms(boxes, None, 0.3, 10**9).tolist() == list(range(0, 1000, 2))


def test_the_limits_of_the_threshold() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [9, 9, 20, 20]], np.float32)
    assert nms(boxes, None, 1.0, 9).tolist() == [0, 1, 2]
    assert nms(boxes, None, 0.0, 9).tolist() == [0]
    rotated = turned(boxes)
    assert nms(rotated, None, 1.0, 9).tolist() == [0, 1, 2]
    assert nms(rotated, None, 0.0, 9).tolist() == [0]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_what_is_written_in_a_form_is_read_back(name: str) -> None:
    corners = np.array([[1.0, 2.0, 5.0, 10.0], [0.0, 0.0, 3.0, 1.0]])
    written = FORMS[name].write(corners)
    expected = {"xyxy": [1, 2, 5, 10], "cxcywh": [3, 6, 4, 8], "xywh": [1, 2, 4, 8], "yxyx": [2, 1, 10, 5]}
    assert written[0].tolist() == expected[name]
    np.testing.assert_allclose(FORMS[name].read(written), corners)
