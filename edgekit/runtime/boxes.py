"""Geometry of boxes: overlap, corners of rotated boxes and non-maximum suppression. Numpy only.

Used wherever finished boxes are compared: post-processing, scoring and drawing. Rows are boxes: ``[N, 4]`` x1, y1,
x2, y2 or, rotated, ``[N, 5]`` centre x, centre y, width, height, angle (radians, clockwise positive, as image
axes run). Functions that take either tell them apart by the number of columns.

    keep = nms(boxes_sorted_by_score, labels, iou=0.7, limit=300)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = np.ndarray
Floats = NDArray[np.floating]

BLOCK = 128  # candidates that NMS settles at once: fastest of 128, 256 and 512 from 10 to 30,000 candidates
HALF_PI = 1.5707962  # the largest float32 below pi/2 is 1.57079625
_CORNER_PAIRS = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)])


def box_iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union of every pair: ``[N, 4]``, ``[M, 4]`` -> ``[N, M]``; 0 where both areas are 0."""
    intersection, union = _intersection_and_union(a, b)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def probiou(a: Floats, b: Floats) -> Floats:
    """Probabilistic IoU of every pair of rotated boxes: ``[N, 5]``, ``[M, 5]`` -> float64 ``[N, M]`` in 0..1.

    Each box stands for a Gaussian with its centre and the covariance of the uniform distribution on it; the value is
    one minus the Hellinger distance (Llerena et al., *Gaussian Bounding Boxes and Probabilistic
    Intersection-over-Union for Object Detection*, arXiv 2106.06072). Widths and heights must be positive.
    """
    return 1 - np.sqrt(-np.expm1(-np.maximum(_bhattacharyya(a, b), 0)))


def _centred(boxes: Array) -> Array:
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], -1)


def _from_centre(boxes: Array) -> Array:
    centre, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], -1)


def _sized(boxes: Array) -> Array:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def _from_size(boxes: Array) -> Array:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def _same(boxes: Array) -> Array:
    return boxes


def _turned(boxes: Array) -> Array:
    swapped: Array = boxes[..., [1, 0, 3, 2]]
    return swapped


@dataclass(frozen=True)
class Form:
    """A way to write axis-aligned boxes: what it is ``called``, and functions of ``[..., 4]`` that ``write`` corners
    x1, y1, x2, y2 in it and ``read`` them back."""

    called: str
    write: Callable[[Array], Array]
    read: Callable[[Array], Array]


FORMS = {
    "xyxy": Form("corners (x1, y1, x2, y2)", _same, _same),
    "cxcywh": Form("centre and size (cx, cy, w, h)", _centred, _from_centre),
    "xywh": Form("corner and size (x, y, w, h)", _sized, _from_size),
    "yxyx": Form("corners with y first (y1, x1, y2, x2)", _turned, _turned),
}


def corners(rotated: Array) -> Array:
    """Corner points of rotated boxes: ``[N, 5]`` -> float64 ``[N, 4, 2]``, clockwise from its own top left."""
    cx, cy, w, h, angle = np.asarray(rotated, np.float64).reshape(-1, 5).T
    along = np.stack([np.cos(angle) * w, np.sin(angle) * w], -1) / 2
    across = np.stack([-np.sin(angle) * h, np.cos(angle) * h], -1) / 2
    centre = np.stack([cx, cy], -1)
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across], 1
    )


def enclosing(rotated: Array) -> Array:
    """Axis-aligned boxes around rotated ones: ``[N, 5]`` -> float64 ``[N, 4]`` x1, y1, x2, y2."""
    points = corners(rotated)
    return np.concatenate([points.min(1), points.max(1)], 1)


def regularise(rotated: Array) -> Array:
    """The same rotated boxes written with width >= height and the angle in [-pi/2, pi/2): float32 ``[N, 5]``."""
    cx, cy, w, h, angle = np.asarray(rotated, np.float64).reshape(-1, 5).T
    tall = h > w
    angle = (angle + np.where(tall, math.pi / 2, 0) + math.pi / 2) % math.pi - math.pi / 2
    # Rounding to float32 may step over either end of the half-open range, hence the last word to clip.
    angle = np.clip(angle.astype(np.float32), np.float32(-HALF_PI), np.float32(HALF_PI))
    return np.stack([cx, cy, np.maximum(w, h), np.minimum(w, h), angle], 1).astype(np.float32)


def nms(boxes: Array, labels: Array | None, iou: float, limit: int) -> Array:
    """Non-maximum suppression: the indices of the boxes that stay, at most ``limit`` of them, ascending.

    Axis-aligned boxes: greedy. A box goes when an earlier one *that stays* has the same label and overlaps it by more
    than ``iou``: exactly what the textbook loop gives, but settled a block at a time.

    Rotated boxes: a box goes when *any* earlier one of its label overlaps it by more than ``iou``, measured as
    probabilistic IoU, whether that one stays or not (Fast NMS, YOLACT, arXiv 1904.02689, section 3.3). Published
    oriented models are measured so, and the Gaussian overlap of long thin boxes falls off so quickly that chains of
    near-duplicates would survive the greedy rule.

    Args:
        boxes: ``[N, 4]`` or rotated ``[N, 5]``, finite, sides positive, **best score first**.
        labels: ``[N]`` class of each box, or None to let boxes of any class suppress each other.
        iou: overlap above which a box is a duplicate, 0..1.
        limit: stop after so many boxes.
    """
    conflict = _conflicts(boxes, labels, iou)
    any_earlier = boxes.shape[1] == 5
    kept = np.zeros(0, np.intp)
    with np.errstate(all="ignore"):  # vanishing or gigantic sides overlap nothing, quietly
        for start in range(0, len(boxes), BLOCK):
            block = np.arange(start, min(start + BLOCK, len(boxes)))
            if any_earlier:
                alone = ~conflict(np.arange(start), block).any(0) & ~np.triu(conflict(block, block), 1).any(0)
                kept = np.concatenate([kept, block[alone]])
            else:
                block = block[~conflict(kept, block).any(0)] if len(kept) else block
                kept = np.concatenate([kept, block[_survivors(conflict(block, block))]])
            if len(kept) >= limit:
                break
    return kept[:limit]


def _survivors(conflict: Array) -> Array:
    """Which of n boxes greedy suppression keeps: bool ``[n]`` from their symmetric bool ``[n, n]`` conflicts.

    Starts with everybody alive and lets the living suppress those behind them until nothing changes. After round k
    the first k verdicts are final (box k depends on earlier ones only), so the fixed point is the greedy answer; it
    comes after as many rounds as the longest chain "a removes b, which would have removed c", in practice a few.
    """
    earlier = np.triu(conflict, 1).astype(np.float32)
    alive = np.ones(len(conflict), np.float32)
    while True:
        verdict = (alive @ earlier == 0).astype(np.float32)
        if np.array_equal(verdict, alive):
            return alive.astype(bool)
        alive = verdict


def _conflicts(boxes: Array, labels: Array | None, iou: float) -> Callable[[Array, Array], Array]:
    """A function from two index arrays to the bool matrix "these two cannot both stay"."""
    rotated = boxes.shape[1] == 5
    # 1 - sqrt(1 - exp(-d)) > iou, solved for the distance d: no square root and exponential for every pair.
    nearer = -math.log1p(-((1 - iou) ** 2)) if iou > 0 else math.inf

    def conflict(i: Array, j: Array) -> Array:
        if rotated:
            found = _bhattacharyya(boxes[i], boxes[j]) < nearer
        else:
            intersection, union = _intersection_and_union(boxes[i], boxes[j])
            found = intersection > np.float32(iou) * union
        return found if labels is None else found & (labels[i][:, None] == labels[j])

    return conflict


def _intersection_and_union(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    ax1, ay1, ax2, ay2 = a.T[:, :, None]
    bx1, by1, bx2, by2 = b.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    intersection = width * height
    return intersection, (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - intersection


def _bhattacharyya(a: Floats, b: Floats) -> Floats:
    """Bhattacharyya distance of every pair of Gaussian boxes (equations 2 to 5 of arXiv 2106.06072)."""
    xa, ya, pa, qa, ra, da = (v[:, None] for v in _gaussian(a))
    xb, yb, pb, qb, rb, db = _gaussian(b)
    p, q, r, dx, dy = pa + pb, qa + qb, ra + rb, xa - xb, ya - yb
    determinant = p * q - r * r
    separation = (p * dy * dy + q * dx * dx - 2 * r * dx * dy) / (4 * determinant)
    distance: Floats = separation + 0.5 * np.log(determinant / (4 * np.sqrt(da * db)))
    return distance


def _gaussian(boxes: Floats) -> tuple[NDArray[np.float64], ...]:
    """Centre x, y, covariance xx, yy, xy and its determinant, each ``[N]`` float64."""
    x, y, w, h, angle = np.asarray(boxes, np.float64).T
    along, across, cos, sin = w * w / 12, h * h / 12, np.cos(angle), np.sin(angle)
    xx = along * cos * cos + across * sin * sin
    yy = along * sin * sin + across * cos * cos
    return x, y, xx, yy, (along - across) * cos * sin, along * across


def rotated_from_corners(corners_N42: Array) -> Array:
    """[N, 5] the rectangle of least area around each four corners [N, 4, 2] in pixels, the inverse of ``corners``.

    w >= h; θ is the direction of the long side in radians in [-π/2, π/2). Angles are only meaningful in pixels:
    scale normalised corners first.

    That rectangle shares a side's direction with the corners' convex hull, so the six lines through two corners are
    all there is to try (Freeman and Shapira, 1975).
    """
    corners_N42 = np.asarray(corners_N42, np.float64).reshape(-1, 4, 2)
    if not len(corners_N42):
        return np.zeros((0, 5))
    sides_N62 = corners_N42[:, _CORNER_PAIRS[:, 1]] - corners_N42[:, _CORNER_PAIRS[:, 0]]
    angle_N6 = np.arctan2(sides_N62[..., 1], sides_N62[..., 0])
    axis_N62 = np.stack([np.cos(angle_N6), np.sin(angle_N6)], -1)
    normal_N62 = np.stack([-axis_N62[..., 1], axis_N62[..., 0]], -1)
    along_N64 = np.einsum("nkd,npd->nkp", axis_N62, corners_N42)
    across_N64 = np.einsum("nkd,npd->nkp", normal_N62, corners_N42)
    width_N6, height_N6 = np.ptp(along_N64, -1), np.ptp(across_N64, -1)
    # Two equal corners make no line; the others then suffice.
    area_N6 = np.where(np.abs(sides_N62).sum(-1) > 0, width_N6 * height_N6, np.inf)
    best = area_N6.argmin(1)
    n = np.arange(len(best))
    middle = [(v[n, best].max(1) + v[n, best].min(1)) / 2 for v in (along_N64, across_N64)]
    centre_N2 = axis_N62[n, best] * middle[0][:, None] + normal_N62[n, best] * middle[1][:, None]
    width_N, height_N, angle_N = (v[n, best] for v in (width_N6, height_N6, angle_N6))
    angle_N = (angle_N + np.where(height_N > width_N, np.pi, np.pi / 2)) % np.pi - np.pi / 2
    angle_N = np.where(angle_N < np.pi / 2, angle_N, -np.pi / 2)  # a hair below 0 modulo π rounds to π itself
    return np.column_stack([centre_N2, np.maximum(width_N, height_N), np.minimum(width_N, height_N), angle_N])
