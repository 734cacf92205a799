"""Which predictions are right, which objects of two answers are the same, and the average precision that follows.

Matching is greedy: predictions in order of score, each takes the best object that is still free (``greedy``; only a
confusion matrix pairs by overlap, ``by_overlap``). Precision is integrated in one of two ways, because protocols differ
and small sets show it:

    coco_precision    the mean of precision at 101 recalls, each the best precision at that recall or beyond
    peer_precision    the area under a line drawn through the precision-recall points, read at 101 places

N predictions, M objects, T thresholds, C classes, D predictions of a whole set.

    collected = Matches.collect([by_score(iou_NM, …) for each image], …)
    ap_CT = average_precision(collected, coco_precision)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.metrics.scores import RECALLS
from edgekit.runtime.boxes import box_iou, probiou

if TYPE_CHECKING:
    from edgekit.runtime.results import Result

SAME_OBJECT = 0.5  # overlap from which two answers are the same object


@dataclass(frozen=True)
class Matches:
    """Every prediction of a set: scores [D], classes [D], correct [D, T], ignored [D, T] (matched to a crowd), and
    totals [C], the objects of each class."""

    scores: np.ndarray
    classes: np.ndarray
    correct: np.ndarray
    ignored: np.ndarray
    totals: np.ndarray

    @classmethod
    def collect(
        cls,
        per_image: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
        totals: np.ndarray,
        thresholds: int,
    ) -> Matches:
        """From (scores, classes, correct, ignored) of every image."""
        empty = (np.zeros(0), np.zeros(0, np.int64), *[np.zeros((0, thresholds), bool)] * 2)
        scores, classes, correct, ignored = (np.concatenate(parts) for parts in zip(empty, *per_image, strict=True))
        return cls(scores, classes, correct, ignored, totals)


def by_score(
    iou_NM: np.ndarray,
    scores_N: np.ndarray,
    classes_N: np.ndarray,
    classes_M: np.ndarray,
    crowd_M: np.ndarray,
    thresholds_T: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """COCO's matching in one image: correct [N, T] and ignored [N, T].

    Only objects of the prediction's class count. Crowd regions come last and may be matched again and again.
    """
    thresholds_T = np.minimum(thresholds_T, 1 - 1e-10)
    iou_NM = np.where(classes_N[:, None] == classes_M, iou_NM, -1.0)
    crowd_N = np.where(crowd_M, iou_NM, -1.0).max(1, initial=-1.0)
    correct_NT = greedy(iou_NM, scores_N, thresholds_T, ~crowd_M) >= 0
    return correct_NT, ~correct_NT & (crowd_N[:, None] >= thresholds_T)


def greedy(
    overlap_NM: np.ndarray, scores_N: np.ndarray, thresholds_T: np.ndarray, free_M: np.ndarray | None = None
) -> np.ndarray:
    """[N, T] the object that each prediction takes, -1 for none: best scores first, each the free object it overlaps
    most, by the threshold at least; of equal ones the last, as COCO does.

    Args:
        free_M: which objects may be taken at all; every one by default.
    """
    taken_NT = np.full((len(overlap_NM), len(thresholds_T)), -1)
    if not overlap_NM.size:
        return taken_NT
    free_M = np.ones(overlap_NM.shape[1], bool) if free_M is None else free_M
    free_TM = np.tile(free_M, (len(thresholds_T), 1))
    rows_T = np.arange(len(thresholds_T))
    order = np.argsort(-scores_N, kind="stable")
    for n in order[overlap_NM.max(1)[order] >= thresholds_T.min()]:
        open_TM = np.where(free_TM, overlap_NM[n], -1.0)
        best_T = open_TM.shape[1] - 1 - open_TM[:, ::-1].argmax(1)
        hit_T = open_TM[rows_T, best_T] >= thresholds_T
        free_TM[rows_T[hit_T], best_T[hit_T]] = False
        taken_NT[n, hit_T] = best_T[hit_T]
    return taken_NT


def by_overlap(overlap_NM: np.ndarray, least: float) -> np.ndarray:
    """[N] the object of each prediction, -1 for none: the pair that overlaps most first, whatever the scores."""
    taken_N, free_M = np.full(len(overlap_NM), -1), np.ones(overlap_NM.shape[1], bool)
    n, m = np.nonzero(overlap_NM >= least)
    for pair in np.argsort(-overlap_NM[n, m], kind="stable"):
        if taken_N[n[pair]] < 0 and free_M[m[pair]]:
            taken_N[n[pair]], free_M[m[pair]] = m[pair], False
    return taken_N


def same_objects(one: Result, other: Result, sure: float = 0.0) -> np.ndarray:
    """[N] which object of ``other`` each object of ``one`` is, -1 where it has none of its class that overlaps by
    ``SAME_OBJECT``; only objects of ``one`` with a score of at least ``sure`` are asked about."""
    found_N = np.full(len(one), -1)
    if not len(one) or not len(other):
        return found_N
    if one.boxes is not None and other.boxes is not None:
        overlap_NM = box_iou(one.boxes, other.boxes)
    else:
        assert one.rotated_boxes is not None and other.rotated_boxes is not None
        overlap_NM = probiou(one.rotated_boxes, other.rotated_boxes)
    assert one.labels is not None and other.labels is not None and one.scores is not None
    overlap_NM = np.where(one.labels[:, None] == other.labels, overlap_NM, -1.0)
    asked = np.flatnonzero(one.scores >= sure)
    found_N[asked] = greedy(overlap_NM[asked], one.scores[asked], np.array([SAME_OBJECT]))[:, 0]
    return found_N


def average_precision(matches: Matches, integrate: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    """[C, T] average precision; NaN where a class has no objects. ``integrate(recall, precision)`` gets the curve of
    falling scores."""
    count_T = matches.correct.shape[1]
    ap_CT = np.full((len(matches.totals), count_T), np.nan)
    order = np.argsort(-matches.scores, kind="stable")
    for c in np.flatnonzero(matches.totals):
        mine = order[matches.classes[order] == c]
        for t in range(count_T):
            right = matches.correct[mine, t][~matches.ignored[mine, t]]
            hits = np.cumsum(right)
            ap_CT[c, t] = (
                integrate(hits / matches.totals[c], hits / np.arange(1, len(right) + 1)) if len(right) else 0.0
            )
    return ap_CT


def envelope(precision: np.ndarray) -> np.ndarray:
    """At every point the best precision at that recall or a higher one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def coco_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over 101 recalls of the envelope, zero beyond the last recall (cocodataset.org/#detection-eval)."""
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope(precision), 0.0)[place].mean())


def peer_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """Trapezoids between 101 points of the envelope, which starts at precision 1, is drawn straight from point to
    point, and falls to zero at the last recall reached."""
    line = envelope(np.concatenate([[1.0], precision, [0.0, 0.0]]))
    values = np.interp(RECALLS, np.concatenate([[0.0], recall, [recall[-1], 1.0]]), line)
    return float(((values[1:] + values[:-1]) / 2).mean())
