"""Pictures far larger than the network's input, looked at in overlapping tiles. Numpy.

    with Tiled(session, Options(conf=0.3), tile=640, overlap=0.2) as predictor:
        predictor("field.tif")[0]           # a Result of the whole picture

Tiles go through the network as any images do, several a run where its batch allows and, where it works on several at
once (``streams``), by as many threads. What they found is put together at the picture's pixels and suppressed once
more, by the same rule and limit as within an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtime.boxes import nms
from edgekit.runtime.image import as_image
from edgekit.runtime.masks import Crop, Masks
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import best_first
from edgekit.runtime.predictor import Predictor, loaded
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo, Session

BATCH = 8  # tiles per run where the network takes any number

Array = np.ndarray
Place = tuple[int, int, int, int]  # left, top, right, bottom


def tiles(width: int, height: int, side: int, overlap: float) -> list[Place]:
    """Where the tiles of a picture lie, row by row: squares of ``side`` pixels, or as much of one as there is of the
    picture, the last of a row or column moved back so that it ends with the picture.

    Args:
        overlap: of neighbours, as a fraction of their side.
    """
    step = side - int(side * overlap)
    rows, columns = _starts(height, side, step), _starts(width, side, step)
    return [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]


def _starts(length: int, side: int, step: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, step), length - side]


class Tiled(Predictor):
    """A predictor of large pictures; what is no larger than a tile is one tile.

    Args:
        session, options: see ``Predictor``.
        batch: tiles per run where the session takes any number.
        tile: side of a tile in pixels; best the network's input size.
        overlap: of neighbouring tiles, as a fraction of the side: at least as large as the largest object looked for.

    Raises:
        UsageError: the model classifies, or ``overlap`` leaves no step.
    """

    def __init__(
        self,
        session: Session,
        options: Options | None = None,
        batch: int | None = None,
        tile: int = 640,
        overlap: float = 0.2,
    ) -> None:
        tiles_a_run = session.info.batch or batch or BATCH
        super().__init__(session, _of_tile(options or Options(), session.info), tiles_a_run)
        self.options, self.tiles_a_run = options or Options(), tiles_a_run
        self.batch = 1  # pictures at a time, which may be large
        if any(port.role == "class_probabilities" for port in session.info.outputs):
            raise UsageError("`tile`: a classification is of the whole picture")
        if tile < 1 or not 0 <= overlap < 1 or int(tile * overlap) >= tile:
            raise UsageError(f"`overlap` {overlap:g}: must be at least 0 and below 1, of a `tile` of at least 1 pixel")
        self.tile, self.overlap = tile, overlap

    def predict(self, images: object, **options: Any) -> list[Result]:
        """Results of one or many images; see ``Predictor.predict``."""
        chosen, results = self._options(options), []
        for path, image in loaded(images):
            height, width = image.shape[:2]
            places = tiles(width, height, self.tile, self.overlap)
            parts = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in places]
            found = self._found(parts, _of_tile(chosen, self.info))
            result = joined(found, places, (height, width), chosen)
            result.image, result.pixels = path, image if path is None else None
            results.append(result)
        return results

    __call__ = predict

    def timed(self, images: object, **options: object) -> tuple[list[Result], dict[str, float]]:
        """Is of one run of the network, and a picture takes many.

        Raises:
            UsageError: always.
        """
        raise UsageError("timed() is of one run of the network; with `tile` a picture takes many")

    def _options(self, changes: dict[str, Any]) -> Options:
        chosen = self.options.changed(changes)
        _of_tile(chosen, self.info).check(self.info)
        return chosen

    def _found(self, parts: Sequence[Array], options: Options) -> list[Result]:
        def run(first: int) -> list[Result]:
            pixels = [(None, as_image(part)) for part in parts[first : first + self.tiles_a_run]]
            return self._run(pixels, options)[0]

        firsts = range(0, len(parts), self.tiles_a_run)
        if len(firsts) == 1 or not self.session.concurrent:
            return list(chain.from_iterable(map(run, firsts)))
        # One more than run at once, which prepares its tiles or looks through what was found meanwhile.
        with ThreadPoolExecutor(1 + self.session.streams) as pool:
            return list(chain.from_iterable(pool.map(run, firsts)))


def _of_tile(options: Options, info: ModelInfo) -> Options:
    """What is kept of a tile: of a picture there may be more objects than the head's candidates."""
    most = info.candidates if info.cuts else None
    return replace(options, max_det=min(options.max_det, most)) if most else options


def joined(results: Sequence[Result], places: Sequence[Place], shape: tuple[int, int], options: Options) -> Result:
    """One Result of a picture from those of its tiles.

    Args:
        results: of each tile.
        places: of each tile in the picture.
        shape: height and width of the picture.
        options: what suppresses and limits.
    """
    moved = [_moved(result, x, y, shape) for result, (x, y, _, _) in zip(results, places, strict=True)]
    whole = Result(shape, results[0].names)
    for name in ("boxes", "scores", "labels", "keypoints", "rotated_boxes"):
        values = [value for result in moved if (value := getattr(result, name)) is not None]
        setattr(whole, name, np.concatenate(values) if values else None)
    masks = [result.masks for result in moved]
    crops = [crop for each in masks if each is not None for crop in each.crops]
    whole.masks = Masks(shape, tuple(crops)) if any(each is not None for each in masks) else None
    shapes = whole.rotated_boxes if whole.boxes is None else whole.boxes
    reasons = dict.fromkeys(reason for result in results for reason in result.truncated)
    if shapes is None or whole.scores is None or whole.labels is None:
        return whole
    order = best_first(whole.scores, len(whole.scores))
    labels = None if options.agnostic else whole.labels[order]
    keep = order[nms(shapes[order], labels, options.iou, options.max_det + 1)]
    if len(keep) > options.max_det:
        reasons["max_det"] = None
    return replace(_taken(whole, keep[: options.max_det]), truncated=tuple(reasons))


def _moved(result: Result, x: int, y: int, shape: tuple[int, int]) -> Result:
    """A tile's result in the picture's pixels."""
    moved = replace(result)
    if result.boxes is not None:
        moved.boxes = result.boxes + np.array([x, y, x, y], np.float32)
    if result.rotated_boxes is not None:
        moved.rotated_boxes = result.rotated_boxes + np.array([x, y, 0, 0, 0], np.float32)
    if result.keypoints is not None:
        moved.keypoints = result.keypoints + np.array([x, y, 0], np.float32)
    if result.masks is not None:
        moved.masks = Masks(shape, tuple(Crop(c.left + x, c.top + y, c.pixels) for c in result.masks.crops))
    return moved


def _taken(whole: Result, keep: Array) -> Result:
    """Some of a result's objects."""
    taken = replace(whole)
    for name in ("boxes", "scores", "labels", "keypoints", "rotated_boxes"):
        value = getattr(whole, name)
        setattr(taken, name, None if value is None else value[keep])
    if whole.masks is not None:
        taken.masks = Masks(whole.masks.size, tuple(whole.masks.crops[i] for i in keep.tolist()))
    return taken
