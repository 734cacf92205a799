"""The files that a shard leaves: parts of so many images each, named when they are complete, and a note at the end.

    with Parts(folder, get("jsonl"), size=500) as parts:
        parts.done                          # images of earlier runs, to be passed over
        parts.add(rows, mark)               # one image's rows; ``mark`` says which listing it is of
    parts.finish(total, listing)

``000000500-000001000.1f3a….jsonl`` holds the shard's images 500 to 999; the mark is of the names of everything listed
up to its last image, so that a run that goes on finds out where the sources have changed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from edgekit.errors import InputError
from edgekit.runtime.atomic import replacing, written_whole
from edgekit.runtime.many.formats import Format, Row, Write, line
from edgekit.spec import Json

DONE, ERRORS = "done.json", "errors.jsonl"

_NAME = re.compile(r"(\d{9,})-(\d{9,})\.([0-9a-f]{16})\.[a-z]+")


@dataclass(frozen=True)
class Part:
    """A complete part: the shard's images from ``first`` to before ``end``, and its mark."""

    path: Path
    first: int
    end: int
    mark: str


@dataclass(frozen=True)
class Done:
    """What a shard found out of the whole listing when it came to its end.

    Attributes:
        total: images listed, of all shards.
        listing: the mark of all their names.
        errors: of its own images, how many could not be used.
    """

    total: int
    listing: str
    errors: int


def parts_in(folder: Path) -> list[Part]:
    """The complete parts of a shard, in order.

    Raises:
        InputError: one is missing between others.
    """
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir()] if folder.is_dir() else []
    parts = sorted((Part(p, int(m[1]), int(m[2]), m[3]) for p, m in matches if m), key=lambda part: part.first)
    end = 0
    for part in parts:
        if part.first != end:
            raise InputError(f"{folder}: the part before {part.path.name} is missing; delete that and what follows it, "
                             "and `resume` its shard")  # fmt: skip
        end = part.end
    return parts


def done_in(folder: Path) -> Done | None:
    """The note of a shard that is complete; None where it is not."""
    try:
        read = json.loads((folder / DONE).read_text(encoding="utf-8"))
        return Done(int(read["total"]), str(read["listing"]), int(read["errors"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / DONE}: cannot be used ({error}); delete it and `resume` its shard") from None


class Parts:
    """Writes a shard's parts, after those that are there. Use it in a ``with`` block.

    Attributes:
        done: images in complete parts.
        mark: of the last complete part; "" where there is none.
    """

    def __init__(self, folder: Path, form: Format, size: int) -> None:
        self.folder, self.form, self.size = folder, form, size
        there = parts_in(folder)
        self.done, self.mark = (there[-1].end, there[-1].mark) if there else (0, "")
        self._partial = folder / "part.partial"
        self._file: AbstractContextManager[Write] | None = None
        self._write: Write | None = None
        self._images = self._rows = 0
        self._last = ""

    def add(self, rows: Iterable[Json], mark: str) -> None:
        """Add the rows of the next image.

        Raises:
            OSError: they cannot be written; it names the part.
        """
        for row in rows:
            with written_whole(self._partial), naming(self._partial):
                self._opened()(row)
            self._rows += 1
        self._images += 1
        self._last = mark
        if max(self._images, self._rows) >= self.size:  # of videos by frames
            self._close()

    def finish(self, total: int, listing: str) -> Done:
        """Complete the last part and note that the shard has come to its end; ``total`` images were listed in all."""
        self._close()
        errors = 0
        with replacing(self.folder / ERRORS) as partial, open(partial, "wb") as handle:
            for row in rows_of(parts_in(self.folder), self.form):
                if row.error:
                    errors += 1
                    handle.write(error_line(row))
        with replacing(self.folder / DONE) as partial:
            done = {"total": total, "listing": listing, "errors": errors}
            partial.write_text(json.dumps(done) + "\n", encoding="utf-8")
        return Done(total, listing, errors)

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:  # by an error: what is complete stays
            with suppress(OSError):
                self._file.__exit__(None, None, None)
        self._partial.unlink(missing_ok=True)

    def _opened(self) -> Write:
        if self._write is None:
            self._file = self.form.writing(self._partial)
            self._write = self._file.__enter__()
        return self._write

    def _close(self) -> None:
        if not self._images:
            return
        with written_whole(self._partial), naming(self._partial):
            self._opened()  # of no rows, for a video without frames, say
            file, self._file, self._write = self._file, None, None
            if file is not None:
                file.__exit__(None, None, None)
        end = self.done + self._images
        os.replace(self._partial, self.folder / f"{self.done:09d}-{end:09d}.{self._last}{self.form.suffix}")
        self.done, self._images, self._rows = end, 0, 0


def rows_of(parts: Iterable[Part], form: Format) -> Iterable[Row]:
    """All rows of a shard's parts, in order."""
    for part in parts:
        yield from form.rows(part.path)


def error_line(row: Row) -> bytes:
    """A row of ``errors.jsonl``."""
    document = row.document()
    return line({key: document[key] for key in ("index", "image", "error")})


class naming:
    """An OSError of writing to an open file says which one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
