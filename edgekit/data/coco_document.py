"""A COCO JSON as its file has it, checked as far as the reader relies on it, with ids that are whole numbers.

    document = load_document(path, outlines=False, issues=issues)
    document.annotations.row(0)             # {"id": 1, "image_id": 9, "category_id": 3, "bbox": […], "iscrowd": 0, …}

Exporters write ids as numbers, text (``"2"``) or fractions (``2.0``), and list categories that are no classes. COCO's
own files have 860,000 annotations: they are read one by one, and kept packed.
"""

from __future__ import annotations

import marshal
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.data.issues import Issue
from edgekit.data.json_stream import members
from edgekit.data.settings import whole
from edgekit.errors import InputError
from edgekit.spec import Json
from edgekit.tasks.rows import BadRow

_NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}
_OF_IMAGES = ("id", "file_name", "width", "height")
_OF_ANNOTATIONS = ("id", "bbox", "area", "segmentation", "keypoints")


@dataclass
class Annotations:
    """All annotations, a column a field that is asked for of all of them; ``row`` gives one whole.

    Attributes:
        image_ids, category_ids: of each.
        crowd: whether it is iscrowd.
        outlined, keyed: whether it has a segmentation, and keypoints.
        keypoint_lengths: of all lists of keypoints.
    """

    outlines: bool
    image_ids: list[object] = field(default_factory=list)
    category_ids: list[object] = field(default_factory=list)
    crowd: bytearray = field(default_factory=bytearray)
    outlined: bytearray = field(default_factory=bytearray)
    keyed: bytearray = field(default_factory=bytearray)
    keypoint_lengths: set[int] = field(default_factory=set)
    _packed: list[bytes] = field(default_factory=list)
    _same: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._packed)

    def append(self, row: Json) -> None:
        """Add an annotation as the file has it; its segmentation is kept with ``outlines``, and where it has no box."""
        self.image_ids.append(self._one(row["image_id"]))
        self.category_ids.append(self._one(row["category_id"]))
        self.crowd.append(bool(whole(row.get("iscrowd") or 0)))
        self.outlined.append(bool(row.get("segmentation")))
        self.keyed.append("keypoints" in row)
        if isinstance(row.get("keypoints"), list):
            self.keypoint_lengths.add(len(row["keypoints"]))
        kept = {key: row[key] for key in _OF_ANNOTATIONS if key in row}
        if not self.outlines and "bbox" in row:
            kept.pop("segmentation", None)
        self._packed.append(marshal.dumps(kept))  # a fifth of the objects' size; read again by this process alone

    def row(self, place: int) -> Json:
        """An annotation as a mapping."""
        own = {"image_id": self.image_ids[place], "category_id": self.category_ids[place]}
        return {**marshal.loads(self._packed[place]), **own, "iscrowd": self.crowd[place]}

    def rows(self, places: Iterable[int]) -> Iterator[Json]:
        return map(self.row, places)

    def _one(self, value: object) -> object:
        """One object for equal ids."""
        return self._same.setdefault(value, value) if type(value) is int else value


@dataclass
class Document:
    """What a COCO JSON holds."""

    images: list[Json]
    annotations: Annotations
    categories: list[Json]


def load_document(path: Path, outlines: bool, issues: list[Issue]) -> Document:
    """The document; what was changed or left out in it is added to ``issues``.

    Args:
        outlines: whether segmentations are asked for, also of annotations with a box.

    Raises:
        InputError: no COCO annotation file.
    """
    try:
        document = _read(path, outlines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from None
    if not document.images or not document.categories:
        raise InputError(f"{path}: lists no {'images' if not document.images else 'categories'}")
    for record in document.images:
        record["file_name"] = str(record["file_name"])
    _number(path, document.images, document.annotations.image_ids, issues)
    _number(path, document.categories, document.annotations.category_ids, issues)
    if len({category["id"] for category in document.categories}) < len(document.categories):
        raise InputError(f"{path}: two categories have the same id")
    document.categories = _classes(path, document, issues)
    return document


def _read(path: Path, outlines: bool) -> Document:
    """The document as the file has it.

    Raises:
        OSError, ValueError, RecursionError: see ``members``.
        InputError: it is none.
    """
    found: dict[str, bool] = {}
    document = Document([], Annotations(outlines), [])
    for key, value in members(path, _NEEDED):
        if key is None and isinstance(value, list):
            raise InputError(f"{path}: is a list, as COCO results are; an annotation file has images and annotations")
        if key not in _NEEDED:
            continue
        found[key] = isinstance(value, Iterator)
        if isinstance(value, Iterator):
            _take(path, key, value, document)
    for key in _NEEDED:
        if not found.get(key):
            raise InputError(f"{path}: has no list {key!r}; a COCO JSON has {', '.join(_NEEDED)}")
    return document


def _take(path: Path, key: str, rows: Iterator[object], document: Document) -> None:
    """The rows of one list into the document; of a list that comes twice the last one counts, as in any JSON."""
    fields = _NEEDED[key]
    taken: list[Json] = []
    annotations = Annotations(document.annotations.outlines)
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or any(not isinstance(row.get(f), (int, float, str)) for f in fields):
            raise InputError(f"{path}: {key}[{i}] must be an object with {' and '.join(fields)}")
        if key == "annotations":
            annotations.append(row)
        else:
            taken.append({name: row[name] for name in _OF_IMAGES if name in row} if key == "images" else row)
    if key == "annotations":
        document.annotations = annotations
    else:
        setattr(document, key, taken)


def _number(path: Path, rows: Sequence[Json], ids: list[object], issues: list[Issue]) -> None:
    """Makes the ids of ``rows``, and ``ids``, what annotations have of them, whole numbers."""
    numbers = [whole(row["id"]) for row in rows]
    numbered: dict[str, int] = {}
    if None in numbers:
        for row in rows:
            numbered.setdefault(str(row["id"]), len(numbered) + 1)
        sentence = (
            f"ids like {rows[numbers.index(None)]['id']!r} are no whole numbers; they are numbered from 1 in order"
        )
        issues.append(Issue(path, None, "ids", sentence, "warning", len(rows)))
    for row in rows:
        row["id"] = numbered[str(row["id"])] if numbered else whole(row["id"])
    for i, value in enumerate(ids):
        if numbered:
            ids[i] = numbered.get(str(value), value)
        elif type(value) is not int:
            number = whole(value)
            ids[i] = value if number is None else number


def _classes(path: Path, document: Document, issues: list[Issue]) -> list[Json]:
    """The categories in order of id, without parents of others that no annotation has (Roboflow lists one)."""
    categories = sorted(document.categories, key=lambda c: c["id"])
    used = set(document.annotations.category_ids)
    kept = []
    for category in categories:
        children = [c["name"] for c in categories if c is not category and c.get("supercategory") == category["name"]]
        if children and category["id"] not in used:
            sentence = (
                f"the category {category['name']!r} has no annotation and is the parent of others; it is no class"
            )
            issues.append(Issue(path, None, "category", sentence, "note"))
        else:
            kept.append(category)
    return kept or categories


def numbers(values: object, count: int, what: str) -> list[float]:
    """A list of ``count`` finite numbers.

    Raises:
        BadRow: anything else.
    """
    usable = isinstance(values, list) and len(values) == count and all(isinstance(v, (int, float)) for v in values)
    if not isinstance(values, list) or not usable or not all(map(math.isfinite, values)):
        raise BadRow("malformed", f"has no {what} of {count} numbers; left out")
    return [float(v) for v in values]
