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

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgekit import tasks
from edgekit.data.angles import angle_unit, with_angles
from edgekit.data.dataset import Dataset, Sample
from edgekit.data.encoding import read_lines
from edgekit.data.images import image_size, is_image, look_through
from edgekit.data.issues import Issue
from edgekit.data.options import LabelOptions
from edgekit.data.settings import Settings, read_settings, whole
from edgekit.data.splits import entries, resolve
from edgekit.errors import InputError, UsageError, shorten
from edgekit.metrics.labels import Labels
from edgekit.tasks.rows import ROUNDING, BadRow, ParseRow, Row, stacked

_LOOKED_AT = 500  # rows that decide what task the labels are for


def read_text(path: Path, settings: Settings, task: str | None, split: str, options: LabelOptions) -> Dataset:
    """The split of the set that the yaml at ``path`` describes with ``settings``.

    Raises:
        InputError: the yaml, the images or the labels cannot be used; see ``open_dataset``.
        UsageError: the labels could be of several tasks and none was given, or the task is classification.
    """
    if task and not tasks.get(task).detects:
        raise UsageError(f"{path}: the task {task} reads a folder of class folders, not a data.yaml")
    names = class_names(path, settings)
    if names is None:
        raise InputError(f"{path}: has no names; add the classes in label order, e.g. names: [cat, dog]")
    shape, flip_idx = _keypoints(path, settings)
    images, issues = _images(path, settings, split)
    task = task or ("pose" if shape else _infer_task(path, images))
    kind = tasks.get(task)
    posed = "keypoints" in kind.roles
    if posed and shape is None:
        raise InputError(f"{path}: has no kpt_shape, which the task {task} needs, e.g. kpt_shape: [17, 3]")
    parse_row: ParseRow = kind.part("labels").parse_row
    unit = angle_unit(path, _words(images), options.angle, issues) if "rotated_boxes" in kind.roles else None
    samples = []
    for number, image in enumerate(images, 1):
        try:
            parse = with_angles(parse_row, image, unit) if unit else parse_row
            labels, found = _read_labels(label_path(image), parse, len(names), shape)
        except (OSError, UnicodeDecodeError) as error:
            sentence = f"cannot be read as text ({error}); its image is left out"
            issues.append(Issue(label_path(image), None, "unreadable", sentence))
            continue
        samples.append(Sample(image, number, labels, issues=tuple(found)))
    dataset = Dataset(
        task, names, tuple(samples), path, split, shape if posed else None, flip_idx, issues=tuple(issues)
    )
    _refuse_unlabelled(dataset)
    return dataset


def pictures(path: Path, split: str) -> tuple[list[Path], list[Issue]]:
    """The images of a split of the yaml at ``path``, or those that a ``.txt`` there lists, whether they have labels or
    not, and what of them is not used.

    Raises:
        InputError: the yaml or the list cannot be read, has no such split or names no image.
    """
    if path.suffix.lower() != ".txt":
        return _images(path, read_settings(path), split)
    listed = sorted(set(_listed_images(path, path.parent)))
    lost = [p for p in listed if not p.is_file()]
    issues = [Issue(p, None, "no image", f"listed in {path.name}, but there is no such image; left out") for p in lost]
    issues += _no_pictures(set(listed) - set(lost))
    unused = {issue.path for issue in issues}
    images = [p for p in listed if p not in unused]
    if not images:
        raise InputError(f"{path}: lists no image that is there; give one path a line, relative to the file")
    return images, issues


def label_path(image: Path) -> Path:
    """Where an image's labels are: the last folder called ``images`` becomes ``labels``, the suffix ``.txt``."""
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def class_names(path: Path, settings: Settings) -> tuple[str, ...] | None:
    """The classes in label order, as they are written; None where the yaml has none.

    Raises:
        InputError: they are no list and no numbering, or ``nc`` is another number.
    """
    names = settings.get("names")
    if not isinstance(names, (list, dict)):
        return None
    if isinstance(names, dict):
        numbered = {whole(label): name for label, name in names.items()}
        if None in numbered:
            raise InputError(f"{path}: names must be a list, or a mapping from label numbers to names")
        if len(numbered) != len(names) or set(numbered) != set(range(len(names))):
            raise InputError(f"{path}: names must number the classes 0 to {len(names) - 1} without gaps")
        names = [numbered[i] for i in range(len(names))]
    words = tuple(name for name in names if isinstance(name, str))
    if len(words) < len(names):
        raise InputError(f"{path}: names must be words, not lists or mappings")
    if "nc" in settings and whole(settings["nc"]) != len(names):
        raise InputError(f"{path}: nc says {settings['nc']} classes, names lists {len(names)}; correct either")
    return words


def _keypoints(path: Path, settings: Settings) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    stated = settings.get("kpt_shape")
    if stated is None:
        return None, ()
    shape = [whole(value) for value in stated] if isinstance(stated, list) else []
    points, values = shape if len(shape) == 2 else (None, None)
    if points is None or points < 1 or values not in (2, 3):
        raise InputError(f"{path}: kpt_shape must be [points, 2] or [points, 3], not {stated}")
    listed = settings.get("flip_idx", [])
    flip_idx = [whole(value) for value in listed] if isinstance(listed, list) else [None]
    if flip_idx and sorted(flip_idx, key=lambda i: -1 if i is None else i) != list(range(points)):
        holds = f"; it holds {len(flip_idx)}" if None not in flip_idx and len(flip_idx) != points else ""
        wanted = f"each keypoint's number 0 to {points - 1} once, as kpt_shape {[points, values]} says"
        raise InputError(f"{path}: flip_idx must hold {wanted}{holds}")
    return (points, values), tuple(i for i in flip_idx if i is not None)


def _images(path: Path, settings: Settings, split: str) -> tuple[list[Path], list[Issue]]:
    """The split's images, each once and sorted, and what is wrong with the list."""
    key, named = entries(path, settings, split)
    listed: list[Path] = []
    lost: set[Path] = set()
    issues: list[Issue] = []
    for entry in named:
        place = resolve(path, settings, entry, key)
        if place.is_dir():
            found, unused = look_through(place)
            listed += found
            issues += unused
        elif place.suffix.lower() == ".txt":
            lines = _listed_images(place, path.parent)
            lost |= {p for p in lines if not p.is_file()}
            issues += _no_pictures(set(lines) - lost)
            listed += lines
        else:
            raise InputError(f"{path}: {key} is {place}, which is neither a folder nor a .txt list of images")
    images = sorted(set(listed))
    issues += [
        Issue(p, None, "no image", f"listed under {key}, but there is no such image; left out") for p in sorted(lost)
    ]
    if len(listed) > len(images):
        again = len(listed) - len(images)
        sentence = f"{again} images of {key} are listed more than once; each is used once"
        issues.append(Issue(path, None, "duplicate", sentence, "warning", again))
    lost |= {issue.path for issue in issues if issue.severity == "error"}
    images = [p for p in images if p not in lost]
    if not images:
        instead = f"; {issues[0]}" if issues else ""
        raise InputError(f"{path}: no images in {', '.join(named)} ({key}){instead}")
    return images, issues


def _listed_images(listing: Path, here: Path) -> list[Path]:
    """Images named in a text file, one a line, relative to the file or to the yaml."""
    try:
        lines = [line.strip() for line in read_lines(listing, "surrogateescape")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{listing}: cannot be read as a list of images ({error})") from None
    return [_listed(listing.parent, here, line) for line in lines if line]


def _no_pictures(paths: Iterable[Path]) -> list[Issue]:
    """Of listed files, those that are no picture by their name nor by their content."""
    issues = []
    for path in sorted(path for path in paths if not is_image(path)):
        try:
            image_size(path)
        except InputError as error:
            sentence = f"{str(error).removeprefix(f'{path}: ')}; left out"
            issues.append(Issue(path, None, "unreadable", sentence))
    return issues


def _listed(beside: Path, here: Path, line: str) -> Path:
    tried = [place / spelt for spelt in (line, line.replace("\\", "/")) for place in (beside, here)]
    return Path(os.path.normpath(next((place for place in tried if place.exists()), here / line)))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of a label file. Raises OSError and UnicodeDecodeError."""
    for number, line in enumerate(read_lines(path), 1):
        if words := line.split():
            yield number, words


def _words(images: Iterable[Path]) -> Iterator[list[str]]:
    """Every row of every image's labels; what cannot be read is said when the labels really are."""
    for image in images:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            yield from (words for _, words in _rows(label_path(image)))


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
    return stacked(kept, rows), issues


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
        raise UsageError(f"{path}: rows of 8 numbers could be oriented boxes or polygons; give `task` obb or segment")
    if all(length >= 6 and length % 2 == 0 for length in lengths):
        return "segment"
    raise UsageError(
        f"{path}: rows of {sorted(lengths)[0]} numbers after the class belong to no known task; give `task`"
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
