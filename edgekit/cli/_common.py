"""What commands share: options that mean the same everywhere, the JSON document, the console, progress.

def command(source: Path, conf: Conf = 0.25, json: Json = False) -> None:
    \"\"\"Find objects in images and videos.\"\"\"
    for image in track(images, "predicting"):
        ...
    if json:
        emit_json(results)
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgekit.cli._streams import write_document
from edgekit.errors import UsageError
from edgekit.system.atomic import replacing

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

ImgSz = Annotated[
    str | None,
    typer.Option("--imgsz", metavar="N|H,W", help="Input size in pixels, multiples of 32. Default: the model's own."),
]
Conf = Annotated[float, typer.Option("--conf", min=0, max=1, help="Drop objects scored below this.")]
Iou = Annotated[float, typer.Option("--iou", min=0, max=1, help="Suppress boxes overlapping a better one by more.")]
MaxDet = Annotated[int, typer.Option("--max-det", min=1, help="Keep at most this many objects per image.")]
Classes = Annotated[
    str | None, typer.Option("--classes", metavar="A,B", help="Keep these classes only: names or numbers, by commas.")
]
Agnostic = Annotated[bool, typer.Option("--agnostic", help="Let boxes suppress each other across classes.")]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images per run.")]
Head = Annotated[
    str,
    typer.Option("--head", help="raw (every anchor and class), topk (the best of them) or nms (finished detections)."),
]
Candidates = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        min=1,
        help="(anchor, class) pairs an image that a topk or nms head keeps before suppression; up to five an object. "
        "Default: 500 at 320 px, 1000 at 640, 2000 at 1280, and more where --data is more crowded.",
    ),
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
# Named by the parameter, `val`: of report, --val are other files.
Val = Annotated[
    Path | None,
    typer.Option(metavar="DATA", help="Validate on this set instead of DATA's val split.", show_default=False),
]
ValFraction = Annotated[
    float | None,
    typer.Option(
        "--val-fraction",
        help="Where DATA has no val split: set this share of every class's images aside, chosen by their hash.",
        show_default=False,
    ),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        help="Images: a file, a folder or a glob, as often as needed. Default: generated ones.", show_default=False
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda:0, GPU, NPU: as the target knows it. Default: the target's.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. Default: the runtime's choice.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is already at --out.")]
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

    # Rich takes 80 columns where it cannot ask, which cuts tables written to a log.
    width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=True, width=width, highlight=False)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """``items``, with a progress bar on standard error while they are taken; silent where that is no terminal.

    ``total`` is needed only where ``items`` has no length.
    """
    if not console().is_terminal:
        return iter(items)
    from rich.progress import track as rich_track

    if total is None and isinstance(items, Sequence):
        total = len(items)
    return iter(rich_track(items, description, total=total, console=console(), transient=True))


def refuse_existing(out: Path, force: bool, option: str = "--out") -> None:
    """Refuse to overwrite ``out`` unless ``--force`` was given.

    Raises:
        UsageError: something is there and ``force`` is false.
    """
    if not force and (out.exists() or out.is_symlink()):
        raise UsageError(f"{option} {out}: already exists; give --force to replace it, or another name")


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
    """While it lasts, what reading labelled sets has to say (``edgekit/data/account.py``) is printed."""
    logger, handler = logging.getLogger("edgekit.data"), _Notes()
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def check_head(head: str, candidates: int | None = None) -> None:
    """Raise UsageError unless ``head`` is one of the forms outputs come in, and one that keeps ``candidates``."""
    from edgekit.spec import HEADS

    if head not in HEADS:
        raise UsageError(f"--head {head}: forms are {', '.join(HEADS)}")
    if head == "raw" and candidates is not None:
        raise UsageError(f"--candidates {candidates}: the raw head keeps every anchor; leave one of the two out")


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
            raise UsageError(f"--classes {text}: the model has no class {part!r}; its {len(names)} classes are {some}")
    return tuple(labels)
