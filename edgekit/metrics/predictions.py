"""Predictions as COCO result dicts, gathered into arrays image by image.

Everything that scores takes the flat list that ``Result.to_coco`` and a results file hold: ``image_id``,
``category_id``, ``score`` and ``bbox`` (x, y, width, height in pixels), and where the task has them
``segmentation`` (RLE of a mask, or a polygon of an oriented box's four corners) and ``keypoints`` (x, y, score in
turn). Classification, which COCO has not, is ``image_id`` and ``probs``.

    detections = gather(dataset, predictions)[0]         # of dataset.samples[0]
    detections.boxes, detections.classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import InputError, shorten
from edgekit.metrics.labels import LabelledSet, Rle
from edgekit.runtime.boxes import rotated_from_corners

Prediction = Mapping[str, Any]  # a COCO result dict


@dataclass(frozen=True)
class Detections:
    """One image's N predictions: scores [N], classes [N] (label indices), boxes [N, 4] xyxy pixels, and
    ``rows``, the N result dicts themselves."""

    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    rows: Sequence[Prediction]

    def keypoints(self, points: int) -> np.ndarray:
        """[N, points, 3] x, y, score.

        Raises:
            InputError: a prediction has none, or another number.
        """
        return self._stacked([p.get("keypoints") for p in self.rows], 3 * points, "keypoints").reshape(-1, points, 3)

    def masks(self) -> list[Rle]:
        """N masks as COCO run-length encodings.

        Raises:
            InputError: a prediction has none.
        """
        masks = [p.get("segmentation") for p in self.rows]
        if not all(isinstance(mask, Mapping) and "counts" in mask and "size" in mask for mask in masks):
            raise InputError("a prediction has no run-length encoded mask; was it made by a model of another task?")
        return [mask for mask in masks if mask]

    def rotated_boxes(self) -> np.ndarray:
        """[N, 5] centre x, y, width, height, angle, from the four corners in ``segmentation``.

        Raises:
            InputError: a prediction has no such polygon.
        """
        polygons = [p.get("segmentation") for p in self.rows]
        corners = [polygon[0] if isinstance(polygon, (list, tuple)) and polygon else None for polygon in polygons]
        return rotated_from_corners(self._stacked(corners, 8, "segmentation").reshape(-1, 4, 2))

    def _stacked(self, rows: Sequence[object], width: int, key: str) -> np.ndarray:
        if any(not isinstance(row, (list, tuple)) or len(row) != width for row in rows):
            raise InputError(f"a prediction has no {key} of {width} numbers; was it made by a model of another task?")
        return np.array(rows, np.float64)


def by_image(dataset: LabelledSet, predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    """Per sample of the set its predictions, in the order given.

    Raises:
        InputError: a prediction of an image the set does not have.
    """
    place = {sample.image_id: i for i, sample in enumerate(dataset.samples)}
    grouped: list[list[Prediction]] = [[] for _ in dataset.samples]
    for prediction in predictions:
        index = place.get(prediction.get("image_id", -1))
        if index is None:
            raise InputError(
                f"a prediction is of image {prediction.get('image_id')}, which {dataset.source} does not "
                "have; were the predictions made on another set or split?"
            )
        grouped[index].append(prediction)
    return grouped


def gather(dataset: LabelledSet, predictions: Sequence[Prediction]) -> list[Detections]:
    """One ``Detections`` per sample, in the set's order; predictions keep theirs.

    Raises:
        InputError: an image or category the set does not have, or a prediction without score or box.
    """
    label = {category: i for i, category in enumerate(dataset.category_ids)}
    gathered = []
    for rows in by_image(dataset, predictions):
        try:
            classes = np.array([label[p["category_id"]] for p in rows], np.int64)
            scores = np.array([p["score"] for p in rows], np.float64)
            boxes = np.array([p["bbox"] for p in rows], np.float64).reshape(len(rows), 4)
            if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
                raise ValueError("not a finite number")
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"a prediction has no usable category_id, score or bbox ({error}) for {dataset.source}; "
                f"its categories are {shorten(dataset.category_ids)}"
            ) from None
        boxes[:, 2:] += boxes[:, :2]
        gathered.append(Detections(scores, classes, boxes, rows))
    return gathered
