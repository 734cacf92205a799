"""Which images a model does worst on: what to look at first when accuracy disappoints.

worst_images(dataset, evaluation.predictions, 12)      # [(0.0, 31), (0.21, 4), …]: of dataset.samples
image_f1(dataset, predictions)                         # [images], F1 at confidence 0.25 and IoU 0.5
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.matching import by_score
from edgekit.metrics.objects import boxes_overlap, image_overlap
from edgekit.metrics.predictions import Prediction, by_image, gather


def worst_images(
    dataset: LabelledSet, predictions: Sequence[Prediction], count: int = 12, confidence: float = 0.25
) -> list[tuple[float, int]]:
    """The ``count`` lowest ``image_f1`` and the places of those images in the set, the worst first; of equals the one
    with most objects."""
    score = image_f1(dataset, predictions, confidence)
    objects = np.array([len(sample.labels) for sample in dataset.samples])
    order = np.lexsort((-objects, score))[:count]
    return [(float(score[i]), int(i)) for i in order]


def image_f1(
    dataset: LabelledSet,
    predictions: Sequence[Prediction],
    confidence: float = 0.25,
    iou: float = 0.5,
    rotated_iou: str = "probiou",
) -> np.ndarray:
    """[images] F1 of each image: 2 · right / (objects + predictions), matched class by class as COCO does.

    Images without objects on which nothing was found score 1. For classification the probability of the true class.

    Raises:
        InputError: predictions that do not belong to the set.
    """
    if "class_probabilities" in dataset.roles:
        rows = by_image(dataset, predictions)
        pairs = zip(dataset.samples, rows, strict=True)
        return np.array([own[0]["probs"][sample.labels.class_id] if own else 0.0 for sample, own in pairs])
    overlap, answers = boxes_overlap(rotated_iou), []
    for sample, found in zip(dataset.samples, gather(dataset, predictions), strict=True):
        labels, kept = sample.labels, found.scores >= confidence
        iou_NM = image_overlap(found, labels, sample.size, overlap)[kept]
        correct, ignored = by_score(
            iou_NM, found.scores[kept], found.classes[kept], labels.classes, labels.crowd, np.array([iou])
        )
        involved = int((~labels.crowd).sum()) + int((~ignored).sum())
        answers.append(2 * int(correct.sum()) / involved if involved else 1.0)
    return np.array(answers)
