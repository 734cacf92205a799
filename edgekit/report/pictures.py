"""Images on which two models differ, drawn side by side with the differences marked.

    for pair in differences(float_predictor, int8_predictor, paths, most=6):
        pair.before, pair.after, pair.lost, pair.new

An object at confidence 0.25 counts as seen by the other model too if that one has an object of its class at half of the
confidence, overlapping by half; so what is marked is a difference, not a threshold that was just missed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.errors import InputError
from edgekit.metrics.matching import same_objects
from edgekit.runtime import drawing
from edgekit.runtime.image import read_image
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result

SEEN = 0.25
SIDE = 560  # pixels of a picture's longer side
QUALITY = 80
SAME, MARK = (200, 150, 60), (0, 94, 213)  # BGR: what both found; what one of them lacks (Okabe and Ito's vermilion)


@dataclass(frozen=True)
class Pair:
    """One image: ``before`` and ``after`` as ``data:`` addresses, and in words what is ``lost`` and ``new``."""

    name: str
    before: str
    after: str
    lost: list[str]
    new: list[str]


def differences(
    before: Predictor, after: Predictor, images: Sequence[Path | np.ndarray], most: int = 6
) -> tuple[list[Pair], int, int]:
    """The ``most`` images with the most differences, worst first; how many differ; how many were looked at.

    Args:
        images: paths, or uint8 BGR arrays.
    """
    found: list[tuple[float, Any, Result, Result, np.ndarray, np.ndarray]] = []
    looked = 0
    for number, image in enumerate(images):
        try:
            pixels = image if isinstance(image, np.ndarray) else read_image(image)
        except InputError:
            continue
        looked += 1
        name = f"image {number + 1}" if isinstance(image, np.ndarray) else image.name
        a, b = (p.predict([pixels], conf=SEEN / 2)[0] for p in (before, after))
        lost, new = _alone(a, b), _alone(b, a)
        if len(lost) or len(new):
            found.append((_weight(a, lost) + _weight(b, new), (name, image), a, b, lost, new))
    found.sort(key=lambda row: -row[0])
    pairs = []
    for _, (name, image), a, b, lost, new in found[:most]:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        pairs.append(Pair(name, _drawn(pixels, a, lost), _drawn(pixels, b, new), _words(a, lost), _words(b, new)))
    return pairs, len(found), looked


def data_address(picture: np.ndarray) -> str:
    """uint8 BGR as a JPEG inside a ``data:`` address."""
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _shrunk(picture: np.ndarray) -> np.ndarray:
    """The picture with its longer side at most ``SIDE`` pixels."""
    factor = SIDE / max(picture.shape[:2])
    if factor >= 1:
        return picture.copy()
    size = (max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _alone(one: Result, other: Result) -> np.ndarray:
    """[K] rows of ``one`` that ``other`` has nothing like; [0] for a classification whose answer differs."""
    if one.probs is not None:
        return np.zeros(int(one.top1 != other.top1), np.int64)
    return np.flatnonzero((_scores(one) >= SEEN) & (same_objects(one, other, SEEN) < 0))


def _weight(result: Result, rows: np.ndarray) -> float:
    return float(len(rows)) if result.probs is not None else float(_scores(result)[rows].sum())


def _scores(result: Result) -> np.ndarray:
    return np.zeros(0) if result.scores is None else result.scores


def _words(result: Result, rows: np.ndarray) -> list[str]:
    if result.probs is not None:
        return [f"{result.names[result.top1]} {result.probs[result.top1]:.2f}"] if len(rows) else []
    return [f"{result.class_names[i]} {_scores(result)[i]:.2f}" for i in rows]


def _drawn(pixels: np.ndarray, result: Result, marked: np.ndarray) -> str:
    """What a model found: thin lines for what both found, thick ones with a tag for what the other lacks."""
    picture = _shrunk(pixels)
    if result.probs is not None:
        drawing.draw_probabilities(picture, result.probs, result.names, 3)
        return data_address(picture)
    factor = max(picture.shape[:2]) / max(pixels.shape[:2])
    rotated = result.rotated_boxes is not None
    places = result.rotated_boxes if rotated else result.boxes
    assert places is not None
    places = places * (np.array([factor] * 4 + [1.0]) if rotated else factor)
    draw = drawing.draw_rotated_boxes if rotated else drawing.draw_boxes
    same = np.setdiff1d(np.flatnonzero(_scores(result) >= SEEN), marked)
    draw(picture, places[same], [SAME] * len(same), [""] * len(same), 1)
    draw(picture, places[marked], [MARK] * len(marked), _words(result, marked), 3)
    return data_address(picture)
