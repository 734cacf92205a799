"""Reading every image of a set, to find what reading the labels alone cannot: ``edgekit data check``.

    issues = check([open_dataset(path, split="train"), open_dataset(path, split="val")], workers=4)
    any(issue.severity == "error" for issue in issues)
    datasets = open_splits(path)                     # every split the set has

    examine(datasets, quick=True)                    # headers and labels alone
    examine(datasets, scan=scan)                     # images that ``scan`` knows are not read again

Nothing is drawn, printed or refused here: the caller counts and decides.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.data.dataset import Dataset, Sample
from edgekit.data.encoding import read_lines
from edgekit.data.issues import Issue
from edgekit.data.open import open_dataset
from edgekit.data.options import LabelOptions
from edgekit.data.scan import Scan
from edgekit.data.splits import MissingSplitError, splits_of
from edgekit.data.text import label_path
from edgekit.errors import InputError, UsageError

SCARCE = 10  # objects of a class under which nothing can be learnt or measured well
PART = 64  # images that a thread takes at once
LONGEST = 3000  # points of a polygon up to which it is asked whether it crosses itself; quadratic


@dataclass(frozen=True)
class Report:
    """What ``examine`` found.

    Attributes:
        issues: everything wrong, in reading order.
        sizes: per split how many images have each (width, height) in pixels; unreadable ones have none.
    """

    issues: list[Issue]
    sizes: list[Counter[tuple[int, int]]]

    @property
    def ok(self) -> bool:
        """No error among the issues; warnings and notes are none."""
        return not any(issue.severity == "error" for issue in self.issues)


def open_splits(
    paths: Sequence[Path],
    task: str | None = None,
    images: Path | str | Sequence[Path | str] | None = None,
    only: Sequence[str] = (),
    options: LabelOptions | None = None,
    scan: Scan | None = None,
) -> list[Dataset]:
    """Every split of a set, or of several COCO files that belong together. A ``test`` that a yaml names and that is not
    there (Roboflow writes it always) becomes an issue of the set.

    Args:
        paths: a ``data.yaml``, a folder, or COCO files, which are a split each.
        task: how to read the labels; None finds out.
        images: folders, files and patterns of a COCO file's images.
        only: the splits wanted; none named: all there are.
        options: what label files leave open.
        scan: what is known of the images.

    Raises:
        InputError, UsageError: as ``open_dataset``.
    """
    datasets: list[Dataset] = []
    for path in paths:
        for split in only if only and path.suffix.lower() != ".json" else splits_of(path):
            if any(split == dataset.split for dataset in datasets):
                raise UsageError(f"{path}: is a second set of {split} images; check one at a time")
            # One set, one task and one order of classes: what the first split made clear holds for all.
            names = datasets[0].names if datasets else None
            try:
                datasets.append(open_dataset(path, task, split, images, names, options, True, scan))
            except MissingSplitError as error:
                if only or split != "test" or not datasets:
                    raise
                issue = Issue(path, None, "split", f"{str(error).removeprefix(f'{path}: ')}; not checked", "warning")
                datasets[0] = dataclasses.replace(datasets[0], issues=(*datasets[0].issues, issue))
            task = datasets[0].task
    return datasets


def check(datasets: Sequence[Dataset], workers: int = 4, progress: Callable[[int], None] | None = None) -> list[Issue]:
    """Everything wrong with one or more splits of a set, in reading order; see ``examine``."""
    return examine(datasets, workers, progress).issues


def examine(
    datasets: Sequence[Dataset],
    workers: int = 4,
    progress: Callable[[int], None] | None = None,
    scan: Scan | None = None,
    quick: bool = False,
) -> Report:
    """Reads every image of one or more splits of a set.

    Besides what reading the labels found: images that cannot be decoded, are cut short or have another size than
    stated; the same image (by its bytes) twice in a split or in two splits; polygons that cross themselves; label
    files without an image; classes with few objects, none, or none to learn from; keypoints' mirror images.

    Args:
        datasets: the splits.
        workers: threads that read and decode.
        progress: called with 1 after every image, in this thread.
        scan: what is known of the images; what is found goes there and is saved, also of a check that is interrupted.
        quick: of images only the header is read: neither pixels, nor bytes that are those of another, nor outlines.
    """
    scan = scan or Scan()
    issues: list[Issue] = []
    sizes: list[Counter[tuple[int, int]]] = []
    homes: dict[str, tuple[Path, str]] = {}
    read = _read_header if quick else _read
    try:
        for dataset in datasets:
            issues += [*dataset.issues, *_mirror(dataset)]
            sizes.append(Counter())
            for sample, (digest, size, found) in _each(dataset.samples, lambda s: read(s, scan), workers):
                issues += [*found, *sample.issues]
                if digest in homes:
                    issues.append(_twice(sample.path, dataset.split, *homes[digest]))
                elif digest:
                    homes[digest] = (sample.path, dataset.split)
                if size:
                    sizes[-1][size] += 1
                if progress:
                    progress(1)
                scan.save_now_and_then()
            issues += _scarce(dataset)
    finally:
        scan.save()
    return Report([*issues, *_orphans(datasets), *_absent(datasets)], sizes)


# SHA-256 (none where it is not known), width and height (none where it cannot be read), and what is wrong.
_Found = tuple[str, "tuple[int, int] | None", list[Issue]]


def _each(samples: Sequence[Sample], read: Callable[[Sample], _Found], workers: int) -> Iterator[tuple[Sample, _Found]]:
    """Every sample and what ``read`` found, in order; no more under way than the threads need."""
    parts = (samples[i : i + PART] for i in range(0, len(samples), PART))
    waiting: deque[tuple[Sequence[Sample], Future[list[_Found]]]] = deque()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        try:
            for part in parts:
                waiting.append((part, pool.submit(lambda samples: [read(s) for s in samples], part)))
                if len(waiting) > 2 * workers:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(sample: Sample, scan: Scan) -> _Found:
    """What decoding an image shows, and its polygons."""
    path, crossing = sample.path, list(_crossing(sample))
    found = scan.content(path)
    if found.problem:
        return "", None, [Issue(path, None, "unreadable", found.problem), *crossing]
    size = found.width, found.height
    return found.digest, size, [*_another_size(sample, size), *crossing]


def _read_header(sample: Sample, scan: Scan) -> _Found:
    """What an image's header says."""
    path = sample.path
    try:
        size = scan.size(path)
    except InputError as error:
        return "", None, [Issue(path, None, "unreadable", str(error).removeprefix(f"{path}: "))]
    return "", size, _another_size(sample, size)


def _another_size(sample: Sample, size: tuple[int, int]) -> list[Issue]:
    stated = (sample.width, sample.height)
    if not all(stated) or stated == size:
        return []
    sentence = f"is {size[0]} x {size[1]}, its labels say {stated[0]} x {stated[1]}"
    return [Issue(sample.path, None, "size", sentence)]


def _twice(path: Path, split: str, other: Path, other_split: str) -> Issue:
    if split == other_split:
        return Issue(path, None, "duplicate", f"is the same image as {other}", "warning")
    sentence = f"is the same image as {other} of {other_split}: what is measured on {split} would be remembered"
    return Issue(path, None, "overlap", sentence)


# ---- classes and keypoints --------------------------------------------------------------------------------------


def _scarce(dataset: Dataset) -> list[Issue]:
    _, counts = dataset.counts()
    things = "images" if dataset.classifies else "objects"
    return [
        Issue(dataset.source, None, "scarce", f"the class {name!r} has {count} {things} in {dataset.split}", "warning")
        for name, count in zip(dataset.names, counts, strict=True)
        if count < SCARCE
    ]


def _absent(datasets: Sequence[Dataset]) -> Iterator[Issue]:
    """Classes that can be measured and not learnt."""
    train = next((dataset for dataset in datasets if dataset.split == "train"), None)
    if train is None:
        return
    learnt = {name for name, count in zip(train.names, train.counts()[1], strict=True) if count}
    for other in datasets:
        for name, count in zip(other.names, other.counts()[1], strict=True):
            if count and name not in learnt:
                sentence = f"the class {name!r} ({count} times in {other.split}) is never in train: it cannot be learnt"
                yield Issue(other.source, None, "absent", sentence)


def _mirror(dataset: Dataset) -> Iterator[Issue]:
    """flip_idx: mirroring twice must give every keypoint back."""
    if "keypoints" not in dataset.roles:
        return
    swap = dataset.flip_idx
    if not swap:
        sentence = "has no flip_idx: a mirrored image keeps left and right keypoints as they are"
        yield Issue(dataset.source, None, "keypoints", sentence, "note")
    elif wrong := [i for i, j in enumerate(swap) if swap[j] != i]:
        first = f"keypoint {wrong[0]} becomes {swap[wrong[0]]}, which becomes {swap[swap[wrong[0]]]}"
        sentence = f"flip_idx contradicts itself: mirrored, {first}; each pair must name each other"
        yield Issue(dataset.source, None, "keypoints", sentence)


# ---- label files ------------------------------------------------------------------------------------------------


def _orphans(datasets: Sequence[Dataset]) -> Iterator[Issue]:
    """Text labels of images that are not there. Folders are compared, not lists: who lists half of a folder's images
    means it."""
    folders: dict[Path, set[Path]] = {}
    for dataset in datasets:
        if dataset.source.suffix.lower() in (".yaml", ".yml"):
            for sample in dataset.samples:
                folders.setdefault(label_path(sample.path).parent, set()).add(sample.path.parent)
    for labels, images in sorted(folders.items()):
        if not labels.is_dir():
            continue
        stems = {entry.stem for folder in images for entry in folder.iterdir() if entry.suffix.lower() != ".txt"}
        for path in sorted(labels.glob("*.txt")):
            if path.stem not in stems and _holds_rows(path):
                sentence = f"labels an image that is not in {', '.join(map(str, sorted(images)))}"
                yield Issue(path, None, "no image", sentence)


def _holds_rows(path: Path) -> bool:
    """Labels, and not a list of images or class names that lies among them."""
    try:
        words = read_lines(path)[0].split()
        return len(words) > 4 and all(map(np.isfinite, map(float, words)))
    except (OSError, ValueError):
        return False


def _lines(sample: Sample) -> list[int]:
    """Of a text file, the line of each label: those not empty, without those that were left out."""
    left_out = {i.line for i in sample.issues if i.severity == "error" or i.kind == "duplicate"}
    lines = enumerate(read_lines(label_path(sample.path)), 1)
    return [n for n, line in lines if line.strip() and n not in left_out]


def _crossing(sample: Sample) -> Iterator[Issue]:
    """Polygons that cross themselves."""
    for i, parts in enumerate(sample.labels.polygons or ()):
        if not any(crosses_itself(part) for part in parts):
            continue
        path, line, what = sample.path, None, f"the outline of its object {i + 1}"
        if sample.labels.size == (1.0, 1.0) and label_path(path).is_file():
            path, line, what = label_path(path), _lines(sample)[i], "the polygon"
        sentence = f"{what} crosses itself; its mask may not be what was meant"
        yield Issue(path, line, "crossing", sentence, "warning")


def crosses_itself(polygon: np.ndarray) -> bool:
    """Do two sides of a polygon [P, 2] cross? Sides that touch (in a point, or running back along each other, as
    outlines drawn around a hole do) do not."""
    points = polygon[np.any(polygon != np.roll(polygon, 1, 0), axis=1)]
    if not 4 <= len(points) <= LONGEST:
        return False
    after = np.roll(points, -1, 0)
    side = after - points
    # where each point lies beside each side's line: cross product of side and way to the point, [sides, points]
    beside = side[:, :1] * (points[:, 1] - points[:, 1:2]) - side[:, 1:] * (points[:, 0] - points[:, :1])
    parted = beside * np.roll(beside, -1, 1) < -(1e-12**2)
    return bool((parted & parted.T).any())
