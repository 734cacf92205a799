"""A camera, address or video through a bundle, with the frames per second on the picture.

python -m edgekit.runtime.examples.camera BUNDLE 0                      # a window; q ends it
python -m edgekit.runtime.examples.camera BUNDLE rtsp://camera/1 seen.mp4

A window needs ``opencv-python`` in place of ``opencv-python-headless``.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import cv2

import edgekit
from edgekit.runtime.writer import VideoFile

WINDOW = "edgekit"


def main(bundle: str, source: str, out: str = "") -> None:
    camera: int | str = int(source) if source.isdigit() else source
    moments: deque[float] = deque(maxlen=30)
    writer = None
    with edgekit.load(bundle, conf=0.25, streams=2) as model, model.stream(camera, on_error=skip) as answers:
        for frame, result in answers:
            moments.append(time.perf_counter())
            rate = (len(moments) - 1) / max(moments[-1] - moments[0], 1e-9)
            picture = result.plot(frame.image)
            cv2.putText(picture, f"{rate:.1f} FPS", (12, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 255, 0), 2)
            if out:
                writer = writer or VideoFile(Path(out), frame.fps or 25.0)
                writer.write(picture)
            else:
                cv2.imshow(WINDOW, picture)
                if cv2.waitKey(1) == ord("q"):
                    break
        sys.stdout.write(f"{answers.answered} frames, {answers.dropped} dropped\n")
    if writer:
        writer.close()  # opened again, and an error where it is not whole


def skip(frame: Any) -> None:
    sys.stderr.write(f"skipped: {frame.error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
