"""How good predictions are: the parts that scores are made of, on arrays; knows neither files nor tasks.

    coco_scores(dataset, predictions, "bbox").metrics["map50_95"]
    threshold_curves(dataset, predictions).best()            # where to set the confidence threshold

Predictions are COCO result dicts (``Result.to_coco``; see ``predictions.py``); metrics are fractions. What a task is
scored by is said in ``tasks/<task>/labels.py``; ``edgekit.verify.evaluate.score`` asks it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.metrics.coco import ground_truth
    from edgekit.metrics.operating import Curves, confusion_matrix, threshold_curves
    from edgekit.metrics.options import PROTOCOLS, ROTATED_IOUS, Options
    from edgekit.metrics.predictions import Prediction
    from edgekit.metrics.scores import Scores

# Name -> the file it lives in, read when the name is used: the command line needs the options alone, and quickly.
_HOMES = {
    "PROTOCOLS": "options",
    "ROTATED_IOUS": "options",
    "Curves": "operating",
    "Options": "options",
    "Prediction": "predictions",
    "Scores": "scores",
    "confusion_matrix": "operating",
    "ground_truth": "coco",
    "threshold_curves": "operating",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
