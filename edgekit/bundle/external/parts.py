"""What finished detections have beside boxes and labels: masks, keypoints, angles. How alike they are, and what a fault
makes of them.

    alike(want, have, rows, partners)                       # 1.0 each where masks and keypoints are the same
    faulty(result, fault, geometry, (640, 640), True)       # in place
"""

from __future__ import annotations

import math

import numpy as np

from edgekit.bundle.external.faults import Array, Fault
from edgekit.metrics.overlap import keypoint_similarity
from edgekit.runtime.boxes import regularise
from edgekit.runtime.image import Geometry
from edgekit.runtime.masks import Crop, Masks
from edgekit.runtime.results import Result

ENOUGH = 0.8  # overlap of masks, likeness of keypoints: what sound programs differ by counts as the same
GRID = 32  # places a side, at which two masks are compared
SIGMA = 0.05  # of every keypoint: 10 % of the object's size costs 0.4
SURE = 0.5  # keypoints below are of no meaning


def alike(want: Result, have: Result, rows: Array, partners: Array) -> Array:
    """[K] how alike the objects ``rows`` of ``want`` and ``partners`` of ``have`` are in what both have, 0..1."""
    found = np.ones(len(rows))
    if not len(rows):
        return found
    if want.keypoints is not None and have.keypoints is not None:
        found *= _lenient(_keypoints(want, have, rows, partners))
    if want.masks is not None and have.masks is not None:
        pairs = zip(rows, partners, strict=True)
        shares = [_overlap(want.masks.crops[a], have.masks.crops[b]) for a, b in pairs]
        found *= _lenient(np.array(shares))
    return found


def _lenient(likeness: Array) -> Array:
    kept: Array = np.minimum(likeness / ENOUGH, 1.0)
    return kept


def _keypoints(want: Result, have: Result, rows: Array, partners: Array) -> Array:
    """[K] the mean of a Gaussian of the distance, over keypoints that ``want`` is sure of."""
    assert want.keypoints is not None and have.keypoints is not None and want.boxes is not None
    right, given = want.keypoints[rows].astype(np.float64), have.keypoints[partners].astype(np.float64)
    if right.shape[1] != given.shape[1]:
        return np.zeros(len(rows))
    sure = right[..., 2] > SURE
    right[..., 2] = np.where(sure.any(1, keepdims=True), sure, True)
    area = np.prod(want.boxes[rows][:, 2:] - want.boxes[rows][:, :2], axis=1)
    given = np.nan_to_num(given, nan=1e9)[..., :2]
    found = keypoint_similarity(given, right, area, np.full(right.shape[1], SIGMA))
    return np.array([found[i, i] for i in range(len(found))])


def _overlap(one: Crop, other: Crop) -> float:
    """IoU of two masks, at ``GRID`` places a side over both; of two that are empty 1."""
    spans = [span for span in (_span(one), _span(other)) if span is not None]
    if len(spans) < 2:
        return float(not spans)
    x1, y1 = np.min(spans, 0)[:2]
    x2, y2 = np.max(spans, 0)[2:]
    xs, ys = (np.floor(a + (np.arange(GRID) + 0.5) * (b - a) / GRID).astype(int) for a, b in ((x1, x2), (y1, y2)))
    a, b = _at(one, xs, ys), _at(other, xs, ys)
    return float((a & b).sum() / max((a | b).sum(), 1))


def _span(crop: Crop) -> tuple[int, int, int, int] | None:
    """The pixels that are set, x1, y1, x2, y2 in the image."""
    rows, columns = np.flatnonzero(crop.pixels.any(1)), np.flatnonzero(crop.pixels.any(0))
    if not len(rows):
        return None
    return (crop.left + columns[0], crop.top + rows[0], crop.left + columns[-1] + 1, crop.top + rows[-1] + 1)


def _at(crop: Crop, xs: Array, ys: Array) -> Array:
    """The mask at pixels ``ys`` x ``xs``; nothing outside the crop."""
    height, width = crop.pixels.shape
    rows, columns = ys - crop.top, xs - crop.left
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    if not height or not width:
        return np.asarray(inside)
    found = crop.pixels[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)]
    return np.asarray(found & inside)


# ---- faults ----------------------------------------------------------------------------------------------------------


def faulty(result: Result, fault: Fault, geometry: Geometry, size: tuple[int, int], program: bool) -> None:
    """Change what ``fault`` is about, of a result that is right else.

    Args:
        geometry: where the picture lies on the canvas of ``size`` (H, W).
        program: a program around the network has the fault, which writes in the picture's pixels; else the file has it,
            in those of its input.
    """
    wrong = fault.lies(geometry, size) if fault.lies else None
    if wrong is not None and fault.part == "masks" and result.masks is not None:
        crops = tuple(_moved(crop, geometry, wrong) for crop in result.masks.crops)
        result.masks = Masks(result.masks.size, crops)
    if fault.part == "keypoints" and result.keypoints is not None:
        places = result.keypoints[..., :2]
        if wrong is not None:
            places = wrong.points_to_image(geometry.points_to_canvas(places))
        if fault.points and program:
            places = fault.points(places, result.shape)
        elif fault.points:
            places = geometry.points_to_image(fault.points(geometry.points_to_canvas(places), size))
        result.keypoints = np.concatenate([places, result.keypoints[..., 2:]], -1)
    if fault.turns and result.rotated_boxes is not None:
        result.rotated_boxes = regularise(fault.turns(result.rotated_boxes))


def _moved(crop: Crop, right: Geometry, wrong: Geometry) -> Crop:
    """The mask that lies right, where a program puts it that takes the picture to lie ``wrong``."""
    height, width = crop.pixels.shape
    xs = _line((crop.left, width, right.width), (right.scale_x, right.left), (wrong.scale_x, wrong.left))
    ys = _line((crop.top, height, right.height), (right.scale_y, right.top), (wrong.scale_y, wrong.top))
    return Crop(xs[0], ys[0], _at(crop, xs[1], ys[1]))


def _line(span: tuple[int, int, int], right: tuple[float, float], wrong: tuple[float, float]) -> tuple[int, Array]:
    """Along one side, of a crop's start and length and the picture's length: where the moved crop begins, and which
    pixel of the picture each of its pixels shows."""
    (start, length, whole), (scale, offset), (scale_, offset_) = span, right, wrong
    first = max(math.floor((start * scale + offset - offset_) / scale_), 0)
    last = min(math.ceil(((start + length) * scale + offset - offset_) / scale_), whole)
    centres = np.arange(first, max(last, first)) + 0.5
    return first, np.floor((centres * scale_ + offset_ - offset) / scale).astype(int)
