"""Objects followed through a video by ByteTrack, from the ``supervision`` package.

python -m edgekit.runtime.examples.track BUNDLE street.mp4 OUT-FOLDER        # pip install 'edgekit[supervision]'
"""

from __future__ import annotations

import sys

import edgekit
from edgekit.runtime.writer import open_writer


def main(bundle: str, video: str, folder: str) -> None:
    import supervision as sv

    tracker = sv.ByteTrack()
    boxes, tags = sv.BoxAnnotator(color_lookup=sv.ColorLookup.TRACK), sv.LabelAnnotator()
    seen: set[int] = set()
    with edgekit.load(bundle, conf=0.25) as model, open_writer(folder) as writer:
        for frame, result in model.stream(video):
            tracked = tracker.update_with_detections(result.to_supervision())
            seen.update(int(i) for i in tracked.tracker_id)
            pairs = zip(tracked.tracker_id, tracked.data.get("class_name", ()), strict=False)
            assert frame.image is not None
            picture = boxes.annotate(frame.image.copy(), tracked)
            writer.write(frame, tags.annotate(picture, tracked, labels=[f"{i} {name}" for i, name in pairs]))
    sys.stdout.write(f"{len(seen)} objects followed\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
