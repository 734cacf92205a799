"""How good predictions are: one call for five tasks, and the parts it is made of.

    scores = score(dataset, predictions)                     # COCO's protocol
    scores.metrics["map50_95"], scores.protocol
    score(dataset, predictions, Options(protocol="peer"))    # as the makers of the published checkpoints measure
    threshold_curves(dataset, predictions).best()            # where to set the confidence threshold

Predictions are COCO result dicts (``Result.to_coco``; see ``predictions.py``); metrics are fractions. What a task is
scored by is said in ``tasks/<task>/labels.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from edgekit import tasks
from edgekit.data.dataset import Dataset
from edgekit.metrics.coco import ground_truth
from edgekit.metrics.operating import Curves, confusion_matrix, threshold_curves
from edgekit.metrics.predictions import Prediction
from edgekit.metrics.scores import PROTOCOLS, ROTATED_IOUS, Options, Scores

__all__ = [
    "PROTOCOLS",
    "ROTATED_IOUS",
    "Curves",
    "Options",
    "Prediction",
    "Scores",
    "confusion_matrix",
    "ground_truth",
    "score",
    "threshold_curves",
]

DEFAULTS = Options()


def score(dataset: Dataset, predictions: Sequence[Prediction], options: Options = DEFAULTS) -> Scores:
    """The task's metrics of ``predictions`` on the split that ``dataset`` holds.

    Raises:
        InputError: predictions that do not belong to the set or lack what the task needs.
        MissingPackageError: faster-coco-eval is needed and not installed.
    """
    labels = importlib.import_module(f"edgekit.tasks.{tasks.get(dataset.task).name}.labels")
    scores: Scores = labels.score(dataset, predictions, options)
    return scores
