"""Live sources: cameras and network streams, which die and return. Numpy and cv2.

A live source is a camera's number, an address with a scheme (``rtsp://``, ``http://`` …) or a device (``/dev/video0``);
an ``http`` address whose name is an image's or a video's is none (``edgekit.runtime.sources`` reads it).
Its frames have no end; where they stop coming it is opened again, with pauses that grow, until ``patience`` runs out.

    for frame in LiveSource("rtsp://camera/1").frames(stop):
        ...
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeGuard

import cv2
import numpy as np

from edgekit.errors import InputError
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import as_image, opencv_silent
from edgekit.runtime.sources import is_address, is_remote_file, shown

PAUSES = (0.1, 5.0)  # seconds before trying again: the first, and the longest that doubling leads to
TIMEOUT_MS = 5000.0  # for opening and reading; without one a dead camera holds a thread for half a minute


def is_live(source: object) -> TypeGuard[int | str | Path]:
    """Whether ``source`` is a camera's number, an address or a video device."""
    if isinstance(source, int):
        return not isinstance(source, bool)
    text = str(source) if isinstance(source, (str, Path)) else ""
    return (is_address(text) and not is_remote_file(text)) or text.startswith("/dev/video")


class Capture(Protocol):
    """What gives a live source's frames; OpenCV's ``VideoCapture`` is one."""

    def isOpened(self) -> bool: ...

    def get(self, propId: int, /) -> float: ...

    def read(self) -> tuple[bool, np.ndarray | None]: ...

    def release(self) -> None: ...


class LiveSource:
    """A camera or network stream.

    Args:
        source: as ``is_live`` knows it.
        patience: seconds without a frame after which it is given up; infinity never gives up.
        opened: makes the capture; for sources that OpenCV does not know.
        stride: every so many frames one is given.
    """

    def __init__(
        self,
        source: int | str | Path,
        patience: float = 30.0,
        opened: Callable[[int | str | Path], Capture] | None = None,
        stride: int = 1,
    ) -> None:
        self.source, self.patience, self.stride = source, patience, stride
        # Addresses may hold a password: it is nobody's business in results and errors.
        self.name = f"camera {source}" if isinstance(source, int) else shown(str(source))
        self.reconnects = 0
        self._opened = opened or _open

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Frames until ``stop`` is set. One that is no image carries the error.

        Raises:
            InputError: nothing came for ``patience`` seconds, or a camera of this machine is not there to begin with.
        """
        number, pause, last = 0, PAUSES[0], time.monotonic()
        while not stop.is_set():
            capture = self._opened(self.source)
            try:
                fps = float(capture.get(cv2.CAP_PROP_FPS)) if capture.isOpened() else 0.0
                while capture.isOpened() and not stop.is_set():
                    read, image = capture.read()
                    if not read:
                        break
                    if number % self.stride == 0:
                        yield self._frame(image, number, fps)
                    number, pause, last = number + 1, PAUSES[0], time.monotonic()
            finally:
                capture.release()
            if not number and self._opened is _open and _is_local(self.source):
                raise InputError(f"{self.name}: cannot be opened; is it connected, and free?")
            if time.monotonic() - last > self.patience:
                raise InputError(
                    f"{self.name}: no frame for {self.patience:g} seconds; is it on, and the address right?"
                )
            stop.wait(pause)
            pause = min(2 * pause, PAUSES[1])
            self.reconnects += 1

    def _frame(self, image: np.ndarray | None, number: int, fps: float) -> Frame:
        rate = fps / self.stride if 0 < fps < 1000 else None
        place, index = Path(self.name), number // self.stride
        try:
            return Frame(place, index, as_image(image, self.name), number, None, rate, name=self.name)
        except InputError as error:
            return Frame(place, index, None, number, None, rate, error, self.name)


def _is_local(source: int | str | Path) -> bool:
    return isinstance(source, int) or str(source).startswith("/dev/")


def _open(source: int | str | Path) -> Capture:
    if _is_local(source):
        with opencv_silent():
            return cv2.VideoCapture(source if isinstance(source, int) else str(source))
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(TIMEOUT_MS), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(TIMEOUT_MS)]
    return cv2.VideoCapture(str(source), cv2.CAP_FFMPEG, limits)
