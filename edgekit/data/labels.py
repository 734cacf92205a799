"""What is written beside an image: objects with their boxes, polygons, keypoints or corners, and what is wrong there.

One record serves five tasks and three file formats. The numbers stay as the file gave them: fractions of the image
in normalised text, pixels in COCO JSON; ``size`` says which, and ``scaled`` turns either into any pixels you like, so
that nothing has to open an image to read a label, and COCO's numbers reach the metrics bit for bit.

    labels.boxes                       # [N, 4] in units of labels.size
    labels.scaled(640, 480).boxes      # the same in pixels of a 640 x 480 version of the image
    labels.select(~labels.crowd)       # what a trainer wants
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgekit.data.encoding import printable

# Every kind of Issue, for those who count or filter them.
KINDS = {
    "unreadable": "an image or label file that cannot be read",
    "malformed": "a row that is not what the task's format says",
    "class": "a class the set does not declare",
    "range": "coordinates that are not on the image, nor near it",
    "clipped": "coordinates slightly off the image, which were clipped to it",
    "degenerate": "a box or polygon without area",
    "duplicate": "the same object, image or image id twice",
    "background": "an image without a label file: taken as showing none of the classes",
    "no polygon": "a box where the task needs a polygon",
    "no image": "labels whose image is not there",
    "orphan": "an annotation of an image or category that the file does not list",
    "size": "an image whose size is not the one stated",
    "crossing": "a polygon that crosses itself, or corners that are not in order around the box",
    "keypoints": "how keypoints are swapped in a mirror (flip_idx) is missing or contradicts itself",
    "scarce": "a class with no or very few objects",
    "absent": "a class that another split has and train has not",
    "overlap": "the same image in two splits",
    "angle": "oriented boxes by an angle whose unit was found out",
    "hidden": "images in hidden files and folders (.ipynb_checkpoints, ._x.jpg, __MACOSX)",
    "format": "files that are no images edgekit reads, some of them pictures",
    "link": "links that are not followed",
    "crowd": "regions marked iscrowd: neither learnt nor scored, as COCO has it",
    "category": "categories that are no classes of objects",
    "ids": "ids that are no whole numbers",
    "split": "a split that the set names and does not have, or has under two names",
    "subset": "classes that were not asked for",
}


@dataclass(frozen=True)
class Issue:
    """One thing wrong with a set.

    Attributes:
        path: the file concerned.
        line: its line, counted from 1, or None.
        kind: a key of ``KINDS``.
        sentence: what is wrong and what was done about it.
        severity: ``error`` (a row or an image was left out), ``warning`` (used after mending) or ``note``.
        count: how many rows or images it is about.
    """

    path: Path
    line: int | None
    kind: str
    sentence: str
    severity: str = "error"
    count: int = 1

    def __str__(self) -> str:
        where = printable(f"{self.path}:{self.line}" if self.line else self.path)
        return f"{where}: {self.sentence}"


class BadRow(Exception):
    """Raised by ``tasks/<task>/labels.py`` for a row that cannot be used: a key of ``KINDS`` and a sentence."""

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
    rle: tuple[dict[str, Any] | None, ...] | None = None
    keypoints: np.ndarray | None = None
    corners: np.ndarray | None = None
    class_id: int | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def of_class(cls, class_id: int) -> Labels:
        """Of an image that has a class and no objects."""
        return cls.from_rows([], [], class_id=class_id)

    @classmethod
    def from_rows(cls, classes: Sequence[int], rows: Sequence[Row], **fields: Any) -> Labels:
        """Stacks parsed rows; the optional arrays exist where the rows carry them."""
        count = len(rows)
        stacked: dict[str, Any] = {
            "crowd": np.zeros(count, bool),
            "area": np.full(count, np.nan),
        }
        if rows and rows[0].polygon is not None:
            stacked["polygons"] = tuple((r.polygon,) for r in rows)
        for name in ("keypoints", "corners"):
            if rows and getattr(rows[0], name) is not None:
                stacked[name] = np.stack([getattr(r, name) for r in rows])
        return cls(
            classes=np.array(classes, np.int64),
            boxes=np.array([r.box for r in rows], np.float64).reshape(count, 4),
            **{**stacked, **fields},
        )

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


def shoelace(polygon: np.ndarray) -> float:
    """Area of a simple polygon [P, 2] (Gauss's formula)."""
    x, y = polygon[:, 0], polygon[:, 1]
    last = x[-1] * y[0] - x[0] * y[-1]
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1] + last) / 2)
