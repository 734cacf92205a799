"""`edgekit train`: a network, learnt from labelled images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import (
    Classes,
    CocoImages,
    Device,
    Force,
    ImgSz,
    Json,
    LabelWords,
    Seed,
    Threads,
    Val,
    ValFraction,
    console,
    emit_json,
)
from edgekit.errors import UsageError


def command(
    data: Annotated[Path, typer.Argument(help="A data.yaml, a COCO JSON, or a folder of class folders.")],
    model: Annotated[
        str | None,
        typer.Option(help="A name: random start. A checkpoint: fine-tuning. Default: yolo12n.", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="detect, segment, pose, obb or classify. Default: the model's.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/DATA-MODEL.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run at --out, exactly where it was.")
    ] = False,
    images: CocoImages = None,
    val: Val = None,
    val_fraction: ValFraction = None,
    classes: Classes = None,
    single_class: Annotated[bool, typer.Option("--single-class", help="Learn all classes as one, `object`.")] = False,
    label_options: LabelWords = "",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 100,
    batch: Annotated[
        str, typer.Option(help="Images per run. Of all processes together; auto: what fits, at most --nominal.")
    ] = "16",
    nominal: Annotated[int, typer.Option(help="Images per optimiser step; smaller batches are accumulated.")] = 64,
    imgsz: ImgSz = None,
    optimizer: Annotated[str, typer.Option(help="auto, sgd or adamw.")] = "auto",
    lr: Annotated[
        float | None, typer.Option(help="Learning rate. Default: the optimiser's.", show_default=False)
    ] = None,
    lr_final: Annotated[float, typer.Option(help="Last learning rate over the first.")] = 0.01,
    momentum: Annotated[
        float | None, typer.Option(help="SGD's, or Adam's beta 1. Default: .937 or .9.", show_default=False)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="Default: 5e-4 (classification with SGD 1e-4).", show_default=False)
    ] = None,
    warmup: Annotated[float, typer.Option(help="Epochs in which rate and momentum rise (100 batches at least).")] = 3.0,
    schedule: Annotated[
        str | None, typer.Option(help="linear or cosine. Default: the task's.", show_default=False)
    ] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of a step's gradient.")] = 10.0,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without gain; 0: never.")] = 100,
    close_mosaic: Annotated[int, typer.Option(help="Last epochs without mosaic and mixup.")] = 10,
    freeze: Annotated[int, typer.Option(help="First layers that do not learn.")] = 0,
    freeze_norms: Annotated[bool, typer.Option("--freeze-norms", help="BatchNorms keep their statistics.")] = False,
    activation: Annotated[
        str | None,
        typer.Option(
            help="silu; hardswish, relu, leaky_relu:SLOPE (faster on CPUs). Default: the model's.", show_default=False
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="CKPT", help="Also learn this model's answers.", show_default=False)
    ] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Of a trained model: learn on while convolutions round as INT8 will.")
    ] = False,
    class_weights: Annotated[str, typer.Option(help="none, or auto: rare classes count more.")] = "none",
    augment: Annotated[
        str, typer.Option(metavar="NAME=VALUE,…", help="Changes to the augmentation, or none.", show_default=False)
    ] = "",
    gains: Annotated[
        str, typer.Option(metavar="NAME=VALUE,…", help="Weights of the loss's terms.", show_default=False)
    ] = "",
    val_every: Annotated[int, typer.Option(help="Validate every so many epochs.")] = 1,
    amp: Annotated[str, typer.Option(help="16-bit arithmetic: auto, off, bf16 or fp16.")] = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Let torch.compile optimise the network.")] = False,
    cache: Annotated[str, typer.Option(help="Decoded images: auto, ram, disk or none.")] = "auto",
    workers: Annotated[int | None, typer.Option(help="Image readers. Default: one a core.", show_default=False)] = None,
    log: Annotated[str, typer.Option(metavar="A,B", help="Also log to tensorboard, mlflow or wandb.")] = "",
    device: Device = None,
    threads: Threads = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a model: from scratch by its name, or on from a checkpoint, also one with other classes or another task."""
    from edgekit.data import LabelOptions, account_of
    from edgekit.spec import parse_imgsz
    from edgekit.train.options import TrainOptions

    if not batch.isdigit() and batch != "auto":
        raise UsageError(f"--batch {batch}: give a number of images, or auto")
    options = TrainOptions(
        epochs=epochs,
        batch=0 if batch == "auto" else int(batch),
        nominal=nominal,
        imgsz=parse_imgsz(imgsz) if imgsz else None,
        seed=seed,
        optimizer=optimizer,
        lr=lr,
        lr_final=lr_final,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup=warmup,
        schedule=schedule,
        clip=clip,
        patience=patience,
        close_mosaic=close_mosaic,
        freeze=freeze,
        freeze_norms=freeze_norms,
        activation=activation,
        teacher=teacher,
        qat=qat,
        class_weights=class_weights,
        augment={"none": 1} if augment == "none" else _numbers("--augment", augment),
        gains=_numbers("--gains", gains),
        val=str(val) if val else None,
        val_fraction=val_fraction,
        classes=tuple(part.strip() for part in classes.split(",") if part.strip()) if classes is not None else None,
        single_class=single_class,
        label_options=LabelOptions.from_text(label_options).changes(),
        val_every=val_every,
        device=device or "cpu",
        threads=threads,
        workers=workers,
        cache=cache,
        amp=amp,
        compile=compile,
    )
    folder = (
        out
        or Path("runs")
        / f"{data.resolve().parent.name if data.is_file() else data.name}-{Path(model or 'yolo12n').stem}"
    )
    if not resume and not force and (folder / "resume.pt").exists():
        raise UsageError(f"--out {folder}: holds a run; give --resume to go on with it, --force to start anew")
    from edgekit.bundle import preflight

    if not resume:
        preflight.of_training(data, model, task, teacher, images, folder)
    from edgekit.cli._train_view import View
    from edgekit.train import report
    from edgekit.train.loop import train

    with View([name for name in log.split(",") if name]) as view:
        try:
            result = train(data, model, folder, options, task, images, resume, view)
        except KeyboardInterrupt:
            view.note(f"go on with: edgekit train {data} --out {folder} --resume")
            raise
        report.ended(result, view.note)
    if result.evaluation is None:
        return  # the first of several processes speaks for all
    if json:
        emit_json(
            {
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
        )
    else:
        _print(result)


def _numbers(flag: str, text: str) -> dict[str, float]:
    """``a=1,b=0.5`` as a mapping.

    Raises:
        UsageError: anything else.
    """
    found = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, equals, value = part.partition("=")
        try:
            found[name.strip().replace("-", "_")] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"{flag} {part}: write NAME=NUMBER, several by commas")
    return found


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
