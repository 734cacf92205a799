"""Many shards' parts into one output, after a look whether every image is there once.

merge(Path("out"))         # out/predictions.jsonl and out/errors.jsonl
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path

from edgekit.errors import GateError, InputError, shorten
from edgekit.runtime.atomic import replacing
from edgekit.runtime.many.crops import FOLDER as CROPS
from edgekit.runtime.many.formats import FORMATS, Row, get
from edgekit.runtime.many.listing import STANDARD_INPUT, listed
from edgekit.runtime.many.parts import ERRORS, Done, done_in, error_line, parts_in, rows_of
from edgekit.runtime.many.record import Record
from edgekit.runtime.many.shards import Shard

MISSING = "missing.txt"

# All that stands beside the shards' folders.
LEFT = {MISSING, ERRORS, CROPS, *(form.output for form in FORMATS.values())}
_FOLDER = re.compile(r"shard-(\d{5})-of-(\d{5})")


@dataclass(frozen=True)
class Merged:
    """What came of it: the ``output``, how many ``images`` were listed, and how many of them were ``errors``."""

    output: Path
    images: int
    errors: int


def shards_in(folder: Path) -> list[Shard]:
    """The shards that have a folder there.

    Raises:
        InputError: they are of runs with different numbers of shards.
    """
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    shards = [Shard(int(m[1]), int(m[2])) for m in map(_FOLDER.fullmatch, found) if m]
    counts = sorted({shard.count for shard in shards})
    if len(counts) > 1:
        raise InputError(f"{folder}: has parts of runs in {shorten(counts)} shards, which do not add up; "
                         "keep those of one run")  # fmt: skip
    return shards


def merge(folder: Path) -> Merged:
    """Join the parts of all shards in ``folder``.

    Raises:
        InputError: there are none, or one is damaged.
        UsageError: they are of different models, settings or sources.
        GateError: images are missing; the first are named, all of them are in ``missing.txt``.
    """
    there = shards_in(folder)
    if not there:
        raise InputError(f"{folder}: has no results of `format` that could be joined")
    count = there[0].count
    record = Record.read(folder / there[0].folder)
    for shard in there[1:]:
        record.check(Record.read(folder / shard.folder), folder / shard.folder)
    done = {shard: done_in(folder / shard.folder) for shard in there}
    complete = [note for note in done.values() if note]
    _same_listing(folder, done)
    if len(complete) < count:
        raise _incomplete(folder, [Shard(i, count) for i in range(count)], record, done)
    form = get(record.format)
    total = complete[0].total
    with replacing(folder / ERRORS) as partial, open(partial, "wb") as errors:
        rows = _without_errors(_joined(folder, there, record, total), errors.write)
        output = form.join(rows, folder, record)
    (folder / MISSING).unlink(missing_ok=True)
    return Merged(output, total, sum(note.errors for note in complete))


def _same_listing(folder: Path, done: dict[Shard, Done | None]) -> None:
    notes = {shard: (note.total, note.listing) for shard, note in done.items() if note}
    first = next(iter(notes), None)
    for shard in notes:
        if first is not None and notes[shard] != notes[first]:
            raise InputError(
                f"{folder}: shard {shard} listed {notes[shard][0]} images and shard {first} {notes[first][0]}, or "
                "others; the sources changed between them: begin anew, from one list of files"
            )


def _joined(folder: Path, shards: list[Shard], record: Record, total: int) -> Iterator[Row]:
    """All rows in the order of the listing; each image's are there, once."""
    form, expected = get(record.format), -1
    streams = [rows_of(parts_in(folder / shard.folder), form) for shard in shards]
    for row in heapq.merge(*streams, key=attrgetter("index")):
        if row.index not in (expected, expected + 1):
            raise _hole(folder, expected + 1, shards)
        expected = row.index
        yield row
    if expected != total - 1:
        raise _hole(folder, expected + 1, shards)


def _hole(folder: Path, index: int, shards: list[Shard]) -> InputError:
    owner = Shard(index % shards[0].count, shards[0].count)
    return InputError(f"{folder / owner.folder}: its parts lack image {index}, or do not have it in its place; "
                      "delete the part that should have it and what follows it, and `resume` the shard")  # fmt: skip


def _without_errors(rows: Iterator[Row], write: Callable[[bytes], int]) -> Iterator[Row]:
    for row in rows:
        if row.error:
            write(error_line(row))
        else:
            yield row


def _incomplete(folder: Path, shards: list[Shard], record: Record, done: dict[Shard, Done | None]) -> GateError:
    """What is missing: shards, and the names of images where the sources can be listed again."""
    there = {shard: parts[-1].end if (parts := parts_in(folder / shard.folder)) else 0 for shard in shards}
    open_ = [shard for shard in shards if not done.get(shard)]
    total = next((note.total for note in done.values() if note), None)
    states = shorten([f"{shard} ({there[shard]} images{'' if total is None else f' of {shard.size(total)}'})"
                      for shard in open_])  # fmt: skip
    message = f"{folder}: not complete yet: shards {states}"
    if STANDARD_INPUT not in record.sources:
        with suppress(InputError):  # sources of another machine
            message += _named(folder / MISSING, shards, record, {shard: there[shard] for shard in open_})
    return GateError(f"{message}; `resume` them", {"shards": [str(shard) for shard in open_]})


def _named(path: Path, shards: list[Shard], record: Record, there: dict[Shard, int]) -> str:
    """Write the names of what is missing to ``path``, and give the first of them as a clause."""
    count = 0
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", errors="surrogateescape") as handle:
        for index, item in enumerate(listed(record.sources)):
            if index // len(shards) >= there.get(shards[index % len(shards)], index + 1):
                handle.write(item.key + "\n")
                count += 1
    with open(path, encoding="utf-8", errors="surrogateescape") as handle:
        names = [name.rstrip("\n") for name in islice(handle, 3)]
    return f"; {count} images are missing: {shorten(names, 2)}; all are named in {path}"
