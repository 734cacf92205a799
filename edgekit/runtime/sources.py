"""Where images come from: files, folders, globs and videos, read one frame at a time. Numpy and cv2.

What is asked for is checked at once: a missing path, an empty folder or a pattern that matches nothing raises before
any work is done. A file that turns out bad on the way does not stop the others: its Frame carries the error.

    sources = open_sources(["photos", "clip.mp4", "more/*.png"])
    for frame in sources:
        if frame.error is None:
            model.predict(frame.image)
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.image import SUFFIXES as IMAGES
from edgekit.image import as_image, read_image

# FFmpeg inside OpenCV complains on standard error unless told not to before its first use; edgekit says it once itself.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image to work on, or what is wrong with it.

    Attributes:
        path: the file.
        index: running number over all sources, from 0.
        image: uint8 BGR ``[h, w, 3]``; None where ``error`` is set.
        frame: index within its video, None for an image file.
        total: frames in that video as far as known.
        fps: frames per second of that video, None for an image file or where unknown.
        error: why the file, or the rest of it, cannot be used.
    """

    path: Path
    index: int
    image: NDArray[Any] | None = None
    frame: int | None = None
    total: int | None = None
    fps: float | None = None
    error: InputError | None = None


class Sources:
    """The files behind what the user named, in order; iterating reads them. Can be iterated again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    @property
    def total(self) -> int | None:
        """How many Frames there will be, or None where a video does not say."""
        count = 0
        for path in self.paths:
            frames = _video_facts(path)[0] if is_video(path) else 1
            if frames is None:
                return None
            count += frames
        return count

    def __len__(self) -> int:
        """How many files, a video counting as one."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self.paths:
            for frame in _frames(path, index):
                yield frame
                index += 1


def open_sources(sources: Sequence[str | Path]) -> Sources:
    """The images and videos that ``sources`` name: files, folders (their files by name, not below) and globs.

    Raises:
        InputError: something is missing, holds or matches no image or video, or is of an unsupported kind.
    """
    paths = [path for source in sources for path in _resolve(str(source))]
    if not paths:
        raise InputError("no images given; name files, folders or globs of images or videos")
    return Sources(paths)


def is_video(path: Path) -> bool:
    """Whether the suffix is a video's."""
    return path.suffix.lower() in VIDEOS


def _resolve(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if _supported(p))
        if not found:
            raise InputError(f"{source}: the folder holds no images or videos ({_kinds()})")
        return found
    if path.exists():
        if not _supported(path):
            raise InputError(f"{source}: not an image or video by its name; supported are {_kinds()}")
        return [path]
    if glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(source, recursive=True) if _supported(Path(name)))
        if not found:
            raise InputError(f"{source}: the pattern matches no images or videos ({_kinds()})")
        return found
    raise InputError(f"{source}: no such file or folder")


def _supported(path: Path) -> bool:
    # Dot files are other systems' companions (`._photo.jpg`), not photos.
    return path.suffix.lower() in IMAGES + VIDEOS and path.is_file() and not path.name.startswith(".")


def _kinds() -> str:
    return " ".join(IMAGES + VIDEOS)


def _frames(path: Path, index: int) -> Iterator[Frame]:
    number = 0
    try:
        if not is_video(path):
            yield Frame(path, index, image=read_image(path))
            return
        for frame in _video_frames(path, index):
            number += 1
            yield frame
    except InputError as error:
        yield Frame(path, index + number, error=error)


def _video_frames(path: Path, index: int) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    try:
        total, fps = _facts(capture)
        number = 0
        while True:
            read, image = capture.read()
            if not read:
                break
            yield Frame(path, index + number, as_image(image, str(path)), number, total, fps)
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise InputError(f"{path}: not a readable video; it is damaged, cut short or of an unknown format")
    # Only this container counts its frames; elsewhere the total is the duration times a nominal rate.
    if total and number < 0.9 * total and path.suffix.lower() in (".mp4", ".m4v", ".mov"):
        raise InputError(f"{path}: the video is cut short after {number} of {total} frames; copy or download it again")


def _video_facts(path: Path) -> tuple[int | None, float | None]:
    capture = cv2.VideoCapture(str(path))
    try:
        return _facts(capture)
    finally:
        capture.release()


def _facts(capture: cv2.VideoCapture) -> tuple[int | None, float | None]:
    """Frames and frames per second, each None where the file does not say something sensible."""
    count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return int(count) if 0 < count < 1e9 else None, float(fps) if 0 < fps < 1000 else None
