"""Overlap of oriented boxes [cx, cy, w, h, θ]: probabilistic, and exact.

    probabilistic_iou(predicted_N5, true_M5)      # [N, M], smooth, cheap, never quite zero
    polygon_iou(predicted_N5, true_M5)            # [N, M], areas of the intersections

θ in radians, clockwise positive in image axes (y down). N predictions, M objects, K pairs.
"""

from __future__ import annotations

import numpy as np

from edgekit.runtime.boxes import corners, probiou

_PAIRS = 20_000  # pairs of boxes intersected at a time: bounds the memory


def probabilistic_iou(boxes_N5: np.ndarray, truth_M5: np.ndarray) -> np.ndarray:
    """[N, M] ``runtime.boxes.probiou`` (arXiv 2106.06072); sides under a thousandth of a pixel count as that."""
    least = np.array([-np.inf, -np.inf, 1e-3, 1e-3, -np.inf])
    return probiou(np.maximum(boxes_N5, least), np.maximum(truth_M5, least))


def polygon_iou(boxes_N5: np.ndarray, truth_M5: np.ndarray) -> np.ndarray:
    """[N, M] intersection over union of the rectangles' areas; pairs too far apart to touch are skipped."""
    radius_N, radius_M = (np.hypot(b[:, 2], b[:, 3]) / 2 for b in (boxes_N5, truth_M5))
    apart_NM = np.hypot(boxes_N5[:, None, 0] - truth_M5[:, 0], boxes_N5[:, None, 1] - truth_M5[:, 1])
    n, m = np.nonzero(apart_NM < radius_N[:, None] + radius_M)
    corners_N, corners_M = corners(boxes_N5), corners(truth_M5)
    inter_NM = np.zeros(apart_NM.shape)
    for start in range(0, len(n), _PAIRS):
        part = slice(start, start + _PAIRS)
        inter_NM[n[part], m[part]] = _intersection(corners_N[n[part]], corners_M[m[part]])
    area_N, area_M = boxes_N5[:, 2] * boxes_N5[:, 3], truth_M5[:, 2] * truth_M5[:, 3]
    whole_NM = area_N[:, None] + area_M - inter_NM
    iou_NM: np.ndarray = inter_NM / np.maximum(whole_NM, np.finfo(float).tiny)
    return iou_NM


def _intersection(first_K42: np.ndarray, second_K42: np.ndarray) -> np.ndarray:
    """[K] area common to pairs of rectangles given by their corners.

    The common part is convex and its corners are among 24 points: corners of one inside the other, and crossings of
    sides. They are put in order around their mean; points that are no corners sit on one that is and add no area.
    """
    origin = first_K42.mean(1, keepdims=True)  # small numbers keep the cross products exact
    a, b = first_K42 - origin, second_K42 - origin
    slack = 1e-9 * (np.abs(a).max((1, 2)) + np.abs(b).max((1, 2)))
    crossings, crossed = _crossings(a, b)
    points = np.concatenate([a, b, crossings], 1)
    valid = np.concatenate([_inside(a, b, slack), _inside(b, a, slack), crossed], 1)
    count = valid.sum(1)
    centre = (points * valid[..., None]).sum(1) / np.maximum(count, 1)[:, None]
    spokes = points - centre[:, None]
    some = np.take_along_axis(spokes, valid.argmax(1)[:, None, None], 1)
    spokes = np.where(valid[..., None], spokes, some)
    order = np.arctan2(spokes[..., 1], spokes[..., 0]).argsort(1)
    ring = np.take_along_axis(spokes, order[..., None], 1)
    after = np.roll(ring, -1, 1)
    area = np.abs((ring[..., 0] * after[..., 1] - ring[..., 1] * after[..., 0]).sum(1)) / 2
    return np.where(count >= 3, area, 0.0)


def _inside(points_K42: np.ndarray, box_K42: np.ndarray, slack_K: np.ndarray) -> np.ndarray:
    """[K, 4] bool: is each point in the rectangle, edges included?"""
    corner = box_K42[:, None, 0]
    inside = np.ones(points_K42.shape[:2], bool)
    for end in (1, 3):
        side = box_K42[:, None, end] - corner
        length = np.maximum(np.linalg.norm(side, axis=-1), np.finfo(float).tiny)
        along = ((points_K42 - corner) * side).sum(-1) / length
        inside &= (along >= -slack_K[:, None]) & (along <= length + slack_K[:, None])
    return inside


def _crossings(a_K42: np.ndarray, b_K42: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 16 points [K, 16, 2] where sides cross, and which of them exist [K, 16]."""
    p, r = a_K42[:, :, None], (np.roll(a_K42, -1, 1) - a_K42)[:, :, None]
    q, s = b_K42[:, None], (np.roll(b_K42, -1, 1) - b_K42)[:, None]
    across = r[..., 0] * s[..., 1] - r[..., 1] * s[..., 0]
    parallel = np.abs(across) <= 1e-12 * np.linalg.norm(r, axis=-1) * np.linalg.norm(s, axis=-1)
    across = np.where(parallel, 1.0, across)
    gap = q - p
    t = (gap[..., 0] * s[..., 1] - gap[..., 1] * s[..., 0]) / across
    u = (gap[..., 0] * r[..., 1] - gap[..., 1] * r[..., 0]) / across
    exists = ~parallel & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = p + t[..., None] * r
    return points.reshape(len(points), 16, 2), exists.reshape(len(points), 16)
