"""Pictures of what a network is shown and what it finds: first batches, and predictions beside labels.

    batch_sheet(batch.images, batch.targets, names, folder / "batch_0.png")       # as augmented, with their labels
    predictions_sheet(dataset, evaluation.predictions, folder / "val.png")        # left the labels, right the model

Drawn with OpenCV by the same code as the contact sheet of ``edgekit data check``. B images, M objects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from edgekit.data.dataset import Dataset
from edgekit.data.sheet import TAGGED, caption, choose, draw_objects, mosaic, shrunk
from edgekit.errors import InputError
from edgekit.metrics import Prediction
from edgekit.metrics.images import worst_images
from edgekit.metrics.labels import Labels
from edgekit.metrics.predictions import Detections, by_image, gather
from edgekit.nn.targets import Targets
from edgekit.runtime.atomic import replacing
from edgekit.runtime.boxes import corners
from edgekit.runtime.drawing import color as class_colour
from edgekit.runtime.drawing import draw_masks, draw_probabilities
from edgekit.runtime.image import read_image
from edgekit.runtime.masks import Masks


def batch_sheet(
    images: torch.Tensor | np.ndarray, targets: Targets, names: Sequence[str], path: Path, most: int = 16
) -> None:
    """The first images of a batch as the network gets them, with the labels it is to learn.

    Args:
        images: uint8 [B, 3, H, W], RGB.
        targets: theirs, on the CPU.
        names: of the classes.
        path: of the PNG.
        most: images shown.
    """
    tiles = []
    shown: set[int] = set()
    for i, pixels in enumerate(np.asarray(images)[:most]):
        tile = shrunk(np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))
        if targets.class_id is not None:
            tiles.append((tile, names[int(targets.class_id[i])]))
            continue
        labels = _labels_of(targets, i)
        if targets.masks is not None:
            _draw_target_masks(tile, targets.masks[i].numpy(), labels, names)
        draw_objects(tile, labels, names)
        tiles.append((tile, f"{len(labels)} objects"))
        shown.update(labels.classes.tolist())
    _write(path, mosaic(tiles, names=names, shown=shown))


def predictions_sheet(
    dataset: Dataset,
    predictions: Sequence[Prediction],
    path: Path,
    count: int = 8,
    confidence: float = 0.25,
    worst: bool = False,
    seed: int = 0,
) -> None:
    """Pairs of pictures: left the labels, right what was found with at least ``confidence``.

    Args:
        dataset: the labelled split.
        predictions: COCO rows of it, as ``evaluate`` returns them.
        path: of the PNG.
        count: images shown.
        worst: the images the model does worst on, worst first, rather than a choice that shows every class.
        seed: of that choice.

    Raises:
        InputError: predictions that do not belong to the set, or none of the chosen images can be read.
    """
    if worst:
        samples = [dataset.samples[i] for _, i in worst_images(dataset, predictions, count, confidence)]
    else:
        samples = [sample for _, sample in choose([dataset], count, seed)]
    chosen = dataclasses.replace(dataset, samples=tuple(samples))
    wanted = {sample.image_id for sample in samples}
    rows = [row for row in predictions if row.get("image_id") in wanted]
    if dataset.classifies:
        _write(path, _classified(chosen, rows))
        return
    tiles, shown = [], set()
    for sample, found in zip(samples, gather(chosen, rows), strict=True):
        try:
            image = read_image(sample.path)
        except InputError:
            continue
        left, right = shrunk(image), shrunk(image)
        labels, tags = _labels_found(found, dataset, image.shape[:2], confidence)
        draw_objects(left, sample.labels, dataset.names)
        draw_objects(right, labels, dataset.names, tags)
        tiles += [(left, caption(dataset, sample)), (right, f"{len(labels)} found (confidence from {confidence:g})")]
        shown |= {*sample.labels.classes.tolist(), *labels.classes.tolist()}
    if not tiles:
        raise InputError(f"{dataset.source}: none of the images chosen for {path.name} can be read")
    _write(path, mosaic(tiles, names=dataset.names, shown=shown))


def _classified(dataset: Dataset, predictions: Sequence[Prediction]) -> np.ndarray:
    """One picture per image, with its likeliest classes on it and a bar that says whether the first is right."""
    tiles = []
    for sample, rows in zip(dataset.samples, by_image(dataset, predictions), strict=True):
        try:
            tile = shrunk(read_image(sample.path))
        except InputError:
            continue
        if rows:
            probs = np.asarray(rows[0]["probs"])
            draw_probabilities(tile, probs, dataset.names, 3)
            right = int(probs.argmax()) == sample.labels.class_id
            tile[-8:] = (115, 158, 0) if right else (0, 94, 213)  # green and vermilion of Okabe and Ito
        tiles.append((tile, caption(dataset, sample)))
    if not tiles:
        raise InputError(f"{dataset.source}: none of the chosen images can be read")
    return mosaic(tiles)


def _labels_of(targets: Targets, image: int) -> Labels:
    """One image's objects in pixels of the network's input."""
    mine = targets.image == image
    count, (height, width) = int(mine.sum()), targets.size
    return Labels(
        classes=targets.classes[mine].numpy(),
        boxes=targets.boxes[mine].numpy().astype(np.float64),
        crowd=np.zeros(count, bool),
        area=np.full(count, np.nan),
        size=(width, height),
        keypoints=None if targets.keypoints is None else targets.keypoints[mine].numpy().astype(np.float64),
        corners=None if targets.rotated is None else corners(targets.rotated[mine].numpy().astype(np.float64)),
    )


def _draw_target_masks(tile: np.ndarray, mask: np.ndarray, labels: Labels, names: Sequence[str]) -> None:
    """The numbered objects of ``mask`` [H/4, W/4], enlarged to the tile."""
    size = (tile.shape[1], tile.shape[0])
    numbered = cv2.resize(mask.astype(np.int16), size, interpolation=cv2.INTER_NEAREST)
    dense = numbered[None] == np.arange(1, len(labels) + 1)[:, None, None]
    shades = [class_colour(i if len(names) == 1 else c) for i, c in enumerate(labels.classes.tolist())]
    draw_masks(tile, Masks.from_dense(dense), shades, 2)


def _labels_found(
    found: Detections, dataset: Dataset, size: tuple[int, int], confidence: float
) -> tuple[Labels, list[str]]:
    """What was found as labels in pixels of the image of ``size`` (height, width), best first, and a text for each."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= confidence]
    rows = [found.rows[i] for i in order]
    kept = Detections(found.scores[order], found.classes[order], found.boxes[order], rows)
    count = len(rows)
    masks = kept.masks() if "mask_coefficients" in dataset.roles else None
    points = dataset.keypoint_shape[0] if "keypoints" in dataset.roles and dataset.keypoint_shape else 0
    labels = Labels(
        classes=kept.classes,
        boxes=kept.boxes,
        crowd=np.zeros(count, bool),
        area=np.full(count, np.nan),
        size=(size[1], size[0]),
        polygons=None if masks is None else ((),) * count,
        rle=None if masks is None else tuple(dict(mask) for mask in masks),
        keypoints=kept.keypoints(points) if points else None,
        corners=corners(kept.rotated_boxes()) if "rotated_boxes" in dataset.roles else None,
    )
    several = len(dataset.names) > 1
    texts = [f"{dataset.names[c]} " if several else "" for c in kept.classes]
    tags = [f"{text}{score:.2f}" if count <= TAGGED else "" for text, score in zip(texts, kept.scores, strict=True)]
    return labels, tags


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    with replacing(path) as partial:
        partial.write_bytes(encoded)
