"""Detection's labels, ``class cx cy w h`` in fractions of the image, and how its predictions are scored.

A polygon (``class x1 y1 x2 y2 x3 y3 …``) is taken by the box around it, so segmentation sets serve detection too.

    parse_row([0.5, 0.5, 0.2, 0.4]).box           # (0.4, 0.3, 0.6, 0.7)
"""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.metrics.coco import coco_scores
from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Prediction
from edgekit.metrics.scores import Scores
from edgekit.metrics.ultralytics import peer_boxes
from edgekit.tasks.rows import Row, centred_box, clip_box, extent, outline


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    """One row's numbers after the class.

    Raises:
        BadRow: it is neither a box nor a polygon, lies off the image or has no area.
    """
    keypoints = 4 + keypoint_shape[0] * keypoint_shape[1] if keypoint_shape else 4
    if len(values) in (4, keypoints):
        box, beyond = centred_box(values[:4])
    else:
        points, beyond = outline(values, 3, "box (4 numbers) or polygon (6 or more, x and y in turn)")
        box, _ = clip_box(*extent(points))
    return Row(box, clipped=beyond)


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    """Average precision of boxes; see ``edgekit.verify.evaluate.score``."""
    if options.protocol == "ultralytics":
        return peer_boxes(dataset, predictions)
    return coco_scores(dataset, predictions, "bbox", max_det=options.max_det)
