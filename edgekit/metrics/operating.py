"""Advice for those who deploy: how precision, recall and F1 move with the confidence threshold, the threshold of best
F1 for each class, and what is taken for what.

    curves = threshold_curves(dataset, predictions)
    curves.best()[0]           # {'class': 'RBC', 'threshold': 0.41, 'precision': …, 'recall': …, 'f1': …}
    confusion_matrix(dataset, predictions)        # [C + 1, C + 1], rows true, columns predicted, last: background

All of it at IoU 0.5 with boxes (oriented ones for obb): an operating point is chosen for finding objects. C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.matching import by_overlap, envelope
from edgekit.metrics.objects import boxes_overlap, image_overlap, match_objects
from edgekit.metrics.predictions import Prediction, by_image, gather
from edgekit.metrics.scores import RECALLS
from edgekit.spec import Json


@dataclass(frozen=True)
class Curves:
    """Precision, recall and F1 [C, 1001] at confidence thresholds 0, 0.001 … 1, and ``precision_at_recall`` [C, 101].

    Rows of classes without objects are NaN. ``mean`` rows are averages over the other classes.
    """

    names: tuple[str, ...]
    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    recalls: np.ndarray
    precision_at_recall: np.ndarray

    def best(self) -> list[Json]:
        """Per class with objects, and for ``all`` classes together, the threshold where F1 is highest (the middle of
        the highest stretch) and what is reached there."""
        present = ~np.isnan(self.f1[:, 0])
        if not present.any():
            return []
        rows = [
            (name, self.precision[i], self.recall[i], self.f1[i]) for i, name in enumerate(self.names) if present[i]
        ]
        rows.append(("all", *(v[present].mean(0) for v in (self.precision, self.recall, self.f1))))
        answers = []
        for name, precision, recall, f1 in rows:
            top = np.flatnonzero(f1 >= f1.max() - 1e-12)
            stretch = np.split(top, np.flatnonzero(np.diff(top) > 1) + 1)
            at = int(np.median(max(stretch, key=len)))
            point = {"threshold": self.thresholds, "precision": precision, "recall": recall, "f1": f1}
            answers.append({"class": name, **{key: float(values[at]) for key, values in point.items()}})
        return answers


def threshold_curves(dataset: LabelledSet, predictions: Sequence[Prediction], rotated_iou: str = "probiou") -> Curves:
    """The curves of a set's predictions; see ``Curves``.

    Raises:
        InputError: predictions that do not belong to the set.
    """
    matches = match_objects(dataset, predictions, np.array([0.5]), boxes_overlap(rotated_iou))
    count = len(dataset.names)
    thresholds = np.linspace(0, 1, 1001)
    precision, recall, f1 = (np.full((count, len(thresholds)), np.nan) for _ in range(3))
    at_recall = np.full((count, len(RECALLS)), np.nan)
    for c in np.flatnonzero(matches.totals):
        mine = (matches.classes == c) & ~matches.ignored[:, 0]
        order = np.argsort(-matches.scores[mine], kind="stable")
        scores, right = matches.scores[mine][order], matches.correct[mine, 0][order]
        hits = np.concatenate([[0], np.cumsum(right)])
        # how many predictions reach each threshold: scores fall, so count from the low end
        taken = len(scores) - np.searchsorted(scores[::-1], thresholds, side="left")
        recall[c] = hits[taken] / matches.totals[c]
        precision[c] = np.where(taken > 0, hits[taken] / np.maximum(taken, 1), 1.0)
        f1[c] = 2 * hits[taken] / (taken + matches.totals[c])
        along = envelope(hits[1:] / np.arange(1, len(hits)))
        at_recall[c] = np.append(along, 0.0)[np.searchsorted(hits[1:] / matches.totals[c], RECALLS, side="left")]
    return Curves(dataset.names, thresholds, precision, recall, f1, RECALLS, at_recall)


def confusion_matrix(
    dataset: LabelledSet,
    predictions: Sequence[Prediction],
    confidence: float = 0.25,
    iou: float = 0.5,
    rotated_iou: str = "probiou",
) -> np.ndarray:
    """[C + 1, C + 1] counts: row the true class, column the predicted one; the last row holds predictions of nothing,
    the last column objects that were missed. Pairs are made by falling overlap, whatever their classes. For
    classification [C, C], by the most probable class."""
    count = len(dataset.names)
    if "class_probabilities" in dataset.roles:
        matrix = np.zeros((count, count), np.int64)
        for sample, rows in zip(dataset.samples, by_image(dataset, predictions), strict=True):
            for row in rows:
                matrix[sample.labels.class_id, int(np.argmax(row["probs"]))] += 1
        return matrix
    matrix = np.zeros((count + 1, count + 1), np.int64)
    for sample, found in zip(dataset.samples, gather(dataset, predictions), strict=True):
        kept = found.scores >= confidence
        labels = sample.labels.select(~sample.labels.crowd)
        iou_NM = image_overlap(found, labels, sample.size, boxes_overlap(rotated_iou))[kept]
        classes = found.classes[kept]
        taken = by_overlap(iou_NM, iou)
        np.add.at(matrix, (labels.classes[taken[taken >= 0]], classes[taken >= 0]), 1)
        matrix[:count, count] += np.bincount(np.delete(labels.classes, taken[taken >= 0]), minlength=count)
        matrix[count, :count] += np.bincount(classes[taken < 0], minlength=count)
    return matrix
