"""`edgekit predict`: a model on images and videos."""

from __future__ import annotations

from collections import Counter
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
    model: Annotated[Path, typer.Argument(help="A bundle, a checkpoint, or an ONNX file edgekit exported.")],
    source: Annotated[list[str], typer.Argument(help="Images, videos, folders or globs.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the annotated pictures and videos. Default: none are written.")
    ] = None,
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
    """Find objects in images and videos; draw them, or print them as JSON."""
    import warnings

    from edgekit.errors import InputError, TruncatedWarning, UsageError
    from edgekit.loading import open_session
    from edgekit.runtime.postprocess import Options
    from edgekit.runtime.predictor import Predictor
    from edgekit.runtime.sources import open_sources

    if out is None and not json:
        raise UsageError("predict: nothing to do with the results; give --out DIR, --json or both")
    sources = open_sources(source)
    session = open_session(model, device, threads, imgsz, cache=cache or False)
    options = Options(conf, iou, max_det, parse_classes(classes, session.info.names), agnostic)
    truncated: Counter[str] = Counter()
    with Predictor(session, options, session.info.batch or batch) as predictor, warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncatedWarning)  # counted instead
        documents, errors, written = _run(predictor, sources, out, json, truncated)
    if json:
        emit_json(documents)
    for path in written:
        console().print(f"wrote {path}")
    _note_truncated(truncated, session.info, options)
    if len(errors) == 1:
        raise errors[0]
    for error in errors:
        console().print(f"[red]skipped[/red] {error}", soft_wrap=True)
    if errors:
        raise InputError(f"{len(errors)} of {len(sources)} sources could not be used (named above)")


def _note_truncated(truncated: Counter[str], info: Any, options: Any) -> None:
    """Say on standard error in how many images there may be more objects, and why; not of a --max-det that was given
    for the purpose."""
    from edgekit.runtime.postprocess import truncation

    for reason, images in truncated.items():
        if reason != "max_det" or options.max_det == MAX_DET:
            note(f"{images} image{'s' * (images > 1)}: {truncation(reason, info, options)}")


def _run(
    predictor: Any, sources: Any, out: Path | None, json: bool, truncated: Counter[str]
) -> tuple[list[dict[str, Any]], list[Exception], list[Path]]:
    """Every frame through the model, a batch at a time; adds to ``truncated`` images by limit met.

    Returns:
        The JSON documents, what failed, what was written.
    """
    import contextlib

    from edgekit.runtime.writer import open_writer

    documents: list[dict[str, Any]] = []
    errors: list[Exception] = []
    waiting: list[Any] = []
    with open_writer(out) if out else contextlib.nullcontext() as writer:

        def flush() -> None:
            for frame, result in zip(waiting, predictor.predict([f.image for f in waiting]), strict=True):
                result.image, result.frame = str(frame.path), frame.frame
                truncated.update(result.truncated)
                if json:
                    documents.append(result.to_dict())
                if writer:
                    writer.write(frame, result.plot(frame.image))
            waiting.clear()

        for frame in track(sources, "predicting", sources.total):
            if frame.error is not None:
                errors.append(frame.error)
                continue
            waiting.append(frame)
            if len(waiting) == predictor.batch:
                flush()
        flush()
    return documents, errors, writer.paths if writer else []
