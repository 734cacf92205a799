"""A COCO JSON as its file has it, checked as far as the reader relies on it, with ids that are whole numbers.

    document = load_document(path, issues)        # {"images": […], "annotations": […], "categories": […]}

Exporters write ids as numbers, text (``"2"``) or fractions (``2.0``), and list categories that are no classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from edgekit.data.issues import Issue
from edgekit.data.settings import whole
from edgekit.errors import InputError
from edgekit.spec import Json
from edgekit.tasks.rows import BadRow

_NEEDED = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def load_document(path: Path, issues: list[Issue]) -> Json:
    """The document; what was changed or left out in it is added to ``issues``.

    Raises:
        InputError: no COCO annotation file.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from None
    if isinstance(document, list):
        raise InputError(f"{path}: is a list, as COCO results are; an annotation file has images and annotations")
    for key, fields in _NEEDED.items():
        rows = document.get(key) if isinstance(document, dict) else None
        if not isinstance(rows, list):
            raise InputError(f"{path}: has no list {key!r}; a COCO JSON has {', '.join(_NEEDED)}")
        for i, row in enumerate(rows):
            if not isinstance(row, dict) or any(not isinstance(row.get(f), (int, float, str)) for f in fields):
                raise InputError(f"{path}: {key}[{i}] must be an object with {' and '.join(fields)}")
    if not document["images"] or not document["categories"]:
        raise InputError(f"{path}: lists no {'images' if not document['images'] else 'categories'}")
    for record in document["images"]:
        record["file_name"] = str(record["file_name"])
    _number(path, document["images"], document["annotations"], "image_id", issues)
    _number(path, document["categories"], document["annotations"], "category_id", issues)
    if len({category["id"] for category in document["categories"]}) < len(document["categories"]):
        raise InputError(f"{path}: two categories have the same id")
    return {**document, "categories": _classes(path, document, issues)}


def _number(path: Path, rows: Sequence[Json], annotations: Sequence[Json], key: str, issues: list[Issue]) -> None:
    """Makes the ids of ``rows``, and what ``annotations`` have of them under ``key``, whole numbers."""
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
    for row in annotations:
        value = row[key]
        row[key] = numbered.get(str(value), value) if numbered else whole(value) if whole(value) is not None else value


def _classes(path: Path, document: Json, issues: list[Issue]) -> list[Json]:
    """The categories in order of id, without parents of others that no annotation has (Roboflow lists one)."""
    categories = sorted(document["categories"], key=lambda c: c["id"])
    used = {annotation["category_id"] for annotation in document["annotations"]}
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
