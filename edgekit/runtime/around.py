"""A session put around another.

class Counted(Around):
    def run(self, batch): ...               # everything else is the inner session's
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.spec import Session

_FACTS = (
    "info", "target", "path", "concurrent", "streams", "forkable", "gpu", "weights", "sums", "named", "moves",
    "predicts",
)  # fmt: skip


class Around(Session):
    """Answers as ``session`` does in whatever the class that extends it does not change.

    It answers for every image size itself (``fitting``), and cannot be ``rounded``: both would hand out the inner one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        for name in _FACTS:
            setattr(self, name, getattr(session, name))

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return self._session.run(batch)

    def memory(self) -> np.ndarray | None:
        return self._session.memory()

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        return self._session.intermediates(batch, names)

    def profile(self, batch: np.ndarray, runs: int) -> list[tuple[str, str, float]] | None:
        return self._session.profile(batch, runs)

    def precision_by_type(self) -> dict[str, int]:
        return self._session.precision_by_type()

    def kernels(self) -> list[str]:
        return self._session.kernels()

    def devices(self) -> tuple[str, ...]:
        return self._session.devices()

    def drivers(self) -> dict[str, str]:
        return self._session.drivers()

    def close(self) -> None:
        self._session.close()
