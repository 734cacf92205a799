"""Scores that eight bits have moved, moved back: by how much, and whether that is measurably better.

    shifts = fitted(pairs(floats, narrow), classes=3)           # of the images calibrated on
    verdict(before, after, moved)                               # of those judged on: {"kept": True, …}

A class's correction is one constant of its logits, the median of what they differ by over the objects that both models
find (``pairs``), which ``quantize/logits.py`` puts into the graph. A slope besides, by moments or least squares, was
tried on the four checkpoints that detect: it came no nearer to the float model, and of a class with few objects it
followed the noise. One constant for all classes left the rare ones where they were.

It is kept only if, on images that it was not fitted on,

- scores of the same objects are nearer: the mean |difference| of logits, over objects, then over classes, falls, and
  with 95 % certainty, images resampled in pairs;
- the operating point is: |drop| of F1 at the float model's threshold is less than without. Where there are no labels,
  agreement is no lower;
- the metric, which depends on the order of classes among each other and on the longest list of detections alone, loses
  at most ``UNHARMED`` more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgekit.metrics.matching import SAME_OBJECT, greedy
from edgekit.runtime.boxes import box_iou
from edgekit.spec import Json
from edgekit.verify.accuracy import Measured, Objects
from edgekit.verify.operating import Limits, compared

LEAST = 0.1  # of an object's score, the mean of the two logits: lower ones are hardly objects, and there are hundreds
FEWEST = 8  # objects of a class, below which its scores are left as they are
CONF = 0.02  # of what is asked of a model: far enough below ``LEAST`` that the other may be much surer
UNHARMED = 0.05  # points
RESAMPLES = 1000
CERTAIN = 0.95


class Pairs(NamedTuple):
    """Objects that two models find [N]: logits of both, the class, and the number of the image."""

    before: np.ndarray
    after: np.ndarray
    classes: np.ndarray
    images: np.ndarray


def pairs(before: Sequence[Objects], after: Sequence[Objects]) -> Pairs:
    """The objects both find in the same images; chosen by the mean of the two logits, since those of which one model
    happens to be surer are no fair sample of what the other thinks of them."""
    rows = [_paired(one, other, image) for image, (one, other) in enumerate(zip(before, after, strict=True))]
    found = Pairs._make(np.concatenate(column) for column in zip(*rows, strict=True))
    sure = (found.before + found.after) / 2 >= logit(np.array(LEAST))
    return Pairs._make(column[sure] for column in found)


def logit(scores: np.ndarray) -> np.ndarray:
    """Of scores in 0..1; those at the ends stay finite."""
    kept = np.clip(scores.astype(np.float64), 1e-6, 1 - 1e-6)
    answer: np.ndarray = np.log(kept / (1 - kept))
    return answer


def _paired(one: Objects, other: Objects, image: int) -> Pairs:
    overlap = np.where(one.classes[:, None] == other.classes, box_iou(one.boxes, other.boxes), -1.0)
    partner = greedy(overlap, one.scores, np.array([SAME_OBJECT]))[:, 0]
    found = partner >= 0
    scores = logit(one.scores[found]), logit(other.scores[partner[found]])
    return Pairs(*scores, one.classes[found], np.full(found.sum(), image))


def fitted(found: Pairs, classes: int) -> list[float]:
    """What to add to the logits of the second model, class by class [C]; 0 where fewer than ``FEWEST`` objects say."""
    moved = found.before - found.after
    mine = [moved[found.classes == c] for c in range(classes)]
    return [round(float(np.median(each)), 4) if each.size >= FEWEST else 0.0 for each in mine]


def verdict(before: Measured, after: Measured, moved: Measured) -> Json:
    """Whether ``moved`` scores mean more nearly what they did ``before`` than those ``after`` do: ``kept``, and where
    not, ``why``; the mean |difference| of logits without and with, and how sure it is that it falls; F1 likewise."""
    if before.objects is None or after.objects is None or moved.objects is None:
        raise ValueError("recalibration is for models whose objects have scores")
    plain, better = pairs(before.objects, after.objects), pairs(before.objects, moved.objects)
    row = _nearer(plain, better, len(before.objects))
    drops = [compared(before, each, Limits(0.0)).row.get("operating_point") for each in (after, moved)]
    without, with_it = (None if point is None else float(point["drop_points"]) for point in drops)
    if without is not None and with_it is not None:
        row |= {"f1_drop_points": without, "f1_drop_points_moved": with_it}
        nearer, what = abs(with_it) < abs(without), "F1 at the float model's threshold is no nearer to what it was"
    else:
        nearer, what = moved.value >= after.value, "agreement is lower"
    row["metric_points"] = 100 * (moved.value - after.value)
    whys = (
        (row["certain"] >= CERTAIN, "scores of the same objects are not certain to be nearer"),
        (nearer, what),
        (row["metric_points"] >= -UNHARMED, "the metric loses by it"),
    )
    why = next((sentence for holds, sentence in whys if not holds), None)
    return {"kept": why is None} | ({} if why is None else {"why": why}) | row


def _nearer(plain: Pairs, better: Pairs, images: int) -> Json:
    """Mean |difference| of logits in both, and the share of resamples in which the second's is less."""
    count = int(max(plain.classes.max(initial=0), better.classes.max(initial=0))) + 1
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), RESAMPLES)
    every = np.ones((1, images))
    found = [float(_apart(each, every, count)[0]) for each in (plain, better)]
    certain = float(np.mean(_apart(better, weights, count) < _apart(plain, weights, count)))
    apart, moved = (each if np.isfinite(each) else None for each in found)
    return {"judged_objects": len(plain.images), "apart": apart, "apart_moved": moved, "certain": certain}


def _apart(found: Pairs, weights_RI: np.ndarray, count: int) -> np.ndarray:
    """[R] mean |difference| over objects, then over classes, images counted so many times; infinite of none."""
    differ, objects = (np.zeros((weights_RI.shape[1], count)) for _ in range(2))
    np.add.at(differ, (found.images, found.classes), np.abs(found.before - found.after))
    np.add.at(objects, (found.images, found.classes), 1)
    differ_RC, objects_RC = weights_RI @ differ, weights_RI @ objects
    present_R = (objects_RC > 0).sum(1)
    means_R: np.ndarray = (differ_RC / np.maximum(objects_RC, 1)).sum(1) / np.maximum(present_R, 1)
    return np.where(present_R > 0, means_R, np.inf)
