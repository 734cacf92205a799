"""What may be wrong: a model of any tool, or the detections that a program wrote.

doubtful = Model(Path("theirs.onnx"), None, None, None)
doubtful.answer(0, batch, geometry, Options())
"""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edgekit.bundle.external import models
from edgekit.bundle.external.faults import Array, Roles
from edgekit.bundle.loading import open_session
from edgekit.errors import InputError
from edgekit.runtime.boxes import regularise, rotated_from_corners
from edgekit.runtime.image import Geometry
from edgekit.runtime.masks import Crop, Masks, decode_rle
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result
from edgekit.spec import Json, Session


class Doubtful(abc.ABC):
    """What answers.

    Attributes:
        path: the file.
        imgsz: (height, width) of its input, where it has one of its own.
        names: its class names, where it has any.
        dense: whether it gives every cell's values; else finished detections.
        form: of its boxes (``runtime.boxes.FORMS``).
        program: whether pictures were put on the canvas, and boxes mapped back, by somebody else.
        session: what runs it; None of detections.
    """

    path: Path
    imgsz: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    dense = False
    form = "xyxy"
    program = False
    session: Session | None = None

    @abc.abstractmethod
    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Roles | Result:
        """The answer for image ``i``, which ``batch`` shows: roles of a raw head where ``dense``, else a result."""

    def close(self) -> None:  # noqa: B027 - detections hold nothing
        """Let go of the session."""


class Model(Doubtful):
    """A model that can be run."""

    def __init__(self, path: Path, imgsz: tuple[int, int] | None, task: str | None, outputs: str | None) -> None:
        self.path = path
        if models.is_foreign(path):
            known = models.read(path, imgsz, task, outputs)
            self.session = known.unchecked(known.target.open(known.path, known.inner))
        else:
            self.session = open_session(path, imgsz=imgsz)
        info = self.session.info
        self.imgsz, self.dense = info.imgsz, info.head == "raw"
        self.names = info.names if self.session.named else None
        self.form = "cxcywh" if self.dense else "xyxy"

    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Roles | Result:
        assert self.session is not None
        roles = {r: np.array(v, np.float32) for r, v in self.session.run(batch).items()}
        return roles if self.dense else postprocess(roles, self.session.info, [geometry], options)[0]

    def close(self) -> None:
        if self.session is not None:
            self.session.close()


class Detections(Doubtful):
    """Detections that a program made of the same pictures."""

    program, form = True, "xywh"

    def __init__(self, path: Path, results: list[Result]) -> None:
        self.path, self._results = path, results

    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Result:
        return self._results[i]


def read_detections(path: Path, images: Sequence[tuple[str, Array]], task: str) -> Detections:
    """Detections in COCO's results form: ``image_id`` (or ``file_name``) is the picture's name without its ending, or
    that as a number; ``bbox`` x, y, width, height; where the ``task`` has them and they are given, ``segmentation``
    (run lengths or polygons) and ``keypoints`` (x, y, score in turn). Of rotated boxes the four corners in
    ``segmentation``, or ``rbox`` with centre x, y, width, height and angle in radians.

    Raises:
        InputError: it holds none, or none of these images.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = rows["annotations"] if isinstance(rows, dict) else rows
        read = [(Path(str(row.get("file_name", row["image_id"]))).stem, row) for row in rows]
        results, known = [], 0
        for name, image in images:
            stem = Path(name).stem
            mine = [row for other, row in read if other in (stem, stem.lstrip("0"))]
            known += len(mine)
            results.append(_result(mine, image.shape[:2], task))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, cv2.error) as error:
        raise InputError(
            f"{path}: no detections in COCO's results form, a list of image_id, category_id, bbox, score"
        ) from error
    if not known:
        raise InputError(f"{path}: none of its {len(read)} detections is of one of the {len(images)} images given")
    return Detections(path, results)


def _result(rows: Sequence[Json], shape: tuple[int, int], task: str) -> Result:
    """Those of one image."""
    scores = np.array([row["score"] for row in rows], np.float32)
    labels = np.array([row["category_id"] for row in rows], np.int64)
    result = Result(shape, (), scores=scores, labels=labels)
    if task == "obb":
        result.rotated_boxes = regularise(np.array([_rotated(row) for row in rows]).reshape(len(rows), 5))
        return result
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(len(rows), 4)
    result.boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    if task == "pose" and all(row.get("keypoints") for row in rows):
        result.keypoints = np.array([row["keypoints"] for row in rows], np.float32).reshape(len(rows), -1, 3)
    if task == "segment" and all(row.get("segmentation") for row in rows):
        result.masks = Masks(shape, tuple(_crop(row["segmentation"], shape) for row in rows))
    return result


def _rotated(row: Json) -> Array:
    """Centre x, y, width, height, angle."""
    if "rbox" in row:
        return np.array(row["rbox"], np.float64)
    rotated: Array = rotated_from_corners(np.array(row["segmentation"][0], np.float64).reshape(1, 4, 2))[0]
    return rotated


def _crop(outline: Json | list[list[float]], shape: tuple[int, int]) -> Crop:
    """A mask from COCO's run lengths, whatever size they are of, or its polygons."""
    if isinstance(outline, dict):
        dense = decode_rle(outline)
    else:
        dense = np.zeros(shape, np.uint8)
        polygons = [np.round(np.array(flat, np.float64).reshape(-1, 1, 2)).astype(np.int32) for flat in outline]
        cv2.fillPoly(dense, polygons, 1)
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(dense, np.uint8))
    return Crop(left, top, dense[top : top + height, left : left + width].astype(bool))
