"""`edgekit val`: how accurate a model is on a labelled set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import (
    CocoImages,
    Force,
    Json,
    LabelWords,
    console,
    emit_json,
    note,
    refuse_existing,
    write_json,
)
from edgekit.cli._options import Only, Without
from edgekit.cli._progress import Counted
from edgekit.metrics.options import Options
from edgekit.runtime.fields import check, option
from edgekit.runtime.options import OpenOptions


@dataclass(frozen=True)
class ValOptions:
    """What is evaluated, and what is kept of it."""

    split: str = "val"
    """train, val or test."""
    deployed_head: bool = option(False, was=("as_deployed",))
    """Give a checkpoint the head its bundles have, not the raw one."""
    batch: int = option(1, least=1)
    """Images per run."""
    save_json: Path | None = None
    """Write the predictions as COCO results."""
    predictions: Path | None = None
    """Score what `edgekit predict --format … --scoring` wrote into this folder; the model is not run."""

    def __post_init__(self) -> None:
        check(self)


def command(
    model: Annotated[Path, typer.Argument(help="A bundle, a checkpoint, an ONNX file, or another tool's model.")],
    data: Annotated[Path, typer.Argument(help="A data.yaml, a COCO JSON, or a folder of class folders.")],
    wanted: ValOptions,
    scoring: Annotated[Options, Without("imgsz")],
    how: Annotated[OpenOptions, Only("task", "outputs", "imgsz", "device", "threads")],
    images: CocoImages = None,
    label_options: LabelWords = "",
    force: Force = False,
    json: Json = False,
) -> None:
    """Measure accuracy: COCO metrics, rotated mAP or top-1/top-5, per class, from checkpoints and artifacts alike."""
    if wanted.save_json is not None:
        refuse_existing(wanted.save_json, force, "save_json")
    from edgekit import metrics
    from edgekit.bundle import preflight
    from edgekit.bundle.loading import open_session
    from edgekit.bundle.planned import for_all
    from edgekit.data import LabelOptions, account_of, open_dataset
    from edgekit.runtime.predictor import Predictor
    from edgekit.verify.evaluate import evaluate, labels_for
    from edgekit.verify.written import check_written, evaluate_written

    reading = LabelOptions.from_text(label_options)
    preflight.check_models([model])
    preflight.check_data(data)
    record = check_written(wanted.predictions, model) if wanted.predictions else None
    session = open_session(model, for_all(model, how), "topk" if wanted.deployed_head else "raw", foreign=True)
    with Predictor(session, batch=session.info.batch or wanted.batch) as predictor:
        dataset = labels_for(session, open_dataset(data, session.info.task, wanted.split, images, options=reading))
        with Counted("evaluating", len(dataset)) as counter:
            if wanted.predictions and record:
                evaluation = evaluate_written(wanted.predictions, record, dataset, scoring)
            else:
                evaluation = evaluate(predictor, dataset, scoring, counter.reach)
    advice = metrics.threshold_curves(dataset, evaluation.predictions).best() if _detects(session.info) else []
    if wanted.save_json is not None:
        write_json(wanted.save_json, evaluation.predictions)
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
