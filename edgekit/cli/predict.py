"""`edgekit predict`: a model on images and videos."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import (
    Agnostic,
    Batch,
    Classes,
    Conf,
    Device,
    ImgSz,
    Iou,
    Json,
    MaxDet,
    Threads,
    console,
    emit_json,
    note,
    parse_classes,
    track,
)
from edgekit.spec import MAX_DET


def command(
    model: Annotated[Path, typer.Argument(help="A bundle, a checkpoint, an ONNX file, or another tool's model.")],
    source: Annotated[
        list[str],
        typer.Argument(
            help="Images, videos, folders, globs, numbered series (shot_%04d.png) or their http addresses; or one "
            "camera (0, /dev/video0) or stream (rtsp://…), which Ctrl-C or --frames ends."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the annotated pictures and videos. Default: none are written.")
    ] = None,
    video: Annotated[
        str, typer.Option(help="What annotated videos are written as: mp4, h264 (where OpenCV has it) or gif.")
    ] = "mp4",
    stride: Annotated[int, typer.Option(min=1, help="Of videos and streams, use one in so many frames.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames.", show_default=False)] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds without a frame after which a stream is given up.")
    ] = 30.0,
    task: Annotated[str | None, typer.Option(help="What a model of another tool is for, if it does not say.")] = None,
    imgsz: ImgSz = None,
    conf: Conf = 0.25,
    iou: Iou = 0.7,
    max_det: MaxDet = MAX_DET,
    classes: Classes = None,
    agnostic: Agnostic = False,
    batch: Batch = 1,
    device: Device = None,
    threads: Threads = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps what OpenVINO compiled, for a faster next start: ov-*.")
    ] = None,
    json: Json = False,
) -> None:
    """Find objects in images, videos and streams; draw them, or print them as JSON."""
    import warnings

    from edgekit.bundle.loading import open_session
    from edgekit.errors import InputError, TruncatedWarning, UsageError
    from edgekit.runtime.postprocess import Options
    from edgekit.runtime.predictor import Predictor
    from edgekit.runtime.sources import Sources
    from edgekit.runtime.writer import open_writer

    if out is None and not json:
        raise UsageError("predict: nothing to do with the results; give --out DIR, --json or both")
    opened = _opened(source, stride, patience)
    writer = open_writer(out, video) if out else None
    session = open_session(model, device, threads, imgsz, foreign=True, task=task, cache=cache or False)
    options = Options(conf, iou, max_det, parse_classes(classes, session.info.names), agnostic)
    errors: list[InputError] = []
    truncated: Counter[str] = Counter()
    with (
        Predictor(session, options, session.info.batch or batch) as predictor,
        warnings.catch_warnings(),
        contextlib.closing(_answers(predictor, opened, errors)) as answers,
    ):
        warnings.simplefilter("ignore", TruncatedWarning)  # counted instead
        documents = _taken(itertools.islice(answers, frames), writer, json, truncated)
    if json:
        emit_json(documents)
    for path in writer.paths if writer else ():
        console().print(f"wrote {path}", soft_wrap=True, markup=False)
    _note_truncated(truncated, session.info, options)
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        console().print(f"skipped {error}", soft_wrap=True, markup=False)
    if errors:
        what = f"of {len(opened)} sources" if isinstance(opened, Sources) else f"frames of {opened.name}"
        raise InputError(f"{len(errors)} {what} could not be used whole (named above)")


def _note_truncated(truncated: Counter[str], info: Any, options: Any) -> None:
    """Say on standard error in how many images there may be more objects, and why; not of a --max-det that was given
    for the purpose."""
    from edgekit.runtime.postprocess import truncation

    for reason, images in truncated.items():
        if reason != "max_det" or options.max_det == MAX_DET:
            note(f"{images} image{'s' * (images > 1)}: {truncation(reason, info, options)}")


def _opened(source: list[str], stride: int, patience: float) -> Any:
    """``Sources``, or ``Live`` for a camera or stream, which goes alone.

    Raises:
        UsageError: a camera or stream beside other sources.
    """
    from edgekit.errors import UsageError
    from edgekit.runtime.live import Live, is_live
    from edgekit.runtime.sources import open_sources, shown

    named: list[Any] = [int(s) if s.isdecimal() and not Path(s).exists() else s for s in source]
    live = [s for s in named if is_live(s)]
    if not live:
        return open_sources(source, stride)
    if len(named) > 1:
        raise UsageError(f"predict: {shown(str(live[0]))} has no end, so it goes alone, without other sources")
    return Live(live[0], patience, stride=stride)


def _answers(predictor: Any, opened: Any, errors: list[Any]) -> Generator[tuple[Any, Any], None, None]:
    """Every frame with its result, in order, or the newest of a live source. What cannot be used goes to ``errors``."""
    from edgekit.runtime.live import Live

    with predictor.stream(opened, on_error=lambda frame: errors.append(frame.error)) as stream:
        if isinstance(opened, Live):
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
