"""Where images come from: files, folders, globs, numbered series, videos and addresses, read one frame at a time.
Numpy and cv2.

What is asked for is checked at once: a missing path, an empty folder or a pattern that matches nothing raises before
any work is done. A file that turns out bad on the way does not stop the others: its Frame carries the error.

    sources = open_sources(["photos", "clip.mp4", "more/*.png", "shot_%04d.jpg", "https://example.org/street.jpg"])
    for frame in sources:
        if frame.error is None:
            model.predict(frame.image)

Cameras and streams, which have no end, are in ``edgekit.runtime.live``.
"""

from __future__ import annotations

import base64
import glob
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from edgekit.errors import InputError, UsageError
from edgekit.runtime.filenames import utf8_name
from edgekit.runtime.frames import Frame as Frame
from edgekit.runtime.image import SUFFIXES as IMAGES
from edgekit.runtime.image import as_image, decoded, read_image

# FFmpeg inside OpenCV complains on standard error unless told not to before its first use; edgekit says it once itself.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEOS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
    *(".ts", ".webm", ".wmv"),
)
SEVERAL = (".avif", ".png", ".tif", ".tiff", ".webp")  # formats that may hold more images than the one that is read
COUNTED = (".avi", ".m4v", ".mov", ".mp4")  # containers that count frames; others give a duration and a nominal rate
TIMEOUT_S = 10.0
LARGEST = 200_000_000  # bytes of an image from an address

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@]*@")
_NUMBERED = re.compile(r"%(?:0(\d+))?d")


class Sources:
    """The files behind what the user named, in order; iterating reads them. Can be iterated again.

    Args:
        paths: files, and ``http`` or ``https`` addresses of files as text.
        stride: of videos, every so many frames one is given.
    """

    def __init__(self, paths: Sequence[Path | str], stride: int = 1) -> None:
        self.paths, self.stride = tuple(paths), stride

    @property
    def total(self) -> int | None:
        """How many Frames there will be, or None where a video does not say."""
        count = 0
        for path in self.paths:
            frames = _count(path) if is_video(path) else 1
            if frames is None:
                return None
            count += -(-frames // self.stride)
        return count

    def __len__(self) -> int:
        """How many files, a video counting as one."""
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self.paths:
            for frame in _frames(path, index, self.stride):
                yield frame
                index += 1


def open_sources(sources: Sequence[str | Path], stride: int = 1) -> Sources:
    """The images and videos that ``sources`` name: files, folders (their files by name, not below), globs, numbered
    series (``shot_%04d.jpg``: all there are, by number) and ``http`` or ``https`` addresses of files.

    Args:
        sources: what to read.
        stride: of videos, every so many frames one is given.

    Raises:
        InputError: something is missing, holds or matches no image or video, or is of an unsupported kind.
        UsageError: the stride is no whole number of at least 1.
    """
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 1:
        raise UsageError(f"`stride` {stride}: must be a whole number of at least 1")
    paths = [path for source in sources for path in _resolve(str(source))]
    if not paths:
        raise InputError("no images given; name files, folders or globs of images or videos")
    return Sources(paths, stride)


def read_images(images: str | Path | Sequence[str | Path], most: int = 8) -> list[np.ndarray]:
    """The first ``most`` images (uint8 BGR) of files, folders and globs."""
    return [image for _, image in named_images(images, most)]


def named_images(images: str | Path | Sequence[str | Path], most: int = 8) -> list[tuple[str, np.ndarray]]:
    """The first ``most`` images (uint8 BGR) of files, folders and globs, and where each came from."""
    found: list[tuple[str, np.ndarray]] = []
    for frame in open_sources([images] if isinstance(images, (str, Path)) else images):
        if frame.error is not None:
            raise frame.error
        if frame.image is not None:
            found.append((str(frame.path), frame.image))
        if len(found) == most:
            break
    return found


def is_address(source: str) -> bool:
    """Whether ``source`` has a scheme: ``rtsp://``, ``https://`` …"""
    return bool(_ADDRESS.match(source))


def is_remote_file(source: str) -> bool:
    """Whether ``source`` is an address of an image or video by its name, which has an end; others are streams."""
    return source.lower().startswith(("http://", "https://")) and _place(source).suffix.lower() in IMAGES + VIDEOS


def shown(address: str) -> str:
    """``address`` without the user and password it may hold, which are nobody's business in results and errors."""
    return _USER.sub("", address)


def read_address(address: str) -> np.ndarray:
    """The image at an ``http`` or ``https`` address, as ``edgekit.runtime.image.read_image`` gives it.

    Raises:
        InputError: it cannot be fetched, or is no image.
    """
    import urllib.request  # 50 ms that few programs need

    name = shown(address)
    if not address.lower().startswith(("http://", "https://")):
        raise InputError(f"{name}: not the http address of an image; streams are for model.stream")
    try:
        user = unquote(urlsplit(address).netloc.rpartition("@")[0])
        request = urllib.request.Request(shown(address))
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(LARGEST + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise InputError(f"{name}: cannot be fetched ({getattr(error, 'reason', None) or error})") from None
    if len(data) > LARGEST:
        raise InputError(f"{name}: more than {LARGEST // 1_000_000} MB, which is no image to be fetched")
    return decoded(data, name)


def is_video(path: Path | str) -> bool:
    """Whether it is read as a video: by its suffix, and GIF files where they hold several frames."""
    if isinstance(path, str):
        return _place(path).suffix.lower() in VIDEOS
    suffix = path.suffix.lower()
    return suffix in VIDEOS or (suffix == ".gif" and _images_in(path) > 1)


def _resolve(source: str) -> Sequence[Path | str]:
    if is_address(source):
        return [_remote(source)]
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
    if _NUMBERED.search(path.name):
        return _series(path)
    if glob.has_magic(source):
        found = sorted(Path(name) for name in glob.glob(source, recursive=True) if _supported(Path(name)))
        if not found:
            raise InputError(f"{source}: the pattern matches no images or videos ({_kinds()})")
        return found
    raise InputError(f"{source}: no such file or folder")


def _series(pattern: Path) -> list[Path]:
    """The files of a numbered series in the order of their numbers, gaps or not."""
    before, width, after = _NUMBERED.split(pattern.name, maxsplit=1)
    name = re.compile(rf"{re.escape(before)}(\d{{{width or 1},}}){re.escape(after)}")
    matches = [(p, name.fullmatch(p.name)) for p in pattern.parent.glob("*")]
    numbered = sorted((int(match[1]), path) for path, match in matches if match and _supported(path))
    if not numbered:
        raise InputError(f"{pattern}: the series has no images or videos ({_kinds()})")
    return [path for _, path in numbered]


def _remote(address: str) -> str:
    if not is_remote_file(address):
        raise InputError(
            f"{shown(address)}: not the address of an image or video by its name; streams are for model.stream"
        )
    return address


def _place(address: str) -> Path:
    """An address as a path, for its name and suffix; without the query and what is secret."""
    return Path(shown(address[: address.index("://") + 3]) + unquote(urlsplit(shown(address)).path).lstrip("/"))


def _supported(path: Path) -> bool:
    # Dot files are other systems' companions (`._photo.jpg`), not photos.
    return path.suffix.lower() in IMAGES + VIDEOS and path.is_file() and not path.name.startswith(".")


def _kinds() -> str:
    return " ".join(IMAGES + VIDEOS)


def _frames(path: Path | str, index: int, stride: int) -> Iterator[Frame]:
    number = 0
    place, name = (_place(path), shown(path)) if isinstance(path, str) else (path, "")
    try:
        if not is_video(path):
            image = read_address(path) if isinstance(path, str) else _one_image(path)
            yield Frame(place, index, image=image, name=name)
            return
        for frame in _video_frames(path, place, name, index, stride):
            number += 1
            yield frame
    except InputError as error:
        yield Frame(place, index + number, error=error, name=name)


def _one_image(path: Path) -> np.ndarray:
    image = read_image(path)
    count = _images_in(path) if path.suffix.lower() in SEVERAL else 1
    if count > 1:
        warnings.warn(f"{path}: holds {count} images, of which the first is used", RuntimeWarning, stacklevel=2)
    return image


def _images_in(path: Path) -> int:
    """Pages or frames of an image file; 1 where that cannot be told."""
    try:
        with utf8_name(path) as name:
            return int(cv2.imcount(name))
    except (cv2.error, OSError):
        return 1


def _opened(path: Path | str) -> cv2.VideoCapture:
    if isinstance(path, str):
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(TIMEOUT_S * 1e3)]
        limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(TIMEOUT_S * 1e3)]
        return cv2.VideoCapture(path, cv2.CAP_FFMPEG, limits)
    with utf8_name(path) as name:
        return cv2.VideoCapture(name)


def _video_frames(path: Path | str, place: Path, name: str, index: int, stride: int) -> Iterator[Frame]:
    called = name or str(place)
    capture = _opened(path)
    try:
        total, fps = _facts(capture)
        number, rate = 0, fps / stride if fps else None
        while capture.grab():
            if number % stride == 0:
                read, image = capture.retrieve()
                if not read:
                    break
                yield Frame(place, index + number // stride, as_image(image, called), number, total, rate, name=name)
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise InputError(f"{called}: not a readable video; it is damaged, cut short or of an unknown format")
    _check_whole(called, place.suffix.lower(), number, total)


def _check_whole(called: str, suffix: str, number: int, total: int | None) -> None:
    """Say where a video gave fewer frames than it says it has; what it gave was used."""
    # An edit list hides frames of a sound video from its end, and a rate that varies makes fewer than nominal.
    enough = total if suffix == ".avi" else 0.9 * (total or 0)
    if not total or not enough or number >= enough:
        return
    if suffix in COUNTED:
        raise InputError(
            f"{called}: the video is cut short after {number} of {total} frames, which were used; "
            "copy or download it again"
        )
    warnings.warn(
        f"{called}: gave {number} frames where its length suggests {total}; is it cut short?",
        RuntimeWarning,
        stacklevel=2,
    )


def _count(path: Path | str) -> int | None:
    capture = _opened(path)
    try:
        return _facts(capture)[0]
    finally:
        capture.release()


def _facts(capture: cv2.VideoCapture) -> tuple[int | None, float | None]:
    """Frames and frames per second, each None where the file does not say something sensible."""
    count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return int(count) if 0 < count < 1e9 else None, float(fps) if 0 < fps <= 10_000 else None
