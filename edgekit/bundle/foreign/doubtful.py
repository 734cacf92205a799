"""What may be wrong: a model of any tool, or the detections that a program wrote.

doubtful = Model(Path("theirs.onnx"), None, None, None)
doubtful.answer(0, batch, geometry, Options())
"""

from __future__ import annotations

import abc
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.bundle.foreign import external
from edgekit.bundle.foreign.faults import Array, Roles
from edgekit.bundle.loading import open_session
from edgekit.errors import InputError
from edgekit.runtime.image import Geometry
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result
from edgekit.spec import Session


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
        if external.is_foreign(path):
            known = external.read(path, imgsz, task, outputs)
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


def read_detections(path: Path, images: Sequence[tuple[str, Array]]) -> Detections:
    """Detections in COCO's results form: ``image_id`` (or ``file_name``) is the picture's name without its ending, or
    that as a number; ``bbox`` x, y, width, height.

    Raises:
        InputError: it holds none, or none of these images.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = rows["annotations"] if isinstance(rows, dict) else rows
        read = [
            (Path(str(r.get("file_name", r["image_id"]))).stem, *map(float, r["bbox"]), float(r["score"]),
             int(r["category_id"])) for r in rows
        ]  # fmt: skip
        assert all(len(r) == 7 for r in read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(
            f"{path}: no detections in COCO's results form, a list of image_id, category_id, bbox, score"
        ) from error
    results, known = [], 0
    for name, image in images:
        stem = Path(name).stem
        mine = np.array([r[1:] for r in read if r[0] in (stem, stem.lstrip("0"))], np.float32).reshape(-1, 6)
        known += len(mine)
        boxes = np.concatenate([mine[:, :2], mine[:, :2] + mine[:, 2:4]], 1)
        results.append(Result(image.shape[:2], (), boxes, mine[:, 4], mine[:, 5].astype(np.int64)))
    if not known:
        raise InputError(f"{path}: none of its {len(read)} detections is of one of the {len(images)} images given")
    return Detections(path, results)
