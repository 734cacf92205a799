"""What a user should know about a set before hours are spent on it: rows left out or mended, classes that cannot be
learnt, outlines that cross themselves, keypoints whose mirror image is not known.

    for sentence in remarks(training, validating):
        note(sentence)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from edgekit.data.account import account_of
from edgekit.data.check import crosses_itself
from edgekit.data.dataset import Dataset
from edgekit.data.scan import Scan
from edgekit.errors import InputError, shorten
from edgekit.metrics.limits import crowded
from edgekit.metrics.options import Options
from edgekit.spec import MAX_DET

MOST_OUTLINES = 3000  # looked at; `edgekit data check` looks at all of them


def remarks(training: Dataset, validating: Dataset, scan: Scan | None = None) -> list[str]:
    """Sentences, most important first; ``scan``: what is known of the images.

    Raises:
        InputError: keypoints would be mirrored into nonsense.
    """
    return [
        *_shared(training, validating, scan or Scan()),
        *_issues(training),
        *_issues(validating),
        *crowded(validating, MAX_DET, Options()),
        *_classes(training),
        *_outlines(training),
        *_mirror(training),
    ]


def _issues(dataset: Dataset) -> Iterator[str]:
    yield from account_of(dataset).sentences()


def _shared(training: Dataset, validating: Dataset, scan: Scan) -> Iterator[str]:
    """Images whose bytes are in both; only files of equal size are read."""
    sizes = [{sample.path: _size(sample.path) for sample in dataset.samples} for dataset in (training, validating)]
    common = (set(sizes[0].values()) & set(sizes[1].values())) - {0}
    learnt, measured = ([scan.digest(p) for p, size in found.items() if size in common] for found in sizes)
    known = set(learnt)
    both = [digest for digest in measured if digest in known]
    if both:
        yield (
            f"{validating.source}: {len(both)} of the {len(validating)} images to validate on are trained on too; what "
            "is measured on them is remembered"
        )


def _size(path: Path) -> int:
    """In bytes; 0 for a file that is not there any more."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _classes(training: Dataset) -> Iterator[str]:
    _, counts = training.counts()
    missing = [name for name, count in zip(training.names, counts, strict=True) if not count]
    if missing:
        yield f"{training.source}: no object of {shorten(missing)} in train, so it cannot be learnt"


def _outlines(training: Dataset) -> Iterator[str]:
    """Outlines that cross themselves, among the first: the test is quadratic in an outline's points."""
    if "mask_coefficients" not in training.roles:
        return
    outlines = (
        (sample.path, number, parts)
        for sample in training.samples
        for number, parts in enumerate(sample.labels.polygons or (), 1)
    )
    crossing = [
        f"object {number} of {path}"
        for path, number, parts in itertools.islice(outlines, MOST_OUTLINES)
        if any(crosses_itself(part) for part in parts)
    ]
    if crossing:
        yield (
            f"{training.source}: {len(crossing)} polygons of train cross themselves, the first is {crossing[0]}; their "
            "masks may not be what was meant, `edgekit data check` lists them all"
        )


def _mirror(training: Dataset) -> Iterator[str]:
    if "keypoints" not in training.roles:
        return
    swap = training.flip_idx
    wrong = [i for i, j in enumerate(swap) if swap[j] != i]
    if wrong:
        i, j = wrong[0], swap[wrong[0]]
        raise InputError(
            f"{training.source}: flip_idx contradicts itself: mirrored, keypoint {i} becomes {j}, which becomes "
            f"{swap[j]}; each of a pair must name the other"
        )
    if not swap:
        yield f"{training.source}: has no flip_idx, so it is not known what keypoints mirror to: no image is mirrored"
