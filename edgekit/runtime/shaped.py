"""One model in several input sizes: every image goes to the one that shows it largest.

    session = Shaped([landscape, portrait])
    session.fitting(1080, 1920).info.imgsz      # (384, 640)
    session.fitting(1920, 1080).info.imgsz      # (640, 384)

The rule (``best``) is also in the C++ library (``Session::fitting``): the largest scale wins, of equals the fewest
pixels, of those the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.runtime.around import Around
from edgekit.spec import Session

Size = tuple[int, int]


def best(sizes: Sequence[Size], height: int, width: int) -> int:
    """Which of ``sizes`` (height, width) an image of ``height`` x ``width`` pixels goes to."""
    scales = [min(size[0] / height, size[1] / width) for size in sizes]
    return min(range(len(sizes)), key=lambda i: (-scales[i], sizes[i][0] * sizes[i][1]))


class Shaped(Around):
    """Sessions of one model that differ in their input size; ``info`` is the first one's.

    ``run`` takes a batch of any of the sizes and tells by its shape who answers.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        super().__init__(sessions[0])
        self.sessions = tuple(sessions)
        self._sizes = [session.info.imgsz for session in sessions]

    def fitting(self, height: int, width: int) -> Session:
        return self.sessions[best(self._sizes, height, width)]

    def _of(self, batch: np.ndarray) -> Session:
        sides = batch.shape[1:3] if batch.shape[-1] == 3 and batch.dtype == np.uint8 else batch.shape[2:]
        return self.sessions[self._sizes.index((sides[0], sides[1]))]

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """A batch of one of the sizes -> an array per role."""
        return self._of(batch).run(batch)

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        return self._of(batch).intermediates(batch, names)

    def profile(self, batch: np.ndarray, runs: int) -> list[tuple[str, str, float]] | None:
        return self._of(batch).profile(batch, runs)

    def memory(self) -> np.ndarray | None:
        return None  # each of the sessions has its own

    def close(self) -> None:
        for session in self.sessions:
            session.close()
