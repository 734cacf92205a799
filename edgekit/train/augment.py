"""What training does to images and their labels: the options, and how a sample is put together from them.

    augment = Augment.recipe("n")                        # or Augment(mosaic=0.5, degrees=10), Augment.none()
    canvas, objects = detection_sample(rng, augment, fetch, partner, (640, 640), mosaic=True)
    canvas = classification_sample(rng, augment, image, (224, 224))

Canvases are uint8 BGR ``[H, W, 3]``; ``finish`` makes the RGB planes a network sees. A mosaic never exists at twice
the size: each of its four images goes straight to its place in the output.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edgekit.errors import UsageError
from edgekit.runtime.image import letterbox
from edgekit.train import pixels
from edgekit.train.geometry import Array, Objects, compose, fill, flip_lr, flip_ud, move, rotation, scaling

FILL = 114
MOST_COVERED = 0.3  # of any object by one that is pasted

# The image at a place in the epoch's order, its objects, and the width and height that their numbers count it as.
Fetched = tuple[Array, Objects, tuple[float, float]]
Fetch = Callable[[int], Fetched]
Partner = Callable[[], int]


@dataclass(frozen=True)
class Augment:
    """How training images are varied. Defaults are the published recipe of scale n.

    Attributes:
        mosaic: probability that a sample is a mosaic of four images.
        mixup: probability that a mosaic is blended with a second one.
        copy_paste: probability of each outlined object to be pasted mirrored where it covers little (segment).
        hsv_h: largest shift of the hue, as a fraction of the color circle.
        hsv_s, hsv_v: largest relative change of saturation and of value.
        degrees: largest rotation either way.
        translate: largest shift, as a fraction of the input.
        scale: zoom between 1 - scale and 1 + scale; of classification the smallest area of a crop is 1 - scale.
        shear: largest shear along each axis, degrees.
        flip_lr, flip_ud: probability of a mirrored image.
        randaugment: number of random operations a classification image undergoes (arXiv 1909.13719); 0: none.
        magnitude: their strength, 0 to 30.
        erasing: probability that a rectangle of a classification image is blackened (arXiv 1708.04896).
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    flip_lr: float = 0.5
    flip_ud: float = 0.0
    randaugment: int = 2
    magnitude: float = 9
    erasing: float = 0.4

    def __post_init__(self) -> None:
        ranges = {"magnitude": 30.0, "degrees": 180.0, "shear": 80.0, "randaugment": 20.0, "hsv_h": 0.4}
        for field in dataclasses.fields(self):
            value, most = getattr(self, field.name), ranges.get(field.name, 1.0)
            if not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise UsageError(f"`augment` {field.name}={value}: must be a number from 0 to {most:g}")
        if self.scale >= 1:
            raise UsageError(f"`augment` scale={self.scale}: must be below 1, or an image could shrink to nothing")

    @classmethod
    def none(cls) -> Augment:
        """Images as validation sees them."""
        return cls(**{field.name: 0 for field in dataclasses.fields(cls)})

    @classmethod
    def recipe(cls, letter: str) -> Augment:
        """The published numbers for the scale ``n``, ``s``, ``m``, ``l`` or ``x``; larger networks get more."""
        scale, mixup, copy_paste = {
            "n": (0.5, 0.0, 0.1),
            "s": (0.9, 0.05, 0.15),
            "m": (0.9, 0.15, 0.4),
            "l": (0.9, 0.15, 0.5),
            "x": (0.9, 0.2, 0.6),
        }[letter]
        return cls(scale=scale, mixup=mixup, copy_paste=copy_paste)

    @functools.cached_property
    def is_none(self) -> bool:
        """Whether samples are exactly what validation sees."""
        return self == Augment.none()


# ---- detection and its relatives --------------------------------------------------------------------------------


def detection_sample(
    rng: np.random.Generator,
    augment: Augment,
    fetch: Fetch,
    position: int,
    partner: Partner,
    size: tuple[int, int],
    mosaic: bool,
    flip_idx: Sequence[int] = (),
) -> tuple[Array, Objects]:
    """One training image of ``size`` (height, width) with its objects in its pixels.

    Args:
        rng: decides everything random.
        fetch: image, objects and their units at a place of the order.
        position: the place of this sample.
        partner: draws the place of another image for a mosaic.
        mosaic: False keeps mosaic, mixup and copy-paste off, as in the last epochs.
        flip_idx: each keypoint's counterpart in a mirror; without it keypoints are never mirrored.
    """
    if augment.is_none:
        image, objects, units = fetch(position)
        canvas, place = letterbox(image, size, FILL)
        matrix = scaling(place.scale_x, place.scale_y, place.left, place.top)
        return canvas, _placed(objects, matrix, image, units).clipped(size)
    if mosaic and rng.random() < augment.mosaic:
        canvas, objects = _mosaic(rng, augment, fetch, position, partner, size)
        if augment.mixup and rng.random() < augment.mixup:
            other, others = _mosaic(rng, augment, fetch, partner(), partner, size)
            share = float(rng.beta(32.0, 32.0))
            cv2.addWeighted(canvas, share, other, 1 - share, 0, dst=canvas)
            objects = Objects.joined([objects, others])
    else:
        canvas, objects = _single(rng, augment, fetch(position), size)
    if mosaic and augment.copy_paste and objects.outlines:
        objects = _copy_paste(rng, augment.copy_paste, canvas, objects)
    return _flipped(rng, augment, canvas, objects, flip_idx)


def _view(rng: np.random.Generator, augment: Augment, size: tuple[int, int]) -> Array:
    """The random affine: from a canvas whose middle is the origin to the output."""
    scale = rng.uniform(1 - augment.scale, 1 + augment.scale)
    if augment.degrees or augment.shear:
        angle, shear_x, shear_y = rng.uniform(-1, 1, 3) * (augment.degrees, augment.shear, augment.shear)
        matrix = rotation(angle, scale, shear_x, shear_y)
    else:
        matrix = scaling(scale, scale)
    shift = rng.uniform(0.5 - augment.translate, 0.5 + augment.translate, 2)
    matrix[:, 2] = shift * (size[1], size[0])
    return matrix


def _single(
    rng: np.random.Generator, augment: Augment, fetched: Fetched, size: tuple[int, int]
) -> tuple[Array, Objects]:
    """One image, fitted to the canvas, then the random affine."""
    image, objects, units = fetched
    canvas = np.full((*size, 3), FILL, np.uint8)
    height, width = image.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    matrix = compose(_view(rng, augment, size), scaling(ratio, ratio, -ratio * width / 2, -ratio * height / 2))
    used = paint(canvas, image, matrix)
    return canvas, _placed(objects, matrix if used is None else used, image, units).clipped(size)


def _placed(objects: Objects, matrix: Array, image: Array, units: tuple[float, float]) -> Objects:
    """Objects where ``matrix`` takes the pixels of their image."""
    height, width = image.shape[:2]
    return objects.transformed(compose(matrix, scaling(width / units[0], height / units[1])))


def _mosaic(
    rng: np.random.Generator,
    augment: Augment,
    fetch: Fetch,
    position: int,
    partner: Partner,
    size: tuple[int, int],
) -> tuple[Array, Objects]:
    """Four images around a point (arXiv 2004.10934), each fitted to the canvas, then the random affine for all."""
    canvas = np.full((*size, 3), FILL, np.uint8)
    centre_x, centre_y = rng.uniform(-0.5, 0.5, 2) * (size[1], size[0])
    view = _view(rng, augment, size)
    groups = []
    for corner, place in enumerate([position, partner(), partner(), partner()]):
        image, objects, units = fetch(place)
        height, width = image.shape[:2]
        ratio = min(size[0] / height, size[1] / width)
        left = centre_x - ratio * width * (corner % 2 == 0)
        top = centre_y - ratio * height * (corner < 2)
        used = paint(canvas, image, compose(view, scaling(ratio, ratio, left, top)))
        if used is not None:
            groups.append(_placed(objects, used, image, units))
    return canvas, Objects.joined(groups or [Objects.empty()]).clipped(size)


def paint(canvas: Array, image: Array, matrix: Array) -> Array | None:
    """Draws an image on a canvas where ``matrix`` takes it, and returns the matrix it really was drawn with.

    Without rotation and shear that is a resize, four times as fast as a warp, between whole pixels: the matrix then
    differs from the wanted one by at most half a pixel at either end of what is visible. None if nothing is.
    """
    height, width = image.shape[:2]
    rows, columns = canvas.shape[:2]
    if matrix[0, 1] == 0 and matrix[1, 0] == 0:
        across = _whole_pixels(matrix[0, 0], matrix[0, 2], width, columns)
        down = _whole_pixels(matrix[1, 1], matrix[1, 2], height, rows)
        if across is None or down is None:
            return None
        (x0, x1, a0, a1), (y0, y1, b0, b1) = across, down
        cv2.resize(image[b0:b1, a0:a1], (x1 - x0, y1 - y0), dst=canvas[y0:y1, x0:x1], interpolation=cv2.INTER_LINEAR)
        scale_x, scale_y = (x1 - x0) / (a1 - a0), (y1 - y0) / (b1 - b0)
        return scaling(scale_x, scale_y, x0 - a0 * scale_x, y0 - b0 * scale_y)
    corners = move(matrix, np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64))
    x0, y0 = np.maximum(np.floor(corners.min(0)), 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(corners.max(0)), (columns, rows)).astype(int).tolist()
    if x1 <= x0 or y1 <= y0:
        return None
    # cv2 counts from the middle of the first pixel.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5 - (x0, y0)
    cv2.warpAffine(image, centred, (x1 - x0, y1 - y0), dst=canvas[y0:y1, x0:x1], flags=cv2.INTER_LINEAR,
                   borderMode=cv2.BORDER_TRANSPARENT)  # fmt: skip
    return matrix


def _whole_pixels(scale: float, start: float, length: int, room: int) -> tuple[int, int, int, int] | None:
    """Which whole pixels [x0, x1) of a canvas of ``room`` show which [a0, a1) of an image of ``length``."""
    x0, x1 = max(round(start), 0), min(round(start + scale * length), room)
    if x1 <= x0:
        return None
    a0 = min(max(round((x0 - start) / scale), 0), length - 1)
    a1 = min(max(round((x1 - start) / scale), a0 + 1), length)
    return x0, x1, a0, a1


def _flipped(
    rng: np.random.Generator, augment: Augment, canvas: Array, objects: Objects, flip_idx: Sequence[int]
) -> tuple[Array, Objects]:
    """Random mirrors of the finished canvas."""
    lr, ud = rng.random(2) < (augment.flip_lr, augment.flip_ud)
    if objects.keypoints is not None and not len(flip_idx):
        lr = ud = False  # which point is the left eye's counterpart is not known
    if not (lr or ud):
        return canvas, objects
    height, width = canvas.shape[:2]
    matrix = flip_lr(width) if lr else flip_ud(height)
    if lr and ud:
        matrix = compose(flip_ud(height), matrix)
    return cv2.flip(canvas, -1 if lr and ud else int(lr)), objects.transformed(matrix, flip_idx)


def _copy_paste(rng: np.random.Generator, chance: float, canvas: Array, objects: Objects) -> Objects:
    """Pastes mirrored objects where each covers little of any other (arXiv 2012.07177); draws on ``canvas``."""
    height, width = canvas.shape[:2]
    mirrored = objects.transformed(flip_lr(width))
    chosen = []
    boxes = objects.boxes
    for i in np.flatnonzero(rng.random(len(objects)) < chance):
        if _covered(boxes, mirrored.boxes[i]).max(initial=0.0) < MOST_COVERED:
            chosen.append(i)
            boxes = np.concatenate([boxes, mirrored.boxes[i : i + 1]])
    if not chosen:
        return objects
    assert mirrored.outlines is not None
    pasted = mirrored.select(np.array(chosen))
    mask = np.zeros((height, width), np.uint8)
    for parts in pasted.outlines or ():
        fill(mask, parts, 1)
    cv2.copyTo(cv2.flip(canvas, 1), mask, canvas)
    on_top = dataclasses.replace(pasted, layer=pasted.layer + objects.layer.max() + 1)
    return Objects.joined([objects, on_top])


def _covered(boxes: Array, box: Array) -> Array:
    """[N] the share of each box that ``box`` covers."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: Array = np.maximum(sides, 0).prod(1) / np.maximum(area, 1e-12)
    return kept


# ---- classification ---------------------------------------------------------------------------------------------


def classification_sample(rng: np.random.Generator, augment: Augment, image: Array, size: tuple[int, int]) -> Array:
    """A random crop of ``size`` (height, width), mirrored and with RandAugment; the rest is ``finish``'s."""
    height, width = image.shape[:2]
    top, left, rows, columns = _random_crop(rng, 1 - augment.scale, height, width)
    shrinks = rows > size[0] or columns > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    crop = cv2.resize(image[top : top + rows, left : left + columns], size[::-1], interpolation=method)
    lr, ud = rng.random(2) < (augment.flip_lr, augment.flip_ud)
    if lr or ud:
        crop = cv2.flip(crop, -1 if lr and ud else int(lr))
    if augment.randaugment:
        crop = pixels.randaugment(rng, crop, int(augment.randaugment), augment.magnitude)
    return crop


def _random_crop(rng: np.random.Generator, smallest: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of a random share of the area and a random shape (3/4 to 4/3), as in
    arXiv 1409.4842; the largest such in the middle where none of ten tries fits."""
    for _ in range(10):
        area = rng.uniform(smallest, 1.0) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            return top, left, rows, columns
    columns, rows = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


# ---- both -------------------------------------------------------------------------------------------------------


def finish(rng: np.random.Generator, augment: Augment, canvas: Array, planes: Array, classify: bool = False) -> None:
    """Random colors, then the canvas as RGB in ``planes`` uint8 ``[3, H, W]``.

    Where ``classify``, RandAugment's operations change the colors already, so there is no jitter on top of them; and
    erasing comes last.
    """
    jitter = (augment.hsv_h, augment.hsv_s, augment.hsv_v) if not (classify and augment.randaugment) else (0.0,) * 3
    cv2.split(pixels.random_hsv(rng, canvas, *jitter), list(planes))
    if classify and augment.erasing and rng.random() < augment.erasing:
        pixels.erase(rng, planes)
