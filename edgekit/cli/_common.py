"""What commands share: options that no dataclass declares, the JSON document, the console.

def command(source: Path, classes: Classes = None, json: Json = False) -> None:
    \"\"\"Find objects in images and videos.\"\"\"
    if json:
        emit_json(results)
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgekit.cli._streams import write_document
from edgekit.errors import UsageError
from edgekit.runtime.atomic import replacing

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

Classes = Annotated[
    str | None, typer.Option("--classes", metavar="A,B", help="Keep these classes only: names or numbers, by commas.")
]
# Named by the parameter, `images`: of bench and build, --images are other ones.
CocoImages = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="Where a COCO JSON's images are: folders, files, patterns; repeatable. Default: beside it.",
        show_default=False,
    ),
]
LabelWords = Annotated[
    str,
    typer.Option(
        "--label-options",
        metavar="NAME=VALUE,…",
        help="What labels leave open: crowd=objects, exif=stored, angle=degrees or radians.",
        show_default=False,
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        help="Images: a file, a folder or a glob, as often as needed. Default: generated ones.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is already there.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def emit_json(document: Any) -> None:
    """Print the command's one JSON document on standard output.

    Dataclasses, paths, tuples and numpy values are turned into plain JSON; numbers JSON has no word for (NaN,
    infinity) become null.
    """
    write_document(json.dumps(_plain(document), allow_nan=False))


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` to a file, as ``emit_json`` would print it; the file appears complete or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(_plain(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, without importing numpy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def console() -> Console:
    """The rich console on standard error, where tables, progress and messages go. Plain where that is no terminal."""
    from rich.console import Console

    class Spelling(Console):
        """One that prints the options in messages as they are typed."""

        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(spelt(each) if isinstance(each, str) else each for each in objects), **how)

    # Rich takes 80 columns where it cannot ask, which cuts tables written to a log.
    width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else 160
    return Spelling(stderr=True, width=width, highlight=False)


def refuse_existing(out: Path, force: bool, option: str = "out") -> None:
    """Refuse to overwrite ``out``, given by ``option`` (an argument where that is empty), unless ``--force`` was given.

    Raises:
        UsageError: something is there and ``force`` is false.
    """
    if not force and (out.exists() or out.is_symlink()):
        named = f"`{option}` " if option else ""
        raise UsageError(f"{named}{out}: already exists; give `force` to replace it, or another name")


def check_out(out: Path | None, force: bool) -> None:
    """Refuse a file to write that is there or has no folder.

    Raises:
        UsageError: it does.
    """
    if out is None:
        return
    refuse_existing(out, force)
    if not out.parent.is_dir():
        raise UsageError(f"`out` {out}: there is no folder {out.parent}; make it first")


def spelt(text: str) -> str:
    """A message of the library with its options, `` `max_det` ``, as they are typed: ``--max-det``."""
    return re.sub(r"(?<![\w`])`([a-z][a-z0-9_]*)`(?!`)", lambda found: "--" + found[1].replace("_", "-"), text)


def note(sentence: str) -> None:
    """Print a sentence the user should know, on standard error."""
    from rich.markup import escape

    console().print(f"[yellow]note:[/yellow] {escape(sentence)}", soft_wrap=True, emoji=False)


class _Notes(logging.Handler):
    """Prints what the library reports, each sentence once; of several processes, the first speaks for all."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        sentence = record.getMessage()
        if sentence not in self._said and os.environ.get("RANK", "0") == "0":
            self._said.add(sentence)
            note(sentence)


@contextmanager
def reported() -> Iterator[None]:
    """While it lasts, what reading labelled sets (``edgekit/data/account.py``) and choosing of an index
    (``edgekit/bundle/fleet.py``) have to say is printed."""
    loggers, handler = [logging.getLogger(f"edgekit.{name}") for name in ("data", "fleet")], _Notes()
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            if not any(isinstance(other, _Notes) for other in logger.handlers):  # of a command in another thread
                logger.propagate = True
                logger.setLevel(logging.NOTSET)


def parse_classes(text: str | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """``--classes person,3`` as labels of a model with these class names; None where the option was not given.

    Raises:
        UsageError: a class the model does not have.
    """
    if text is None:
        return None
    labels = []
    for part in (p.strip() for p in text.split(",")):
        if part in names:
            labels.append(list(names).index(part))
        elif part.isdigit() and int(part) < len(names):
            labels.append(int(part))
        else:
            some = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
            raise UsageError(f"`classes` {text}: the model has no class {part!r}; its {len(names)} classes are {some}")
    return tuple(labels)
