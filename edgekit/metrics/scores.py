"""What scoring is asked for and what it answers, common to every task and protocol.

    scores = table(dataset, ap_CT, "", "COCO protocol …")       # average precision per class and threshold
    scores.metrics["map50_95"], scores.per_class[0]["class"]
    scores.joined(masks).to_dict()                              # the ``metrics`` of ``val --json``

C classes, T thresholds of overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgekit.metrics.labels import LabelledSet
from edgekit.spec import Json

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's ten
RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's 101 recall levels


@dataclass(frozen=True)
class Scores:
    """Metrics as fractions.

    Attributes:
        metrics: ``map50_95``, ``map50``, ``mask_map50_95`` …, ``top1``, ``top5``: what the task has.
        per_class: for each class present in the split ``class``, ``images``, ``instances`` and its metrics.
        protocol: one sentence: how they were computed.
    """

    metrics: dict[str, float]
    per_class: list[Json] = field(default_factory=list)
    protocol: str = ""

    def joined(self, other: Scores) -> Scores:
        """Both sets of metrics on the same data, class by class."""
        return Scores(
            {**self.metrics, **other.metrics},
            [{**a, **b} for a, b in zip(self.per_class, other.per_class, strict=True)],
            f"{self.protocol} {other.protocol}".strip(),
        )

    def to_dict(self) -> Json:
        """The ``metrics`` object of ``val --json``."""
        return {**self.metrics, "per_class": self.per_class}


def table(dataset: LabelledSet, ap_CT: np.ndarray, prefix: str, protocol: str) -> Scores:
    """Means over thresholds and classes of average precision ``ap_CT`` [classes, 10 thresholds].

    Classes without objects in the split count nowhere, as in COCO; rows of NaN are classes whose objects do not count
    (no labelled keypoints) and have no metrics.
    """
    images_C, instances_C = dataset.counts()
    per_class = []
    rows = []
    for c in np.flatnonzero(instances_C):
        entry: Json = {"class": dataset.names[c], "images": int(images_C[c]), "instances": int(instances_C[c])}
        if not np.isnan(ap_CT[c]).any():
            entry |= _averages(ap_CT[c : c + 1], prefix)
            rows.append(ap_CT[c])
        per_class.append(entry)
    return Scores(_averages(np.array(rows or [np.zeros(ap_CT.shape[1])]), prefix), per_class, protocol)


def _averages(ap_CT: np.ndarray, prefix: str) -> dict[str, float]:
    return {f"{prefix}map50_95": float(ap_CT.mean()), f"{prefix}map50": float(ap_CT[:, 0].mean())}
