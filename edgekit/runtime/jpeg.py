"""Whether a JPEG file is all there, and the two bytes that some files lack at their end. Numpy and cv2.

Cameras and programs that stop a file short leave out the end-of-image marker, or part of the picture with it. Decoders
fill what is missing with grey, so which of the two it is has to be looked at.

    is_whole(data)                  # the marker is where the segments lead to
    completed(data)                 # the bytes with the marker, or None where pixels are missing
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import cv2
import numpy as np

from edgekit.runtime.silence import silent_stderr

END = b"\xff\xd9"
# Read in place of the missing end: where the coded data is complete it is stepped over, elsewhere it becomes pixels.
# With every restart marker, as a decoder that waits for one steps over all else.
_NOISE = bytes((97 * i + 170) % 255 for i in range(250))  # begins with ones and zeros in turn, unlike what fills a gap
_ANYTHING = b"".join(_NOISE + bytes((0xFF, 0xD0 + i % 8)) for i in range(16)) + _NOISE
_COEFFICIENTS = 64  # of a block; every scan brings some of them to their last bit
# A marker that ends scan data: not a stuffed zero, not a restart marker, not a fill byte.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def is_whole(data: bytes) -> bool:
    """Whether the end-of-image marker is reached by walking the segments (thumbnails inside have ends of their own;
    bytes after it, as phones add, do not matter)."""
    return any(marker == END[1] for marker, _ in _segments(data))


def completed(data: bytes) -> bytes | None:
    """``data`` with an end-of-image marker after it; None where more than that is missing."""
    data = data.rstrip(b"\xff")  # half of the marker, or fill bytes
    if not _has_all_scans(data):
        return None
    with silent_stderr():  # libjpeg reports what this provokes
        one, other = (_decoded(data + tail + END) for tail in (b"", _ANYTHING))
    return data + END if one is not None and other is not None and np.array_equal(one, other) else None


def _decoded(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Every marker in the order of the file with the place after it (ITU T.81, annex B)."""
    at = 2
    while 0 <= at < len(data) - 1:
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # stray bytes between segments: decoders skip them too
            continue
        marker = data[at + 1]
        if marker == 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a segment
            at += 1 if marker == 0xFF else 2
            continue
        yield marker, at + 2
        if marker == END[1]:
            return
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # start of scan: coded data up to the next marker
            found = _MARKER.search(data, at)
            at = found.start() if found else -1


def _has_all_scans(data: bytes) -> bool:
    """Whether scans have begun that bring all coefficients of all components to their last bit; a progressive file may
    end between two scans, and what it lacks then leaves no gap."""
    components: bytes = b""
    done: dict[int, set[int]] = {}
    try:
        for marker, at in _segments(data):
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                components = data[at + 8 : at + 8 + 3 * data[at + 7] : 3]
            elif marker == 0xDA:
                count = data[at + 2]
                first, last, bits = data[at + 3 + 2 * count : at + 6 + 2 * count]
                for component in data[at + 3 : at + 3 + 2 * count : 2] if bits & 15 == 0 else b"":
                    done.setdefault(component, set()).update(range(first, last + 1))
    except (IndexError, ValueError):  # cut in a header
        return False
    return len(components) > 0 and all(len(done.get(c, ())) == _COEFFICIENTS for c in components)
