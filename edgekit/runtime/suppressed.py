"""A session of candidates as one of finished detections: what a graph with its own suppression puts out, by the host.

    session = Suppressed(TorchSession(net, checkpoint.info(head="nms")))
    session.run(batch)["boxes"]             # [1, M, 4], best first

It is what an ``nms`` bundle is compared with: PyTorch has no such operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.runtime.boxes import nms
from edgekit.spec import NMS_IOU, Session

_WHOLE_IMAGE = ("mask_prototypes",)


class Suppressed(Session):
    """``session`` of batch 1, whose candidates come best first, with duplicates taken out class by class."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.info, self.target, self.path, self.predicts = session.info, session.target, session.path, session.predicts

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """One image's finished detections by role, ``[1, M, …]``."""
        found = self._session.run(batch)
        keep = nms(found["boxes"][0], found["labels"][0], NMS_IOU, found["labels"].shape[1])
        return {role: np.asarray(v) if role in _WHOLE_IMAGE else np.asarray(v)[:, keep] for role, v in found.items()}

    def rounded(self, weights: str | None, values: str | None = None, first: float = 1.0) -> Suppressed | None:
        made = self._session.rounded(weights, values, first)
        return None if made is None else Suppressed(made)

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        return self._session.intermediates(batch, names)

    def precision_by_type(self) -> dict[str, int]:
        return self._session.precision_by_type()

    def close(self) -> None:
        self._session.close()
