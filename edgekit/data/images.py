"""Image files: finding them, and their size without decoding them.

Sizes are those of ``runtime.image.read_image``, that is after the EXIF orientation has been applied. JPEG and PNG
headers are read directly (microseconds); other formats are decoded.

    find_images(Path("bccd/images/val"))          # sorted paths, folders below included
    look_through(Path("bccd/images/val"))[1]      # what in them is not used
    image_size(path)                              # (width, height)
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path

from edgekit.data.issues import Issue
from edgekit.errors import InputError
from edgekit.runtime.image import SUFFIXES, read_image

# Pictures that OpenCV does not read, or not as 8-bit color, by their suffix.
UNREAD = tuple(
    ".3fr .arw .cr2 .cr3 .dcm .dng .exr .hdr .heic .heif .ico .jxl .nef .orf .pcx .pfm .psd .raf .ras .raw .rw2 .sr "
    ".svg .tga .xcf".split(" ")
)
# What lies beside pictures and is none: not looked into.
BESIDE = tuple(".cache .csv .db .html .ini .json .md .npy .npz .py .tsv .txt .xml .yaml .yml .zip".split(" "))
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP  ")
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_SHORT, _HEAD = 1 << 12, 1 << 18  # most headers; enough for a JPEG's with an EXIF thumbnail in it


def is_image(path: Path) -> bool:
    """By its suffix; hidden files (``._x.jpg`` of some archives) are none."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """What programs keep beside one's files: ``.ipynb_checkpoints``, ``._x.jpg``, ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def find_images(folder: Path) -> list[Path]:
    """Every image in ``folder`` and the folders below, sorted; see ``look_through``."""
    return look_through(folder)[0]


def look_through(folder: Path) -> tuple[list[Path], list[Issue]]:
    """Every image in ``folder`` and the folders below, sorted, and what of it is not used.

    Links are followed, but not back to a folder they lie in. Hidden files and folders are left out, and so are
    pictures of formats that edgekit does not read and links that lead nowhere; each is an issue.
    """
    images: list[Path] = []
    issues: list[Issue] = []
    _walk(folder, (os.path.realpath(folder),), images, issues)
    return sorted(images), issues


def _walk(folder: Path, above: tuple[str, ...], images: list[Path], issues: list[Issue]) -> None:
    """Adds what is in ``folder``; ``above`` are the real paths of the folders around it, itself included."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    hidden = 0
    for entry in entries:
        path, suffix = folder / entry.name, os.path.splitext(entry.name)[1].lower()
        if entry.is_dir():
            real = os.path.realpath(path)
            if is_hidden(entry.name):
                issues += hidden_folder(path)
            elif real in above:
                issues.append(Issue(path, None, "link", "links back to a folder it lies in; not followed", "note"))
            else:
                _walk(path, (*above, real), images, issues)
        elif is_hidden(entry.name):
            hidden += suffix in SUFFIXES
        elif not entry.is_file():
            if entry.is_symlink():
                issues.append(Issue(path, None, "no image", "a link that leads nowhere; left out"))
        elif suffix in SUFFIXES:
            images.append(path)
        elif suffix not in BESIDE:
            issues.append(_no_picture(path, suffix))
    if hidden:
        issues.append(Issue(folder, None, "hidden", f"holds {hidden} hidden images (._*); left out", "note", hidden))


def _no_picture(path: Path, suffix: str) -> Issue:
    if suffix in UNREAD:
        return Issue(path, None, "format", "a picture of a format that is not read; left out, save it as PNG or JPEG")
    if _looks_like_picture(path):
        return Issue(path, None, "format", "a picture, but not by its name; left out, name it .png or .jpg as it is")
    return Issue(path, None, "format", "neither a picture nor a label file by its name; left out", "note")


def hidden_folder(folder: Path) -> list[Issue]:
    """What to say of a hidden folder: nothing where it holds no images."""
    count = sum(os.path.splitext(name)[1].lower() in SUFFIXES for _, _, names in os.walk(folder) for name in names)
    sentence = f"a hidden folder with {count} images; left out"
    return [Issue(folder, None, "hidden", sentence, "note", count)] if count else []


def _looks_like_picture(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            head = handle.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")


@lru_cache(maxsize=200_000)
def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as ``read_image`` would give them.

    Raises:
        InputError: the file cannot be read as an image.
    """
    size = _facts(path)[:2]
    if size == (0, 0):
        height, width = read_image(path).shape[:2]
        size = (width, height)
    return size[0], size[1]


def orientation(path: Path) -> int:
    """EXIF's orientation of a JPEG, 1 to 8; 0 where the header of another format does not tell.

    Raises:
        InputError: the file cannot be read.
    """
    return _facts(path)[2]


def _facts(path: Path) -> tuple[int, int, int]:
    """Width, height and EXIF orientation by the header; width and height 0 where it does not tell.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(_SHORT)
            for more in (_HEAD, 0):
                try:
                    if head[:2] == b"\xff\xd8":
                        return _jpeg_facts(head)
                    if head[:8] == b"\x89PNG\r\n\x1a\n" and b"eXIf" not in head + handle.read(_HEAD):
                        return *struct.unpack(">II", head[16:24]), 1
                    return 0, 0, 0
                except (struct.error, IndexError):
                    head += handle.read(more)  # an unusual header: more of it, else decode it
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return 0, 0, 0


def _jpeg_facts(head: bytes) -> tuple[int, int, int]:
    """Walks a JPEG's segments (ITU T.81, annex B) to the frame header; EXIF's orientation swaps the sides.

    Raises:
        IndexError, struct.error: the header goes on beyond ``head``.
    """
    at, turn = 2, 1
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack(">H", head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return (height, width, turn) if turn in TURNED else (width, height, turn)
        if marker == 0xE1 and head[at + 4 : at + 10] == b"Exif\0\0":
            turn = _exif_orientation(head[at + 10 : at + 2 + length])
            turn = turn if turn in range(1, 9) else 1  # decoders ignore others
        at += 2 + length
    return 0, 0, 0


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
