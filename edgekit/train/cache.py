"""Images ready to be augmented: decoded, turned upright, no larger than training needs, kept in memory or on disk.

    images = Images(dataset, (640, 640), exact=False, cache="auto")
    images[17]                     # uint8 BGR; InputError if the file cannot be read
    images.mode                    # "ram", "disk" or "none": what it came to

An image is what ``prepared`` makes of its file, whatever the mode. The memory of ``ram`` is anonymous and shared:
processes forked after construction fill it together, each image the first time someone asks for it. So is the
``ImageCache`` memory of ``none``, which spares a mosaic three of its four decodings.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import psutil

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError, UsageError
from edgekit.runtime.image import centre_crop, read_image
from edgekit.runtime.resize import bilinear
from edgekit.train.geometry import Array

MODES = ("auto", "ram", "disk", "none")
SHARE = 0.25  # of the available memory that ``auto`` may take
VERSION = 1  # of what ``prepared`` gives; part of a disk cache's file names
SLOTS = 512  # images that ``none`` still remembers: twice as many as a mosaic's partners come from
_JPEGS = (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo")
_CROP = math.sqrt(2)  # sides of a classification image over the input's: a crop of half the area still fills it


def prepared(sample: Sample, size: tuple[int, int], crops: bool, exact: bool) -> Array:
    """A sample's image, uint8 BGR, scaled down (never up) to what an input of ``size`` (height, width) can use.

    Images fit into the input; where one ``crops`` them, as for classification, they cover it with room for that.
    ``exact``: bit for bit what validation makes of it (of classification the crop itself); else large JPEGs are
    decoded at a half, quarter or eighth, which is several times faster.

    Raises:
        InputError: the file cannot be read.
    """
    if exact and crops:
        return centre_crop(read_image(sample.path), size)[0]
    step = 1
    if not exact and sample.path.suffix.lower() in _JPEGS:
        width, height = sample.size()
        step = next((s for s in (8, 4, 2) if _ratio(height, width, size, crops) * s <= 1), 1)
    image = read_image(sample.path, step)
    height, width = image.shape[:2]
    ratio = _ratio(height, width, size, crops)
    if ratio >= 1:
        return image
    smaller = np.empty((max(round(height * ratio), 1), max(round(width * ratio), 1), 3), np.uint8)
    if crops:
        cv2.resize(image, smaller.shape[1::-1], dst=smaller, interpolation=cv2.INTER_AREA)
    else:
        bilinear(image, smaller)
    return smaller


def _ratio(height: int, width: int, size: tuple[int, int], crops: bool) -> float:
    across, down = size[1] / width, size[0] / height
    return max(across, down) * _CROP if crops else min(across, down)


class ImageCache:
    """A shared memory of images used lately: a slot for every index modulo ``slots``, the newest image wins.

    Copies are made under a lock. A process may die holding one: ``renew_locks`` when the others have been ended.
    """

    def __init__(self, room: int, slots: int = SLOTS) -> None:
        self._room, self._slots = room, slots
        self._pixels = np.frombuffer(mmap.mmap(-1, max(room * slots, 1)), np.uint8)
        self._holds = np.frombuffer(mmap.mmap(-1, slots * 24), np.int64).reshape(slots, 3)  # index + 1, height, width
        self.renew_locks()

    def renew_locks(self) -> None:
        """Forgets locks that a process died with. No other process may be using this memory."""
        self._locks = [multiprocessing.Lock() for _ in range(16)]

    def get(self, index: int) -> Array | None:
        """A copy of the image, or None if it is not there."""
        slot = index % self._slots
        with self._locks[slot % len(self._locks)]:
            holds, height, width = self._holds[slot].tolist()
            if holds != index + 1:
                return None
            start = slot * self._room
            picture: Array = self._pixels[start : start + height * width * 3].reshape(height, width, 3).copy()
            return picture

    def put(self, index: int, image: Array) -> None:
        slot = index % self._slots
        if image.size > self._room:
            return
        with self._locks[slot % len(self._locks)]:
            self._holds[slot, 0] = 0
            np.copyto(self._pixels[slot * self._room : slot * self._room + image.size], image.reshape(-1))
            self._holds[slot] = index + 1, *image.shape[:2]


class Images:
    """The images of a set by their place in ``dataset.samples``.

    Attributes:
        mode: ``ram``, ``disk`` or ``none``.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: tuple[int, int],
        exact: bool,
        cache: str = "auto",
        folder: Path | None = None,
    ) -> None:
        """
        Args:
            size: (height, width) of the input.
            exact: see ``prepared``.
            cache: ``ram``, ``disk``, ``none``, or ``auto``: ram where all images take at most a quarter of the
                available memory.
            folder: where ``disk`` keeps its files; None: ``.edgekit-cache`` beside the set. If that cannot be
                written, ``mode`` becomes ``none``.

        Raises:
            UsageError: ``ram`` is asked for and does not fit.
        """
        if cache not in MODES:
            raise UsageError(f"`cache` {cache}: choose from {', '.join(MODES)}")
        self._samples, self._size, self._crops, self._exact = dataset.samples, size, dataset.classifies, exact
        self.mode = cache
        if cache == "auto":
            self.mode = "ram" if self._estimate() <= SHARE * available_memory() else "none"
        if self.mode == "ram":
            self._reserve(must=cache == "ram")
        if self.mode == "disk":
            source = dataset.source
            self._folder = folder or (source if source.is_dir() else source.parent) / ".edgekit-cache"
            self.mode = "disk" if _writable(self._folder) else "none"
        self._recent = self._lately() if self.mode == "none" and not exact else None

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Array:
        if self.mode == "ram":
            return self._from_memory(index)
        if self.mode == "disk":
            return self._from_disk(index)
        image = self._recent.get(index) if self._recent else None
        if image is None:
            image = self._decode(index)
            if self._recent:
                self._recent.put(index, image)
        return image

    def _lately(self) -> ImageCache | None:
        """Room for the images that mosaics share, if there is memory for it; classification has no mosaics."""
        if self._crops:
            return None
        room = (self._size[0] + 1) * (self._size[1] + 1) * 3
        try:
            return ImageCache(room) if room * SLOTS <= SHARE * available_memory() else None
        except (OSError, ValueError):
            return None

    def renew_locks(self) -> None:
        """To be called when processes that used these images have been ended: one may have died holding a lock."""
        if self._recent:
            self._recent.renew_locks()

    def _decode(self, index: int) -> Array:
        return prepared(self._samples[index], self._size, self._crops, self._exact)

    # -- memory

    def _bytes(self, index: int) -> int:
        """At most so many for one image; 0 if it cannot be read."""
        try:
            width, height = self._samples[index].size()
        except InputError:
            return 0
        ratio = min(_ratio(height, width, self._size, self._crops), 1.0)
        return (math.ceil(height * ratio) + 1) * (math.ceil(width * ratio) + 1) * 3

    def _estimate(self) -> float:
        """Bytes of all images, from 64 of them."""
        count = len(self._samples)
        looked_at = np.linspace(0, count - 1, min(count, 64)).astype(int)
        return float(np.mean([self._bytes(int(i)) for i in looked_at])) * count if count else 0.0

    def _reserve(self, must: bool) -> None:
        starts = np.cumsum([0, *(self._bytes(i) for i in range(len(self._samples)))])
        total = int(starts[-1])
        try:
            if must and total > available_memory():
                raise OSError
            pixels = mmap.mmap(-1, max(total, 1))
            shapes = mmap.mmap(-1, max(8 * len(self._samples), 1))
        except (OSError, ValueError):
            if must:
                raise UsageError(
                    f"`cache` ram: {len(self._samples)} images take {total / 1e9:.1f} GB, "
                    f"{available_memory() / 1e9:.1f} GB are available; use `cache` disk or none"
                ) from None
            self.mode = "none"
            return
        self._starts = starts
        self._pixels = np.frombuffer(pixels, np.uint8)
        self._shapes = np.frombuffer(shapes, np.int32, 2 * len(self._samples)).reshape(-1, 2)

    def _from_memory(self, index: int) -> Array:
        start, room = int(self._starts[index]), int(self._starts[index + 1] - self._starts[index])
        height, width = self._shapes[index].tolist()
        if height and width:
            return self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        image = self._decode(index)
        if image.size <= room:
            np.copyto(self._pixels[start : start + image.size], image.reshape(-1))
            # Last, and width after height: another process takes the image from here once both are there. Two that
            # decode at the same time write the same bytes.
            self._shapes[index, 0], self._shapes[index, 1] = image.shape[:2]
        return image

    # -- disk

    def _from_disk(self, index: int) -> Array:
        path = self._samples[index].path
        try:
            state = path.stat()
        except OSError:
            return self._decode(index)  # says what is wrong
        what = (VERSION, os.path.abspath(path), state.st_mtime_ns, state.st_size, self._size, self._crops,
                self._exact)  # fmt: skip
        kept = self._folder / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):
            image = np.load(kept, mmap_mode="r")
            if image.dtype == np.uint8 and image.ndim == 3:
                return np.asarray(image)
        image = self._decode(index)
        # A name of its own, as another process may be writing the same; a full disk leaves the image uncached.
        partial = kept.with_name(f"{os.getpid()}.{kept.name}.partial")
        try:
            with open(partial, "wb") as handle:
                np.save(handle, image)
            os.replace(partial, kept)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        return image


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def available_memory() -> int:
    """Bytes that can be had without swapping: the system's, or what a container's limit leaves of them."""
    free = psutil.virtual_memory().available
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            group = Path("/sys/fs/cgroup")
            free = min(free, max(int((group / limit).read_text()) - int((group / usage).read_text()), 0))
    return free
