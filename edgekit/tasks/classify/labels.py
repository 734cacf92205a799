"""Classification's labels are the folders images lie in (``edgekit/data/folders.py``); its metrics are top-1 and top-5.

    score(dataset, [{"image_id": 1, "probs": [0.1, 0.7, 0.2]}], Options()).metrics      # {'top1': …, 'top5': …}

Probabilities are in the order of the set's classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import InputError
from edgekit.metrics.labels import LabelledSet
from edgekit.metrics.options import Options
from edgekit.metrics.predictions import Prediction, by_image
from edgekit.metrics.scores import Scores
from edgekit.spec import Json


def score(dataset: LabelledSet, predictions: Sequence[Prediction], options: Options) -> Scores:
    """Share of images whose class is the most probable one, and among the five most probable ones.

    An image without a prediction counts as wrong; equal probabilities rank by label.

    Raises:
        InputError: a prediction has not one probability per class.
    """
    count = len(dataset.names)
    truth = np.array([sample.labels.class_id for sample in dataset.samples], np.int64)
    rank = np.full(len(truth), count)
    for i, rows in enumerate(by_image(dataset, predictions)):
        for row in rows:
            probs = np.asarray(row.get("probs", ()), np.float64)
            if probs.shape != (count,):
                raise InputError(
                    f"a prediction has {probs.size} class probabilities, {dataset.source} has {count} "
                    "classes; is the model of the same task and trained on the same classes?"
                )
            rank[i] = int(np.flatnonzero(np.argsort(-probs, kind="stable") == truth[i])[0])
    hits = {"top1": rank < 1, "top5": rank < 5}
    per_class: list[Json] = []
    for c in np.unique(truth):
        mine = truth == c
        shares = {key: float(right[mine].mean()) for key, right in hits.items()}
        per_class.append({"class": dataset.names[c], "images": int(mine.sum()), "instances": int(mine.sum()), **shares})
    means = {key: float(right.mean()) for key, right in hits.items()}
    return Scores(means, per_class, "Share of images whose class is first (top1) or among the first five (top5).")
