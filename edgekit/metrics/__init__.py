"""How good predictions are: the parts that scores are made of, on arrays; knows neither files nor tasks.

    coco_scores(dataset, predictions, "bbox").metrics["map50_95"]
    threshold_curves(dataset, predictions).best()            # where to set the confidence threshold

Predictions are COCO result dicts (``Result.to_coco``; see ``predictions.py``); metrics are fractions. What a task is
scored by is said in ``tasks/<task>/labels.py``; ``edgekit.evaluate.score`` asks it.
"""

from __future__ import annotations

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
    "threshold_curves",
]
