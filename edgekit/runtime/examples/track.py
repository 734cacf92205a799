"""Objects followed through a video by ByteTrack, from the ``supervision`` package or, since it moved, ``trackers``.

python -m edgekit.runtime.examples.track BUNDLE street.mp4 OUT-FOLDER     # pip install 'edgekit[supervision]' trackers
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import edgekit
from edgekit.runtime.writer import open_writer


def main(bundle: str, video: str, folder: str) -> None:
    import supervision as sv

    update = byte_track(sv)
    boxes, tags = sv.BoxAnnotator(color_lookup=sv.ColorLookup.TRACK), sv.LabelAnnotator()
    seen: set[int] = set()
    with edgekit.load(bundle, conf=0.25) as model, open_writer(folder) as writer:
        for frame, result in model.stream(video):
            found = result.to_supervision()
            tracked = update(found) if len(found) else found
            if tracked.tracker_id is not None:
                tracked = tracked[tracked.tracker_id >= 0]  # -1: seen once, not followed yet
                seen.update(tracked.tracker_id.tolist())
            picture = result.plot(frame.image, tags=False)
            if tracked.tracker_id is not None and len(tracked):
                pairs = zip(tracked.tracker_id, tracked.data["class_name"], strict=True)
                picture = boxes.annotate(picture, tracked)
                picture = tags.annotate(picture, tracked, labels=[f"{i} {name}" for i, name in pairs])
            writer.write(frame, picture)
    sys.stdout.write(f"{len(seen)} objects followed\n")


def byte_track(sv: Any) -> Callable[[Any], Any]:
    """The function that gives detections their ids, frame after frame."""
    if hasattr(sv, "ByteTrack"):
        old: Callable[[Any], Any] = sv.ByteTrack().update_with_detections
        return old
    from trackers import ByteTrackTracker

    new: Callable[[Any], Any] = ByteTrackTracker().update
    return new


if __name__ == "__main__":
    main(*sys.argv[1:])
