"""Saving annotated pictures and videos into a folder. Numpy and cv2.

Pictures keep their names; a name that is taken in this run gets ``-2``, ``-3``. A video is written under a hidden
temporary name, opened again when it is complete, and only then appears under its own: after an error, or on a full
disk, there is no half of one.

    with open_writer("out") as writer:
        for frame in open_sources(["clip.mp4"]):
            writer.write(frame, annotated)
    with VideoFile(Path("seen.mp4"), 25.0) as video:
        video.write(picture)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.runtime.filenames import utf8_name
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import opencv_silent, write_image

FPS = 25.0  # for videos that do not say theirs
LEAST_FPS = 0.01
MOST_TICKS = 65535  # of MPEG-4's clock: a rate is a ratio of two numbers of at most this
FORMATS = {"mp4": (".mp4", "mp4v"), "h264": (".mp4", "avc1"), "gif": (".gif", "")}
MOST_GIF_BYTES = 1_000_000_000  # of pixels; all frames of a GIF are there at once
# What cannot hold coloured lines, or has no writer.
WRITTEN_AS = {".gif": ".png", ".jfif": ".jpg", ".mpo": ".jpg", ".pbm": ".png", ".pgm": ".png"}


class VideoFile:
    """A video that is there whole or not at all; use it in a ``with`` block, or ``close`` or ``discard`` it.

    Args:
        path: what it will be called.
        fps: frames per second; the nearest rate that the format can hold is taken.
        form: one of ``FORMATS``.

    Raises:
        UsageError: the name does not end as the format's do.
    """

    def __init__(self, path: Path, fps: float, form: str = "mp4") -> None:
        if path.suffix.lower() != FORMATS[form][0]:
            raise UsageError(f"{path}: {form} videos have names ending in {FORMATS[form][0]}")
        self.path, self.fps, self.form = path, held_rate(fps), form
        self.frames = 0
        self._shape: tuple[int, ...] = ()
        self._gif: list[np.ndarray] = []
        self._video: cv2.VideoWriter | None = None
        self._names = ExitStack()
        folder = Path(self._names.enter_context(utf8_name(path.parent)))  # OpenCV crashes on other names
        self._partial = folder / f".{os.getpid()}-{id(self):x}.partial{FORMATS[form][0]}"

    def write(self, picture: np.ndarray) -> None:
        """Append a uint8 BGR picture, resized to the first one's size: OpenCV leaves others out without a word.

        Raises:
            EdgekitError: the format cannot be written here.
        """
        self._shape = self._shape or picture.shape
        if picture.shape != self._shape:
            picture = cv2.resize(picture, self._shape[1::-1], interpolation=cv2.INTER_AREA)
        if self.form == "gif":
            self._gif.append(picture.copy())
            if picture.nbytes * len(self._gif) > MOST_GIF_BYTES:
                raise InputError(f"{self.path}: {len(self._gif)} frames are too many for a GIF; use mp4, or a stride")
        else:
            self._video = self._video or self._opened(picture)
            self._video.write(picture)
        self.frames += 1

    def close(self) -> None:
        """Finish it and give it its name.

        Raises:
            EdgekitError: it was not written whole.
        """
        try:
            if self._gif:
                self._write_gif()
            if self._video is not None:
                self._video.release()
            if self.frames:
                self._check()
                os.replace(self._partial, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Close it and remove what there is of it."""
        if self._video is not None:
            self._video.release()
        self._video, self._gif = None, []
        self._partial.unlink(missing_ok=True)
        self._names.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if kind is None else self.discard()

    def _opened(self, picture: np.ndarray) -> cv2.VideoWriter:
        height, width = picture.shape[:2]
        code = cv2.VideoWriter.fourcc(*FORMATS[self.form][1])
        with opencv_silent():
            video = cv2.VideoWriter(str(self._partial), code, self.fps, (width, height))
        if not video.isOpened():
            if self._partial.parent.is_dir() and os.access(self._partial.parent, os.W_OK):
                raise EdgekitError(f"{self.path}: OpenCV cannot write {width} x {height} pixels at {self.fps:g} frames "
                                   f"per second as {self.form} here")  # fmt: skip
            raise InputError(f"{self.path}: OpenCV cannot write a video there; is the folder there, and yours?")
        return video

    def _write_gif(self) -> None:
        animation = cv2.Animation()
        animation.frames = self._gif
        animation.durations = [max(round(100 / self.fps), 2) * 10] * len(self._gif)  # GIF counts in 1/100 s
        if not cv2.imwriteanimation(str(self._partial), animation):
            raise InputError(f"{self.path}: cannot be written whole; is its disk full?")

    def _check(self) -> None:
        """Open what was written again: libraries say nothing of a full disk."""
        seen = cv2.VideoCapture(str(self._partial))
        try:
            count = int(seen.get(cv2.CAP_PROP_FRAME_COUNT))
            seen.set(cv2.CAP_PROP_POS_FRAMES, max(self.frames - 1, 0))
            if count != self.frames or not seen.read()[0]:
                raise InputError(f"{self.path}: cannot be written whole ({max(count, 0)} of {self.frames} frames can "
                                 "be read again); is its disk full?")  # fmt: skip
        finally:
            seen.release()


def held_rate(fps: float) -> float:
    """The nearest rate to ``fps`` that a video can hold: with as many digits as its clock has room for."""
    if not LEAST_FPS <= fps <= MOST_TICKS:
        return min(max(fps, LEAST_FPS), MOST_TICKS) if fps > 0 else FPS
    return next(round(fps * base) / base for base in (1000, 100, 10, 1) if round(fps * base) <= MOST_TICKS)


def check_format(form: str) -> None:
    """Whether videos can be written as ``form`` here, found out by writing one.

    Raises:
        UsageError: they cannot, or there is no such form.
    """
    if form not in FORMATS:
        raise UsageError(f"`video` {form}: forms are {', '.join(FORMATS)}")
    if form == "gif" and not hasattr(cv2, "imwriteanimation"):
        raise UsageError(f"`video` gif: OpenCV {cv2.__version__} cannot write it; 4.11 and later can")
    picture = np.zeros((64, 64, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        try:
            with VideoFile(Path(folder) / f"try{FORMATS[form][0]}", FPS, form) as video:
                video.write(picture)
                video.write(picture)
        except EdgekitError:
            raise UsageError(f"`video` {form}: this OpenCV has no encoder for it; leave it out for MPEG-4") from None


class Writer:
    """Writes what belongs to each Frame; use it in a ``with`` block. ``paths`` lists what is complete."""

    def __init__(self, folder: Path, form: str = "mp4") -> None:
        self.folder, self.form = folder, form
        self.paths: list[Path] = []
        self._taken: set[str] = set()
        self._videos: dict[int, tuple[Path, VideoFile]] = {}  # in progress: one of each source that is read at once

    def write(self, frame: Frame, picture: np.ndarray) -> None:
        """Save the annotated uint8 BGR ``picture`` of ``frame``; a video's frames come in order, those of several
        sources (``Frame.source``) among each other.

        Raises:
            UsageError: it would overwrite its own source.
            EdgekitError: the file cannot be written.
        """
        known = self._videos.get(frame.source)
        if frame.frame is None:
            self._end(VideoFile.close, frame.source)
            suffix = frame.path.suffix
            path = self._free_name(frame.path, WRITTEN_AS.get(suffix.lower(), suffix))
            write_image(path, picture)
            self.paths.append(path)
            return
        if known is None or frame.frame == 0 or frame.path != known[0]:
            self._end(VideoFile.close, frame.source)
            path = self._free_name(frame.path, FORMATS[self.form][0])
            known = self._videos[frame.source] = frame.path, VideoFile(path, frame.fps or FPS, self.form)
        known[1].write(picture)

    def finish_videos(self) -> None:
        """Close the videos in progress, if any, and give them their names.

        Raises:
            EdgekitError: one was not written whole.
        """
        with ExitStack() as stack:
            for source in reversed(list(self._videos)):
                stack.callback(self._end, VideoFile.close, source)

    def discard_videos(self) -> None:
        """Close the videos in progress, if any, and remove what there is of them."""
        for source in list(self._videos):
            self._end(VideoFile.discard, source)

    def _end(self, how: Callable[[VideoFile], None], source: int) -> None:
        _, video = self._videos.pop(source, (None, None))
        if video is not None:
            how(video)
            if how is VideoFile.close:
                self.paths.append(video.path)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish_videos() if kind is None else self.discard_videos()

    def _free_name(self, source: Path, suffix: str) -> Path:
        number, path = 1, self.folder / f"{source.stem}{suffix}"
        while path.name.casefold() in self._taken:
            number += 1
            path = self.folder / f"{source.stem}-{number}{suffix}"
        if path.resolve() == source.resolve():
            raise UsageError(f"`out` {self.folder}: would overwrite the source {source}; choose another folder")
        self._taken.add(path.name.casefold())
        return path


def open_writer(folder: str | Path, form: str = "mp4") -> Writer:
    """A Writer into ``folder``, which is made if needed.

    Args:
        folder: where to write.
        form: of videos, one of ``FORMATS``.

    Raises:
        InputError: it cannot be made.
        UsageError: videos cannot be written in that form here.
    """
    if form != "mp4":
        check_format(form)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`out` {folder}: cannot be made ({error.strerror or error})") from None
    return Writer(folder, form)
