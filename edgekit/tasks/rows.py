"""One row of a text label as a task reads it, and the rules that all tasks share: what counts as on the image, and
what as having an area.

A row is used as it stands where it lies on the image, clipped where it reaches a little beyond, and refused where it
lies so far out that it was hardly written in fractions of the image.

    points, beyond = clip_points(points)          # [P, 2]; beyond = 0.02: reached 2 % off the image
    stacked([0, 2], [first, second])              # the Labels of an image with these two rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from edgekit.metrics.labels import Labels, shoelace

ROUNDING = 1e-3  # labels are printed with few decimals: this much off the image is not worth a word
FAR = 0.5  # beyond this the file is not normalised, or it is another image's
SMALLEST = 1e-9  # area, as a fraction of the image, under which there is nothing to see
OFF_IMAGE = "far outside 0 to 1, so no fraction of the image; left out"


class BadRow(Exception):
    """Raised by ``tasks/<task>/labels.py`` for a row that cannot be used: a kind of ``data.issues`` and a message."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Row(NamedTuple):
    """One object of a normalised text file, parsed; fractions of the image.

    ``box`` is x1, y1, x2, y2; ``polygon`` [P, 2]; ``keypoints`` [P, 3]; ``corners`` [4, 2]; ``clipped`` how far the
    object reached beyond the image before it was clipped, as a fraction of the image; ``mended`` what else was put
    right, for a warning of the kind ``crossing``.
    """

    box: tuple[float, float, float, float]
    polygon: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    corners: np.ndarray | None = None
    clipped: float = 0.0
    mended: str = ""


# A task's reader: a row's numbers after the class and the set's (points, values per point), if any. Raises BadRow.
ParseRow = Callable[[Sequence[float], "tuple[int, int] | None"], Row]


def stacked(classes: Sequence[int], rows: Sequence[Row]) -> Labels:
    """The labels of one image; the optional arrays exist where the rows carry them."""
    count = len(rows)
    polygons = tuple((row.polygon,) for row in rows if row.polygon is not None)
    keypoints = [row.keypoints for row in rows if row.keypoints is not None]
    corners = [row.corners for row in rows if row.corners is not None]
    return Labels(
        classes=np.array(classes, np.int64),
        boxes=np.array([row.box for row in rows], np.float64).reshape(count, 4),
        crowd=np.zeros(count, bool),
        area=np.full(count, np.nan),
        polygons=polygons or None,
        keypoints=np.stack(keypoints) if keypoints else None,
        corners=np.stack(corners) if corners else None,
    )


def clip_points(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Points [P, 2] clipped to the image, and how far off it the farthest lay (fractions of the image).

    Raises:
        BadRow: farther off than ``FAR``.
    """
    low, high = float(points.min()), float(points.max())
    beyond = max(-low, high - 1.0, 0.0)
    if beyond > FAR:
        raise BadRow("range", f"the coordinate {low if -low >= beyond else high:g} is {OFF_IMAGE}")
    return (np.clip(points, 0.0, 1.0) if beyond else points), beyond


def clip_box(x1: float, y1: float, x2: float, y2: float) -> tuple[tuple[float, float, float, float], float]:
    """A box clipped to the image, and how far off it reached; plain floats because it is called once a row.

    Raises:
        BadRow: farther off than ``FAR``, or nothing left.
    """
    low, high = min(x1, y1, x2, y2), max(x1, y1, x2, y2)
    beyond = max(-low, high - 1, 0.0)
    if beyond > FAR:
        raise BadRow("range", f"an edge at {low if -low >= beyond else high:g} is {OFF_IMAGE}")
    if beyond:
        x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in (x1, y1, x2, y2))
    if (x2 - x1) * (y2 - y1) < SMALLEST or x2 <= x1:
        raise BadRow("degenerate", f"a box {x2 - x1:g} wide and {y2 - y1:g} high has no area; left out")
    return (x1, y1, x2, y2), beyond


def centred_box(values: Sequence[float]) -> tuple[tuple[float, float, float, float], float]:
    """Centre, width and height to ``clip_box``'s answer."""
    x, y, w, h = values
    return clip_box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def extent(points: np.ndarray) -> tuple[float, float, float, float]:
    """The box x1, y1, x2, y2 around points [P, 2]."""
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    return x1, y1, x2, y2


def outline(values: Sequence[float], least: int, what: str) -> tuple[np.ndarray, float]:
    """x, y, x, y, … as a polygon [P, 2] on the image, and how far off it reached.

    Raises:
        BadRow: an odd count, fewer points than ``least``, far off the image, or no area.
    """
    if len(values) % 2 or len(values) < 2 * least:
        raise BadRow("malformed", f"{len(values)} numbers after the class are no {what}; left out")
    points, beyond = clip_points(np.array(values, np.float64).reshape(-1, 2))
    if shoelace(points) < SMALLEST:
        to_a, to_b = points[1:-1] - points[0], points[2:] - points[0]
        fan = np.abs(to_a[:, 0] * to_b[:, 1] - to_a[:, 1] * to_b[:, 0]).sum() / 2  # parts cannot cancel out here
        how = "that crosses itself, so that its parts cancel out" if fan >= SMALLEST else "without area"
        raise BadRow("degenerate", f"a {what} {how}; left out")
    return points, beyond
