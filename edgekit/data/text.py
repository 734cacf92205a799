"""Sets described by a ``data.yaml`` whose labels are text files of one object a line, in fractions of the image.

    path: .                     # root of what follows; left out: the yaml's own folder
    train: images/train         # a folder, a list of folders, or a .txt that lists images
    val: images/val
    names: {0: RBC, 1: WBC}     # or a list
    kpt_shape: [17, 3]          # pose: points and values per point
    flip_idx: [0, 2, 1, …]      # pose: each point's counterpart in a mirrored image

An image ``…/images/val/a.jpg`` has its labels in ``…/labels/val/a.txt``; where no folder is called ``images``, beside
itself. An empty or missing file means that nothing is on the image.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgekit.data.dataset import Dataset, Sample, shorten
from edgekit.data.folders import SPLITS
from edgekit.data.geometry import ROUNDING
from edgekit.data.images import find_images
from edgekit.data.labels import BadRow, Issue, Labels, Row
from edgekit.errors import InputError, UsageError

ParseRow = Callable[[Sequence[float], "tuple[int, int] | None"], Row]
_LOOKED_AT = 500  # rows that decide what task the labels are for


def read_text(path: Path, task: str | None, split: str) -> Dataset:
    """The split of the set that the yaml at ``path`` describes.

    Raises:
        InputError: the yaml, the images or the labels cannot be used; see ``open_dataset``.
        UsageError: the labels could be of several tasks and none was given, or the task is classification.
    """
    if task == "classify":
        raise UsageError(f"{path}: the task classify reads a folder of class folders, not a data.yaml")
    settings = _load(path)
    names = _names(path, settings)
    shape, flip_idx = _keypoints(path, settings)
    images, issues = _images(path, settings, split)
    task = task or ("pose" if shape else _infer_task(path, images))
    if task == "pose" and shape is None:
        raise InputError(f"{path}: has no kpt_shape, which the task pose needs, e.g. kpt_shape: [17, 3]")
    parse_row: ParseRow = importlib.import_module(f"edgekit.tasks.{task}.labels").parse_row
    samples = []
    for number, image in enumerate(images, 1):
        try:
            labels, found = _read_labels(label_path(image), parse_row, len(names), shape)
        except (OSError, UnicodeDecodeError) as error:
            sentence = f"cannot be read as text ({error}); its image is left out"
            issues.append(Issue(label_path(image), None, "unreadable", sentence))
            continue
        samples.append(Sample(image, number, labels, issues=tuple(found)))
    dataset = Dataset(
        task, names, tuple(samples), path, split, shape if task == "pose" else None, flip_idx, issues=tuple(issues)
    )
    _refuse_unlabelled(dataset)
    return dataset


def pictures(path: Path, split: str) -> tuple[list[Path], list[Issue]]:
    """The images of a split of the yaml at ``path``, or those that a ``.txt`` there lists, whether they have labels or
    not, and what is wrong with the list.

    Raises:
        InputError: the yaml or the list cannot be read, has no such split or names no image.
    """
    if path.suffix.lower() != ".txt":
        return _images(path, _load(path), split)
    listed = sorted(set(_listed_images(path, path.parent)))
    images = [p for p in listed if p.is_file()]
    if not images:
        raise InputError(f"{path}: lists no image that is there; give one path a line, relative to the file")
    lost = [p for p in listed if not p.is_file()]
    return images, [Issue(p, None, "no image", f"listed in {path.name}, but there is no such image") for p in lost]


def label_path(image: Path) -> Path:
    """Where an image's labels are: the last folder called ``images`` becomes ``labels``, the suffix ``.txt``."""
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _load(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: is no mapping of keys to values; a data.yaml has train, val and names")
    return settings


def _names(path: Path, settings: dict[str, Any]) -> tuple[str, ...]:
    names = settings.get("names")
    if not names or not isinstance(names, (list, dict)):
        raise InputError(f"{path}: has no names; add the classes in label order, e.g. names: [cat, dog]")
    if isinstance(names, dict):
        try:
            numbered = {int(label): name for label, name in names.items()}
        except (TypeError, ValueError):
            raise InputError(f"{path}: names must be a list, or a mapping from label numbers to names") from None
        if sorted(numbered) != list(range(len(names))):
            raise InputError(f"{path}: names must number the classes 0 to {len(names) - 1} without gaps")
        names = [numbered[i] for i in range(len(names))]
    count = settings.get("nc", len(names))
    if count != len(names):
        raise InputError(f"{path}: nc says {count} classes, names lists {len(names)}; correct either")
    return tuple(map(str, names))


def _keypoints(path: Path, settings: dict[str, Any]) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    shape, flip_idx = settings.get("kpt_shape"), settings.get("flip_idx") or []
    if shape is None:
        return None, ()
    usable = isinstance(shape, list) and len(shape) == 2 and all(type(v) is int for v in shape)
    if not usable or shape[0] < 1 or shape[1] not in (2, 3):
        raise InputError(f"{path}: kpt_shape must be [points, 2] or [points, 3], not {shape}")
    numbers = isinstance(flip_idx, list) and all(type(v) is int for v in flip_idx)
    if not numbers or (flip_idx and sorted(flip_idx) != list(range(shape[0]))):
        holds = f"; it holds {len(flip_idx)}" if numbers and len(flip_idx) != shape[0] else ""
        wanted = f"each keypoint's number 0 to {shape[0] - 1} once, as kpt_shape {shape} says"
        raise InputError(f"{path}: flip_idx must hold {wanted}{holds}")
    return (shape[0], shape[1]), tuple(flip_idx)


def _images(path: Path, settings: dict[str, Any], split: str) -> tuple[list[Path], list[Issue]]:
    """The split's images, each once and sorted, and what is wrong with the list."""
    key = next((k for k in SPLITS.get(split, (split,)) if settings.get(k)), None)
    if key is None:
        known = [k for names in SPLITS.values() for k in names if settings.get(k)]
        has = f"it has {', '.join(known)}" if known else "it has neither train nor val"
        raise InputError(f"{path}: has no {split} split; {has}")
    entries = settings[key] if isinstance(settings[key], list) else [settings[key]]
    listed: list[Path] = []
    lost: set[Path] = set()
    for entry in entries:
        place = _resolve(path, settings, str(entry), key)
        if place.is_dir():
            listed += find_images(place)
        elif place.suffix.lower() == ".txt":
            lines = _listed_images(place, path.parent)
            lost |= {p for p in lines if not p.is_file()}
            listed += lines
        else:
            raise InputError(f"{path}: {key} is {place}, which is neither a folder nor a .txt list of images")
    images = sorted(set(listed))
    issues = [
        Issue(p, None, "no image", f"listed under {key}, but there is no such image; left out") for p in sorted(lost)
    ]
    if len(listed) > len(images):
        sentence = f"{len(listed) - len(images)} images of {key} are listed more than once; each is used once"
        issues.append(Issue(path, None, "duplicate", sentence, "warning"))
    images = [p for p in images if p not in lost]
    if not images:
        raise InputError(f"{path}: no images in {', '.join(map(str, entries))} ({key})")
    return images, issues


def _resolve(path: Path, settings: dict[str, Any], entry: str, key: str) -> Path:
    """An entry relative to ``path:``, or to the yaml itself. Some exporters write ``../train/images`` for a folder
    beside the yaml."""
    here = path.parent
    root = here / str(settings.get("path") or "")
    tried = [root / entry, here / entry, here / entry.removeprefix("../")]
    for place in tried:
        if place.exists():
            return Path(os.path.normpath(place))
    places = dict.fromkeys(os.path.normpath(place) for place in tried)
    raise InputError(
        f"{path}: {key} is {entry!r}, and there is no {' nor '.join(places)}; correct the path in the yaml"
    )


def _listed_images(listing: Path, here: Path) -> list[Path]:
    """Images named in a text file, one a line, relative to the file or to the yaml."""
    try:
        lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read as a list of images ({error})") from None
    found = []
    for line in filter(None, lines):
        beside = Path(os.path.normpath(listing.parent / line))
        found.append(beside if beside.exists() else Path(os.path.normpath(here / line)))
    return found


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of a label file. Raises OSError and UnicodeDecodeError."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if words := line.split():
            yield number, words


def _read_labels(
    path: Path, parse_row: ParseRow, classes: int, shape: tuple[int, int] | None
) -> tuple[Labels, list[Issue]]:
    """One image's labels and what is wrong with them. Raises OSError and UnicodeDecodeError."""
    kept: list[int] = []
    rows: list[Row] = []
    issues: list[Issue] = []
    seen: set[tuple[str, ...]] = set()
    try:
        for number, words in _rows(path):
            try:
                label, row = _parse(words, parse_row, classes, shape)
            except BadRow as bad:
                issues.append(Issue(path, number, bad.kind, str(bad)))
                continue
            if tuple(words) in seen:
                issues.append(Issue(path, number, "duplicate", "the same row again; used once", "warning"))
                continue
            seen.add(tuple(words))
            if row.clipped > ROUNDING:
                sentence = f"reaches {row.clipped:.1%} of the image beyond its edge; clipped"
                issues.append(Issue(path, number, "clipped", sentence, "warning"))
            if row.mended:
                issues.append(Issue(path, number, "crossing", row.mended, "warning"))
            kept.append(label)
            rows.append(row)
    except FileNotFoundError:
        sentence = "there is no such label file: its image is taken as showing none of the classes"
        issues.append(Issue(path, None, "background", sentence, "note"))
    return Labels.from_rows(kept, rows), issues


def _parse(words: list[str], parse_row: ParseRow, classes: int, shape: tuple[int, int] | None) -> tuple[int, Row]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise BadRow("malformed", f"{shorten(words)!r} is not a row of numbers; left out") from None
    if not math.isfinite(sum(values)):
        raise BadRow("malformed", "a number is not finite; left out")
    label = int(values[0])
    if label != values[0] or not 0 <= label < classes:
        raise BadRow("class", f"class {words[0]} is none of the {classes} declared (0 to {classes - 1}); left out")
    return label, parse_row(values[1:], shape)


def _infer_task(path: Path, images: list[Path]) -> str:
    """What task the first rows are for. Eight numbers may be an oriented box or a polygon of four points; oriented
    boxes are parallelograms, which outlines of things hardly ever are."""
    rows: list[list[float]] = []
    for image in images:
        try:
            rows += [[float(word) for word in words[1:]] for _, words in _rows(label_path(image))]
        except (OSError, ValueError):
            continue  # said when the labels are really read
        if len(rows) >= _LOOKED_AT:
            break
    lengths = {len(row) for row in rows}
    if 4 in lengths or not rows:
        return "detect"
    if lengths == {8}:
        skew = sum(max(abs(r[0] + r[4] - r[2] - r[6]), abs(r[1] + r[5] - r[3] - r[7])) > 2 * ROUNDING for r in rows)
        if skew <= len(rows) // 10:
            return "obb"
        raise UsageError(f"{path}: rows of 8 numbers could be oriented boxes or polygons; give --task obb or segment")
    if all(length >= 6 and length % 2 == 0 for length in lengths):
        return "segment"
    raise UsageError(
        f"{path}: rows of {sorted(lengths)[0]} numbers after the class belong to no known task; give --task"
    )


def _refuse_unlabelled(dataset: Dataset) -> None:
    """Raises InputError if no image of the split has a usable label."""
    if any(len(sample.labels) for sample in dataset.samples):
        return
    problems = [issue for sample in dataset.samples for issue in sample.issues]
    bad = next((issue for issue in problems if issue.severity == "error"), None)
    if bad is None:
        reason = f"labels are looked for at paths like {label_path(dataset.samples[0].path)}"
    else:
        reason = f"the first problem is {bad}"
    raise InputError(
        f"{dataset.source}: none of the {len(dataset)} images of {dataset.split} has a usable label for the "
        f"task {dataset.task}; {reason}"
    )
