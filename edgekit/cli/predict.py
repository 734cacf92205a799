"""`edgekit predict`: a model on images and videos."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Classes, Json, console, emit_json, note
from edgekit.cli._options import Only, Without
from edgekit.cli._progress import track
from edgekit.runtime.fields import option
from edgekit.runtime.many.options import ManyOptions
from edgekit.runtime.options import OpenOptions, Options
from edgekit.spec import MAX_DET


@dataclass(frozen=True)
class PredictOptions:
    """What is read, and what becomes of the results."""

    out: Path | None = None
    """Folder for the annotated pictures and videos, or for results in a `format`. Default: none are written."""
    video: str = "mp4"
    """What annotated videos are written as: mp4, h264 (where OpenCV has it) or gif."""
    stride: int = option(1, least=1)
    """Of videos and streams, use one in so many frames."""
    frames: int | None = option(None, least=1)
    """End after so many frames."""
    patience: float = option(30.0, least=0)
    """Seconds without a frame after which a stream is given up."""
    batch: int | None = option(None, least=1)
    """Images per run. Only for models that take any number; 1 by default, of tiles 8."""
    max_queue_delay_ms: float | None = option(None, least=0, metavar="MS")
    """Milliseconds a frame of a stream may wait for others to share a run with. Default: none."""


def command(
    wanted: PredictOptions,
    many: ManyOptions,
    how: Annotated[OpenOptions, Without("streams", "batch")],
    keep: Annotated[Options, Only("conf", "iou", "max_det", "agnostic")],
    model: Annotated[
        Path | None, typer.Argument(help="A bundle, a checkpoint, an ONNX file, or another tool's model.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, videos, folders, globs, numbered series (shot_%04d.png) or their http addresses; or cameras "
            "(0, /dev/video0) and streams (rtsp://…), all at once, which Ctrl-C or --frames ends. With --format also "
            "lists of files (@list.txt, - for standard input), tar archives, and what fsspec opens (s3://…)."
        ),
    ] = None,
    classes: Classes = None,
    json: Json = False,
) -> None:
    """Find objects in images, videos and streams; draw them, print them as JSON, or write them as they come."""
    from edgekit.cli import _many
    from edgekit.errors import UsageError

    if many.merge is not None:
        if model or source:
            raise UsageError("`merge`: takes the folder alone; what it was made of is noted there")
        _many.joined(many.merge)
        return
    if model is None or not source:
        raise UsageError("predict: give a MODEL and at least one SOURCE")
    if many.format is None:
        _at_once(model, source, wanted, many, how, keep, classes, json)
        return
    if wanted.out is None:
        raise UsageError("`format`: give `out`, the folder to write to")
    for name, given in {
        "json": json or None,
        "frames": wanted.frames,
        "max_queue_delay_ms": wanted.max_queue_delay_ms,
    }.items():
        if given is not None:
            raise UsageError(f"`{name}`: goes with pictures or one document, not with `format`")
    request = _many.Request(model, source, wanted.out, wanted.batch, wanted.stride, how, keep, classes)
    _many.run(request, many)


def _at_once(
    model: Path,
    source: list[str],
    wanted: PredictOptions,
    many: ManyOptions,
    how: OpenOptions,
    keep: Options,
    classes: str | None,
    json: bool,
) -> None:
    """Pictures, and one document at the end."""
    import warnings

    from edgekit.cli import _many
    from edgekit.errors import InputError, TruncatedWarning, UsageError
    from edgekit.runtime.sources import Sources
    from edgekit.runtime.writer import open_writer

    if wanted.out is None and (not json or many.save_crops):
        raise UsageError("predict: nothing to do with the results; give `out`, a folder, `json` or both")
    opened = _opened(source, wanted.stride, wanted.patience)
    writer = open_writer(wanted.out, wanted.video) if wanted.out else None
    request = _many.Request(model, source, wanted.out or Path(), wanted.batch, wanted.stride, how, keep, classes)
    errors: list[InputError] = []
    truncated: Counter[str] = Counter()
    with (
        _many.opened(request, many) as predictor,
        warnings.catch_warnings(),
        contextlib.closing(_answers(predictor, opened, errors, wanted.max_queue_delay_ms)) as answers,
    ):
        warnings.simplefilter("ignore", TruncatedWarning)  # counted instead
        taken = _followed(itertools.islice(answers, wanted.frames), many.track)
        documents = _taken(_cut_out(taken, wanted.out if many.save_crops else None), writer, json, truncated)
    if json:
        emit_json(documents)
    for path in writer.paths if writer else ():
        console().print(f"wrote {path}", soft_wrap=True, markup=False)
    _note_truncated(truncated, predictor.info, predictor.options)
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        console().print(f"skipped {error}", soft_wrap=True, markup=False)
    if errors and isinstance(opened, Sources):
        raise InputError(f"{len(errors)} of {len(opened)} sources could not be used whole (named above)")
    if errors:
        raise InputError(f"{_names(opened)}: {len(errors)} faults, named above")


def _names(opened: list[Any]) -> str:
    from edgekit.runtime.live import LiveSource

    return ", ".join(each.name if isinstance(each, LiveSource) else str(each.paths[0]) for each in opened)


def _followed(answers: Iterator[tuple[Any, Any]], track: bool) -> Iterator[tuple[Any, Any]]:
    """The answers, with the tracks of objects in videos and streams."""
    from edgekit.runtime.many.tracks import Tracker

    followed: dict[int, tuple[Path, Tracker]] = {}  # of each source that is read at once
    for frame, result in answers:
        if track and frame.frame is not None:
            place, follow = followed.get(frame.source, (None, None))
            if follow is None or frame.path != place:
                follow = Tracker(frame.fps)
                followed[frame.source] = frame.path, follow
            follow(result)
        yield frame, result


def _cut_out(answers: Iterator[tuple[Any, Any]], folder: Path | None) -> Iterator[tuple[Any, Any]]:
    """The answers, whose objects are written to ``folder``."""
    from edgekit.runtime.many.crops import save_crops

    for number, (frame, result) in enumerate(answers):
        if folder is not None:
            save_crops(result, frame, folder, number)
        yield frame, result


def _note_truncated(truncated: Counter[str], info: Any, options: Any) -> None:
    """Say on standard error in how many images there may be more objects, and why; not of a --max-det that was given
    for the purpose."""
    from edgekit.runtime.postprocess import truncation

    for reason, images in truncated.items():
        if reason != "max_det" or options.max_det == MAX_DET:
            note(f"{images} image{'s' * (images > 1)}: {truncation(reason, info, options)}")


def _opened(source: list[str], stride: int, patience: float) -> Any:
    """``Sources``, or a list of what is read at once where a camera or stream is among it.

    Raises:
        UsageError: one is given twice.
    """
    from edgekit.runtime.live import LiveSource, is_live
    from edgekit.runtime.sources import open_sources
    from edgekit.runtime.stream import distinct

    named: list[Any] = [int(s) if s.isdecimal() and not Path(s).exists() else s for s in source]
    if not any(is_live(s) for s in named):
        return open_sources(source, stride)
    return distinct(
        [LiveSource(s, patience, stride=stride) if is_live(s) else open_sources([s], stride) for s in named]
    )


def _answers(
    predictor: Any, opened: Any, errors: list[Any], delay_ms: float | None
) -> Generator[tuple[Any, Any], None, None]:
    """Every frame with its result, in order, or the newest of live sources. What cannot be used goes to ``errors``."""

    def failed(frame: Any) -> None:
        errors.append(frame.error)
        if isinstance(opened, list) and len(opened) > 1:
            note(f"{frame.error}; the others go on")

    with predictor.stream(opened, max_queue_delay_ms=delay_ms, on_error=failed) as stream:
        if isinstance(opened, list):
            yield from _until_asked(stream, errors)
        else:
            yield from track(stream, "predicting", opened.total)


def _until_asked(stream: Any, errors: list[Any]) -> Generator[tuple[Any, Any], None, None]:
    """The newest frames until Ctrl-C; what was seen is kept when the source dies, too."""
    from edgekit.errors import InputError

    with _asked_to_end() as asked:
        try:
            for answer in stream:
                yield answer
                if asked.is_set():
                    break
        except InputError as error:
            errors.append(error)
        finally:
            console().print(f"{stream.answered} frames, {stream.dropped} dropped for newer ones")


@contextlib.contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, wherever the program is; the second interrupts as usual."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def _taken(
    answers: Iterator[tuple[Any, Any]], writer: Any, json: bool, truncated: Counter[str]
) -> list[dict[str, Any]]:
    """The JSON documents of all answers, which are drawn and written where there is a writer; adds to ``truncated``
    images by limit met."""
    documents = []
    with writer or contextlib.nullcontext():
        for frame, result in answers:
            truncated.update(result.truncated)
            if json:
                documents.append(result.to_dict())
            if writer:
                writer.write(frame, result.plot(frame.image))
    return documents
