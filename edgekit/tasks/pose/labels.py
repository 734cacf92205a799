"""Pose's labels, ``class cx cy w h`` and then ``x y`` or ``x y visibility`` of every keypoint, in fractions of the
image, and how predictions are scored.

    parse_row([0.5, 0.5, 0.2, 0.4, 0.5, 0.4, 2], (1, 3)).keypoints      # [1, 3]

Visibility is COCO's: 0 not labelled, 1 hidden, 2 visible. Where the format has none, a point at (0, 0) is not
labelled and every other is visible.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.metrics.coco import coco_scores
from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Prediction
from edgekit.metrics.scores import Scores
from edgekit.metrics.ultralytics import peer_boxes, peer_keypoints
from edgekit.tasks.rows import FAR, ROUNDING, BadRow, Row, centred_box


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    """One row's numbers after the class.

    Keypoints off the image count as not labelled: no model can be asked to place them.

    Raises:
        BadRow: another count of numbers than the set's ``kpt_shape`` asks for, off the image, or without area.
    """
    points, width = keypoint_shape or (17, 3)
    if len(values) != 4 + points * width:
        raise BadRow(
            "malformed",
            f"{len(values)} numbers after the class, kpt_shape [{points}, {width}] asks for "
            f"{4 + points * width}; left out",
        )
    box, beyond = centred_box(values[:4])
    raw = np.array(values[4:], np.float64).reshape(points, width)
    keypoints = np.zeros((points, 3))
    keypoints[:, :2] = raw[:, :2]
    keypoints[:, 2] = raw[:, 2] if width == 3 else np.where(raw.any(1), 2, 0)
    seen = keypoints[:, 2] > 0
    off = np.maximum(-keypoints[:, :2], keypoints[:, :2] - 1).max(1) * seen
    if off.max(initial=0.0) > FAR:
        raise BadRow("range", "a keypoint is far outside 0 to 1, so no fraction of the image; left out")
    keypoints[off > ROUNDING] = 0.0
    keypoints[~seen] = 0.0
    keypoints[:, :2] = np.clip(keypoints[:, :2], 0, 1)
    return Row(box, keypoints=keypoints, clipped=max(beyond, float(off.max(initial=0.0))))


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    """Average precision of boxes and of keypoints (``pose_…``); see ``edgekit.verify.evaluate.score``."""
    if options.protocol == "ultralytics":
        return peer_boxes(dataset, predictions).joined(peer_keypoints(dataset, predictions))
    boxes = coco_scores(dataset, predictions, "bbox", max_det=options.max_det)
    return boxes.joined(coco_scores(dataset, predictions, "keypoints", "pose_", options.max_det))
