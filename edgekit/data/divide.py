"""Setting images aside to validate on, where a set has no split of its own.

    training, validating = divide(open_dataset("photos.json", split="train"), 0.1)

Which images those are depends on their bytes and labels alone, not on names, order or machine: of every stratum those
with the smallest SHA-256. A stratum is the images of a class, in detection the images whose rarest class it is. Files
with the same bytes go to the same side, so that nothing is measured on what was learnt.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError, UsageError
from edgekit.spec import sha256_file


def divide(dataset: Dataset, fraction: float) -> tuple[Dataset, Dataset]:
    """The set without, and the set of, ``fraction`` of its images; at least one image of a stratum that has two.

    Raises:
        UsageError: the fraction is not between 0 and 1.
        InputError: an image cannot be read, or there are too few to divide.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"`val_fraction` {fraction:g}: must be between 0 and 1")
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(_sha256, dataset.samples))
    strata: dict[int, set[str]] = defaultdict(set)
    placed: set[str] = set()
    for label, digest in sorted(zip(_strata(dataset), hashes, strict=True)):
        if digest not in placed:
            strata[label].add(digest)
            placed.add(digest)
    chosen: set[str] = set()
    for members in strata.values():
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        chosen.update(sorted(members)[:count])
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for sample, digest in zip(dataset.samples, hashes, strict=True):
        sides[digest in chosen].append(sample)
    if not sides[0] or not sides[1]:
        raise InputError(f"{dataset.source}: {len(dataset)} images are too few to set any aside for validation")
    training, validating = (dataclasses.replace(dataset, samples=tuple(side)) for side in sides)
    return training, dataclasses.replace(validating, split="val")


def _sha256(sample: Sample) -> str:
    try:
        return sha256_file(sample.path)
    except OSError as error:
        raise InputError(f"{sample.path}: cannot be read ({error.strerror})") from None


def _strata(dataset: Dataset) -> list[int]:
    """The class each image stands for; the number of classes for an image without objects."""
    counts = dataset.counts()[0]
    found = []
    for sample in dataset.samples:
        labels = sample.labels
        classes = np.unique(labels.classes[~labels.crowd]) if labels.class_id is None else [labels.class_id]
        found.append(int(min(classes, key=lambda c: (counts[c], c), default=len(dataset.names))))
    return found
