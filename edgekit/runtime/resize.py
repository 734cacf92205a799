"""Bilinear resizing of 8-bit images that gives the same levels on every processor.

    bilinear(image, canvas[top:bottom, left:right])

The levels are those of ``cv2.resize(INTER_LINEAR)`` on x86 and of ``resize_into`` in cpp/src/image.cpp: weights of 11
bits, of a horizontal sum 15 bits kept, the vertical sum rounded to 8. Elsewhere cv2 has other kernels (KleidiCV and
Carotene in the aarch64 wheels: one level in a third of the values when shrinking by less than two, whatever
``setUseOptimized`` says), which is why NumPy computes them there: 1.2 ms instead of 0.1 for 480 x 640 to 240 x 320 on
one core of an x86 server. What else of cv2 predictions depend on was equal on both: INTER_AREA by whole factors,
transposing, turning, grey to BGR, ``convertScaleAbs`` and decoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from edgekit.runtime.processor import is_x86

Array = np.ndarray

_ONE = 2048  # what the weights of two neighbours add up to
_LINES = 16  # resized at a time: what is wide stays in the cache


def bilinear(image: Array, out: Array) -> None:
    """Resize uint8 ``[H, W, 3]`` to the size of ``out``, uint8 ``[h, w, 3]``, whose rows may lie apart."""
    if _CV2_AGREES:
        cv2.resize(image, out.shape[1::-1], dst=out, interpolation=cv2.INTER_LINEAR)
    else:
        in_whole_numbers(image, out)


def in_whole_numbers(image: Array, out: Array) -> None:
    """The same by integer arithmetic, anywhere."""
    height, width = out.shape[:2]
    down = _positions(len(image), height, inside=False)
    read = np.unique(np.concatenate([down.at, down.next]))  # shrinking leaves rows out
    lines = cv2.transpose(image if len(read) == len(image) else image[read])  # [W, rows, 3]: what is gathered is lines
    sums = np.empty((width, len(read) * 3), np.int16)
    for part, total in _weighted(lines.reshape(len(lines), -1), _positions(len(lines), width, inside=True), drop=0):
        np.right_shift(total, 4, out=sums[part], casting="unsafe")
    lines = cv2.transpose(sums.reshape(width, len(read), 3))  # [rows, w, 3]
    down = down._replace(at=np.searchsorted(read, down.at), next=np.searchsorted(read, down.next))
    for part, total in _weighted(lines.reshape(len(lines), -1), down, drop=16):
        total += 2
        total >>= 2
        out[part] = total.reshape(-1, width, 3)


class _Positions(NamedTuple):
    """Where the lines of a side come from: two neighbours, and what each weighs, in 1 / ``_ONE``; each ``[n]``."""

    at: Array
    next: Array
    first: Array
    second: Array


def _positions(source: int, target: int, inside: bool) -> _Positions:
    """Of ``target`` lines among ``source``; ``inside``: what lies beyond the first and last line weighs nothing."""
    step = 1.0 / (target / source)
    part = ((np.arange(target) + 0.5) * step - 0.5).astype(np.float32)
    at = np.floor(part).astype(np.int64)
    part -= at.astype(np.float32)
    if inside:
        part[(at < 0) | (at >= source - 1)] = 0
    weights = [np.rint(share * np.float32(_ONE)).astype(np.int32) for share in (np.float32(1) - part, part)]
    return _Positions(at.clip(0, source - 1), (at + 1).clip(0, source - 1), *weights)


def _weighted(lines: Array, where: _Positions, drop: int) -> Iterator[tuple[slice, Array]]:
    """Some new lines at a time: which, and their sums of two weighted ``lines`` less ``drop`` bits each, int32."""
    for begin in range(0, len(where.at), _LINES):
        part = slice(begin, begin + _LINES)
        total, other = (
            np.multiply(lines[rows[part]], weights[part, None], dtype=np.int32)
            for rows, weights in ((where.at, where.first), (where.next, where.second))
        )
        total >>= drop
        other >>= drop
        total += other
        yield part, total


_CV2_AGREES = is_x86()
