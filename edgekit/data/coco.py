"""Sets in a COCO JSON: ``images``, ``annotations`` and ``categories`` (cocodataset.org/#format-data).

    read_coco(Path("annotations/instances_val2017.json"), "detect", "val")

Category ids are kept beside the labels, which number the categories in order of id. Crowd regions, areas, keypoints,
polygons and run-length masks come through unchanged and in pixels, so that scores equal those of COCO's own tools.
Images are looked for by ``file_name`` in the given folder, beside the file, and in the folders around it.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.data.dataset import Dataset, Sample
from edgekit.data.geometry import extent
from edgekit.data.images import image_size
from edgekit.data.labels import BadRow, Issue, Labels, shoelace
from edgekit.errors import InputError, UsageError
from edgekit.masks import decode_rle

_OUTSIDE = 1.0  # pixels a box may reach beyond its image without a word


def read_coco(path: Path, task: str | None, split: str, images: Path | None = None) -> Dataset:
    """The whole file as one split.

    Raises:
        InputError: no COCO annotation file, no images found, or no usable annotation.
        UsageError: the task is classification.
    """
    if task == "classify":
        raise UsageError(f"{path}: the task classify reads a folder of class folders, not a COCO JSON")
    document = _load(path)
    task = task or _infer_task(document)
    issues: list[Issue] = []
    categories = sorted(document["categories"], key=lambda c: c["id"])
    label = {category["id"]: i for i, category in enumerate(categories)}
    records = _images(path, document, issues)
    rows = _by_image(path, document, label, records, issues)
    folder = images or _find_folder(path, [record["file_name"] for record in records.values()])
    shape, flip_idx = _keypoints(path, document) if task == "pose" else (None, ())
    samples = []
    for image_id, record in records.items():
        image = folder / record["file_name"]
        if not image.is_file():
            issues.append(Issue(image, None, "no image", f"there is no such image, listed in {path.name}; left out"))
            continue
        try:
            width, height = _size(record, image)
        except InputError as error:
            issues.append(Issue(image, None, "unreadable", f"{str(error).removeprefix(f'{image}: ')}; left out"))
            continue
        labels, found = _labels(path, rows[image_id], (width, height), task, label, shape)
        samples.append(Sample(image, image_id, labels, width, height, tuple(found)))
    if not samples:
        raise InputError(f"{path}: none of its {len(records)} images is in {folder}; say where they are with --images")
    names = tuple(str(category["name"]) for category in categories)
    dataset = Dataset(
        task, names, tuple(samples), path, split, shape, flip_idx, tuple(c["id"] for c in categories), tuple(issues)
    )
    if not any((~sample.labels.crowd).any() for sample in samples):
        first = next((i for i in dataset.problems() if i.severity == "error"), None)
        reason = f"; the first problem is {first}" if first else ""
        raise InputError(f"{path}: no image has a usable annotation for the task {task}{reason}")
    return dataset


def _load(path: Path) -> dict[str, Any]:
    """The document, checked as far as everything below relies on it."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from None
    if isinstance(document, list):
        raise InputError(f"{path}: is a list, as COCO results are; an annotation file has images and annotations")
    needed = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
    for key, fields in needed.items():
        rows = document.get(key) if isinstance(document, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path}: has no list {key!r}; a COCO JSON has {', '.join(needed)}")
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or any(not isinstance(row.get(f), (int, str)) for f in fields):
                raise InputError(f"{path}: {key}[{i}] must be an object with {' and '.join(fields)}")
    if not document["images"] or not document["categories"]:
        raise InputError(f"{path}: lists no {'images' if not document['images'] else 'categories'}")
    if len({category["id"] for category in document["categories"]}) < len(document["categories"]):
        raise InputError(f"{path}: two categories have the same id")
    if not all(isinstance(row["id"], int) for key in ("images", "categories") for row in document[key]):
        raise InputError(f"{path}: ids of images and categories must be whole numbers")
    return document


def _infer_task(document: Mapping[str, Any]) -> str:
    """Keypoints make it pose; an outline for every object segmentation, which detection can do without."""
    objects = [a for a in document["annotations"] if not a.get("iscrowd")]
    if any("keypoints" in a for a in objects):
        return "pose"
    return "segment" if objects and all(a.get("segmentation") for a in objects) else "detect"


def _images(path: Path, document: Mapping[str, Any], issues: list[Issue]) -> dict[int, dict[str, Any]]:
    records: dict[int, dict[str, Any]] = {}
    for record in document["images"]:
        if record["id"] in records:
            sentence = f"image id {record['id']} is used twice; {record['file_name']} is left out"
            issues.append(Issue(path, None, "duplicate", sentence))
        else:
            records[record["id"]] = record
    return dict(sorted(records.items()))


def _by_image(
    path: Path,
    document: Mapping[str, Any],
    label: Mapping[int, int],
    records: Mapping[int, Any],
    issues: list[Issue],
) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in document["annotations"]:
        if annotation["image_id"] not in records:
            sentence = f"{_name(annotation)} is of image {annotation['image_id']}, which is not listed; left out"
            issues.append(Issue(path, None, "orphan", sentence))
        elif annotation["category_id"] not in label:
            sentence = f"{_name(annotation)} is of category {annotation['category_id']}, which is not listed; left out"
            issues.append(Issue(path, None, "class", sentence))
        else:
            rows[annotation["image_id"]].append(annotation)
    return rows


def _name(annotation: Mapping[str, Any]) -> str:
    return (
        f"annotation {annotation['id']}" if "id" in annotation else f"an annotation of image {annotation['image_id']}"
    )


def _find_folder(path: Path, file_names: Sequence[str]) -> Path:
    """The folder that holds most of the first images: beside the file, one up, or in a folder of either; one whose
    name is in the file's (``val2017`` in ``instances_val2017.json``) before others."""
    roots = [path.parent, Path(os.path.abspath(path)).parent.parent]
    inner = [p for root in roots for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    deeper = [p for folder in inner if folder.name == "images" for p in sorted(folder.iterdir()) if p.is_dir()]
    inner = sorted(inner + deeper, key=lambda p: p.name not in path.stem)
    return max([*roots, *inner], key=lambda folder: sum((folder / name).is_file() for name in file_names[:50]))


def _keypoints(path: Path, document: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Their number, and each one's counterpart in a mirror where the names tell left from right."""
    names = next((c["keypoints"] for c in document["categories"] if c.get("keypoints")), None)
    lengths = {len(a["keypoints"]) for a in document["annotations"] if isinstance(a.get("keypoints"), list)} - {0}
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


def _size(record: Mapping[str, Any], image: Path) -> tuple[int, int]:
    """Width and height as stated, else the image's own. Raises InputError if it has none."""
    width, height = record.get("width"), record.get("height")
    return (width, height) if width and height and type(width) is type(height) is int else image_size(image)


def _labels(
    path: Path,
    annotations: Sequence[dict[str, Any]],
    size: tuple[int, int],
    task: str,
    label: Mapping[int, int],
    shape: tuple[int, int] | None,
) -> tuple[Labels, list[Issue]]:
    """One image's labels and what is wrong with them."""
    issues: list[Issue] = []
    kept: list[dict[str, Any]] = []
    width, height = size
    seen: set[tuple[float, ...]] = set()
    for annotation in annotations:
        try:
            row = _parse(annotation, task, size, shape)
        except BadRow as bad:
            issues.append(Issue(path, None, bad.kind, f"{_name(annotation)} {bad}"))
            continue
        key = (annotation["category_id"], *row["box"], row["crowd"])
        if key in seen:
            sentence = f"{_name(annotation)} repeats another's category and box; kept, as COCO scores it"
            issues.append(Issue(path, None, "duplicate", sentence, "warning"))
        seen.add(key)
        x1, y1, x2, y2 = row["box"]
        if max(-x1, -y1, x2 - width, y2 - height) > _OUTSIDE:
            sentence = f"{_name(annotation)} reaches beyond its image; kept, as COCO scores it"
            issues.append(Issue(path, None, "clipped", sentence, "warning"))
        kept.append({**row, "label": label[annotation["category_id"]]})
    return _stack(kept, task, size, shape), issues


def _parse(
    annotation: Mapping[str, Any], task: str, size: tuple[int, int], shape: tuple[int, int] | None
) -> dict[str, Any]:
    """One annotation as plain values. Raises BadRow."""
    crowd = bool(annotation.get("iscrowd", 0))
    polygons: tuple[np.ndarray, ...] = ()
    rle: dict[str, Any] | None = None
    if task in ("segment", "obb") or "bbox" not in annotation:
        polygons, rle = _segmentation(annotation.get("segmentation"), size)
    if "bbox" in annotation:
        x, y, w, h = _numbers(annotation["bbox"], 4, "bbox")
        box = (x, y, x + w, y + h)
    else:
        box = _extent(polygons, rle)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise BadRow("degenerate", "has a box without area; left out")
    area = annotation.get("area")
    row = {
        "box": box,
        "crowd": crowd,
        "area": float(area) if isinstance(area, (int, float)) else math.nan,
        "polygons": polygons,
        "rle": rle,
    }
    if task == "pose" and shape:
        values = annotation.get("keypoints") or [0.0] * shape[0] * 3
        row["keypoints"] = np.array(_numbers(values, shape[0] * 3, "keypoints")).reshape(-1, 3)
    if task == "obb":
        points = np.concatenate(polygons) if polygons else _pixels(rle)
        row["corners"] = cv2.boxPoints(cv2.minAreaRect(points.astype(np.float32))).astype(np.float64)
    return row


def _numbers(values: Any, count: int, what: str) -> list[float]:
    usable = isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)
    if not usable or len(values) != count or not all(map(math.isfinite, values)):
        raise BadRow("malformed", f"has no {what} of {count} numbers; left out")
    return [float(v) for v in values]


def _segmentation(value: Any, size: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], dict[str, Any] | None]:
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
        np.array(_numbers(part, len(part) // 2 * 2, "polygon")).reshape(-1, 2) for part in value if len(part) >= 6
    )
    if not parts or sum(map(shoelace, parts)) <= 0:
        raise BadRow("degenerate", "has an outline without area; left out")
    return parts, None


def _extent(polygons: Sequence[np.ndarray], rle: Mapping[str, Any] | None) -> tuple[float, float, float, float]:
    if polygons:
        return extent(np.concatenate(polygons))
    x1, y1, x2, y2 = extent(_pixels(rle))
    return x1, y1, x2 + 1, y2 + 1


def _pixels(rle: Mapping[str, Any] | None) -> np.ndarray:
    """[P, 2] x, y of a mask's pixels."""
    assert rle is not None
    y, x = np.nonzero(decode_rle(rle))
    return np.column_stack([x, y]).astype(np.float64)


def _stack(
    rows: Sequence[Mapping[str, Any]], task: str, size: tuple[int, int], shape: tuple[int, int] | None
) -> Labels:
    count = len(rows)
    masks = task == "segment"
    return Labels(
        classes=np.array([row["label"] for row in rows], np.int64),
        boxes=np.array([row["box"] for row in rows], np.float64).reshape(count, 4),
        crowd=np.array([row["crowd"] for row in rows], bool),
        area=np.array([row["area"] for row in rows], np.float64),
        size=size,
        polygons=tuple(row["polygons"] for row in rows) if masks else None,
        rle=tuple(row["rle"] for row in rows) if masks else None,
        keypoints=np.array([r["keypoints"] for r in rows]).reshape(count, shape[0], 3) if shape else None,
        corners=np.array([r["corners"] for r in rows]).reshape(count, 4, 2) if task == "obb" else None,
    )
