"""Images to compare, time and look at models on: those that were given, some of a set, or generated ones.

pictures = images_for(None, dataset)          # 16 of the set, from all over it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.data.dataset import Dataset
from edgekit.errors import InputError
from edgekit.runtime.image import read_image
from edgekit.runtime.sources import read_images
from edgekit.verify.parity import generated_images

TIMED_ON = 16  # images; more only take memory


def images_for(
    images: str | Path | Sequence[str | Path] | None, dataset: Dataset | None = None, most: int = TIMED_ON
) -> list[np.ndarray]:
    """At most so many images, uint8 BGR ``[h, w, 3]``: the first of ``images`` (files, folders, globs), else some from
    all over ``dataset``, else generated ones.

    Raises:
        InputError: of ``images`` one cannot be read, or of the set none.
    """
    if images:
        return read_images(images, most)
    return some_of(dataset, most) if dataset is not None else generated_images()


def some_of(dataset: Dataset, most: int = TIMED_ON) -> list[np.ndarray]:
    """At most so many images from all over the set, uint8 BGR ``[h, w, 3]``, without those that cannot be read.

    Raises:
        InputError: none can be read.
    """
    found, failed = [], []
    for sample in dataset.spread(most):
        try:
            found.append(read_image(sample.path))
        except InputError as error:
            failed.append(error)
    if failed and not found:
        raise failed[0]
    return found
