"""Sets in a COCO JSON: ``images``, ``annotations`` and ``categories`` (cocodataset.org/#format-data).

    read_coco(Path("annotations/instances_val2017.json"), "detect", "val")

Category ids are kept beside the labels, which number the categories in order of id. Crowd regions, areas, keypoints,
polygons and run-length masks come through unchanged and in pixels, so that scores equal those of COCO's own tools.
What the file states of ids, sizes and places is held against what is there: ``coco_document.py``, ``coco_sizes.py``,
``places.py``.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np

from edgekit import tasks
from edgekit.data import coco_sizes as sizes
from edgekit.data.coco_document import Annotations, Document, load_document, numbers
from edgekit.data.dataset import Dataset, Sample
from edgekit.data.issues import Issue
from edgekit.data.options import LabelOptions
from edgekit.data.places import Places
from edgekit.data.scan import Scan
from edgekit.errors import InputError, UsageError
from edgekit.metrics.labels import Labels, Rle, shoelace
from edgekit.runtime.masks import decode_rle
from edgekit.spec import Json
from edgekit.tasks.rows import BadRow, extent


def read_coco(
    path: Path,
    task: str | None,
    split: str,
    images: Sequence[Path | str] = (),
    options: LabelOptions | None = None,
    scan: Scan | None = None,
) -> Dataset:
    """The whole file as one split.

    Args:
        images: folders, files and patterns of the images; none: beside the file and around it.
        options: what the file leaves open.
        scan: what is known of the images.

    Raises:
        InputError: no COCO annotation file, no images found, or no usable annotation.
        UsageError: the task is classification.
    """
    if task and not tasks.get(task).detects:
        raise UsageError(f"{path}: the task {task} reads a folder of class folders, not a COCO JSON")
    options = options or LabelOptions()
    issues: list[Issue] = []
    document = load_document(path, not task or _needs_outlines(tasks.get(task).roles), issues)
    annotations = document.annotations
    _crowd(path, annotations, options, issues)
    task = task or _infer_task(document)
    roles = tasks.get(task).roles
    label = {category["id"]: i for i, category in enumerate(document.categories)}
    records = _images(path, document, issues)
    rows = _by_image(path, annotations, label, records, issues)
    places = Places(path, [record["file_name"] for record in records.values()], images)
    found = _found(path, records, places, issues, scan or Scan())
    in_pixels = sizes.in_pixels((records[i], true, annotations.rows(rows[i])) for i, (_, true) in found.items())
    shape, flip_idx = _keypoints(path, document) if "keypoints" in roles else (None, ())
    samples = []
    for image_id, (image, true) in found.items():
        try:
            frame = sizes.frame(records[image_id], image, true, in_pixels, options)
        except BadRow as bad:
            issues.append(Issue(image, None, bad.kind, str(bad)))
            continue
        labels, problems = _labels(path, annotations.rows(rows[image_id]), frame.size, roles, label, shape)
        if frame.said:
            problems.append(Issue(image, None, "size", frame.said, "warning"))
        samples.append(Sample(image, image_id, frame.place(labels), *true, tuple(problems)))
    names = tuple(str(category["name"]) for category in document.categories)
    dataset = Dataset(task, names, tuple(samples), path, split, shape, flip_idx, tuple(label), tuple(issues))
    if not any((~sample.labels.crowd).any() for sample in samples):
        first = next((i for i in dataset.problems() if i.severity == "error"), None)
        reason = f"; the first problem is {first}" if first else ""
        raise InputError(f"{path}: no image has a usable annotation for the task {task}{reason}")
    return dataset


def _needs_outlines(roles: Sequence[str]) -> bool:
    return bool({"mask_coefficients", "rotated_boxes"} & {*roles})


def _infer_task(document: Document) -> str:
    """Keypoints make it pose; an outline for every object segmentation, which detection can do without."""
    annotations = document.annotations
    objects = [i for i, crowd in enumerate(annotations.crowd) if not crowd]
    if any(annotations.keyed[i] for i in objects):
        return "pose"
    return "segment" if objects and all(annotations.outlined[i] for i in objects) else "detect"


def _images(path: Path, document: Document, issues: list[Issue]) -> dict[int, Json]:
    records: dict[int, Json] = {}
    for record in document.images:
        if record["id"] in records:
            sentence = f"image id {record['id']} is used twice; {record['file_name']} is left out"
            issues.append(Issue(path, None, "duplicate", sentence))
        else:
            records[record["id"]] = record
    return dict(sorted(records.items()))


def _by_image(
    path: Path,
    annotations: Annotations,
    label: Mapping[int, int],
    records: Mapping[int, Json],
    issues: list[Issue],
) -> dict[int, array[int]]:
    """Image id -> the places of its annotations."""
    rows: dict[int, array[int]] = defaultdict(lambda: array("q"))
    for i, (image, category) in enumerate(zip(annotations.image_ids, annotations.category_ids, strict=True)):
        if image not in records:
            sentence = f"{_name(annotations.row(i))} is of image {image}, which is not listed; left out"
            issues.append(Issue(path, None, "orphan", sentence))
        elif category not in label:
            sentence = f"{_name(annotations.row(i))} is of category {category}, which is not listed; left out"
            issues.append(Issue(path, None, "class", sentence))
        else:
            rows[cast(int, image)].append(i)
    return rows


def _name(annotation: Json) -> str:
    return (
        f"annotation {annotation['id']}" if "id" in annotation else f"an annotation of image {annotation['image_id']}"
    )


def _crowd(path: Path, every: Annotations, options: LabelOptions, issues: list[Issue]) -> None:
    """What is marked iscrowd: made objects where ``options`` say so, else counted."""
    marked = sum(every.crowd)
    if options.crowd != "regions":
        every.crowd = bytearray(len(every))
    elif marked:
        sentence = (
            f"{marked} of {len(every)} annotations are iscrowd, so neither learnt nor scored; if each is one "
            "object (CVAT marks every mask so), give `label_options` crowd=objects"
        )
        issues.append(Issue(path, None, "crowd", sentence, "note", marked))


def _found(
    path: Path, records: Mapping[int, Json], places: Places, issues: list[Issue], scan: Scan
) -> dict[int, tuple[Path, tuple[int, int]]]:
    """Image id -> its file, and the width and height of it upright.

    Raises:
        InputError: there is none of them.
    """
    found = {}
    for image_id, record in records.items():
        image = places.find(record["file_name"])
        if image is None:
            sentence = f"there is no such image in {places}, listed in {path.name}; left out"
            issues.append(Issue(Path(record["file_name"]), None, "no image", sentence))
            continue
        try:
            found[image_id] = image, scan.size(image)
        except InputError as error:
            issues.append(Issue(image, None, "unreadable", f"{str(error).removeprefix(f'{image}: ')}; left out"))
    if not found:
        unread = next((f"; the first problem is {i}" for i in issues if i.kind == "unreadable"), "")
        raise InputError(
            f"{path}: none of its {len(records)} images is in {places}; say where they are with `images`{unread}"
        )
    return found


def _keypoints(path: Path, document: Document) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Their number, and each one's counterpart in a mirror where the names tell left from right."""
    names = next((c["keypoints"] for c in document.categories if c.get("keypoints")), None)
    lengths = document.annotations.keypoint_lengths - {0}
    count = len(names) if names else next(iter(lengths), 0) // 3
    if not lengths or lengths != {3 * count}:
        raise InputError(f"{path}: its annotations' keypoints do not hold x, y, visibility for {count or 'any'} points")
    if not names:
        return (count, 3), ()
    mirrored = [_mirror(str(name)) for name in names]
    if not set(mirrored) <= set(names):
        return (count, 3), ()
    return (count, 3), tuple(names.index(name) for name in mirrored)


def _mirror(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def _labels(
    path: Path,
    annotations: Iterable[Json],
    size: tuple[int, int],
    roles: Sequence[str],
    label: Mapping[int, int],
    shape: tuple[int, int] | None,
) -> tuple[Labels, list[Issue]]:
    """One image's labels and what is wrong with them."""
    issues: list[Issue] = []
    kept: list[_Object] = []
    width, height = size
    seen: set[tuple[float, ...]] = set()
    for annotation in annotations:
        try:
            found = _parse(annotation, label[annotation["category_id"]], roles, size, shape)
        except BadRow as bad:
            issues.append(Issue(path, None, bad.kind, f"{_name(annotation)} {bad}"))
            continue
        key = (annotation["category_id"], *found.box, found.crowd)
        if key in seen:
            sentence = f"{_name(annotation)} repeats another's category and box; kept, as COCO scores it"
            issues.append(Issue(path, None, "duplicate", sentence, "warning"))
        seen.add(key)
        x1, y1, x2, y2 = found.box
        if max(-x1, -y1, x2 - width, y2 - height) > sizes.OUTSIDE:
            sentence = f"{_name(annotation)} reaches beyond its image; kept, as COCO scores it"
            issues.append(Issue(path, None, "clipped", sentence, "warning"))
        kept.append(found)
    return _stack(kept, roles, size, shape), issues


class _Object(NamedTuple):
    """One annotation in pixels; ``keypoints`` [P, 3] and ``corners`` [4, 2] where the task has such."""

    label: int
    box: tuple[float, float, float, float]
    crowd: bool
    area: float
    polygons: tuple[np.ndarray, ...]
    rle: Rle | None
    keypoints: np.ndarray | None
    corners: np.ndarray | None


def _parse(
    annotation: Json, label: int, roles: Sequence[str], size: tuple[int, int], shape: tuple[int, int] | None
) -> _Object:
    """One annotation as plain values. Raises BadRow."""
    polygons: tuple[np.ndarray, ...] = ()
    rle: Rle | None = None
    if _needs_outlines(roles) or "bbox" not in annotation:
        polygons, rle = _segmentation(annotation.get("segmentation"), size)
    if "bbox" in annotation:
        x, y, w, h = numbers(annotation["bbox"], 4, "bbox")
        box = (x, y, x + w, y + h)
    else:
        box = _extent(polygons, rle)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise BadRow("degenerate", "has a box without area; left out")
    area = annotation.get("area")
    keypoints = corners = None
    if "keypoints" in roles and shape:
        values = annotation.get("keypoints") or [0.0] * shape[0] * 3
        keypoints = np.array(numbers(values, shape[0] * 3, "keypoints")).reshape(-1, 3)
    if "rotated_boxes" in roles:
        points = np.concatenate(polygons) if polygons else _pixels(rle)
        corners = cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32))).astype(np.float64)
    stated = float(area) if isinstance(area, (int, float)) else math.nan
    return _Object(label, box, bool(annotation.get("iscrowd", 0)), stated, polygons, rle, keypoints, corners)


def _segmentation(value: object, size: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], Rle | None]:
    """Outlines, or run lengths; exactly one of the two. Raises BadRow."""
    if isinstance(value, dict):
        if value.get("size") != [size[1], size[0]]:
            raise BadRow("size", f"has a mask of {value.get('size')}, its image is {[size[1], size[0]]}; left out")
        try:
            empty = not decode_rle(value).any()
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise BadRow("malformed", f"has a mask that cannot be decoded ({error}); left out") from None
        if empty:
            raise BadRow("degenerate", "has an empty mask; left out")
        return (), value
    if not value:
        raise BadRow("no polygon", "has a box and no outline, which the task needs; left out")
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise BadRow("malformed", "has a segmentation that is neither polygons nor run lengths; left out")
    parts = tuple(
        np.array(numbers(part, len(part) // 2 * 2, "polygon")).reshape(-1, 2) for part in value if len(part) >= 6
    )
    if not parts or sum(map(shoelace, parts)) <= 0:
        raise BadRow("degenerate", "has an outline without area; left out")
    return parts, None


def _extent(polygons: Sequence[np.ndarray], rle: Rle | None) -> tuple[float, float, float, float]:
    if polygons:
        return extent(np.concatenate(polygons))
    x1, y1, x2, y2 = extent(_pixels(rle))
    return x1, y1, x2 + 1, y2 + 1


def _pixels(rle: Rle | None) -> np.ndarray:
    """[P, 2] x, y of a mask's pixels."""
    assert rle is not None
    y, x = np.nonzero(decode_rle(rle))
    return np.column_stack([x, y]).astype(np.float64)


def _stack(
    found: Sequence[_Object], roles: Sequence[str], size: tuple[int, int], shape: tuple[int, int] | None
) -> Labels:
    count, masks = len(found), "mask_coefficients" in roles
    return Labels(
        classes=np.array([o.label for o in found], np.int64),
        boxes=np.array([o.box for o in found], np.float64).reshape(count, 4),
        crowd=np.array([o.crowd for o in found], bool),
        area=np.array([o.area for o in found], np.float64),
        size=size,
        polygons=tuple(o.polygons for o in found) if masks else None,
        rle=tuple(o.rle for o in found) if masks else None,
        keypoints=np.array([o.keypoints for o in found], np.float64).reshape(count, shape[0], 3) if shape else None,
        corners=np.array([o.corners for o in found], np.float64).reshape(count, 4, 2)
        if "rotated_boxes" in roles
        else None,
    )
