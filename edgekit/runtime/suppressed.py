"""A session of candidates as one of finished detections: what a graph with its own suppression puts out, by the host.

    session = Suppressed(TorchSession(net, checkpoint.info(head="nms")))
    session.run(batch)["boxes"]             # [1, M, 4], best first

It is what an ``nms`` bundle is compared with: PyTorch has no such operator.
"""

from __future__ import annotations

import numpy as np

from edgekit.runtime.around import Around
from edgekit.runtime.boxes import nms
from edgekit.spec import NMS_IOU

_WHOLE_IMAGE = ("mask_prototypes",)


class Suppressed(Around):
    """``session`` of batch 1, whose candidates come best first, with duplicates taken out class by class."""

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """One image's finished detections by role, ``[1, M, …]``."""
        found = self._session.run(batch)
        keep = nms(found["boxes"][0], found["labels"][0], NMS_IOU, found["labels"].shape[1])
        return {role: np.asarray(v) if role in _WHOLE_IMAGE else np.asarray(v)[:, keep] for role, v in found.items()}

    def rounded(self, weights: str | None, values: str | None = None, first: float = 1.0) -> Suppressed | None:
        made = self._session.rounded(weights, values, first)
        return None if made is None else Suppressed(made)
