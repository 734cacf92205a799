"""Which letters the font on pictures has, and what to show in place of those it lacks. Numpy and cv2.

OpenCV 5 brings glyphs for most scripts, OpenCV 4 for ASCII; both draw a question mark for what they lack, and say
nothing. Here such letters become plain ones (é: e) or their number (\\u0917), with one warning.

    legible("玫瑰 0.93")            # as it is with OpenCV 5; "\\\\u73ab\\\\u7470 0.93" with OpenCV 4
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
_said: set[tuple[str, str]] = set()


@cache
def has_glyph(letter: str) -> bool:
    """Whether OpenCV draws ``letter``, rather than question marks."""
    if letter.isascii():
        return letter.isprintable()
    if unicodedata.category(letter) == "Cs":  # a byte of a name that is no UTF-8: OpenCV would crash
        return False
    drawn = _drawn(letter)
    return not any(np.array_equal(drawn, _drawn("?" * count)) for count in range(1, 5))  # one a byte in OpenCV 4


def legible(text: str, has: Callable[[str], bool] = has_glyph, where: str = "on pictures") -> str:
    """``text`` with every letter that ``has`` denies replaced by a plain one or by its number; warns of the latter."""
    if all(has(letter) for letter in text):
        return text
    found = "".join(letter if has(letter) else _plain(letter) for letter in text)
    if ("\\u" in found or "\\U" in found) and (text, where) not in _said:
        _said.add((text, where))
        said = text.encode("utf-8", "backslashreplace").decode()
        warnings.warn(f"{said}: no font here has all of its letters, so it is shown {where} as {found}",
                      RuntimeWarning, stacklevel=2)  # fmt: skip
    return found


def _plain(letter: str) -> str:
    simple = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode().strip()
    return simple or ("" if "\u0300" <= letter <= "\u036f" else letter.encode("ascii", "backslashreplace").decode())


def _drawn(text: str) -> np.ndarray:
    picture: np.ndarray = np.zeros((48, 160), np.uint8)
    cv2.putText(picture, text, (4, 32), FONT, 0.8, 255, 1, cv2.LINE_AA)
    return picture
