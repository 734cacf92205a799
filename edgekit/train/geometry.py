"""One geometry for all that is drawn on an image: boxes, outlines, keypoints and oriented boxes move by one matrix.

An affine ``[2, 3]`` matrix maps x, y in pixels (continuous: 0 is the left edge of the first pixel). ``Objects`` holds
one image's objects and goes through it; whatever an image undergoes is composed into one such matrix first.

    objects = Objects.from_labels(labels.scaled(640, 480))
    matrix = compose(flip_lr(320), scaling(0.5, 0.5))
    objects = objects.transformed(matrix, flip_idx).clipped((320, 320))
    objects.boxes, objects.keypoints, objects.rotated(), objects.index_map((320, 320))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgekit.metrics.labels import Labels, shoelace
from edgekit.runtime.boxes import rotated_from_corners
from edgekit.runtime.masks import decode_rle

Array = NDArray[Any]

SMALLEST = 2.0  # pixels a side under which an object is not worth learning
LEAST_VISIBLE = 0.1  # share of an object's area that must be left on the canvas
MOST_ASPECT = 100.0
FRACTION_BITS = 4  # outlines are drawn to a sixteenth of a pixel


# ---- matrices ---------------------------------------------------------------------------------------------------


def scaling(x: float, y: float, left: float = 0.0, top: float = 0.0) -> Array:
    """Scales by (x, y), then moves by (left, top)."""
    return np.array([[x, 0.0, left], [0.0, y, top]])


def flip_lr(width: float) -> Array:
    """Mirrors left and right of a canvas."""
    return scaling(-1.0, 1.0, width, 0.0)


def flip_ud(height: float) -> Array:
    """Mirrors top and bottom of a canvas."""
    return scaling(1.0, -1.0, 0.0, height)


def compose(after: Array, first: Array) -> Array:
    """One matrix for ``first`` and then ``after``."""
    matrix = after[:, :2] @ first
    matrix[:, 2] += after[:, 2]
    return matrix


def move(matrix: Array, points: Array) -> Array:
    """Points ``[..., 2]`` through a matrix."""
    moved: Array = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


# ---- objects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objects:
    """The N objects on one image or canvas, float64 pixels.

    Attributes:
        classes: [N] int64.
        boxes: [N, 4] x1, y1, x2, y2.
        outlines: per object the parts of its outline, each [P, 2]; None for tasks without.
        keypoints: [N, P, 3] x, y and visibility, or None.
        corners: [N, 4, 2] of oriented boxes, or None.
        layer: [N] int64, higher lies on top; within a layer the smaller object does.
    """

    classes: Array
    boxes: Array
    outlines: tuple[tuple[Array, ...], ...] | None = None
    keypoints: Array | None = None
    corners: Array | None = None
    layer: Array = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def from_labels(cls, labels: Labels) -> Objects:
        """What is to be learnt of an image, in units of ``labels.size``: everything but COCO's crowd regions."""
        if labels.crowd.any():
            labels = labels.select(~labels.crowd)
        if labels.rle is not None and any(labels.rle):
            labels = _with_outlines(labels)
        layer = np.zeros(len(labels), np.int64)
        return cls(labels.classes, labels.boxes, labels.polygons, labels.keypoints, labels.corners, layer)

    @classmethod
    def empty(cls) -> Objects:
        """Nothing."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4)))

    @classmethod
    def joined(cls, groups: Sequence[Objects]) -> Objects:
        """Several images' objects on one canvas; optional fields are those of the groups that hold objects."""
        full = [group for group in groups if len(group)]
        if len(full) < 2:
            return full[0] if full else groups[0]
        stacked = {
            name: np.concatenate([getattr(group, name) for group in full])
            for name in ("classes", "boxes", "keypoints", "corners", "layer")
            if getattr(full[0], name) is not None
        }
        outlines = None
        if full[0].outlines is not None:
            outlines = tuple(parts for group in full for parts in group.outlines or ())
        return cls(outlines=outlines, **stacked)

    def select(self, keep: Array) -> Objects:
        """The objects that a bool mask or indices pick."""
        index = np.flatnonzero(keep) if keep.dtype == bool else keep
        if keep.dtype == bool and len(index) == len(self):
            return self
        return Objects(
            self.classes[index],
            self.boxes[index],
            None if self.outlines is None else tuple(self.outlines[i] for i in index),
            None if self.keypoints is None else self.keypoints[index],
            None if self.corners is None else self.corners[index],
            self.layer[index],
        )

    def transformed(self, matrix: Array, flip_idx: Sequence[int] = ()) -> Objects:
        """The objects where ``matrix`` takes them.

        Boxes are those around the moved outlines where there are any, else around the box's own moved corners. A
        mirroring matrix (negative determinant) turns each keypoint into its counterpart in ``flip_idx``.
        """
        if not len(self):
            return self
        outlines, keypoints, corners = self.outlines, self.keypoints, self.corners
        if keypoints is not None:
            keypoints = np.concatenate([move(matrix, keypoints[..., :2]), keypoints[..., 2:]], -1)
            if len(flip_idx) and np.linalg.det(matrix[:, :2]) < 0:
                keypoints = keypoints[:, list(flip_idx)]
        if corners is not None:
            corners = move(matrix, corners)
            boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
        elif outlines is not None:
            outlines = tuple(tuple(move(matrix, part) for part in parts) for parts in outlines)
            boxes = _extents(outlines)
        else:
            upright = matrix[0, 1] == 0 and matrix[1, 0] == 0  # then two corners say it all
            box_corners = self.boxes if upright else self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]]
            box_corners = move(matrix, box_corners.reshape(len(self), -1, 2))
            boxes = np.concatenate([box_corners.min(1), box_corners.max(1)], 1)
        return Objects(self.classes, boxes, outlines, keypoints, corners, self.layer)

    def clipped(self, size: tuple[int, int]) -> Objects:
        """What is left on a canvas of ``size`` (height, width).

        Boxes and outlines are cut at its edges, keypoints off it become unlabelled, oriented boxes stay whole but go
        when their centre is off. Objects of which too little is left, that are too small or too thin go.
        """
        if not len(self):
            return self
        height, width = size
        x1, y1, x2, y2 = self.boxes.T
        on = (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)
        if self.corners is not None:
            centre = self.corners.mean(1)
            on &= ((centre >= 0) & (centre <= [width, height])).all(1)
        return self.select(on)._clipped(size)

    def _clipped(self, size: tuple[int, int]) -> Objects:
        """The same for objects that are at least partly on the canvas."""
        height, width = size
        whole, cut = self.boxes, np.clip(self.boxes, 0.0, [width, height, width, height])
        share = _areas(cut) / np.maximum(_areas(whole), 1e-12)
        crossing = np.flatnonzero((cut != whole).any(1))
        outlines, keypoints = self.outlines, self.keypoints
        if outlines is not None and len(crossing):
            outlines, share = self._cut_outlines(crossing, share, size)
            cut = cut.copy()
            cut[crossing] = _extents([outlines[i] for i in crossing])
        if keypoints is not None:
            keypoints = keypoints.copy()
            off = ((keypoints[..., :2] < 0) | (keypoints[..., :2] > [width, height])).any(-1)
            keypoints[off | (keypoints[..., 2] <= 0)] = 0.0
        if self.corners is not None:
            sides = np.hypot(*np.moveaxis(self.corners[:, [1, 2]] - self.corners[:, [0, 1]], -1, 0))
            cut, share = whole, self._oriented_share(crossing, size)
        else:
            sides = cut[:, 2:] - cut[:, :2]
        short, long = sides.min(1), sides.max(1)
        keep = (short >= SMALLEST) & (share >= LEAST_VISIBLE) & (long <= MOST_ASPECT * short)
        return Objects(self.classes, cut, outlines, keypoints, self.corners, self.layer).select(keep)

    def _cut_outlines(
        self, crossing: Array, share: Array, size: tuple[int, int]
    ) -> tuple[tuple[tuple[Array, ...], ...], Array]:
        """Outlines of the ``crossing`` objects cut at the canvas, and every object's visible share."""
        assert self.outlines is not None
        outlines, share = list(self.outlines), share.copy()
        for i in crossing:
            before = sum(map(shoelace, outlines[i]))
            outlines[i] = tuple(part for part in (cut_polygon(p, size) for p in outlines[i]) if len(part))
            share[i] = sum(map(shoelace, outlines[i])) / max(before, 1e-12)
        return tuple(outlines), share

    def _oriented_share(self, crossing: Array, size: tuple[int, int]) -> Array:
        """The visible share of oriented boxes."""
        assert self.corners is not None
        share = np.ones(len(self))
        for i in crossing:
            inside = cut_polygon(self.corners[i], size)
            share[i] = shoelace(inside) / max(shoelace(self.corners[i]), 1e-12) if len(inside) else 0.0
        return share

    def rotated(self) -> Array:
        """Oriented boxes [N, 5]: centre, width >= height, angle in [-π/2, π/2)."""
        return rotated_from_corners(np.zeros((0, 4, 2)) if self.corners is None else self.corners)

    def index_map(self, size: tuple[int, int], stride: int = 4) -> Array:
        """int16 ``[H / stride, W / stride]``: 0 background, k the k-th object; higher layers and smaller objects on
        top. A value is that of the middle of its cell."""
        canvas = np.zeros(size, np.int16)
        outlines = self.outlines or ()
        area = np.array([sum(map(shoelace, parts)) for parts in outlines])
        for i in np.lexsort((-area, self.layer[: len(area)])):
            fill(canvas, outlines[i], int(i) + 1)
        # Drawn without half a pixel's shift, entry [j] is the point x = j; cell k's middle is x = stride (k + 1/2).
        return np.ascontiguousarray(canvas[stride // 2 :: stride, stride // 2 :: stride])


def fill(canvas: Array, parts: Sequence[Array], value: int) -> None:
    """Draws the union of an outline's parts: entry [y, x] is the point (x, y)."""
    for part in parts:
        points = np.rint(part * (1 << FRACTION_BITS)).astype(np.int32)
        cv2.fillPoly(canvas, [points], value, shift=FRACTION_BITS)


def cut_polygon(points: Array, size: tuple[int, int]) -> Array:
    """The part of a polygon [P, 2] on a canvas of ``size`` (height, width); [0, 2] if there is none.

    Sutherland and Hodgman, *Reentrant polygon clipping* (1974): cut by one edge of the canvas after the other. A
    polygon that leaves the canvas and comes back keeps edges along its border, which enclose nothing.
    """
    for axis, bound, sign in ((0, 0.0, 1.0), (0, float(size[1]), -1.0), (1, 0.0, 1.0), (1, float(size[0]), -1.0)):
        depth = (points[:, axis] - bound) * sign  # how far inside this edge
        inside = depth >= 0
        if inside.all():
            continue
        if not inside.any():
            return np.zeros((0, 2))
        following = np.arange(1, len(points) + 1)
        following[-1] = 0
        after, depth_after = points[following], depth[following]
        crosses = inside != inside[following]
        step = np.divide(depth, depth - depth_after, out=np.zeros_like(depth), where=crosses)
        crossing = points + (after - points) * step[:, None]
        crossing[:, axis] = bound
        pairs = np.stack([points, crossing], 1).reshape(-1, 2)
        points = pairs[np.stack([inside, crosses], 1).reshape(-1)]
    return points


def _extents(outlines: Sequence[Sequence[Array]]) -> Array:
    """[N, 4] the boxes around outlines; zeros for one without points."""
    boxes = np.zeros((len(outlines), 4))
    for box, parts in zip(boxes, outlines, strict=True):
        if parts:
            points = parts[0] if len(parts) == 1 else np.concatenate(parts)
            box[:2], box[2:] = points.min(0), points.max(0)
    return boxes


def _areas(boxes: Array) -> Array:
    area: Array = np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)
    return area


def _with_outlines(labels: Labels) -> Labels:
    """Run-length encoded objects given the outlines of their pixels (holes are filled)."""
    polygons = list(labels.polygons or [()] * len(labels))
    for i, rle in enumerate(labels.rle or ()):
        if rle is None:
            continue
        mask = decode_rle(rle)
        found, _ = cv2.findContours(np.ascontiguousarray(mask, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        # Contours run through the middles of border pixels; large parts first, specks of a pixel or two are left out.
        unit = np.array([labels.size[0] / mask.shape[1], labels.size[1] / mask.shape[0]])
        parts = [(contour[:, 0].astype(np.float64) + 0.5) * unit for contour in found if len(contour) > 2]
        polygons[i] = tuple(sorted(parts, key=shoelace, reverse=True))
    return dataclasses.replace(labels, polygons=tuple(polygons))


def rotation(degrees: float, scale: float, shear_x: float, shear_y: float) -> Array:
    """Turns (clockwise on the screen) and scales about the origin, then shears; angles in degrees."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    shear = np.array([[1.0, math.tan(math.radians(shear_x))], [math.tan(math.radians(shear_y)), 1.0]])
    return np.column_stack([shear @ np.array([[cos, -sin], [sin, cos]]), np.zeros(2)])
