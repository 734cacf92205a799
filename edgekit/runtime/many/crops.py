"""Objects as pictures of their own: ``crops/CLASS/00000017-street-2.jpg`` is the second object of image 17. Numpy."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath

from edgekit.errors import InputError
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import write_image
from edgekit.runtime.results import Result

FOLDER = "crops"


def save_crops(result: Result, frame: Frame, folder: Path, index: int) -> None:
    """Write every object of ``result`` to ``folder``/crops; of a rotated box what encloses it.

    Args:
        index: the image's place among all, which keeps names apart.

    Raises:
        InputError: the folder cannot be written.
    """
    boxes = result.enclosing_boxes()
    if boxes is None or frame.image is None:
        return
    height, width = frame.image.shape[:2]
    stem = _plain(PurePosixPath(frame.name.replace("\\", "/")).stem)
    number = "" if frame.frame is None else f"-{frame.frame}"
    for i, ((x1, y1, x2, y2), name) in enumerate(zip(boxes.tolist(), result.class_names, strict=True), 1):
        left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
        part = frame.image[top : min(math.ceil(y2), height), left : min(math.ceil(x2), width)]
        if part.size:
            path = folder / FOLDER / _plain(name) / f"{index:08d}-{stem}{number}-{i}.jpg"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{path.parent}: cannot be made ({error.strerror or error})") from None
            write_image(path, part)


def _plain(name: str) -> str:
    """A name that any system takes for a file's."""
    return re.sub(r"[^\w.()+-]+", "_", name)[:80].strip(".") or "_"
