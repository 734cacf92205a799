"""Input sizes that fit what a camera shows: the smallest rectangles that hold its pictures at the square's scale.

    view = read_view("1920x1080")                            # or a video, an image, a folder of either
    fit(view, (640, 640), areas=(4, 1)).shapes               # ((384, 640),)
    fit(read_view("phone/"), (640, 640), (4, 1)).shapes      # ((384, 640), (640, 384)) of pictures of both kinds

A square canvas of 640 holds 16:9 with 280 of its 640 rows grey. In the rectangle a picture has the very pixels that it
has in the square, and less grey around them; the network is not the same function there, as Area Attention cuts other
bands and sees less padding. Sides are multiples of 32; where an area of Area Attention does not divide, the shorter
side grows by 32.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.data.images import image_size
from edgekit.errors import InputError, UsageError
from edgekit.runtime.image import LEAST_SIDE
from edgekit.runtime.sources import Sources, is_address, is_remote_file, is_video, open_sources, shown
from edgekit.spec import STRIDE, STRIDES, Images

Size = tuple[int, int]  # height, width

MOST_SIDE = 1 << 16
_WORDS = re.compile(r"(\d+)x(\d+)")
_MAPS = STRIDES[1:]  # strides of the maps that attention runs on


@dataclass(frozen=True)
class View:
    """What a camera shows.

    Attributes:
        given: as it was asked for.
        sizes: (height, width) of the pictures, upright -> how many files have it.
        sources: its files; None where only a size was given.
        unreadable: sentences about files that are left out.
    """

    given: str
    sizes: Mapping[Size, int]
    sources: Sources | None = None
    unreadable: tuple[str, ...] = field(default=())

    @property
    def images(self) -> Images:
        """Files to look at, as ``BuildOptions.images`` takes them; None where there are none."""
        return None if self.sources is None else [str(path) for path in self.sources.paths]

    def pictures(self, most: int) -> list[np.ndarray]:
        """At most so many of its pictures from all over it, uint8 BGR; without those that cannot be read."""
        if self.sources is None:
            return []
        paths = self.sources.paths
        each = max(most // len(paths), 1)
        found: list[np.ndarray] = []
        for path in paths[:: -(-len(paths) // most)]:
            total = Sources([path]).total or 1
            frames = (frame.image for frame in Sources([path], max(total // each, 1)))
            found += [image for _, image in zip(range(each), frames, strict=False) if image is not None]
        return found


def read_view(given: str) -> View:
    """What ``given`` shows: ``WIDTHxHEIGHT``, or files as ``edgekit predict`` takes them.

    Raises:
        InputError: there is no such file, or nothing in it can be read.
        UsageError: a size that no picture has, or a stream.
    """
    words = _WORDS.fullmatch(given)
    if words and not Path(given).exists():
        width, height = int(words[1]), int(words[2])
        if not (min(width, height) >= LEAST_SIDE and max(width, height) <= MOST_SIDE):
            raise UsageError(f"`source` {given}: sides are {LEAST_SIDE} to {MOST_SIDE} pixels; give WIDTHxHEIGHT")
        return View(given, {(height, width): 1})
    if is_address(given) and not is_remote_file(given):
        raise UsageError(f"`source` {shown(given)}: a stream, which may end at any time; give its size, WIDTHxHEIGHT")
    try:
        sources = open_sources([given])
    except InputError as error:
        raise InputError(f"`source` {error}; give WIDTHxHEIGHT, a video, an image or a folder of them") from None
    sizes: Counter[Size] = Counter()
    wrong = []
    good = []
    for path in sources.paths:
        try:
            sizes[_size(path)] += 1
            good.append(path)
        except InputError as error:
            wrong.append(str(error))
    if not sizes:
        raise InputError(f"`source` {given}: nothing in it can be read ({wrong[0]})")
    return View(given, dict(sizes), Sources(good), tuple(wrong))


def _size(path: Path | str) -> Size:
    if isinstance(path, Path) and not is_video(path):
        width, height = image_size(path)
        return height, width
    for frame in Sources([path]):
        if frame.error is not None:
            raise frame.error
        if frame.image is not None:
            return frame.image.shape[0], frame.image.shape[1]
    raise InputError(f"{path}: not a readable video; it is damaged, cut short or of an unknown format")


@dataclass(frozen=True)
class Fit:
    """Input sizes for a view, the one with more pictures first, and sentences on how they came about."""

    shapes: tuple[Size, ...]
    notes: tuple[str, ...]


def fit(view: View, base: Size, areas: Sequence[int], several: bool = True) -> Fit:
    """The smallest input sizes that hold the view's pictures at the scale that ``base`` (height, width) shows them at.

    Args:
        areas: of the attention at strides 16 and 32 (``ModelSpec.areas``).
        several: whether what is built can hold more than one.

    Raises:
        UsageError: no area divides, up to ``base`` itself.
    """
    whole = _rectangle(list(view.sizes), base, areas)
    bad = view.unreadable
    notes = [f"note: `source`: {len(bad)} files left out; the first: {bad[0]}"] if bad else []
    kinds = [_kind(view, lying) for lying in (True, False)]
    kinds.sort(key=lambda sizes: -sum(view.sizes[size] for size in sizes))
    if not all(kinds):
        return Fit((whole,), (*notes, *_grown(list(view.sizes), base, whole), *_full(whole, base)))
    counts = " and ".join(str(sum(view.sizes[size] for size in sizes)) for sizes in kinds)
    if not several:
        said = f"note: `source`: {counts} pictures lie and stand; this target holds one input size, {_text(whole)}"
        return Fit((whole,), (*notes, said))
    shapes = tuple(dict.fromkeys(_rectangle(sizes, base, areas) for sizes in kinds))
    if len(shapes) == 1:
        return Fit((whole,), (*notes, *_full(whole, base)))
    said = f"note: `source`: {counts} pictures lie and stand; input sizes {' and '.join(map(_text, shapes))}"
    return Fit(shapes, (*notes, said))


def _kind(view: View, lying: bool) -> list[Size]:
    return [size for size in view.sizes if (size[1] >= size[0]) == lying]


def _text(size: Size) -> str:
    return f"{size[0]},{size[1]}"


def _full(shape: Size, base: Size) -> list[str]:
    return [f"note: `source`: its pictures fill {_text(base)}; no smaller input holds them"] if shape == base else []


def _grown(sizes: Sequence[Size], base: Size, shape: Size) -> list[str]:
    least = _least(sizes, base)
    if least == shape:
        return []
    return [f"note: `source`: at {_text(least)} areas of attention do not divide; the next that does is {_text(shape)}"]


def _least(sizes: Sequence[Size], base: Size) -> Size:
    """Multiples of 32 that hold all of ``sizes`` at the scale that ``base`` shows each at."""
    sides = [0.0, 0.0]
    for size in sizes:
        scale = min(base[0] / size[0], base[1] / size[1])
        sides = [max(side, length * scale) for side, length in zip(sides, size, strict=True)]
    height, width = (max(math.ceil(side / STRIDE - 1e-9), 1) * STRIDE for side in sides)
    return height, width


def _rectangle(sizes: Sequence[Size], base: Size, areas: Sequence[int]) -> Size:
    height, width = _least(sizes, base)
    while not divides((height, width), areas):
        if height < base[0] and (height <= width or width >= base[1]):
            height += STRIDE
        elif width < base[1]:
            width += STRIDE
        else:
            counts = " and ".join(map(str, areas))
            raise UsageError(
                f"`imgsz` {_text(base)}: the tokens of no input size up to it divide into {counts} areas of attention; "
                "give another"
            )
    return height, width


def divides(size: Size, areas: Sequence[int]) -> bool:
    """Whether the tokens of the maps of an input of ``size`` divide into as many areas."""
    maps = [(size[0] // stride) * (size[1] // stride) for stride in _MAPS]
    return not any(tokens % count for tokens, count in zip(maps, areas, strict=True))
