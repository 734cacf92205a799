"""Segmentation's labels, ``class x1 y1 x2 y2 x3 y3 …`` in fractions of the image, and how predictions are scored.

    parse_row([0.1, 0.1, 0.5, 0.1, 0.3, 0.6]).polygon        # [3, 2]; the box is the one around it

One row is one object in one piece; objects in several pieces need COCO's format.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.metrics.coco import coco_scores
from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Prediction
from edgekit.metrics.scores import Scores
from edgekit.metrics.ultralytics import peer_boxes, peer_masks
from edgekit.tasks.rows import BadRow, Row, clip_box, extent, outline


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    """One row's numbers after the class.

    Raises:
        BadRow: a box instead of a polygon, no polygon at all, off the image, or without area.
    """
    if len(values) == 4:
        raise BadRow("no polygon", "a box (4 numbers) where segmentation needs a polygon; left out")
    points, beyond = outline(values, 3, "polygon (6 or more numbers, x and y in turn)")
    box, _ = clip_box(*extent(points))
    return Row(box, polygon=points, clipped=beyond)


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    """Average precision of boxes and of masks (``mask_…``); see ``edgekit.verify.evaluate.score``."""
    if options.protocol == "ultralytics":
        return peer_boxes(dataset, predictions).joined(peer_masks(dataset, predictions, options.imgsz))
    boxes = coco_scores(dataset, predictions, "bbox", max_det=options.max_det)
    return boxes.joined(coco_scores(dataset, predictions, "segm", "mask_", options.max_det))
