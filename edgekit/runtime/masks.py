"""Instance masks, stored as crops, and COCO's run-length encoding. Numpy only.

A mask is nearly always smaller than its image: 300 dense masks of a 12-megapixel photograph are 3.6 GB, their crops
a few megabytes. ``Masks`` keeps the crops and makes the dense array or COCO's compressed text when asked.

    masks.dense()            # bool [N, h, w]
    masks.rle()              # [{"size": [h, w], "counts": "PPYo0..."}, ...]
    decode_rle(masks.rle()[0])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InputError
from edgekit.spec import Json

Array = np.ndarray


@dataclass(frozen=True)
class Crop:
    """The part of a mask that can hold anything: bool ``pixels [ch, cw]`` with its top left pixel at (left, top)."""

    left: int
    top: int
    pixels: Array


@dataclass(frozen=True)
class Masks:
    """N instance masks of one image of ``size`` (height, width). ``masks[i]`` is one dense bool ``[h, w]``."""

    size: tuple[int, int]
    crops: tuple[Crop, ...]

    @classmethod
    def from_dense(cls, masks: Array) -> Masks:
        """From bool ``[N, h, w]``."""
        height, width = masks.shape[1:]
        return cls((height, width), tuple(Crop(0, 0, np.asarray(m, bool)) for m in masks))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> Array:
        crop = self.crops[index]
        mask = np.zeros(self.size, bool)
        height, width = crop.pixels.shape
        mask[crop.top : crop.top + height, crop.left : crop.left + width] = crop.pixels
        return mask

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def dense(self) -> Array:
        """Every mask at the image's size: bool ``[N, h, w]``, N x h x w bytes."""
        return np.stack(list(self)) if self.crops else np.zeros((0, *self.size), bool)

    def rle(self) -> list[Json]:
        """Every mask as COCO compressed RLE: ``{"size": [h, w], "counts": text}``."""
        return [{"size": list(self.size), "counts": pack_counts(_crop_counts(c, self.size))} for c in self.crops]


def encode_rle(mask: Array) -> Json:
    """COCO compressed RLE of one bool ``[h, w]`` mask."""
    return Masks.from_dense(np.asarray(mask)[None]).rle()[0]


def decode_rle(rle: Mapping[str, Any]) -> Array:
    """The bool ``[h, w]`` mask of a COCO RLE: ``counts`` a text (or bytes), or a plain list of run lengths.

    Raises:
        InputError: the runs do not add up to the size.
    """
    height, width = (int(v) for v in rle["size"])
    counts = rle["counts"]
    runs = np.asarray(counts, np.int64) if isinstance(counts, (list, tuple)) else unpack_counts(counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise InputError(f"run-length encoded mask: its runs add up to {runs.sum()} pixels, not {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    mask: Array = np.repeat(values, runs).reshape(width, height).T
    return mask


def _crop_counts(crop: Crop, size: tuple[int, int]) -> NDArray[np.int64]:
    """Run lengths of a mask in COCO's order: down the columns, zeros first, of the whole image."""
    height, width = size
    rows, columns = crop.pixels.shape
    padded = np.zeros((columns, rows + 2), bool)
    padded[:, 1:-1] = crop.pixels.T
    places = np.flatnonzero(padded[:, 1:] != padded[:, :-1])  # rows + 1 in each column where a run may begin or end
    column, row = np.divmod(places, rows + 1)
    edges = (column + crop.left) * height + row + crop.top
    # A run that touches the bottom of one column and the top of the next ends where the next begins: one run.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def pack_counts(counts: Iterable[int] | Array) -> str:
    """Run lengths as the text of COCO's compressed RLE.

    Each run from the fourth on is written as the difference from the run two before it; a number becomes groups of
    five bits, lowest first, bit 6 set on all but the last group, plus 48 to be printable (format of
    https://github.com/cocodataset/cocoapi).
    """
    runs = np.asarray(counts, np.int64)
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    open_ = np.ones(len(rest), bool)
    groups, used = [], []
    while open_.any():
        low = rest & 31
        rest >>= 5
        more = np.where(low & 16, rest != -1, rest != 0)
        groups.append(low + 32 * more + 48)
        used.append(open_)
        open_ = open_ & more
    if not groups:
        return ""
    text: bytes = np.stack(groups, 1)[np.stack(used, 1)].astype(np.uint8).tobytes()
    return text.decode("ascii")


def unpack_counts(text: str | bytes) -> NDArray[np.int64]:
    """Run lengths int64 from the text of COCO's compressed RLE; the inverse of ``pack_counts``.

    Raises:
        InputError: the text is cut short or holds other characters.
    """
    raw = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if len(codes) and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise InputError("run-length encoded mask: not the text of a COCO compressed RLE")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends + 1])[:-1].astype(np.int64)
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 12:
        raise InputError("run-length encoded mask: not the text of a COCO compressed RLE")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts) if len(codes) else np.zeros(0, np.int64)
    runs = runs - np.where(codes[ends] & 16, 1 << (5 * lengths), 0)  # the top bit of the last group is the sign
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
