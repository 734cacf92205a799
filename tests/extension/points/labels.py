"""Labels ``class x y`` in fractions of the image; a point found is right by its distance, whatever box is around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.metrics.labels import LabelledSet, Labels
from edgekit.metrics.matching import average_precision, coco_precision
from edgekit.metrics.objects import match_objects
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Detections, Prediction
from edgekit.metrics.scores import IOU_THRESHOLDS, Scores, table
from edgekit.tasks.rows import BadRow, Row, clip_box

SIDE = 0.25  # of the box that is learnt around a point, as a fraction of the image


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    if len(values) != 2:
        raise BadRow("malformed", f"{len(values)} numbers after the class, a point has 2; left out")
    x, y = values
    box, _ = clip_box(x - SIDE / 2, y - SIDE / 2, x + SIDE / 2, y + SIDE / 2)
    return Row(box)


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    matches = match_objects(dataset, predictions, IOU_THRESHOLDS, _nearness)
    return table(dataset, average_precision(matches, coco_precision), "point_", "Points by their distance.")


def _nearness(found: Detections, truth: Labels) -> np.ndarray:
    """[N, M] one where centres coincide, zero where they are ``SIDE`` of the image or more apart."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2 / truth.size for boxes in (found.boxes, truth.boxes)]
    return np.maximum(1 - np.linalg.norm(centres[0][:, None] - centres[1], axis=-1) / SIDE, 0)
