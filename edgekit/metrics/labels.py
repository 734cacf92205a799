"""What is on the images, as everything that scores sees it: the objects of one image, and a set of such images.

One record serves every task and file format. The numbers stay as the file gave them: fractions of the image in
normalised text, pixels in COCO JSON; ``size`` says which, and ``scaled`` turns either into any pixels you like, so
that nothing has to open an image to read a label, and COCO's numbers reach the metrics bit for bit.

    labels.boxes                       # [N, 4] in units of labels.size
    labels.scaled(640, 480).boxes      # the same in pixels of a 640 x 480 version of the image
    labels.select(~labels.crowd)       # what a trainer wants

``edgekit.data.Dataset`` is a ``LabelledSet``; scoring needs no more of a set than that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

# COCO's run-length encoding of a mask: ``{"size": [h, w], "counts": …}``.
Rle = Mapping[str, object]


@dataclass(frozen=True)
class Labels:
    """The N objects of one image; lengths are in units of ``size``.

    Attributes:
        classes: [N] int64, indices into the set's names.
        boxes: [N, 4] float64, x1, y1, x2, y2.
        crowd: [N] bool, COCO's crowd regions; never objects to learn from.
        area: [N] float64, the area the file states (COCO: of the segment), NaN where it states none.
        size: width and height of the whole image in the unit of every length here; (1, 1) for normalised text.
        polygons: per object its outline as a tuple of parts, each [P, 2] float64; empty for an object with ``rle``.
        rle: per object COCO's ``{"size": [h, w], "counts": ...}`` or None; always at the original size.
        keypoints: [N, P, 3] float64, x, y and visibility (0 not labelled, 1 hidden, 2 visible).
        corners: [N, 4, 2] float64, the oriented box's corners in order around it.
        class_id: the image's class, for classification.
    """

    classes: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    size: tuple[float, float] = (1.0, 1.0)
    polygons: tuple[tuple[np.ndarray, ...], ...] | None = None
    rle: tuple[Rle | None, ...] | None = None
    keypoints: np.ndarray | None = None
    corners: np.ndarray | None = None
    class_id: int | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def empty(cls, class_id: int | None = None) -> Labels:
        """Of an image without objects, or of one that has a class instead."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool), np.zeros(0), class_id=class_id)

    def scaled(self, width: float, height: float) -> Labels:
        """The same labels in pixels of a ``width`` x ``height`` version of the image (``rle`` is left as it is)."""
        if (width, height) == self.size:
            return self
        factor = np.array([width / self.size[0], height / self.size[1]])
        keypoints = self.keypoints
        if keypoints is not None:
            keypoints = np.concatenate([keypoints[..., :2] * factor, keypoints[..., 2:]], -1)
        return dataclasses.replace(
            self,
            boxes=self.boxes * np.tile(factor, 2),
            area=self.area * factor.prod(),
            size=(width, height),
            polygons=None
            if self.polygons is None
            else tuple(tuple(part * factor for part in parts) for parts in self.polygons),
            keypoints=keypoints,
            corners=None if self.corners is None else self.corners * factor,
        )

    def select(self, keep: np.ndarray) -> Labels:
        """The objects that ``keep`` (bool mask or indices) picks."""
        index = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.asarray(keep, np.int64)
        return dataclasses.replace(
            self,
            classes=self.classes[index],
            boxes=self.boxes[index],
            crowd=self.crowd[index],
            area=self.area[index],
            polygons=None if self.polygons is None else tuple(self.polygons[i] for i in index),
            rle=None if self.rle is None else tuple(self.rle[i] for i in index),
            keypoints=None if self.keypoints is None else self.keypoints[index],
            corners=None if self.corners is None else self.corners[index],
        )

    def areas(self) -> np.ndarray:
        """[N] the stated area; else the polygons'; else of keypoint objects 0.53 of the box (COCO's mean ratio of
        segment to box); else the oriented or the plain box's."""
        box = self.boxes
        fallback = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        if self.polygons is not None:
            fallback = np.array(
                [sum(map(shoelace, parts)) if parts else b for parts, b in zip(self.polygons, fallback, strict=True)]
            )
        elif self.keypoints is not None:
            fallback = 0.53 * fallback
        elif self.corners is not None:
            fallback = np.array([shoelace(c) for c in self.corners])
        return np.where(np.isnan(self.area), fallback.reshape(len(self)), self.area)


class LabelledImage(Protocol):
    """One image of a set; ``size()`` is its width and height in pixels and may have to open it."""

    @property
    def path(self) -> Path: ...
    @property
    def image_id(self) -> int: ...
    @property
    def labels(self) -> Labels: ...
    def size(self) -> tuple[int, int]: ...


class LabelledSet(Protocol):
    """One split of a labelled set.

    Attributes:
        names: class names in label order; ``category_ids`` the COCO category of each.
        samples: its images, in a fixed order.
        source: where it was read from, for messages.
        roles: of the outputs that the set's task has.
        keypoint_shape: (points, values per point) where there are keypoints.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def samples(self) -> Sequence[LabelledImage]: ...
    @property
    def source(self) -> Path: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def category_ids(self) -> tuple[int, ...]: ...
    @property
    def keypoint_shape(self) -> tuple[int, int] | None: ...
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Per class the number of images with it and the number of objects without crowds: [C], [C]."""
        ...


def shoelace(polygon: np.ndarray) -> float:
    """Area of a simple polygon [P, 2] (Gauss's formula)."""
    x, y = polygon[:, 0], polygon[:, 1]
    last = x[-1] * y[0] - x[0] * y[-1]
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1] + last) / 2)
