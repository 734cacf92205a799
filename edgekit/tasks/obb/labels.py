"""Oriented boxes' labels, ``class x1 y1 x2 y2 x3 y3 x4 y4`` (four corners in order, fractions of the image), and how
predictions are scored.

    parse_row([0.1, 0.2, 0.5, 0.2, 0.5, 0.4, 0.1, 0.4]).corners      # [4, 2]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.data.dataset import Dataset
from edgekit.data.geometry import clip_box, extent, outline
from edgekit.data.labels import BadRow, Row
from edgekit.metrics.objects import rotated_scores
from edgekit.metrics.peer import peer_rotated
from edgekit.metrics.scores import Options, Scores


def parse_row(values: Sequence[float], keypoint_shape: tuple[int, int] | None = None) -> Row:
    """One row's numbers after the class; corners off the image are clipped to it one by one.

    Raises:
        BadRow: other than eight numbers, far off the image, or without area.
    """
    if len(values) != 8:
        raise BadRow(
            "malformed", f"{len(values)} numbers after the class, an oriented box has 8 (x, y of 4 corners); left out"
        )
    corners, beyond = outline(values, 4, "oriented box")
    box, _ = clip_box(*extent(corners))
    return Row(box, corners=corners, clipped=beyond)


def score(dataset: Dataset, predictions: Sequence[Mapping[str, Any]], options: Options) -> Scores:
    """Average precision of oriented boxes; see ``edgekit.metrics.score``."""
    if options.protocol == "peer":
        return peer_rotated(dataset, predictions)
    return rotated_scores(dataset, predictions, options.rotated_iou)
