"""The outputs of a detector from anywhere, described in a line.

    xyxy; scores                   two outputs: corners [B, N, 4], probabilities [B, N, C]
    cxcywh/1, score, label         one output [B, N, 6]: centre and size as fractions of the input, score, class
    -; xyxy, score, label; nms     the first output is not looked at; the second is finished detections

Outputs stand in the file's order with a semicolon between them, the values of a candidate with a comma. ``xyxy`` are
corners, ``cxcywh`` centre and size, ``xywh`` corner and size, ``yxyx`` corners with y first, in pixels of the input or,
with ``/1``, fractions of it. ``scores`` are probabilities of all classes, ``score`` and ``label`` those of one. Which
axis holds the values of a candidate is told by their number. ``nms`` at the end: suppression is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import InputError, UsageError
from edgekit.runtime.boxes import FORMS
from edgekit.spec import ModelInfo, Port

_BOXES = tuple(FORMS)
_SINGLE = ("score", "label", "-")
_HELP = "e.g. 'xyxy; scores' or 'cxcywh/1, score, label; nms'"

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Layout:
    """What every output of a detector holds: ``outputs`` are fields, by output; ``suppressed`` says that suppression is
    part of the model."""

    outputs: tuple[tuple[str, ...], ...]
    suppressed: bool
    path: Path

    @classmethod
    def parse(cls, text: str, path: Path) -> Layout:
        """A layout of its description.

        Raises:
            UsageError: it is none; the message says what is missing.
        """
        parts = [tuple(field.strip() for field in part.split(",")) for part in text.split(";")]
        suppressed = parts[-1] == ("nms",)
        outputs = tuple(parts[: len(parts) - suppressed])
        fields = [field for part in outputs for field in part]
        known = {*_SINGLE, "scores", *_BOXES, *(f"{box}/1" for box in _BOXES)}
        for field in fields:
            if field not in known:
                raise UsageError(f"`outputs` {text}: {field!r} is unknown; fields are {', '.join(sorted(known))}")
        boxes = sum(field.startswith(_BOXES) for field in fields)
        answers = sorted(field for field in fields if field in ("scores", "score", "label"))
        if boxes != 1 or answers not in (["scores"], ["label", "score"]) or (suppressed and answers == ["scores"]):
            raise UsageError(f"`outputs` {text}: needs boxes, and either scores or a score and a label, once; {_HELP}")
        return cls(outputs, suppressed, path)

    @property
    def head(self) -> str:
        """The form of head it amounts to."""
        whole = any("scores" in part for part in self.outputs)
        return "raw" if whole else "nms" if self.suppressed else "topk"

    def classes(self, shapes: Sequence[Shape], known: int | None) -> int:
        """The number of classes, by the model's names or by its outputs' ``shapes``.

        Raises:
            InputError: the outputs are not as described, or nothing tells how many classes there are.
        """
        if len(shapes) != len(self.outputs):
            raise InputError(f"{self.path}: has {len(shapes)} outputs, `outputs` describes {len(self.outputs)}")
        if known:
            return known
        for part, shape in zip(self.outputs, shapes, strict=True):
            if "scores" in part and len(shape) == 3 and None not in shape[1:]:
                return min(side for side in shape[1:] if side is not None) - sum(_width(f, 0) for f in part)
        raise InputError(f"{self.path}: nothing tells how many classes it has; export it with its metadata")

    def ports(self, batch: int | None) -> tuple[Port, ...]:
        """Ports of the roles it answers with."""
        roles = ("boxes", "scores") if self.head == "raw" else ("boxes", "scores", "labels")
        shapes = {"boxes": (batch, None, 4), "scores": (batch, None, None)[: 3 if self.head == "raw" else 2]}
        return tuple(Port(role, role, shapes.get(role, (batch, None))) for role in roles)

    def roles(self, arrays: Sequence[np.ndarray], info: ModelInfo) -> dict[str, np.ndarray]:
        """The file's outputs as roles: corners in pixels ``[B, N, 4]``, scores ``[B, C, N]`` or with labels ``[B, N]``.

        Raises:
            InputError: an output has other sides than its description.
        """
        found: dict[str, np.ndarray] = {}
        for fields, array in zip(self.outputs, arrays, strict=True):
            if fields == ("-",):
                continue
            widths = [_width(field, len(info.names)) for field in fields]
            rows = self._rows(np.asarray(array, np.float32), sum(widths), fields)
            for field, part in zip(fields, np.split(rows, np.cumsum(widths)[:-1], axis=2), strict=True):
                if field.startswith(_BOXES):
                    found["boxes"] = _corners(field, part, info.imgsz)
                elif field == "scores":
                    found["scores"] = part.transpose(0, 2, 1)
                elif field != "-":
                    found[{"score": "scores", "label": "labels"}[field]] = part[..., 0]
        return found

    def _rows(self, array: np.ndarray, width: int, fields: Sequence[str]) -> np.ndarray:
        """``[B, N, width]``."""
        if array.ndim == 2 and width == 1:
            return array[..., None]
        if array.ndim == 3 and width in array.shape[1:]:
            return array if array.shape[2] == width else array.transpose(0, 2, 1)
        raise InputError(
            f"{self.path}: gives {list(array.shape)} where `outputs` says {', '.join(fields)}, {width} values each"
        )


def _width(field: str, classes: int) -> int:
    return 4 if field.startswith(_BOXES) else classes if field == "scores" else 1


def _corners(field: str, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes in the form ``field`` as corners in pixels."""
    form, _, unit = field.partition("/")
    if not unit:
        return FORMS[form].read(boxes)
    sides = size if form == "yxyx" else size[::-1]
    return FORMS[form].read(boxes * np.array([*sides, *sides], np.float32))
