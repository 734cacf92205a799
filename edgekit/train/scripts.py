"""Names in any script on matplotlib's figures, with the fonts that are there. Numpy and cv2; matplotlib when called.

A figure's font lacks Chinese and much else. In this order: another font of this machine that has the letters, the
glyphs that OpenCV brings, plain letters or numbers with a warning (``edgekit.runtime.lettering``).

    with rc_context({"font.family": families(names)}):
        axis.set_title(fitted(name))
        data = png(figure)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import cv2
import numpy as np

from edgekit.runtime.lettering import FONT, has_glyph, legible

MAIN = "DejaVu Sans"  # comes with matplotlib
EM = 29.2  # pixels of a Chinese letter in OpenCV's font at scale 1
WIDER = 0.45  # of an em: what such a letter may take more than matplotlib's sign for a letter it lacks
SPACE = "\u2003"  # as wide as an em


def families(names: Iterable[str]) -> list[str]:
    """Font families that together have the letters of ``names``, as far as this machine's have."""
    chosen, missing = [MAIN], {ord(letter) for name in names for letter in name if not _main_has(letter)}
    for family, letters in _installed().items() if missing else ():
        if missing & letters:
            chosen.append(family)
            missing -= letters
    return chosen


def fitted(name: str) -> str:
    """``name`` as it is handed to matplotlib: what no font can write replaced, and room for what OpenCV writes."""
    text = legible(name, lambda letter: _written(letter) or has_glyph(letter), "in plots")
    lacking = sum(not _written(letter) for letter in text)
    return text + SPACE * round(lacking * WIDER)


def png(figure: Any) -> bytes:
    """The figure as a PNG file's bytes; texts whose letters matplotlib lacks are written by OpenCV."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.draw()
        texts = [t for t in figure.findobj(Text) if t.get_visible() and not all(map(_written, t.get_text()))]
        for text in texts:
            text.set_alpha(0)
        if texts:
            canvas.draw()
    picture = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, 2::-1])
    for text in texts:
        _write(picture, text, canvas.get_renderer())
    return bytes(cv2.imencode(".png", picture)[1])


def _write(picture: np.ndarray, text: Any, renderer: Any) -> None:
    """The text where matplotlib left it out."""
    from matplotlib.colors import to_rgb

    box, turned = text.get_window_extent(renderer), round(text.get_rotation()) % 360 == 90
    room = box.height if turned else box.width
    scale = renderer.points_to_pixels(text.get_fontsize()) / EM
    words = text.get_text().replace(SPACE, "")
    (width, height), below = cv2.getTextSize(words, FONT, scale, 1)
    scale *= min(room / max(width, 1), 1.0)
    (width, height), below = cv2.getTextSize(words, FONT, scale, 1)
    ink: np.ndarray = np.zeros((height + below + 4, width + 4), np.uint8)
    cv2.putText(ink, words, (2, height + 2), FONT, scale, 255, 1, cv2.LINE_AA)
    if turned:
        ink = cv2.rotate(ink, cv2.ROTATE_90_COUNTERCLOCKWISE)
    rows, columns = ink.shape
    # At the end of the room that is next to what the text belongs to: labels of the left axis end there.
    left = box.x1 - columns if text.get_horizontalalignment() == "right" and not turned else box.x0
    top = picture.shape[0] - box.y1 if turned else picture.shape[0] - (box.y0 + box.y1 + rows) / 2
    x, y = (int(np.clip(round(v), 0, max(s - n, 0)))
            for v, s, n in ((left, picture.shape[1], columns), (top, picture.shape[0], rows)))  # fmt: skip
    place = picture[y : y + rows, x : x + columns]
    share = ink[: place.shape[0], : place.shape[1], None] / 255.0
    place[:] = np.rint(place * (1 - share) + np.array(to_rgb(text.get_color())[::-1]) * 255 * share)


@cache
def _main_has(letter: str) -> bool:
    return ord(letter) in _letters(_path_of(MAIN))


def _written(letter: str) -> bool:
    """Whether a font of this machine has it."""
    return _main_has(letter) or any(ord(letter) in letters for letters in _installed().values())


@cache
def _installed() -> dict[str, frozenset[int]]:
    """Family -> code points, of every font of this machine but the main one and those that draw signs for scripts."""
    from matplotlib.font_manager import fontManager

    found: dict[str, frozenset[int]] = {}
    for entry in fontManager.ttflist:
        known = entry.name in found or entry.name.startswith(("DejaVu", "Last Resort", "LastResort", ".LastResort"))
        if not known and entry.style == "normal":
            found[entry.name] = _letters(entry.fname)
    return found


def _path_of(family: str) -> str:
    from matplotlib.font_manager import findfont

    return str(findfont(family))


@cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # not a font after all
        return frozenset()
