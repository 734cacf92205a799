"""Pictures without labels as a set: calibration needs no more, and agreement with the float model is judged on them.

    photos = find([Path("photos")], "detect")
    rest, judged = hold_out(photos, seed=0)         # no picture, nor a copy of it, is in both

A folder counts with all below it; a ``.txt`` lists pictures; globs and files are what ``runtime/sources.py`` makes of
them.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.data import text
from edgekit.data.dataset import Dataset, Sample
from edgekit.data.images import look_through
from edgekit.data.issues import Issue
from edgekit.errors import InputError
from edgekit.metrics.labels import Labels
from edgekit.quantize import calibration
from edgekit.runtime.sources import is_video, open_sources
from edgekit.spec import sha256_file

JUDGED = 100  # pictures that agreement is measured on, at most
LEAST_JUDGED = 8
LOOKED_AT = 3000  # of larger sets a random part
_NOTHING = Labels.empty()


def find(sources: Sequence[Path], task: str | None, split: str = "pictures") -> Dataset:
    """The pictures that ``sources`` name, as a set without labels or classes.

    Raises:
        InputError: one of them is missing or holds no pictures.
    """
    paths: list[Path] = []
    issues: list[Issue] = []
    for source in sources:
        found, wrong = _in(source)
        paths += found
        issues += wrong
    source = sources[0] if len(sources) == 1 and sources[0].is_dir() else _above(paths)
    return of(dict.fromkeys(paths), source, task, split, issues)


def of(
    paths: Sequence[Path] | dict[Path, None], source: Path, task: str | None, split: str, issues: Sequence[Issue] = ()
) -> Dataset:
    """A set of these files; paths of a calibration start at ``source``."""
    samples = tuple(Sample(path, i, _NOTHING) for i, path in enumerate(paths, 1))
    return Dataset(task or "", (), samples, source, split, issues=tuple(issues))


def _in(source: Path) -> tuple[list[Path], list[Issue]]:
    if source.is_dir():
        found, issues = look_through(source)
        if not found:
            raise InputError(f"{source}: the folder holds no pictures, nor do those below it")
        return found, [*issues, *_labels(source, found)]
    if source.suffix.lower() == ".txt":
        return text.pictures(source, "")
    named = [Path(path) for path in open_sources([source]).paths]
    videos = [path for path in named if is_video(path)]
    if len(videos) == len(named):
        raise InputError(f"{source}: videos only, where pictures are needed; save some of their frames")
    return [path for path in named if path not in videos], [_not_taken(path, "a video, no picture") for path in videos]


def _labels(folder: Path, images: Sequence[Path]) -> list[Issue]:
    """Label files are no use without the classes' names."""
    if not any(text.label_path(image).is_file() for image in images):
        return []
    return [_not_taken(folder, "there are label files, but no data.yaml with the names of the classes")]


def _not_taken(path: Path, why: str) -> Issue:
    return Issue(path, None, "unreadable", f"{why}; left out")


def _above(paths: Sequence[Path]) -> Path:
    """The folder that holds them all."""
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))


def some(dataset: Dataset, seed: int, most: int = LOOKED_AT) -> tuple[Dataset, list[str]]:
    """At most ``most`` images of the set in a random order, each content once and all of them readable, and sentences
    about what was left out."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    looked_at = [dataset.samples[i] for i in order[: min(4 * most, LOOKED_AT)]]
    single = _distinct(looked_at)
    good, bad = calibration.readable(single)
    notes = []
    if most == LOOKED_AT < len(dataset):
        notes.append(f"{dataset.source}: {most} of {len(dataset)} images were looked at, drawn at random")
    if len(single) < len(looked_at):
        copies = len(looked_at) - len(single)
        notes.append(f"{dataset.source}: images that are copies of others, which are used once: {copies}")
    if bad:
        notes.append(f"{dataset.source}: images that cannot be read are left out: {len(bad)}; the first is {bad[0]}")
    return dataclasses.replace(dataset, samples=tuple(good[:most])), notes


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    """Each content once. Only files of equal size are read."""
    sizes = [calibration.size_of(sample.path) for sample in samples]
    often = Counter(sizes)
    found: dict[object, Sample] = {}
    for sample, size in zip(samples, sizes, strict=True):
        single = size is None or often[size] == 1
        found.setdefault(sample.path if single else sha256_file(sample.path), sample)
    return list(found.values())


def hold_out(dataset: Dataset, seed: int, force: bool = False) -> tuple[Dataset, Dataset, list[str]]:
    """Two parts of a set with no image in common, nor copies of one: two thirds and more to calibrate on, the rest, at
    most ``JUDGED``, to judge on; and sentences about what is in neither.

    Args:
        force: take fewer than 16 and 8 images.

    Raises:
        InputError: there are too few.
    """
    whole, notes = some(dataset, seed)
    least = calibration.LEAST + LEAST_JUDGED
    if len(whole) < (2 if force else least):
        more = "; `force` takes fewer" if len(whole) > 1 else ""
        raise InputError(
            f"{dataset.source}: different images that can be read: {len(whole)}; at least {least} are needed, "
            f"{calibration.LEAST} to calibrate on and {LEAST_JUDGED} others to judge on{more}"
        )
    judged = min(max(len(whole) // 3, 1), JUDGED)
    parts = whole.samples[judged:], whole.samples[:judged]
    rest, held = (dataclasses.replace(dataset, samples=part) for part in parts)
    return rest, held, notes
