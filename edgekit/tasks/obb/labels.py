"""Oriented boxes' labels, ``class x1 y1 x2 y2 x3 y3 x4 y4`` (four corners in order, fractions of the image), and how
predictions are scored.

    parse_row([0.1, 0.2, 0.5, 0.2, 0.5, 0.4, 0.1, 0.4]).corners      # [4, 2]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.objects import rotated_scores
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Prediction
from edgekit.metrics.scores import Scores
from edgekit.metrics.ultralytics import peer_rotated
from edgekit.tasks.rows import BadRow, Row, clip_box, extent, outline

_Point = tuple[float, float]


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    """One row's numbers after the class; corners off the image are clipped to it one by one, and put in order around
    the box where the lines between them cross.

    Raises:
        BadRow: other than eight numbers, far off the image, or without area.
    """
    if len(values) != 8:
        raise BadRow(
            "malformed",
            f"{len(values)} numbers after the class, an oriented box has 8 (x, y of 4 corners) "
            "or 5 (cx, cy, w, h, angle); left out",
        )
    a, b, c, d = zip(values[::2], values[1::2], strict=True)
    mended = ""
    if _cross(a, b, c, d) or _cross(b, c, d, a):
        points = np.array(values, np.float64).reshape(4, 2)
        x, y = (points - points.mean(0)).T
        values = points[np.argsort(np.arctan2(y, x))].reshape(-1).tolist()
        mended = "the lines between its corners cross; the corners were put in order"
    corners, beyond = outline(values, 4, "oriented box")
    box, _ = clip_box(*extent(corners))
    return Row(box, corners=corners, clipped=beyond, mended=mended)


def _cross(a: _Point, b: _Point, c: _Point, d: _Point) -> bool:
    """Do the lines from a to b and from c to d cross between their ends?"""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: _Point, b: _Point, point: _Point) -> float:
    return (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    """Average precision of oriented boxes; see ``edgekit.verify.evaluate.score``."""
    if options.protocol == "ultralytics":
        return peer_rotated(dataset, predictions)
    return rotated_scores(dataset, predictions, options.rotated_iou)
