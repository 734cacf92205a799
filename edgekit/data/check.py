"""Reading every image of a set, to find what reading the labels alone cannot: ``edgekit data check``.

    issues = check([open_dataset(path, split="train"), open_dataset(path, split="val")], workers=4)
    any(issue.severity == "error" for issue in issues)

Nothing is drawn, printed or refused here: the caller counts and decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekit.data.dataset import Dataset, Sample
from edgekit.data.labels import Issue
from edgekit.errors import InputError
from edgekit.image import read_image
from edgekit.spec import sha256_file

SCARCE = 10  # objects of a class under which nothing can be learnt or measured well


def check(datasets: Sequence[Dataset], workers: int = 4, progress: Callable[[int], None] | None = None) -> list[Issue]:
    """Everything wrong with one or more splits of a set, in reading order.

    Besides what reading the labels found: images that cannot be decoded, are cut short or have another size than
    stated; the same image (by its bytes) twice in a split or in two splits; classes with few objects or none.

    Args:
        datasets: the splits.
        workers: threads that read and decode.
        progress: called with 1 after every image, in this thread.
    """
    issues: list[Issue] = []
    homes: dict[str, tuple[Path, str]] = {}
    for dataset in datasets:
        issues += dataset.issues
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for sample, (digest, found) in zip(dataset.samples, pool.map(_read, dataset.samples), strict=True):
                issues += [*found, *sample.issues]
                if digest in homes:
                    issues.append(_twice(sample.path, dataset.split, *homes[digest]))
                elif digest:
                    homes[digest] = (sample.path, dataset.split)
                if progress:
                    progress(1)
        issues += _scarce(dataset)
    return issues


def _read(sample: Sample) -> tuple[str, list[Issue]]:
    """SHA-256 of an image file (empty if it cannot be read) and what is wrong with it."""
    path = sample.path
    try:
        height, width = read_image(path).shape[:2]
    except InputError as error:
        return "", [Issue(path, None, "unreadable", str(error).removeprefix(f"{path}: "))]
    issues = []
    if sample.width and sample.height and (sample.width, sample.height) != (width, height):
        sentence = f"is {width} x {height}, its labels say {sample.width} x {sample.height}"
        issues.append(Issue(path, None, "size", sentence))
    return sha256_file(path), issues


def _twice(path: Path, split: str, other: Path, other_split: str) -> Issue:
    if split == other_split:
        return Issue(path, None, "duplicate", f"is the same image as {other}", "warning")
    sentence = f"is the same image as {other} of {other_split}: what is measured on {split} would be remembered"
    return Issue(path, None, "overlap", sentence)


def _scarce(dataset: Dataset) -> list[Issue]:
    _, counts = dataset.counts()
    return [
        Issue(dataset.source, None, "scarce", f"the class {name!r} has {count} objects in {dataset.split}", "warning")
        for name, count in zip(dataset.names, counts, strict=True)
        if count < SCARCE
    ]
