"""Parts and outputs as JSON lines, Parquet, COCO or text files.

A row is what ``Result.to_dict`` says of an image, with its place in the listing, ``index``, and its ``height`` and
``width``; or ``index``, ``image`` and an ``error``. Parts hold rows; ``join`` makes one output of all rows in order.

    form = get("jsonl")
    with form.writing(path) as write:
        write({"index": 0, "image": "a.jpg", ...})
    for row in form.rows(path): row.index, row.error, row.document()
"""

from __future__ import annotations

import abc
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from edgekit.errors import InputError, optional
from edgekit.runtime.atomic import replacing
from edgekit.runtime.boxes import corners, enclosing
from edgekit.runtime.many.record import Record
from edgekit.runtime.masks import decode_rle
from edgekit.spec import Json

ROWS = 1000  # of a row group in Parquet
TOP = 5  # classes in the text of a classification

_START = re.compile(rb'\{"index":(\d+),')
Write = Callable[[Json], None]


@dataclass(frozen=True)
class Row:
    """One row of a part: its ``index``, whether it is an ``error``, and its ``content``: the line, or the document."""

    index: int
    error: bool
    content: bytes | Json

    def document(self) -> Json:
        """The row as JSON has it."""
        if isinstance(self.content, bytes):
            found: Json = json.loads(self.content)
            return found
        return {key: value for key, value in self.content.items() if value is not None}

    def line(self) -> bytes:
        """The row as a line."""
        return self.content if isinstance(self.content, bytes) else line(self.document())


class Format(abc.ABC):
    """How rows are written: JSON lines, if it says nothing else.

    Attributes:
        suffix: of parts.
        output: name of the joined file or folder.
    """

    suffix = ".jsonl"
    output = "predictions.jsonl"

    def check(self) -> None:  # noqa: B027 - most need nothing
        """Whether it can be written here.

        Raises:
            MissingPackageError: what it needs is not installed.
        """

    @contextmanager
    def writing(self, path: Path) -> Iterator[Write]:
        """A function that adds a row to the file ``path``, which is on the disk when the block ends."""
        with open(path, "wb", buffering=1 << 16) as handle:
            yield lambda row: _discard(handle.write(line(row)))
            handle.flush()
            os.fsync(handle.fileno())

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a part, in order.

        Raises:
            InputError: the part is damaged.
        """
        with open(path, "rb") as handle:
            for text in handle:
                start = _START.match(text)
                if start is None or not text.endswith(b"}\n"):
                    raise InputError(f"{path}: is damaged; delete it and what follows it, and `resume` its shard")
                error = b'"error":' in text and "error" in json.loads(text)
                yield Row(int(start[1]), error, text)

    @abc.abstractmethod
    def join(self, rows: Iterable[Row], folder: Path, record: Record) -> Path:
        """Write the one output of all ``rows``, none of which is an error, into ``folder``."""


def line(row: Json) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _discard(_: object) -> None:
    return None


class JsonLines(Format):
    """One line an image."""

    def join(self, rows: Iterable[Row], folder: Path, record: Record) -> Path:
        with replacing(folder / self.output) as partial, open(partial, "wb", buffering=1 << 16) as handle:
            for row in rows:
                handle.write(row.line())
        return folder / self.output


class Parquet(Format):
    """One row an image, for Spark, DuckDB, pandas and the like; numbers are float32."""

    suffix = ".parquet"
    output = "predictions.parquet"

    def check(self) -> None:
        with optional("`format` parquet", "parquet", "pyarrow"):
            import pyarrow.parquet  # noqa: F401

    @contextmanager
    def writing(self, path: Path) -> Iterator[Write]:
        with optional("`format` parquet", "parquet", "pyarrow"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        schema = _schema(pa)
        waiting: list[Json] = []
        with open(path, "wb") as handle, pq.ParquetWriter(handle, schema, compression="zstd") as writer:

            def write(row: Json | None) -> None:
                if row is not None:
                    waiting.append({key: _utf8(value) for key, value in row.items()})
                if waiting and (row is None or len(waiting) == ROWS):
                    writer.write_table(pa.Table.from_pylist(waiting, schema), row_group_size=ROWS)
                    waiting.clear()

            yield write
            write(None)
            writer.close()
            handle.flush()
            os.fsync(handle.fileno())

    def rows(self, path: Path) -> Iterator[Row]:
        with optional("`format` parquet", "parquet", "pyarrow"):
            import pyarrow as pa
            import pyarrow.parquet as pq
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS):
                    for row in batch.to_pylist():
                        yield Row(row["index"], row["error"] is not None, row)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise InputError(f"{path}: is damaged ({error}); delete it and what follows it, "
                             "and `resume` its shard") from None  # fmt: skip

    def join(self, rows: Iterable[Row], folder: Path, record: Record) -> Path:
        with replacing(folder / self.output) as partial, self.writing(partial) as write:
            for row in rows:
                write(row.document())
        return folder / self.output


def _utf8(value: Any) -> Any:
    """Text without the bytes of file names that are no UTF-8."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def _schema(pa: Any) -> Any:
    """Of all tasks: what a task has nothing for is null."""
    numbers = pa.list_(pa.float32())
    table, whole, words = pa.list_(numbers), pa.list_(pa.int32()), pa.list_(pa.string())
    masks = pa.list_(pa.struct([("size", whole), ("counts", pa.string())]))
    kinds = {"index": pa.int64(), "image": pa.string(), "frame": pa.int32(), "height": pa.int32(), "width": pa.int32()}
    kinds |= {"boxes": table, "scores": numbers, "labels": whole, "names": words, "masks": masks}
    kinds |= {"keypoints": pa.list_(table), "rotated_boxes": table, "probs": numbers, "tracks": whole}
    return pa.schema(list({**kinds, "truncated": words, "error": pa.string()}.items()))


class Coco(Format):
    """One COCO document: ``images``, ``categories`` and ``annotations`` with a ``score``. Ids count from 1: images in
    their order, categories by label."""

    output = "predictions.json"

    def join(self, rows: Iterable[Row], folder: Path, record: Record) -> Path:
        categories = [{"id": i, "name": name} for i, name in enumerate(record.names, 1)]
        found = folder / "annotations.partial"
        try:
            with replacing(folder / self.output) as partial, open(partial, "wb") as whole:
                whole.write(b'{"info":{},"categories":' + json.dumps(categories).encode() + b',"images":[\n')
                with open(found, "wb") as annotations:
                    self._write(rows, whole.write, annotations.write)
                whole.write(b'\n],"annotations":[\n')
                with open(found, "rb") as annotations:
                    shutil.copyfileobj(annotations, whole)
                whole.write(b"\n]}\n")
        finally:
            found.unlink(missing_ok=True)
        return folder / self.output

    @staticmethod
    def _write(rows: Iterable[Row], images: Callable[[bytes], int], annotations: Callable[[bytes], int]) -> None:
        image = number = 0
        for row in rows:
            document, image = row.document(), image + 1
            entry = {"id": image, "file_name": document["image"]}
            entry |= {key: document[key] for key in ("frame", "height", "width") if key in document}
            images(b",\n" * (image > 1) + line(entry)[:-1])
            for annotation in coco_rows(document, image):
                number += 1
                annotations(b",\n" * (number > 1) + line({"id": number, **annotation})[:-1])


def coco_rows(document: Json, image_id: int) -> Iterator[Json]:
    """The annotations of one row."""
    boxes = document.get("boxes")
    if boxes is None and "rotated_boxes" in document:
        boxes = enclosing(np.array(document["rotated_boxes"], np.float64).reshape(-1, 5)).round(3).tolist()
    for i, (x1, y1, x2, y2) in enumerate(boxes or ()):
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        entry: Json = {"image_id": image_id, "category_id": document["labels"][i] + 1, "bbox": [x1, y1, width, height],
                       "area": round(width * height, 3), "iscrowd": 0, "score": document["scores"][i]}  # fmt: skip
        if "masks" in document:
            entry["segmentation"] = document["masks"][i]
        if "rotated_boxes" in document:
            entry["segmentation"] = corners(np.array([document["rotated_boxes"][i]])).reshape(1, 8).round(3).tolist()
        if "keypoints" in document:
            entry["keypoints"] = [value for point in document["keypoints"][i] for value in point]
            entry["num_keypoints"] = len(document["keypoints"][i])
        if "tracks" in document:
            entry["track_id"] = document["tracks"][i]
        yield entry


class Text(Format):
    """A YOLO text file an image in ``labels``, in folders as the images are: a line an object with its confidence at
    the end (and its track after it). An image without objects has an empty one."""

    output = "labels"

    def join(self, rows: Iterable[Row], folder: Path, record: Record) -> Path:
        place, partial = folder / self.output, folder / "labels.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for row in rows:
            document = row.document()
            path = _free(partial / _place(document, record.sources))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{text}\n" for text in text_lines(document, record.names)), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
        return place


def _place(document: Json, sources: Iterable[str]) -> PurePosixPath:
    """Where the text of an image goes: as it lies below the folder or archive that was named, else by its name."""
    key = str(document["image"]).replace(os.sep, "/")
    roots = (source.replace(os.sep, "/").rstrip("/") + "/" for source in sources)
    below = next((key[len(root) :] for root in roots if key.startswith(root)), PurePosixPath(key).name)
    parts = [part for part in PurePosixPath(below).with_suffix("").parts if part not in ("/", "..", "")]
    frame = f"_{document['frame'] + 1}" if "frame" in document else ""
    return PurePosixPath(*parts[:-1], f"{parts[-1]}{frame}.txt")


def _free(path: Path) -> Path:
    """``path``, or with a number where another image of that name came first."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}.txt")
    return free


def text_lines(document: Json, names: Sequence[str]) -> Iterator[str]:
    """The lines of one image, coordinates as fractions of its sides: ``label cx cy w h``, for rotated boxes their four
    corners and for masks their outline instead, then keypoints ``x y score``, the confidence, the track. Of a
    classification the likeliest classes: ``probability name``."""
    if "probs" in document:
        order = np.argsort(-np.array(document["probs"]), kind="stable")[:TOP].tolist()
        yield from (f"{document['probs'][i]:.6f} {names[i]}" for i in order)
        return
    size = np.array([document["width"], document["height"]], np.float64)
    for i, label in enumerate(document["labels"]):
        numbers = [_shape(document, i, size)]
        if "keypoints" in document:
            points = np.array(document["keypoints"][i], np.float64)
            numbers.append((points / [*size, 1]).ravel())
        words = [f"{value:.6f}" for value in (*np.concatenate(numbers).tolist(), document["scores"][i])]
        track = [str(document["tracks"][i])] if "tracks" in document else []
        yield " ".join([str(label), *words, *track])


def _shape(document: Json, i: int, size: np.ndarray) -> np.ndarray:
    if "rotated_boxes" in document:
        return np.asarray((corners(np.array([document["rotated_boxes"][i]]))[0] / size).ravel())
    if "masks" in document:
        mask = decode_rle(document["masks"][i]).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        largest = max(outlines, key=cv2.contourArea, default=None)
        if largest is not None and len(largest) > 2:
            return np.asarray((largest.reshape(-1, 2) / size).ravel())
    x1, y1, x2, y2 = document["boxes"][i]
    return np.asarray(np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / np.tile(size, 2))


FORMATS: dict[str, Format] = {"jsonl": JsonLines(), "parquet": Parquet(), "coco": Coco(), "txt": Text()}


def get(name: str) -> Format:
    """The format of one of ``options.FORMATS``."""
    return FORMATS[name]
