"""Saving annotated pictures and videos into a folder. Numpy and cv2.

Pictures keep their names; a name that is taken in this run gets ``-2``, ``-3``. A video is written under a hidden
temporary name and appears as ``NAME.mp4`` when it is complete: after an error there is no half of one.

    with open_writer("out") as writer:
        for frame in open_sources(["clip.mp4"]):
            writer.write(frame, annotated)
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.image import write_image
from edgekit.runtime.sources import Frame

FPS = 25.0  # for videos that do not say theirs
WRITTEN_AS = {".pgm": ".png"}  # a grey-only format cannot hold coloured lines


class Writer:
    """Writes what belongs to each Frame; use it in a ``with`` block. ``paths`` lists what is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._taken: set[str] = set()
        self._video: cv2.VideoWriter | None = None
        self._source: Path | None = None
        self._final = self._partial = folder

    def write(self, frame: Frame, picture: NDArray[Any]) -> None:
        """Save the annotated uint8 BGR ``picture`` of ``frame``; a video's frames come in order.

        Raises:
            UsageError: it would overwrite its own source.
            EdgekitError: the file cannot be written.
        """
        if frame.frame is None:
            self.finish_video()
            suffix = frame.path.suffix
            path = self._free_name(frame.path, WRITTEN_AS.get(suffix.lower(), suffix))
            write_image(path, picture)
            self.paths.append(path)
            return
        if self._video is None or frame.frame == 0 or frame.path != self._source:
            self.finish_video()
            self._start_video(frame, picture)
        assert self._video is not None
        self._video.write(picture)

    def finish_video(self) -> None:
        """Close the video in progress, if any, and give it its name."""
        if self._video is not None:
            self._video.release()
            self._video = None
            os.replace(self._partial, self._final)
            self.paths.append(self._final)

    def discard_video(self) -> None:
        """Close the video in progress, if any, and remove what there is of it."""
        if self._video is not None:
            self._video.release()
            self._video = None
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish_video() if kind is None else self.discard_video()

    def _start_video(self, frame: Frame, picture: NDArray[Any]) -> None:
        self._source = frame.path
        self._final = self._free_name(frame.path, ".mp4")
        self._partial = self._final.with_name(f".{self._final.stem}.partial.mp4")  # the suffix chooses the container
        height, width = picture.shape[:2]
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        video = cv2.VideoWriter(str(self._partial), fourcc, frame.fps or FPS, (width, height))
        if not video.isOpened():
            self._partial.unlink(missing_ok=True)
            raise EdgekitError(f"{self._final}: this OpenCV cannot write MP4 video; install opencv-python-headless")
        self._video = video

    def _free_name(self, source: Path, suffix: str) -> Path:
        number, path = 1, self.folder / f"{source.stem}{suffix}"
        while path.name.casefold() in self._taken:
            number += 1
            path = self.folder / f"{source.stem}-{number}{suffix}"
        if path.resolve() == source.resolve():
            raise UsageError(f"--out {self.folder}: would overwrite the source {source}; choose another folder")
        self._taken.add(path.name.casefold())
        return path


def open_writer(folder: str | Path) -> Writer:
    """A Writer into ``folder``, which is made if needed.

    Raises:
        InputError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be made ({error.strerror or error})") from None
    return Writer(folder)
