"""`edgekit val`: how accurate a model is on a labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import (
    Batch,
    CocoImages,
    Device,
    Force,
    ImgSz,
    Json,
    LabelWords,
    Threads,
    console,
    emit_json,
    note,
    refuse_existing,
    write_json,
)


def command(
    model: Annotated[Path, typer.Argument(help="A bundle, a checkpoint, an ONNX file, or another tool's model.")],
    data: Annotated[Path, typer.Argument(help="A data.yaml, a COCO JSON, or a folder of class folders.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    images: CocoImages = None,
    label_options: LabelWords = "",
    protocol: Annotated[
        str, typer.Option(help="coco, or peer: as the tool that made the published checkpoints measures.")
    ] = "coco",
    rotated_iou: Annotated[
        str, typer.Option("--rotated-iou", help="probiou or polygon, for oriented boxes.")
    ] = "probiou",
    as_deployed: Annotated[
        bool, typer.Option("--as-deployed", help="Give a checkpoint the head its bundles have, not the raw one.")
    ] = False,
    save_json: Annotated[
        Path | None, typer.Option("--save-json", help="Write the predictions as COCO results.", show_default=False)
    ] = None,
    max_det: Annotated[
        int | None,
        typer.Option(
            "--max-det",
            min=1,
            help="Keep at most this many objects per image. Default: 300, and of a class COCO's 100 (keypoints 20).",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="What a model of another tool is for, if it does not say.")] = None,
    imgsz: ImgSz = None,
    batch: Batch = 1,
    device: Device = None,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure accuracy: COCO metrics, rotated mAP or top-1/top-5, per class, from checkpoints and artifacts alike."""
    if save_json is not None:
        refuse_existing(save_json, force, "--save-json")
    from edgekit import metrics
    from edgekit.bundle import preflight
    from edgekit.bundle.loading import open_session
    from edgekit.data import LabelOptions, account_of, open_dataset
    from edgekit.evaluate import evaluate, labels_for
    from edgekit.runtime.predictor import Predictor

    scoring = metrics.Options(protocol, rotated_iou, max_det=max_det)
    options = LabelOptions.from_text(label_options)
    preflight.check_models([model])
    preflight.check_data(data)
    session = open_session(model, device, threads, imgsz, "topk" if as_deployed else "raw", foreign=True, task=task)
    with Predictor(session, batch=session.info.batch or batch) as predictor:
        dataset = labels_for(session, open_dataset(data, session.info.task, split, images, options=options))
        with _bar(len(dataset)) as progress:
            evaluation = evaluate(predictor, dataset, scoring, progress)
    advice = metrics.threshold_curves(dataset, evaluation.predictions).best() if _detects(session.info) else []
    if save_json is not None:
        write_json(save_json, evaluation.predictions)
    if json:
        document = {"model": str(model), "target": session.target, **evaluation.to_dict(), "operating_points": advice}
        emit_json({**document, "data": account_of(dataset).to_dict()})
    else:
        _print(evaluation, advice)
    for sentence in evaluation.skipped:
        console().print(f"[yellow]not scored:[/yellow] {sentence}", soft_wrap=True)
    for sentence in evaluation.notes:
        note(sentence)


def _detects(info: Any) -> bool:
    from edgekit import tasks

    return tasks.get(info.task).detects


def _bar(total: int) -> Any:
    """A context whose value is called with the number of images done."""
    import contextlib

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextlib.contextmanager
    def bar() -> Any:
        columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console(), transient=True, disable=not console().is_terminal) as progress:
            task = progress.add_task("", total=total)
            yield lambda done: progress.update(task, completed=done)

    return bar()


def _print(evaluation: Any, advice: list[dict[str, Any]]) -> None:
    from rich.table import Table

    points = {row["class"]: row for row in advice}
    metrics = evaluation.scores.metrics
    table = Table(title=f"{evaluation.images} images", caption=evaluation.protocol)
    for heading in ("class", "images", "objects", *metrics, *(("best conf", "precision", "recall") if advice else ())):
        table.add_column(heading, justify="left" if heading == "class" else "right")

    def row(name: str, images: Any, objects: Any, figures: dict[str, Any]) -> None:
        point = points.get(name)
        cells = [f"{figures[m]:.4f}" if m in figures else "–" for m in metrics]
        cells += [f"{point[k]:.3f}" if point else "–" for k in ("threshold", "precision", "recall")] if advice else []
        table.add_row(name, str(images), str(objects), *cells)

    row("all", evaluation.images, sum(c["instances"] for c in evaluation.scores.per_class), metrics)
    for figures in evaluation.scores.per_class:
        row(figures["class"], figures["images"], figures["instances"], figures)
    console().print(table)
    seconds = evaluation.seconds
    parts = ", ".join(f"{part} {seconds[part]:.2f}" for part in ("read", "pre", "network", "post", "score"))
    console().print(f"{seconds['whole']:.2f} s, of which (overlapping) {parts}")
