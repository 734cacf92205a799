"""Pixels on the way in: the same levels on every processor, held to hashes taken of cv2 on x86-64 (AVX-512).

``make test-processors`` and ``make test-arm`` run this file on emulated ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from edgekit.runtime import processor
from edgekit.runtime.image import centre_crop, letterbox
from edgekit.runtime.resize import in_whole_numbers

LETTERBOXES = "c2ebc8374801050e354c139b7f5004f8db8c168ea8679f170ba8e7f21fd1c142"
CROPS = "568a389fbe236650e809bed69bb789b5ff8072e0368670036b61e311a4319767"


def pictures(count: int, seed: int) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Random uint8 ``[H, W, 3]``, every second one smooth, and the (H, W) they are brought to; the last are large."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        least, most = (2, 160) if k < count - count // 50 else (400, 1300)
        height, width = rng.integers(least, most, 2).tolist()
        if k % 2:
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        else:  # differences of few levels, where rounding shows otherwise than in noise
            slope = np.add.outer(np.arange(height) * int(rng.integers(1, 40)), np.arange(width) * int(rng.integers(40)))
            picture = np.dstack([(slope >> shift) & 255 for shift in (2, 3, 4)]).astype(np.uint8)
        yield picture, (int(rng.integers(8, 160)), int(rng.integers(8, 160)))


def digest(arrays: Iterator[np.ndarray]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_letterboxes_of_a_thousand_pictures_are_those_of_x86() -> None:
    assert digest(letterbox(picture, size)[0] for picture, size in pictures(1000, 0)) == LETTERBOXES


def test_centre_crops_are_those_of_x86() -> None:
    assert digest(centre_crop(picture, size)[0] for picture, size in pictures(300, 1)) == CROPS


@pytest.mark.skipif(not processor.is_x86(), reason="cv2 has these levels on x86 alone")
def test_whole_numbers_are_cv2s() -> None:
    for picture, (height, width) in pictures(1000, 2):
        out = np.zeros((height + 3, width + 2, 3), np.uint8)
        in_whole_numbers(picture, out[1:-2, 2:])
        np.testing.assert_array_equal(out[1:-2, 2:], cv2.resize(picture, (width, height)))
        out[1:-2, 2:] = 0
        assert not out.any()
