"""What goes wrong between a network and what others made of it: each fault as a change to the right answer.

A fault is stated forwards, as what a sound model would answer if it had it; a model in doubt that answers the same has
that fault (``referee.py`` looks for the one). Words are those that people use.

    faulty = next(fault for fault in CATALOGUE if fault.word == "channel order")
    session.run(faulty.sees(batch))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from edgekit.runtime.boxes import FORMS
from edgekit.runtime.image import Geometry

Array = np.ndarray
Roles = dict[str, Array]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]  # of ImageNet, as classifiers are often fed
MOST_LOGIT = 12.0  # beyond it probabilities say too little of logits
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]


@dataclass(frozen=True)
class Fault:
    """One thing that can be wrong.

    Attributes:
        word: what it is called.
        says: what is the case, in a sentence without its subject.
        advice: what to do.
        sees: the input ``[B, 3, H, W]`` (RGB, 0..1) -> what the network really saw.
        fits: (image, (H, W)) -> how the picture was put on the canvas, and where; None: as it should be.
        lies: (where the picture lies, (H, W) of the canvas) -> where the answer is mapped back from; None: from there.
        answers: roles of the raw head -> what is answered instead.
        boxes: (corners ``[..., 4]``, (H, W) of what they lie in) -> the corners that are read of what is written.
        points: (places ``[..., 2]`` of keypoints, (H, W) of what they lie in) -> those that are read.
        turns: rotated boxes ``[..., 5]`` -> those that are read.
        labels: the right labels -> those that finished detections have.
        keeps: detection options that differ.
        inside: whether a file can have it; else only a program around it.
        part: ``masks``, ``keypoints`` or ``rotated_boxes``: what alone it concerns; "": everything.
    """

    word: str
    says: str
    advice: str
    sees: Callable[[Array], Array] | None = None
    fits: Callable[[Array, tuple[int, int]], tuple[Array, Geometry]] | None = None
    lies: Callable[[Geometry, tuple[int, int]], Geometry] | None = None
    answers: Callable[[Roles], Roles] | None = None
    boxes: Callable[[Array, tuple[int, int]], Array] | None = None
    points: Callable[[Array, tuple[int, int]], Array] | None = None
    turns: Callable[[Array], Array] | None = None
    labels: Callable[[Array], Array] | None = None
    keeps: Mapping[str, Any] = field(default_factory=dict)
    inside: bool = True
    part: str = ""

    @property
    def stage(self) -> int:
        """Where in the flow it happens: 0 before the network, 1 in what it answers, 2 in what is kept of that."""
        if self.sees or self.fits:
            return 0
        return 1 if self.answers or self.boxes or self.points or self.turns else 2


# ---- pictures on a canvas ------------------------------------------------------------------------------------------


def _stretched(image: Array, size: tuple[int, int]) -> tuple[Array, Geometry]:
    height, width = image.shape[:2]
    canvas = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return canvas, Geometry(height, width, size[1] / width, size[0] / height, 0, 0)


def _placed(centred: bool, fill: int) -> Callable[[Array, tuple[int, int]], tuple[Array, Geometry]]:
    """Letterbox with another padding, or in the upper left corner."""

    def fits(image: Array, size: tuple[int, int]) -> tuple[Array, Geometry]:
        height, width = image.shape[:2]
        ratio = min(size[0] / height, size[1] / width)
        inner = (max(round(width * ratio), 1), max(round(height * ratio), 1))
        left, top = ((size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2) if centred else (0, 0)
        canvas = np.full((*size, 3), fill, np.uint8)
        canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner)
        return canvas, Geometry(height, width, inner[0] / width, inner[1] / height, left, top)

    return fits


def _unpadded(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    return Geometry(geometry.height, geometry.width, geometry.scale_x, geometry.scale_y, 0, 0)


def _unmapped(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    return Geometry(geometry.height, geometry.width, 1, 1, 0, 0)


def _filling(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    height, width = geometry.height, geometry.width
    return Geometry(height, width, size[1] / width, size[0] / height, 0, 0)


# ---- answers -------------------------------------------------------------------------------------------------------


def box_forms(expected: str) -> list[Fault]:
    """Boxes written in another of ``runtime.boxes.FORMS`` than the ``expected`` one, in another unit or with y first,
    and read as that."""
    form = FORMS[expected]
    found = [
        Fault("box format", f"writes boxes as {other.called}, where {form.called} is expected",
              f"read its boxes as {other.called}", boxes=_misread(other.write, form.read))
        for name, other in FORMS.items() if name not in (expected, "yxyx")
    ]  # fmt: skip
    turned = FORMS["yxyx"].write
    return [
        *found,
        Fault("box format", "writes boxes as fractions of the input, where pixels are expected",
              "multiply its boxes by the input's width and height",
              boxes=lambda b, size: form.read(form.write(b) / np.array([*size[::-1], *size[::-1]], np.float32))),
        Fault("box format", "writes y before x", "exchange x and y of its boxes",
              boxes=_misread(lambda b: turned(form.write(b)), form.read)),
    ]  # fmt: skip


def _misread(write: Callable[[Array], Array], read: Callable[[Array], Array]) -> Callable[..., Array]:
    return lambda boxes, size: read(write(boxes))


def _turned(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda boxes: np.concatenate([boxes[..., :4], change(boxes[..., 4:])], -1)


def _of_scores(change: Callable[[Array], Array]) -> Callable[[Roles], Roles]:
    def answers(roles: Roles) -> Roles:
        return roles | {r: change(roles[r]) for r in ("scores", "class_probabilities") if r in roles}

    return answers


def _sigmoid(values: Array) -> Array:
    squashed: Array = 1 / (1 + np.exp(-values))
    return squashed


def _logit(values: Array) -> Array:
    safe = np.clip(values.astype(np.float64), 1e-12, 1 - 1e-7)
    odds: Array = np.clip(np.log(safe / (1 - safe)), -MOST_LOGIT, MOST_LOGIT)
    return odds.astype(np.float32)


def _softmax(values: Array) -> Array:
    powers: Array = np.exp(values - values.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def classes_moved(order: Array, says: str) -> Fault:
    """Class ``i`` is answered at place ``order[i]``, which may be one more than there are."""
    within = order % len(order)
    back = np.argsort(within)
    moved = _of_scores(lambda scores: np.asarray(scores[:, back]))
    advice = "give the names in the order of its outputs"
    return Fault("class order", says, advice, answers=moved, labels=lambda labels: np.asarray(order[labels]))


def keeping(word: str, says: str, advice: str, **options: Any) -> Fault:
    """A fault of what is kept: ``options`` of detection that differ from those asked for."""
    return Fault(word, says, advice, keeps=options)


def _logits(roles: Roles) -> Roles:
    """Of scores what a sigmoid was applied to, of probabilities what a softmax was (but for a constant)."""
    if "class_probabilities" in roles:
        logs = np.log(np.clip(roles["class_probabilities"], 1e-12, 1))
        return roles | {"class_probabilities": logs}
    return roles | {"scores": _logit(roles["scores"])}


_NO_SIGMOID = Fault("sigmoid", "gives logits: its last activation is missing", "apply a sigmoid to its scores (a "
                    "softmax to a classifier's)", answers=_logits)  # fmt: skip
_TWO_SIGMOIDS = Fault("sigmoid", "applies the sigmoid twice", "leave out one of the two; scores are probabilities "
                      "already", answers=_of_scores(_sigmoid))  # fmt: skip

CATALOGUE = (
    Fault("channel order", "takes BGR, not RGB", "feed it BGR, or export it again for RGB", lambda b: b[:, ::-1]),
    Fault("normalisation", "expects pixels of 0 to 255: it divides by 255 itself", "feed it pixels as they are",
          lambda b: b / 255),
    Fault("normalisation", "lets the network see pixels of 0 to 255", "divide by 255 once", lambda b: b * 255),
    Fault("normalisation", "subtracts ImageNet's mean and divides by its deviation, which YOLO12 was not trained with",
          "leave that out: values are pixels over 255", lambda b: (b - _MEAN) / _DEVIATION),
    Fault("normalisation", "moves values to -1..1", "leave that out: values are 0 to 1", lambda b: b * 2 - 1),
    Fault("letterbox", "stretches pictures to the input instead of keeping their aspect",
          "resize with one ratio and pad (letterbox)", fits=_stretched, inside=False),
    Fault("letterbox", "puts the picture in the upper left corner of the canvas", "centre it",
          fits=_placed(False, 114), inside=False),
    Fault("letterbox", "pads with black", "pad with grey, 114", fits=_placed(True, 0), inside=False),
    Fault("letterbox", "does not subtract the padding when boxes are mapped back", "subtract the left and upper padding"
          " before dividing by the ratio", lies=_unpadded, inside=False),
    Fault("letterbox", "leaves boxes in pixels of the input", "map them back to the picture", lies=_unmapped,
          inside=False),
    _NO_SIGMOID,
    _TWO_SIGMOIDS,
    Fault("sigmoid", "applies a softmax over the classes", "leave it out; every class has its own sigmoid",
          answers=_of_scores(_softmax)),
    Fault("keypoints", "leaves keypoints in pixels of the input, unlike boxes", "map them back to the picture",
          lies=_unmapped, inside=False, part="keypoints"),
    Fault("keypoints", "does not subtract the padding when keypoints are mapped back", "subtract the left and upper "
          "padding before dividing by the ratio", lies=_unpadded, inside=False, part="keypoints"),
    Fault("keypoints", "writes keypoints as fractions, where pixels are expected", "multiply them by width and height",
          points=lambda p, size: p / np.array(size[::-1], np.float32), part="keypoints"),
    Fault("keypoints", "writes y before x of keypoints", "exchange x and y of its keypoints",
          points=lambda p, size: p[..., ::-1], part="keypoints"),
    Fault("masks", "leaves masks in pixels of the input, unlike boxes", "bring them to the picture's size",
          lies=_unmapped, inside=False, part="masks"),
    Fault("masks", "does not subtract the padding when masks are mapped back", "cut off the left and upper padding of "
          "its masks", lies=_unpadded, inside=False, part="masks"),
    Fault("masks", "stretches masks of the whole input, padding included, over the picture",
          "cut off the padding of its masks, then resize", lies=_filling, inside=False, part="masks"),
    Fault("angle", "turns boxes the other way: its angles have the other sign", "change the sign of its angles "
          "(positive is clockwise)", turns=_turned(lambda a: -a), part="rotated_boxes"),
    Fault("angle", "gives angles in degrees, where radians are expected", "divide its angles by 180/π",
          turns=_turned(np.degrees), part="rotated_boxes"),
    Fault("angle", "measures angles from the other side: they are a quarter turn off", "exchange width and height, or "
          "turn by π/2", turns=_turned(lambda a: a + np.float32(np.pi / 2)), part="rotated_boxes"),
    keeping("NMS", "suppresses no duplicates", "add non-maximum suppression (IoU 0.7)", iou=1.0),
    keeping("NMS", "lets boxes suppress those of other classes", "suppress within a class", agnostic=True),
    *[keeping("NMS", f"suppresses boxes that overlap by more than {iou}", "export it with IoU 0.7", iou=iou)
      for iou in (0.3, 0.4, 0.45, 0.5, 0.6, 0.8, 0.9)],
)  # fmt: skip
