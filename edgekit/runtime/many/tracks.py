"""Which objects of a video's frames are the same, by ByteTrack of the ``trackers`` package or, where it still has it,
``supervision``.

    follow = Tracker(fps=25)
    for frame, result in answers:
        follow(result)                # result.tracks: int64 [N], -1 where an object is not followed (yet)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import UsageError, optional
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo


def check(info: ModelInfo) -> None:
    """Whether what the model finds can be followed, here.

    Raises:
        UsageError: it finds no objects.
        MissingPackageError: no tracker is installed.
    """
    if any(port.role == "class_probabilities" for port in info.outputs):
        raise UsageError("`track`: a classification has no objects to follow")
    Tracker()


class Tracker:
    """Follows the objects of one video; ``fps`` says how long a second is."""

    def __init__(self, fps: float | None = None) -> None:
        with optional("`track`", "track"):
            import supervision
        self._detections = supervision.Detections
        if hasattr(supervision, "ByteTrack"):
            self._update: Any = supervision.ByteTrack(frame_rate=round(fps or 30)).update_with_detections
        else:
            with optional("`track`", "track"):
                from trackers import ByteTrackTracker
            self._update = ByteTrackTracker(frame_rate=fps or 30.0).update

    def __call__(self, result: Result) -> None:
        """Fill ``result.tracks``; results come in the order of frames."""
        found = result.enclosing_boxes()
        count = len(result)
        result.tracks = np.full(count, -1, np.int64)
        if found is None or result.scores is None or result.labels is None:
            return
        place = np.arange(count)
        given = self._detections(
            xyxy=np.asarray(found, np.float32).reshape(-1, 4),
            confidence=result.scores,
            class_id=result.labels.astype(int),
            data={"place": place},
        )
        followed = self._update(given)
        if followed.tracker_id is not None and len(followed):
            result.tracks[np.asarray(followed.data["place"], int)] = followed.tracker_id
