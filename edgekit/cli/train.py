"""`edgekit train`: a network, learnt from labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import CocoImages, Force, Json, console, emit_json
from edgekit.cli._options import Without
from edgekit.cli._train_view import View, check_new
from edgekit.runtime.fields import option, words
from edgekit.train.options import TrainOptions


@dataclass(frozen=True)
class RunOptions:
    """What a run begins with, and where it goes."""

    model: str | None = None
    """A name: random start. A checkpoint: fine-tuning. Default: yolo12n."""
    task: str | None = None
    """detect, segment, pose, obb or classify. Default: the model's."""
    out: Path | None = None
    """The run's folder. Default: runs/DATA-MODEL."""
    resume: bool = False
    """Go on with the run at --out, exactly where it was."""
    log: tuple[str, ...] = option((), parse=words, metavar="A,B")
    """Also log to tensorboard, mlflow or wandb."""

    def folder(self, data: Path) -> Path:
        """Where the run is kept."""
        named = data.resolve().parent.name if data.is_file() else data.name
        return self.out or Path("runs") / f"{named}-{Path(self.model or 'yolo12n').stem}"


def command(
    data: Annotated[Path, typer.Argument(help="A data.yaml, a COCO JSON, or a folder of class folders.")],
    run: RunOptions,
    options: Annotated[TrainOptions, Without("ema", "ema_tau", "channels_last", "save_minutes")],
    images: CocoImages = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a model: from scratch by its name, or on from a checkpoint, also one with other classes or another task."""
    from edgekit.bundle import preflight

    folder = run.folder(data)
    check_new(folder, run.resume, force)
    if not run.resume:
        preflight.of_training(data, run.model, run.task, options.teacher, images, folder)
    from edgekit.train import report
    from edgekit.train.loop import train

    with View(run.log) as view:
        try:
            result = train(data, run.model, folder, options, run.task, images, run.resume, view)
        except KeyboardInterrupt:
            view.note(f"go on with: edgekit train {data} --out {folder} --resume")
            raise
        report.ended(result, view.note)
    if result.evaluation is None:
        return  # the first of several processes speaks for all
    if json:
        emit_json(_document(result, view))
    else:
        _print(result)


def _document(result: Any, view: View) -> dict[str, Any]:
    from edgekit.data import account_of

    return {
        "run": result.folder,
        "best": result.best,
        "metrics": result.metrics,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "stopped": result.stopped,
        "skipped_steps": result.skipped_steps,
        "unreadable_images": result.unread,
        "start": str(result.taken),
        "data": {d.split: account_of(d).to_dict() for d in (result.trained_on, result.dataset)},
        "images_per_s": view.images_per_s,
        "seconds": view.seconds,
    }


def _print(result: Any) -> None:
    metrics: Mapping[str, float] = result.metrics
    figures = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    lines = [f"{result.best}: epoch {result.best_epoch} of {result.epochs}, {figures}"]
    if result.stopped:
        lines.append(f"stopped: {result.stopped}")
    if result.skipped_steps:
        lines.append(f"{result.skipped_steps} steps were left out because something in them was not finite")
    lines += [f"not read: {sentence}" for sentence in result.unread[:5]]
    if len(result.unread) > 5:
        lines.append(f"… and {len(result.unread) - 5} more images that could not be read")
    for line in lines:
        console().print(line, soft_wrap=True, highlight=False)
