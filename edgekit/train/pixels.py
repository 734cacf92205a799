"""What changes pixels and no label: color jitter, RandAugment and random erasing. uint8 images, numpy and cv2.

rgb = random_hsv(rng, bgr, 0.015, 0.7, 0.4)
image = randaugment(rng, image, operations=2, magnitude=9)
erase(rng, planes)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FILL = (114, 114, 114)
_LEVELS = np.arange(256)


def random_hsv(rng: np.random.Generator, bgr: Array, hue: float, saturation: float, value: float) -> Array:
    """Colours changed at random, as RGB: hue shifted by up to ``hue`` of the circle, saturation and value scaled by
    1 ± the other two."""
    if not (hue or saturation or value):
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    h, s, v = rng.uniform(-1, 1, 3) * (hue, saturation, value)
    return shift_hsv(bgr, float(h), float(s), float(v))


def shift_hsv(bgr: Array, hue: float, saturation: float, value: float) -> Array:
    """The image as RGB with its hue shifted by ``hue`` of the circle, saturation and value times one plus the others.

    One matrix for all three channels: a fifth of the time of tables. It saturates where the hue ought to come round,
    at 255 (the circle is 180, and cv2 takes what is beyond) but also at 0; so a shift back is done on the image with
    red and blue exchanged, which mirrors the circle and makes it one forward.
    """
    there, back = (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2RGB) if hue >= 0 else (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2BGR)
    hsv = cv2.cvtColor(bgr, there)
    matrix = np.array([[1, 0, 0, round(abs(hue) * 180)], [0, 1 + saturation, 0, 0], [0, 0, 1 + value, 0]])
    cv2.transform(hsv, matrix, dst=hsv)
    return cv2.cvtColor(hsv, back, dst=hsv)


def erase(rng: np.random.Generator, planes: Array) -> None:
    """Blackens a rectangle of 2 to 33 % of the area, sides 0.3 to 3.3 to each other (Zhong et al., *Random Erasing
    Data Augmentation*, arXiv 1708.04896), in ``planes`` [3, H, W]; nothing where none of ten tries fits."""
    height, width = planes.shape[1:]
    for _ in range(10):
        area = rng.uniform(0.02, 0.33) * height * width
        ratio = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows < height and 0 < columns < width:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            planes[:, top : top + rows, left : left + columns] = 0
            return


# ---- RandAugment ------------------------------------------------------------------------------------------------


def randaugment(rng: np.random.Generator, image: Array, operations: int, magnitude: float) -> Array:
    """So many operations drawn from ``OPERATIONS``, each at ``magnitude`` of 30 (Cubuk et al., *RandAugment*,
    arXiv 1909.13719); those with a direction take either. uint8 ``[H, W, 3]``."""
    for index in rng.integers(len(OPERATIONS), size=operations):
        strength = magnitude / 30
        name = _NAMES[index]
        if name in _SIGNED and rng.random() < 0.5:
            strength = -strength
        image = OPERATIONS[name](image, strength)
    return image


def _affine(image: Array, matrix: list[list[float]]) -> Array:
    height, width = image.shape[:2]
    return cv2.warpAffine(
        image, np.array(matrix, np.float64), (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL
    )


def _rotate(image: Array, strength: float) -> Array:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -30 * strength, 1.0)
    return _affine(image, matrix.tolist())


def _table(image: Array, levels: Array) -> Array:
    return cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8))


def _blend(image: Array, other: Array, strength: float) -> Array:
    """Away from ``other`` (or, below 0, towards it) by 0.9 of the strength."""
    factor = 1 + 0.9 * strength
    return cv2.addWeighted(image, factor, other, 1 - factor, 0)


def _grey(image: Array) -> Array:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def _contrast(image: Array, strength: float) -> Array:
    mean = round(float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0]))
    return _table(image, mean + (_LEVELS - mean) * (1 + 0.9 * strength))


def _sharpness(image: Array, strength: float) -> Array:
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]
    return _blend(image, smooth, strength)


def _posterize(image: Array, strength: float) -> Array:
    bits = 8 - round(4 * strength)
    coarse: Array = image & np.uint8(256 - (1 << (8 - bits)))
    return coarse


def _solarize(image: Array, strength: float) -> Array:
    return _table(image, np.where(255 * (1 - strength) <= _LEVELS, 255 - _LEVELS, _LEVELS))


def _autocontrast(image: Array, strength: float) -> Array:
    low, high = image.min((0, 1)).astype(float), image.max((0, 1)).astype(float)
    flat = high <= low
    low, high = np.where(flat, 0, low), np.where(flat, 255, high)
    levels = (_LEVELS[:, None] - low) * (255 / (high - low))
    return cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None])


def _equalize(image: Array, strength: float) -> Array:
    return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])


# The published list; strengths 0 to 1 (± where there is a direction) span the published ranges.
OPERATIONS: dict[str, Callable[[Array, float], Array]] = {
    "identity": lambda image, strength: image,
    "shear x": lambda image, s: _affine(image, [[1, 0.3 * s, 0], [0, 1, 0]]),
    "shear y": lambda image, s: _affine(image, [[1, 0, 0], [0.3 * s, 1, 0]]),
    "translate x": lambda image, s: _affine(image, [[1, 0, round(150 / 331 * image.shape[1] * s)], [0, 1, 0]]),
    "translate y": lambda image, s: _affine(image, [[1, 0, 0], [0, 1, round(150 / 331 * image.shape[0] * s)]]),
    "rotate": _rotate,
    "brightness": lambda image, s: _table(image, _LEVELS * (1 + 0.9 * s)),
    "color": lambda image, s: _blend(image, _grey(image), s),
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
_NAMES = tuple(OPERATIONS)
_SIGNED = {
    "shear x",
    "shear y",
    "translate x",
    "translate y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
}
