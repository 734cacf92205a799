"""A whole set's predictions matched with its objects as COCO matches, by edgekit's own code: what oriented boxes are
scored with, and what operating points are chosen from.

    rotated_scores(dataset, predictions, "probiou").metrics["map50_95"]
    match_objects(dataset, predictions, np.array([0.5]), boxes_overlap("probiou")).correct       # [D, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.metrics.labels import LabelledSet, Labels
from edgekit.metrics.matching import Matches, average_precision, by_score, coco_precision
from edgekit.metrics.overlap import box_overlap
from edgekit.metrics.predictions import Detections, Prediction, gather
from edgekit.metrics.rotated import polygon_iou, probabilistic_iou
from edgekit.metrics.scores import IOU_THRESHOLDS, Scores, table
from edgekit.runtime.boxes import rotated_from_corners

# Overlap [N, M] of an image's predictions with its objects; the labels are in pixels, and there is one at least.
Overlap = Callable[[Detections, Labels], np.ndarray]


def rotated_scores(dataset: LabelledSet, predictions: Sequence[Prediction], rotated_iou: str = "probiou") -> Scores:
    """COCO's average precision with oriented boxes; no limit on detections, since aerial images hold hundreds.

    Raises:
        InputError: predictions of other images or without four corners.
    """
    matches = match_objects(dataset, predictions, IOU_THRESHOLDS, boxes_overlap(rotated_iou))
    how = {"probiou": "probabilistic IoU (arXiv 2106.06072)", "polygon": "exact polygon IoU"}[rotated_iou]
    protocol = f"COCO protocol for oriented boxes by {how}: IoU 0.50:0.95, 101 recalls, matched by score."
    return table(dataset, average_precision(matches, coco_precision), "", protocol)


def boxes_overlap(rotated_iou: str) -> Overlap:
    """Overlap of boxes; of oriented ones, as ``rotated_iou`` says, where the labels have corners."""
    measure = {"probiou": probabilistic_iou, "polygon": polygon_iou}[rotated_iou]

    def overlap(found: Detections, truth: Labels) -> np.ndarray:
        if truth.corners is None:
            return box_overlap(found.boxes, truth.boxes, truth.crowd)
        return measure(found.rotated_boxes(), rotated_from_corners(truth.corners))

    return overlap


def match_objects(
    dataset: LabelledSet,
    predictions: Sequence[Prediction],
    thresholds_T: np.ndarray,
    overlap: Overlap,
    crowds: bool = True,
) -> Matches:
    """Every prediction of the set: right or not at each threshold of ``overlap``; ``crowds`` False: as if there were
    no crowd regions."""
    per_image = []
    totals = np.zeros(len(dataset.names), np.int64)
    for sample, found in zip(dataset.samples, gather(dataset, predictions), strict=True):
        labels = sample.labels if crowds else sample.labels.select(~sample.labels.crowd)
        totals += np.bincount(labels.classes[~labels.crowd], minlength=len(totals))
        overlap_NM = image_overlap(found, labels, sample.size, overlap)
        answer = by_score(overlap_NM, found.scores, found.classes, labels.classes, labels.crowd, thresholds_T)
        per_image.append((found.scores, found.classes, *answer))
    return Matches.collect(per_image, totals, len(thresholds_T))


def image_overlap(
    found: Detections, labels: Labels, size: Callable[[], tuple[int, int]], overlap: Overlap
) -> np.ndarray:
    """[N, M] overlap in one image; its ``size`` is only asked for where there is something to compare."""
    if not len(labels) or not len(found.scores):
        return np.zeros((len(found.scores), len(labels)))
    return overlap(found, labels.scaled(*size()))
