"""Names in other scripts: drawn where a font has the letters, never question marks or boxes without a word."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest

from edgekit.runtime.drawing import FONT, draw_boxes, draw_probabilities
from edgekit.runtime.lettering import has_glyph, legible

MODERN = int(cv2.__version__.split(".")[0]) >= 5  # brings glyphs for most scripts


def drawn(text: str) -> np.ndarray:
    picture = np.zeros((40, 300), np.uint8)
    cv2.putText(picture, text, (4, 30), FONT, 0.7, 255, 1)
    return picture


def test_ascii_stays_as_it_is() -> None:
    text = "".join(map(chr, range(32, 127)))
    assert legible(text) == text and not has_glyph("\n") and not has_glyph("\U000f0000")


@pytest.mark.parametrize("text", ["玫瑰", "роза", "ρόδο", "한국어", "ひらカナ"])
def test_scripts_of_opencv_5(text: str) -> None:
    if MODERN:
        assert legible(text) == text
        assert len({drawn(letter).tobytes() for letter in text}) == len(set(text))
    else:
        with pytest.warns(RuntimeWarning):
            assert legible(text).isascii()


def test_what_no_font_has_is_spelt_out_and_said_once() -> None:
    with pytest.warns(RuntimeWarning, match=r"\\u0917") as caught:
        assert legible("x गु") == r"x \u0917\u0941"
        assert legible("x गु") == r"x \u0917\u0941"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an accent is no loss worth a word
        assert legible("Rösé", str.isascii) == "Rose"


def test_no_picture_shows_question_marks() -> None:
    with pytest.warns(RuntimeWarning):
        pictures = []
        for name in ("กุ", r"\u0e01\u0e38"):
            pictures.append(np.zeros((100, 300, 3), np.uint8))
            draw_boxes(pictures[-1], np.array([[5, 40, 90, 90]]), [(0, 0, 255)], [name])
            draw_probabilities(pictures[-1], np.array([1.0, 0]), [name, "b"])
    np.testing.assert_array_equal(*pictures)
