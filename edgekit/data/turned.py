"""Labels of images whose size is not the one their file states: scaled copies, and photographs that EXIF turns.

    labels = rescaled(labels, (640, 480))         # fractions stay what they are
    labels = turned(labels, 6)                    # drawn on the image as stored -> on the image upright

EXIF orientation (tag 0x0112) by what it does to the stored image of w x h pixels: 1 nothing, 2 mirrors it, 3 turns it
half around, 4 mirrors it upside down, 5 swaps x and y, 6 turns it right, 7 swaps x and y and turns half around, 8 turns
it left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from edgekit.metrics.labels import Labels, Rle
from edgekit.runtime.masks import decode_rle, encode_rle

Array = np.ndarray


def rescaled(labels: Labels, size: tuple[int, int]) -> Labels:
    """The labels in pixels of a ``size`` (width, height) version of the image, run-length masks included."""

    def resized(mask: Array) -> Array:
        return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)

    return dataclasses.replace(labels.scaled(*size), rle=_masks(labels.rle, resized))


def turned(labels: Labels, orientation: int) -> Labels:
    """Labels in pixels of the stored image in those of the image that EXIF's ``orientation`` makes of it."""
    width, height = labels.size

    def points(values: Array) -> Array:
        x, y = values[..., 0], values[..., 1]
        right, below = width - x, height - y
        pairs = {2: (right, y), 3: (right, below), 4: (x, below), 5: (y, x), 6: (below, x), 7: (below, right)}
        pairs |= {1: (x, y), 8: (y, right)}
        return np.stack(pairs[orientation], -1)

    boxes = points(labels.boxes.reshape(-1, 2, 2))
    keypoints = labels.keypoints
    if keypoints is not None:
        moved = np.concatenate([points(keypoints[..., :2]), keypoints[..., 2:]], -1)
        keypoints = np.where(keypoints[..., 2:] > 0, moved, keypoints)
    return dataclasses.replace(
        labels,
        size=(height, width) if orientation > 4 else (width, height),
        boxes=np.concatenate([boxes.min(1), boxes.max(1)], 1),
        polygons=None if labels.polygons is None else tuple(tuple(map(points, parts)) for parts in labels.polygons),
        rle=_masks(labels.rle, lambda mask: turned_mask(mask, orientation)),
        keypoints=keypoints,
        corners=None if labels.corners is None else points(labels.corners),
    )


def turned_mask(mask: Array, orientation: int) -> Array:
    """The same for an image or mask ``[h, w, …]``."""
    if orientation > 4:
        mask = mask.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(mask, flips.get(orientation, ())))


def _masks(masks: tuple[Rle | None, ...] | None, change: Callable[[Array], Array]) -> tuple[Rle | None, ...] | None:
    def changed(mask: Rle | None) -> Rle | None:
        return None if mask is None else encode_rle(change(decode_rle(mask)))

    return None if masks is None else tuple(map(changed, masks))
