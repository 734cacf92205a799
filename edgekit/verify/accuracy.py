"""The accuracy gate's judge: one score for any session, on labels where there are some, else against the float model.

    judge = by_labels(open_dataset("bccd/data.yaml", "detect", "val", None, info.names))
    before, after = judge.score(float_session), judge.score(artifact)
    judge.metric, 100 * (before - after)           # 'map50_95', 0.21 points

Without labels the judge compares with what the float model sees, and its metric is called ``agreement``: twice the
objects both see over all that either sees, the mean over images that either sees something on (of classifiers, the
share of images both put into one class). An object at confidence 0.25 is seen by both if the other has one of its class
at half of that confidence, and they overlap by half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit import tasks
from edgekit.data.dataset import Dataset
from edgekit.errors import InputError
from edgekit.metrics.matching import same_objects
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.results import Result
from edgekit.spec import Session
from edgekit.verify.evaluate import evaluate

SEEN = 0.25
LEAST_SEEN = 8  # images with something on them, below which agreement is warned of


@dataclass(frozen=True)
class Evaluator:
    """``score(session)`` is a fraction; ``metric`` says of what, ``kind`` is ``labels`` or ``agreement``. Of agreement
    ``seen`` is how many of the ``images`` the float model sees something on. ``skipped`` has a sentence for each image
    that turned out not to be readable, after the first ``score``."""

    metric: str
    kind: str
    images: int
    on: str
    score: Callable[[Session], float]
    seen: int | None = None
    skipped: list[str] = field(default_factory=list)

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

    def score(session: Session) -> float:
        evaluation = evaluate(Predictor(session), dataset)
        skipped[:] = evaluation.skipped
        return float(evaluation.scores.metrics[metric])

    on = f"{dataset.source.name}, split {dataset.split}"
    return Evaluator(metric, "labels", len(dataset), on, score, skipped=skipped)


def by_agreement(images: Sequence[Any], reference: Session, on: str) -> Evaluator:
    """Agreement with ``reference`` on ``images`` (uint8 BGR, or paths, which are read when needed); 1 where both see
    the same."""
    expected = _answers(reference, images)
    seen = sum(result.probs is not None or bool(_sure(result).any()) for result in expected)

    def score(session: Session) -> float:
        shares = [_agreement(a, b) for a, b in zip(expected, _answers(session, images), strict=True)]
        counted = [share for share in shares if share is not None]
        return float(np.mean(counted)) if counted else 1.0

    return Evaluator("agreement", "agreement", len(images), on, score, seen)


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
