"""One image on its way through a model. Numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import InputError


@dataclass(frozen=True, eq=False)
class Frame:
    """One image to work on, or what is wrong with it.

    Attributes:
        path: the file; of a camera or address, what its name is made a path of.
        index: running number, from 0; of sources that are read at once, each source's own.
        image: uint8 BGR ``[h, w, 3]``; None where ``error`` is set.
        frame: index within its video, None for an image file.
        total: frames in that video as far as known.
        fps: frames per second of that video as they are given, None for an image file or where unknown.
        error: why the file, or the rest of it, cannot be used.
        name: what to call it in results; by default the path.
        source: which one it is of several sources that are read at once, from 0.
    """

    path: Path
    index: int
    image: np.ndarray | None = None
    frame: int | None = None
    total: int | None = None
    fps: float | None = None
    error: InputError | None = None
    name: str = ""
    source: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or str(self.path))
