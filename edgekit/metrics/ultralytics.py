"""The protocol of the tool that made the published checkpoints, from its public description.

It differs from COCO's in ways that move small sets by a point or two, so ``val`` offers it to tell how much of a
difference is protocol: average precision is integrated along another line, there are no crowds and no limit per class,
keypoints are scored against 0.53 of the box's area whatever the file says, and masks at a quarter of the network's
input against one map in which smaller objects cover larger ones.

    peer_boxes(dataset, predictions).metrics["map50_95"]
    peer_masks(dataset, predictions, (640, 640))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from edgekit.metrics.labels import LabelledSet, Labels
from edgekit.metrics.matching import average_precision, peer_precision
from edgekit.metrics.objects import Overlap, boxes_overlap, match_objects
from edgekit.metrics.overlap import keypoint_sigmas, keypoint_similarity, mask_iou
from edgekit.metrics.predictions import Detections, Prediction
from edgekit.metrics.scores import IOU_THRESHOLDS, Scores, table
from edgekit.runtime.masks import decode_rle


def peer_boxes(dataset: LabelledSet, predictions: Sequence[Prediction]) -> Scores:
    """Boxes by their intersection over union. The peer scores boxes before they are clipped to the image, which
    costs it where objects touch the edge: hand in boxes as the network gave them to get its figures exactly."""
    return _scores(dataset, predictions, boxes_overlap("probiou"), "", "boxes")


def peer_rotated(dataset: LabelledSet, predictions: Sequence[Prediction]) -> Scores:
    """Oriented boxes by probabilistic IoU."""
    return _scores(dataset, predictions, boxes_overlap("probiou"), "", "oriented boxes by probabilistic IoU")


def peer_keypoints(dataset: LabelledSet, predictions: Sequence[Prediction]) -> Scores:
    """Keypoints by OKS with an area of 0.53 · w · h."""
    assert dataset.keypoint_shape is not None
    points = dataset.keypoint_shape[0]
    sigmas = keypoint_sigmas(points)

    def overlap(found: Detections, truth: Labels) -> np.ndarray:
        assert truth.keypoints is not None
        area = 0.53 * (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1)
        poses = found.keypoints(points)[..., :2]
        return keypoint_similarity(poses, truth.keypoints, area, sigmas)

    return _scores(dataset, predictions, overlap, "pose_", "keypoints by OKS over 0.53 of the box's area")


def peer_masks(dataset: LabelledSet, predictions: Sequence[Prediction], imgsz: tuple[int, int]) -> Scores:
    """Masks at a quarter of the input size ``imgsz`` (height, width). The peer thresholds its masks at that size;
    here they are brought back to it from the original image, which moves edges by a fraction of a cell."""

    def overlap(found: Detections, truth: Labels) -> np.ndarray:
        width, height = truth.size
        place = _Letterbox.of(int(width), int(height), imgsz)
        predicted = [place.quarter(decode_rle(mask)) for mask in found.masks()]
        return mask_iou(_flat(predicted, imgsz), _flat(place.merged(truth), imgsz))

    return _scores(dataset, predictions, overlap, "mask_", "masks at a quarter of the input size")


def _scores(
    dataset: LabelledSet, predictions: Sequence[Prediction], overlap: Overlap, prefix: str, what: str
) -> Scores:
    matches = match_objects(dataset, predictions, IOU_THRESHOLDS, overlap, crowds=False)
    protocol = f"The peer's protocol for {what}: IoU 0.50:0.95, matched by score, area under its own curve."
    return table(dataset, average_precision(matches, peer_precision), prefix, protocol)


class _Letterbox(NamedTuple):
    """Where an image of ``source`` (width, height) lies on the network's input: ``inner`` (width, height) at
    ``corner`` (left, top) of ``outer`` (width, height)."""

    inner: tuple[int, int]
    corner: tuple[int, int]
    outer: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, imgsz: tuple[int, int]) -> _Letterbox:
        ratio = min(imgsz[0] / height, imgsz[1] / width)
        inner = (max(round(width * ratio), 1), max(round(height * ratio), 1))
        corner = (round((imgsz[1] - inner[0]) / 2 - 0.1), round((imgsz[0] - inner[1]) / 2 - 0.1))
        return cls(inner, corner, (imgsz[1], imgsz[0]))

    def quarter(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the original image [h, w] as a mask of the input at a quarter of its size."""
        canvas = np.zeros(self.outer[::-1], np.uint8)
        (left, top), (width, height) = self.corner, self.inner
        canvas[top : top + height, left : left + width] = cv2.resize(mask.astype(np.uint8) * 255, self.inner)
        return _to_quarter(canvas) > 128  # more than half

    def merged(self, truth: Labels) -> list[np.ndarray]:
        """The objects' masks at a quarter of the input size; where they overlap the smaller one has the pixels."""
        assert truth.polygons is not None
        factor = np.array(self.inner) / np.array(truth.size)
        masks = []
        for i, parts in enumerate(truth.polygons):
            rle = truth.rle[i] if truth.rle is not None else None
            if rle is not None:
                masks.append(self.quarter(decode_rle(rle)))
                continue
            canvas = np.zeros(self.outer[::-1], np.uint8)
            cv2.fillPoly(canvas, [(part * factor + self.corner).astype(np.int32) for part in parts], 1)
            masks.append(_to_quarter(canvas) > 0)
        owner = np.full(_quarter(self.outer)[::-1], -1)
        for i in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
            owner[masks[i]] = i
        return [owner == i for i in range(len(masks))]


def _quarter(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 4, size[1] // 4


def _to_quarter(canvas: np.ndarray) -> np.ndarray:
    return cv2.resize(canvas, _quarter((canvas.shape[1], canvas.shape[0])))


def _flat(masks: Sequence[np.ndarray], imgsz: tuple[int, int]) -> np.ndarray:
    width, height = _quarter((imgsz[1], imgsz[0]))
    return np.array(masks, bool).reshape(len(masks), width * height)
