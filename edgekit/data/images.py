"""Image files: finding them, and their size without decoding them.

Sizes are those of ``edgekit.image.read_image``, that is after the EXIF orientation has been applied. JPEG and PNG
headers are read directly (microseconds); other formats are decoded.

    find_images(Path("bccd/images/val"))          # sorted paths, folders below included
    image_size(path)                              # (width, height)
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

from edgekit.errors import InputError
from edgekit.image import SUFFIXES, read_image

_HEAD = 1 << 18  # enough for a JPEG's header with an EXIF thumbnail in it


def is_image(path: Path) -> bool:
    """By its suffix; hidden files (``._x.jpg`` of some archives) are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_images(folder: Path) -> list[Path]:
    """Every image in ``folder`` and the folders below, sorted."""
    return sorted(p for p in folder.rglob("*") if is_image(p))


@lru_cache(maxsize=200_000)
def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as ``read_image`` would give them.

    Raises:
        InputError: the file cannot be read as an image.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    size = None
    try:
        if head[:2] == b"\xff\xd8":
            size = _jpeg_size(head)
        elif head[:8] == b"\x89PNG\r\n\x1a\n" and b"eXIf" not in head:
            size = struct.unpack(">II", head[16:24])
    except (struct.error, IndexError):
        pass  # an unusual header: decode it
    if size is None:
        height, width = read_image(path).shape[:2]
        size = (width, height)
    return size[0], size[1]


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Walks a JPEG's segments (ITU T.81, annex B) to the frame header; EXIF's orientation swaps the sides."""
    at, turned = 2, False
    while at + 9 < len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack(">H", head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return (height, width) if turned else (width, height)
        if marker == 0xE1 and head[at + 4 : at + 10] == b"Exif\0\0":
            turned = _exif_orientation(head[at + 10 : at + 2 + length]) in (5, 6, 7, 8)
        at += 2 + length
    return None


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory (EXIF 2.3, section 4.6), or 1."""
    order = ">" if tiff[:2] == b"MM" else "<"
    (start,) = struct.unpack(order + "I", tiff[4:8])
    (count,) = struct.unpack(order + "H", tiff[start : start + 2])
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack(order + "HHIH", tiff[entry : entry + 10])
        if tag == 0x0112:
            return int(value)
    return 1
