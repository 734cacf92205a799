"""Do a narrower model's scores still mean what they meant? Beside its metric: F1 at the threshold that the float model
is best at, the class that loses most, how far scores of the same objects have moved, and other thresholds that make up
for it.

    found = compared(before, after, Limits(0.5))
    found.row["operating_point"]["drop_points"], found.over          # 0.2, []: within every limit

A limit cannot ask for more than the set can tell: of F1 and of a class what one object is worth passes in any case
(``one_object_points``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgekit.metrics.matching import SAME_OBJECT, greedy
from edgekit.metrics.operating import Curves
from edgekit.runtime.boxes import box_iou
from edgekit.spec import Json
from edgekit.verify.accuracy import SEEN, Measured, Objects

METRIC = "the metric"
_MAX_DROP = "max_drop"
PER_CLASS = 4.0  # times the limit of the metric, where none is given


@dataclass(frozen=True)
class Limits:
    """Points that may be lost: of the metric, of F1 (None: as many), of the metric of a class (None: four times as
    many). What was not asked for is said where it is exceeded, and refuses nothing."""

    metric: float
    f1: float | None = None
    per_class: float | None = None


@dataclass(frozen=True)
class Compared:
    """``row`` for the manifest, a sentence for each limit asked for that is exceeded (``over``), the options that set
    them (``options``), and by how many points the one furthest is (``excess``, below zero where all hold). The row's
    ``exceeds`` has the others."""

    row: Json
    over: list[str]
    options: list[str]
    excess: float

    def beside_metric(self) -> tuple[str, ...]:
        """The sentences on other figures than the metric."""
        return tuple(each for each, option in zip(self.over, self.options, strict=True) if option != _MAX_DROP)

    def said(self, metric: str) -> str:
        """The sentences as one, with the metric's name and the options."""
        pairs = zip(self.over, self.options, strict=True)
        return ", ".join(f"{each.replace(METRIC, metric, 1)} (`{option}`)" for each, option in pairs)


class _Checked(NamedTuple):
    """A figure, by how many points it falls and may fall, the option that says so, and whether that was given."""

    what: str
    drop: float
    most: float
    option: str
    asked: bool

    @property
    def sentence(self) -> str:
        return f"{self.what} drops by {self.drop:.2f} points, {self.most:.3g} are allowed"


def compared(before: Measured, after: Measured, limits: Limits) -> Compared:
    """What the model that scored ``after`` has lost against the one that scored ``before``."""
    row: Json = {}
    checked = [_Checked(METRIC, 100 * (before.value - after.value), limits.metric, _MAX_DROP, True)]
    point, worst, shift = _operating_point(before, after), _worst_class(before, after), _shift(before, after)
    if point is not None:
        limit = limits.metric if limits.f1 is None else limits.f1
        row["operating_point"] = point | {"limit_points": limit}
        most = max(limit, point["one_object_points"])
        what = "F1 at the float model's threshold"
        checked.append(_Checked(what, point["drop_points"], most, "max_f1_drop", limits.f1 is not None))
    if worst is not None:
        limit = PER_CLASS * limits.metric if limits.per_class is None else limits.per_class
        row["worst_class"] = worst | {"limit_points": limit}
        most = max(limit, worst["one_object_points"])
        what = f"class {worst['class']}"
        checked.append(_Checked(what, worst["drop_points"], most, "max_class_drop", limits.per_class is not None))
    if shift is not None:
        row["score_shift"] = shift
    exceeded = [each for each in checked if each.drop > each.most]
    warned = [each.sentence for each in exceeded if not each.asked]
    if warned:
        row["exceeds"] = warned
    refused = [each for each in exceeded if each.asked]
    excess = max(each.drop - each.most for each in checked if each.asked)
    return Compared(row, [each.sentence for each in refused], [each.option for each in refused], excess)


def _operating_point(one: Measured, other: Measured) -> Json | None:
    """F1 of both at the threshold that is best for the first, and thresholds for the second that keep what was."""
    before, after = one.curves, other.curves
    if before is None or after is None:
        return None
    best = next((row for row in before.best() if row["class"] == "all"), None)
    if best is None:
        return None
    at = int(np.argmin(np.abs(before.thresholds - best["threshold"])))
    present = ~np.isnan(before.f1[:, 0])
    was, now = (_means(curves, present) for curves in (before, after))
    return {
        "threshold": best["threshold"],
        "f1_before": float(was["f1"][at]),
        "f1_after": float(now["f1"][at]),
        "drop_points": 100 * float(was["f1"][at] - now["f1"][at]),
        "one_object_points": 100 * _one_object(before, present, at, one.instances),
        "keeps_precision": _lowest(before.thresholds, now["precision"], float(was["precision"][at])),
        "keeps_recall": _highest(before.thresholds, now["recall"], float(was["recall"][at])),
        "per_class": _per_class(before, after, present),
    }


def _means(curves: Curves, present: np.ndarray) -> dict[str, np.ndarray]:
    every = {"precision": curves.precision, "recall": curves.recall, "f1": curves.f1}
    return {name: value[present].mean(0) for name, value in every.items()}


def _one_object(curves: Curves, present: np.ndarray, at: int, instances: Mapping[str, int]) -> float:
    """By how much F1, the mean over classes, falls where one object less is found, in the class where it falls most:
    F1 = 2 hits / (taken + objects)."""
    objects = np.array([instances[name] for name, has in zip(curves.names, present, strict=True) if has], float)
    precision, recall, f1 = (value[present][:, at] for value in (curves.precision, curves.recall, curves.f1))
    hits = recall * objects
    taken = hits / np.maximum(precision, 1e-9)
    falls = f1 - 2 * np.maximum(hits - 1, 0) / np.maximum(taken + objects - 1, 1)
    return float(falls.max() / present.sum()) + 1e-9


def _per_class(before: Curves, after: Curves, present: np.ndarray) -> Json:
    """Class -> the threshold of best F1 before, and those that keep precision and recall of there."""
    best = {row["class"]: row["threshold"] for row in before.best()}
    found = {}
    for index in np.flatnonzero(present):
        name = before.names[index]
        at = int(np.argmin(np.abs(before.thresholds - best[name])))
        found[name] = {
            "threshold": best[name],
            "keeps_precision": _lowest(before.thresholds, after.precision[index], float(before.precision[index, at])),
            "keeps_recall": _highest(before.thresholds, after.recall[index], float(before.recall[index, at])),
        }
    return found


def _lowest(thresholds: np.ndarray, precision: np.ndarray, least: float) -> float | None:
    """The lowest threshold from which on precision is never below ``least``; None where there is none below 1."""
    short = np.flatnonzero(precision < least - 1e-12)
    first = 0 if not short.size else int(short[-1]) + 1
    return float(thresholds[first]) if first < len(thresholds) - 1 else None


def _highest(thresholds: np.ndarray, recall: np.ndarray, least: float) -> float | None:
    """The highest threshold at which recall still reaches ``least``; None where it never does."""
    enough = np.flatnonzero(recall >= least - 1e-12)
    return float(thresholds[enough[-1]]) if enough.size else None


def _worst_class(before: Measured, after: Measured) -> Json | None:
    if not before.per_class:
        return None
    drops = {name: 100 * (value - after.per_class.get(name, 0.0)) for name, value in before.per_class.items()}
    objects = {name: 100 / max(before.instances[name], 1) for name in drops}
    worst = max(drops, key=lambda name: drops[name] - objects[name])
    return {
        "class": worst,
        "instances": before.instances[worst],
        "before": before.per_class[worst],
        "after": after.per_class.get(worst, 0.0),
        "drop_points": drops[worst],
        "one_object_points": objects[worst],
    }


def _shift(one: Measured, other: Measured) -> Json | None:
    """How much higher the scores of objects are that both find, those of the first with ``SEEN`` at least."""
    before, after = one.objects, other.objects
    if before is None or after is None:
        return None
    parts = [_shifts(a, b) for a, b in zip(before, after, strict=True)]
    moved = np.concatenate(parts) if parts else np.zeros(0)
    seen = int(sum((each.scores >= SEEN).sum() for each in before))
    if not moved.size:
        return {"objects": seen, "matched": 0}
    return {
        "objects": seen,
        "matched": int(moved.size),
        "mean": float(moved.mean()),
        "p5": float(np.quantile(moved, 0.05)),
        "p95": float(np.quantile(moved, 0.95)),
    }


def _shifts(one: Objects, other: Objects) -> np.ndarray:
    asked = np.flatnonzero(one.scores >= SEEN)
    if not asked.size or not len(other.scores):
        return np.zeros(0)
    overlap = box_iou(one.boxes[asked], other.boxes)
    overlap = np.where(one.classes[asked][:, None] == other.classes, overlap, -1.0)
    partner = greedy(overlap, one.scores[asked], np.array([SAME_OBJECT]))[:, 0]
    found = partner >= 0
    shifts: np.ndarray = np.asarray(other.scores)[partner[found]] - one.scores[asked][found]
    return shifts
