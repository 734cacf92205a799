"""Contact sheets: many images of a set on one picture, with their labels drawn on them.

    picture = contact_sheet([train, val], seed=0)                # uint8 BGR, 1,600 px wide
    draw_objects(tile, sample.labels, dataset.names)              # one image, in place
    mosaic([(tile, "val/a.jpg, 3 objects"), …], columns=4)       # any pictures with captions

What is shown is chosen, not merely drawn by lot: every class that fits, then the images most likely to be wrong (very
many objects, very small ones, rows that had to be mended), then others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError
from edgekit.metrics.labels import Labels
from edgekit.runtime.boxes import rotated_from_corners
from edgekit.runtime.drawing import FONT, color, draw_boxes, draw_keypoints, draw_masks, draw_rotated_boxes
from edgekit.runtime.image import read_image
from edgekit.runtime.lettering import legible
from edgekit.runtime.masks import Crop, Masks, decode_rle

TILE = 400  # pixels; four side by side make 1,600
GAP = 6
CAPTION = 20  # height of the line of text above a tile
PAPER, INK, PALE = (255, 255, 255), (40, 40, 40), (236, 236, 236)
TAGGED = 12  # objects on an image up to which each gets its class's name
LISTED = 24  # classes up to which a legend names their colors

Tile = tuple[np.ndarray, str]


def contact_sheet(datasets: Sequence[Dataset], count: int = 20, seed: int = 0) -> np.ndarray:
    """A picture of up to ``count`` labelled images of one or more splits, uint8 BGR.

    Raises:
        InputError: none of the chosen images can be read.
    """
    tiles: list[Tile] = []
    seen: set[int] = set()
    for dataset, sample in choose(datasets, count, seed):
        try:
            tile = shrunk(read_image(sample.path))
        except InputError:
            continue
        draw_objects(tile, sample.labels, dataset.names)
        tiles.append((tile, caption(dataset, sample)))
        seen.update(sample.labels.classes.tolist())
    if not tiles:
        raise InputError(f"{datasets[0].source}: none of the images chosen for the sheet can be read")
    return mosaic(tiles, names=datasets[0].names, shown=seen)


def choose(datasets: Sequence[Dataset], count: int, seed: int = 0) -> list[tuple[Dataset, Sample]]:
    """Up to ``count`` images, in the order of the sets: first one of every class (the rarest first), then those with
    the most objects, the smallest objects and mended rows, then others by lot."""
    everything = [(dataset, sample) for dataset in datasets for sample in dataset.samples]
    order = np.random.default_rng(seed).permutation(len(everything)).tolist()
    chosen: dict[int, None] = {}
    covered: set[int] = set()
    where = _places(everything, order)
    for label in sorted(where, key=lambda c: (len(where[c]), c)):
        if label not in covered and len(chosen) < count:
            chosen[where[label][0]] = None
            covered.update(_classes(everything[where[label][0]][1]))
    for i in _suspects(everything, order, max((count - len(chosen)) // 2, 0)):
        chosen[i] = None
    for i in order:
        if len(chosen) >= count:
            break
        chosen[i] = None
    return [everything[i] for i in sorted(list(chosen)[:count])]


def draw_objects(image: np.ndarray, labels: Labels, names: Sequence[str], tags: Sequence[str] | None = None) -> None:
    """Draws objects on ``image`` (uint8 BGR, any size, in place): masks, boxes, oriented boxes and keypoints.

    Args:
        image: the picture, which may be a smaller version of the labels' image.
        labels: in any unit; they are scaled to the picture.
        names: of the classes. Where there is one class only, objects differ in color instead.
        tags: a text per object; default: its class's name where there are few objects, crowd regions always.
    """
    height, width = image.shape[:2]
    labels = labels.scaled(width, height)
    classes = labels.classes.tolist()
    shades = [color(i if len(names) == 1 else label) for i, label in enumerate(classes)]
    if tags is None:
        plain = [names[c] if len(classes) <= TAGGED and len(names) > 1 else "" for c in classes]
        tags = ["crowd" if crowd else tag for crowd, tag in zip(labels.crowd, plain, strict=True)]
    if labels.polygons is not None:
        draw_masks(image, masks_of(labels), shades, 2)
    if labels.corners is not None:
        draw_rotated_boxes(image, rotated_from_corners(labels.corners), shades, tags, 1)
    else:
        draw_boxes(image, labels.boxes, shades, tags, 1)
    if labels.keypoints is not None:
        draw_keypoints(image, labels.keypoints, shades, 1)


def masks_of(labels: Labels) -> Masks:
    """The objects' polygons or run lengths as masks of the size that ``labels`` is scaled to."""
    width, height = (round(side) for side in labels.size)
    crops = []
    for i, parts in enumerate(labels.polygons or ()):
        rle = labels.rle[i] if labels.rle else None
        mask: np.ndarray = np.zeros((height, width), np.uint8)
        if rle is not None:
            mask = cv2.resize(decode_rle(rle).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        else:
            cv2.fillPoly(mask, [np.rint(part).astype(np.int32) for part in parts], 1)
        crops.append(_cropped(mask.astype(bool)))
    return Masks((height, width), tuple(crops))


def _cropped(mask: np.ndarray) -> Crop:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Crop(0, 0, np.zeros((0, 0), bool))
    top, left = int(rows[0]), int(columns[0])
    return Crop(left, top, mask[top : rows[-1] + 1, left : columns[-1] + 1])


def shrunk(image: np.ndarray, side: int = TILE) -> np.ndarray:
    """The image with its long side ``side`` pixels long, enlarged where it is small; a copy that may be drawn on."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def caption(dataset: Dataset, sample: Sample) -> str:
    """What stands above an image: split, file and class, or number of objects."""
    labels = sample.labels
    if labels.class_id is not None:
        return f"{dataset.names[labels.class_id]}: {dataset.split}/{sample.path.name}"
    return f"{len(labels)} object{'' if len(labels) == 1 else 's'}: {dataset.split}/{sample.path.name}"


def mosaic(
    tiles: Sequence[Tile],
    columns: int = 4,
    side: int = TILE,
    names: Sequence[str] = (),
    shown: Iterable[int] = (),
) -> np.ndarray:
    """Pictures of at most ``side`` x ``side`` in rows, each below its caption, with a legend of the classes ``shown``.

    Returns:
        uint8 BGR, GAP + columns · (side + GAP) wide, GAP + rows · (CAPTION + side + GAP) high, and the legend below.
    """
    step = CAPTION + side + GAP
    rows = -(-len(tiles) // columns)
    key = _legend(names, sorted(shown), GAP + columns * (side + GAP))
    sheet = np.full((GAP + rows * step + len(key), GAP + columns * (side + GAP), 3), PAPER, np.uint8)
    sheet[GAP + rows * step :] = key
    for i, (tile, text) in enumerate(tiles):
        top, left = GAP + i // columns * step, GAP + i % columns * (side + GAP)
        cv2.putText(sheet, _fitting(text, side), (left, top + CAPTION - 6), FONT, 0.42, INK, 1, cv2.LINE_AA)
        place = sheet[top + CAPTION : top + CAPTION + side, left : left + side]
        place[:] = PALE
        y, x = (side - tile.shape[0]) // 2, (side - tile.shape[1]) // 2
        place[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet


def _legend(names: Sequence[str], shown: Sequence[int], width: int) -> np.ndarray:
    """A strip of coloured squares with the names of the classes ``shown``; empty where there is one class, or many."""
    if len(names) < 2 or not 0 < len(shown) <= LISTED:
        return np.zeros((0, width, 3), np.uint8)
    places, x, y = [], GAP, 0
    for label in shown:
        text = legible(names[label])
        (long, _), _ = cv2.getTextSize(text, FONT, 0.5, 1)
        if x + long + 40 > width and x > GAP:
            x, y = GAP, y + 26
        places.append((x, y, text, color(label)))
        x += long + 46
    strip = np.full((y + 30, width, 3), PAPER, np.uint8)
    for x, y, text, shade in places:
        cv2.rectangle(strip, (x, y + 7), (x + 15, y + 22), shade, -1)
        cv2.putText(strip, text, (x + 22, y + 20), FONT, 0.5, INK, 1, cv2.LINE_AA)
    return strip


def _fitting(text: str, width: int) -> str:
    """``text`` cut short at the end to fit ``width`` pixels."""
    text = legible(text)
    while len(text) > 4 and cv2.getTextSize(text, FONT, 0.42, 1)[0][0] > width:
        text = text[:-4] + "..."
    return text


def _classes(sample: Sample) -> list[int]:
    labels = sample.labels
    return np.unique(labels.classes).tolist() if labels.class_id is None else [labels.class_id]


def _places(everything: Sequence[tuple[Dataset, Sample]], order: Sequence[int]) -> dict[int, list[int]]:
    """Per class the images it is on, in the order of the lot."""
    where: dict[int, list[int]] = {}
    for i in order:
        for label in _classes(everything[i][1]):
            where.setdefault(label, []).append(i)
    return where


def _suspects(everything: Sequence[tuple[Dataset, Sample]], order: Sequence[int], count: int) -> list[int]:
    """The images most worth a look, by three measures in turn."""
    samples = [sample for _, sample in everything]

    def smallest(i: int) -> float:
        labels = samples[i].labels
        if not len(labels):
            return np.inf
        sides = (labels.boxes[:, 2:] - labels.boxes[:, :2]) / np.array(labels.size)
        return float(sides.prod(1).min())

    measures = (
        sorted(order, key=lambda i: -len(samples[i].labels)),
        sorted(order, key=smallest),
        [i for i in order if any(issue.severity != "note" for issue in samples[i].issues)],
    )
    found: dict[int, None] = {}
    for turn in range(count):
        for ranked in measures:
            if turn < len(ranked) and len(found) < count:
                found[ranked[turn]] = None
    return list(found)
