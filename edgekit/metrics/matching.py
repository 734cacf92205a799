"""Which predictions are right, and the average precision that follows.

Matching is greedy: predictions in order of score, each takes the best object that is still free. Precision is
integrated in one of two ways, because protocols differ and small sets show it:

    coco_precision    the mean of precision at 101 recalls, each the best precision at that recall or beyond
    peer_precision    the area under a line drawn through the precision-recall points, read at 101 places

N predictions, M objects, T thresholds, C classes, D predictions of a whole set.

    collected = Matches.collect([by_score(iou_NM, …) for each image], …)
    ap_CT = average_precision(collected, coco_precision)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.metrics.scores import RECALLS


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
    correct_NT = np.zeros((len(iou_NM), len(thresholds_T)), bool)
    ignored_NT = np.zeros_like(correct_NT)
    if not iou_NM.size:
        return correct_NT, ignored_NT
    iou_NM = np.where(classes_N[:, None] == classes_M, iou_NM, -1.0)
    free_TM = np.tile(~crowd_M, (len(thresholds_T), 1))
    rows_T = np.arange(len(thresholds_T))
    crowd_N = np.where(crowd_M, iou_NM, -1.0).max(1)
    order = np.argsort(-scores_N, kind="stable")
    for n in order[iou_NM.max(1)[order] >= thresholds_T.min()]:
        open_TM = np.where(free_TM, iou_NM[n], -1.0)
        best_T = open_TM.shape[1] - 1 - open_TM[:, ::-1].argmax(1)  # of equals COCO takes the last
        hit_T = open_TM[rows_T, best_T] >= thresholds_T
        free_TM[rows_T[hit_T], best_T[hit_T]] = False
        correct_NT[n] = hit_T
        ignored_NT[n] = ~hit_T & (crowd_N[n] >= thresholds_T)
    return correct_NT, ignored_NT


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
