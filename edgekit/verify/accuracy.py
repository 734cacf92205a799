"""The accuracy gate's judge: one score for any session, on labels where there are some, else against the float model.

    judge = by_labels(open_dataset("bccd/data.yaml", "detect", "val", None, info.names))
    before, after = judge.measure(float_session), judge.measure(artifact)
    judge.metric, 100 * (before.value - after.value)           # 'map50_95', 0.21 points

What else changed, at the threshold that an application uses and class by class, ``operating.py`` says.

Without labels the judge compares with what the float model sees, and its metric is called ``agreement``: twice the
objects both see over all that either sees, the mean over images that either sees something on (of classifiers, the
share of images both put into one class). An object at confidence 0.25 is seen by both if the other has one of its class
at half of that confidence, and they overlap by half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from edgekit import tasks
from edgekit.data.dataset import Dataset
from edgekit.errors import InputError
from edgekit.metrics.matching import same_objects
from edgekit.metrics.operating import Curves, threshold_curves
from edgekit.metrics.predictions import gather
from edgekit.runtime.boxes import enclosing
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result
from edgekit.spec import Session
from edgekit.verify.evaluate import evaluate

SEEN = 0.25
LEAST_SEEN = 8  # images with something on them, below which agreement is warned of


@dataclass(frozen=True)
class Measured:
    """What a session answers: ``value`` of the metric, a fraction; with labels ``per_class`` (name -> the metric),
    ``instances`` (name -> objects of it) and, of detectors, ``curves``; ``objects`` image by image (N detections; None
    of classifiers)."""

    value: float
    per_class: Mapping[str, float] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    curves: Curves | None = None
    objects: Sequence[Objects] | None = None


class Objects(NamedTuple):
    """What is found in an image: scores [N], classes [N], boxes [N, 4] xyxy pixels (of rotated ones those around)."""

    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Evaluator:
    """``measure(session)`` says what a session scores, ``score`` its value alone; ``metric`` says of what, ``kind`` is
    ``labels`` or ``agreement``. Of agreement ``seen`` is how many of the ``images`` the float model sees something on.
    ``skipped`` has a sentence for each image that turned out not to be readable, after the first ``measure``."""

    metric: str
    kind: str
    images: int
    on: str
    measure: Callable[[Session], Measured]
    seen: int | None = None
    skipped: list[str] = field(default_factory=list)

    def score(self, session: Session) -> float:
        """The metric of ``session``, a fraction."""
        return self.measure(session).value

    @property
    def warning(self) -> str | None:
        """A sentence where there is too little to judge by."""
        if self.seen is None or self.seen >= LEAST_SEEN:
            return None
        return f"the float model sees something on {self.seen} of {self.images} images of {self.on}: too few to rely on"


def by_labels(dataset: Dataset) -> Evaluator:
    """The task's main metric (mAP 50-95 of boxes, masks or keypoints; top-1) on a labelled split."""
    metric = tasks.get(dataset.task).metric

    skipped: list[str] = []

    def measure(session: Session) -> Measured:
        found = evaluate(Predictor(session), dataset)
        skipped[:] = found.skipped
        per_class = {row["class"]: float(row[metric]) for row in found.scores.per_class if metric in row}
        instances = {row["class"]: int(row["instances"]) for row in found.scores.per_class}
        value = float(found.scores.metrics[metric])
        if not tasks.get(dataset.task).detects:
            return Measured(value, per_class, instances)
        seen = [Objects(each.scores, each.classes, each.boxes) for each in gather(dataset, found.predictions)]
        return Measured(value, per_class, instances, threshold_curves(dataset, found.predictions), seen)

    on = f"{dataset.source.name}, split {dataset.split}"
    return Evaluator(metric, "labels", len(dataset), on, measure, skipped=skipped)


def by_agreement(images: Sequence[Any], reference: Session, on: str) -> Evaluator:
    """Agreement with ``reference`` on ``images`` (uint8 BGR, or paths, which are read when needed); 1 where both see
    the same."""
    expected = _answers(reference, images)
    seen = sum(result.probs is not None or bool(_sure(result).any()) for result in expected)

    def measure(session: Session) -> Measured:
        answers = expected if session is reference else _answers(session, images)
        shares = [_agreement(a, b) for a, b in zip(expected, answers, strict=True)]
        counted = [share for share in shares if share is not None]
        return Measured(float(np.mean(counted)) if counted else 1.0, objects=objects(answers))

    return Evaluator("agreement", "agreement", len(images), on, measure, seen)


def check_seen(judge: Evaluator) -> Evaluator:
    """``judge``, unless it could prove nothing.

    Raises:
        InputError: the float model sees nothing on any image, so that every model that sees nothing agrees with it.
    """
    if judge.seen == 0:
        raise InputError(
            f"{judge.on}: the float model finds nothing (at confidence {SEEN:g}) on any of the {judge.images} images "
            "kept for judging, so agreement with it would prove nothing; give pictures like those it was trained on, "
            "or a labelled set"
        )
    return judge


def _answers(session: Session, images: Sequence[Any]) -> list[Result]:
    return Predictor(session, Options(conf=SEEN / 2)).predict(images)


def objects(answers: Sequence[Result]) -> list[Objects] | None:
    """What is found, image by image; None of classifiers."""
    found = []
    for result in answers:
        boxes = enclosing(result.rotated_boxes) if result.rotated_boxes is not None else result.boxes
        if boxes is None or result.scores is None or result.labels is None:
            return None
        found.append(Objects(result.scores, result.labels, boxes))
    return found


def _agreement(a: Result, b: Result) -> float | None:
    """None where neither sees anything."""
    if a.probs is not None and b.probs is not None:
        return float(a.probs.argmax() == b.probs.argmax())
    seen = _sure(a).sum() + _sure(b).sum()
    return float((_found(a, b) + _found(b, a)) / seen) if seen else None


def _sure(result: Result) -> np.ndarray:
    """[N] bool: which objects are seen for certain enough to ask the other model about."""
    return np.zeros(0, bool) if result.scores is None else result.scores >= SEEN


def _found(one: Result, other: Result) -> int:
    """How many of the objects of ``one`` the ``other`` has too, each taken once."""
    return int((same_objects(one, other, SEEN) >= 0).sum())
