"""`edgekit tune`: a trained model made so many times as fast; or a faster activation for it, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.autotune import parse_speedup
from edgekit.cli import _ladder_table
from edgekit.cli._common import CocoImages, Force, Json, console, emit_json, refuse_existing
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.cli._train_view import View, check_new
from edgekit.errors import GateError, UsageError
from edgekit.runtime.fields import check, option
from edgekit.spec import parse_activation
from edgekit.train.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgekit.bundle.shapes import Size
    from edgekit.checkpoint import Checkpoint
    from edgekit.train.loop import Result

    Learner = Callable[[Size], Path]


@dataclass(frozen=True)
class ReachOptions:
    """How fast it is to be, and what that may cost and take."""

    to: float | None = option(None, parse=parse_speedup, metavar="2x", section="So many times as fast")
    """Take shape, size, INT8 and what else there is, best exchange first, until a call is so many times as fast as the
    model's own at --target; --out is the bundle. Without it: the activation alone."""
    max_drop: float = option(0.5, least=0)
    """Points of the metric (or of agreement, without labels) that may be lost in all."""
    max_f1_drop: float | None = option(None, least=0)
    """Points of F1 that may be lost, too, at the float model's best threshold. Default: beyond --max-drop it warns."""
    max_class_drop: float | None = option(None, least=0)
    """Points of the metric that a class may lose, too. Default: beyond four times --max-drop it warns."""
    source: str | None = option(None, metavar="WxH|PATH")
    """What the camera shows, 1920x1080 or a video, an image or a folder of them. Default: what --data shows."""
    train: Path | None = None
    """Folder of a training, gone on with if it is there: where the rest is not enough, also swap --activation, in
    --epochs epochs."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class TuneOptions:
    """What is swapped, how it is learnt, and what both models are timed for."""

    activation: str = "hardswish"
    """hardswish, relu, leaky_relu:SLOPE or silu."""
    epochs: int = option(10, least=1)
    """Passes over the training images."""
    lr: float = option(5e-4, above=0, below=1e6)
    """Learning rate: low, for the model is trained already."""
    batch: int = option(16, least=1)
    """Images per run."""
    teacher: Path | None = None
    """Whose answers are kept to. Default: the model as it was."""
    target: str | None = None
    """What to time both for. Default: ov-fp16, else ort-fp32."""
    budget: float = option(15.0, least=1)
    """Seconds of timing per model, at most."""
    resume: bool = False
    """Go on with the run at --out, exactly where it was."""

    def __post_init__(self) -> None:
        check(self)
        parse_activation(self.activation)

    def training(self, model: Path, common: TrainOptions) -> TrainOptions:
        """How ``model`` learns."""
        return replace(
            common,
            epochs=self.epochs,
            batch=self.batch,
            nominal_batch=self.batch,  # a short run: every batch is a step
            optimizer="adamw",
            lr=self.lr,
            warmup=1.0,
            patience=0,
            close_mosaic=max(self.epochs // 3, 1),
            activation=self.activation,
            teacher=str(self.teacher or model),
        )


def command(
    model: Annotated[Path, typer.Argument(help="The trained checkpoint.")],
    data: Annotated[Path, typer.Option(help="The set it was trained on, with train and val.")],
    out: Annotated[Path, typer.Option(help="With --to the bundle; else the run's folder, with best.pt.")],
    goal: ReachOptions,
    wanted: TuneOptions,
    common: Annotated[TrainOptions, Only("val", "val_fraction", "imgsz", "seed", "device", "threads", "workers")],
    images: CocoImages = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a trained model so many times as fast within a limit on accuracy, and print what each step cost and gained;
    or swap its activation alone."""
    if goal.to is not None:
        _check_reach(goal, wanted, common, images)
        refuse_existing(out, force)
        _reach(model, data, out, goal, wanted, common, json)
        return
    check_new(out, wanted.resume, force)
    from edgekit.bundle import preflight

    _check_goal(goal)
    options = wanted.training(model, common)
    target = _target(wanted.target)
    preflight.check_models([model])
    preflight.of_training(data, str(model), None, options.teacher, images, out)
    from edgekit import checkpoint
    from edgekit.train.loop import train

    older = checkpoint.load(model)
    if older.spec.activation == wanted.activation:
        raise UsageError(f"`activation` {wanted.activation}: {model} has it already, so there is nothing to swap")
    options = options.replace(imgsz=options.imgsz or older.imgsz)
    with View() as view:
        result = train(data, str(model), out, options, images=images, resume=wanted.resume, watch=view)
    if result.evaluation is None:
        return  # the first of several processes speaks for all
    report = _accuracy(older, result, options) | _latency(model, result, target, wanted.budget, options.threads)
    report = {"model": model, "tuned": result.best, "activation": [older.spec.activation, wanted.activation], **report}
    emit_json(report) if json else _print(report)


def _check_goal(goal: ReachOptions) -> None:
    """Refuse what goes with ``to`` alone.

    Raises:
        UsageError: it was given.
    """
    for name in _given(goal):
        raise UsageError(f"`{name}` goes with `to`, how many times as fast the model is to be")


def _given(options: ReachOptions | TuneOptions) -> list[str]:
    """Names of those that differ from their defaults."""
    return [each.name for each in fields(options) if getattr(options, each.name) != each.default]


def _check_reach(goal: ReachOptions, wanted: TuneOptions, common: TrainOptions, images: list[str] | None) -> None:
    """Refuse what goes without ``to``, or with ``train``, alone.

    Raises:
        UsageError: it was given.
    """
    given = {"resume": wanted.resume, "images": images, "val": common.val, "val_fraction": common.val_fraction}
    for name, value in given.items():
        if value:
            raise UsageError(f"`to` takes no `{name}`: give `data`, a data.yaml with train and val, or pictures")
    for name in _given(wanted):
        if goal.train is None and name not in ("target", "budget"):
            raise UsageError(f"`{name}` with `to` goes with `train`, the folder of the training")


def _reach(
    model: Path, data: Path, out: Path, goal: ReachOptions, wanted: TuneOptions, common: TrainOptions, json: bool
) -> None:
    """Take levers until the model is fast enough; the ladder is shown whether it is or not."""
    from edgekit.autotune.reach import Wanted, reach
    from edgekit.autotune.tuner import LONG_S
    from edgekit.bundle import preflight, shapes
    from edgekit.bundle.options import BuildOptions
    from edgekit.quantize.options import QuantizeOptions

    assert goal.to is not None
    target = _target(wanted.target)
    view = None if goal.source is None else shapes.read_view(goal.source)
    preflight.check_models([model])
    limits = {name: getattr(goal, name) for name in ("max_drop", "max_f1_drop", "max_class_drop")}
    options = BuildOptions(common.imgsz, quantize=QuantizeOptions(data, seed=common.seed, **limits))
    learner, size = None, None
    if goal.train is not None:
        learner, size = _learner(model, data, goal.train, wanted.training(model, common))
    try:
        with Phases("") as status:
            learn = None if learner is None else _aside(status, learner)
            asked = Wanted(goal.to, target, common.threads, learn, wanted.activation, size)
            made = reach(model, out, asked, options, partial(_say, status), wanted.budget / LONG_S, view)
    except GateError as error:
        plan = error.evidence.get("plan")
        if isinstance(plan, dict):
            _ladder_table.show(plan)
        raise
    if json:
        emit_json({"out": out, **made.manifest})
    else:
        _ladder_table.show(made.manifest["plan"], out)


def _say(status: Phases, line: str) -> None:
    """Show what is being done; what was decided stays on the screen."""
    if line.startswith(("note: ", "step ")):
        console().print(line, markup=False, soft_wrap=True)
    else:
        status.update(line)


def _aside(status: Phases, learn: Learner) -> Learner:
    """``learn``, which has a display of its own."""

    def run(size: Size) -> Path:
        with status.aside():
            return learn(size)

    return run


def _learner(model: Path, data: Path, folder: Path, options: TrainOptions) -> tuple[Learner, Size | None]:
    """What trains ``model`` with another activation, at an input size; a run of the same in ``folder`` is gone on with,
    at its own size, which is said.

    Raises:
        InputError, UsageError: it cannot be trained so, or another run is there.
    """
    from edgekit import checkpoint
    from edgekit.bundle import preflight

    preflight.of_training(data, str(model), None, options.teacher, None, folder)
    older, best = checkpoint.load(model), folder / "best.pt"
    if older.spec.activation == options.activation:
        raise UsageError(f"`activation` {options.activation}: {model} has it already, so there is nothing to train")
    begun = (folder / "resume.pt").exists()
    known = checkpoint.load(best) if begun or best.exists() else None
    if known is not None:
        teacher = older if options.teacher == str(model) else checkpoint.load(Path(str(options.teacher)))
        if (known.spec.activation, known.provenance.get("teacher_sha256")) != (options.activation, teacher.sha256):
            raise UsageError(f"`train` {folder}: holds another training; give a new folder")

    def learn(size: Size) -> Path:
        from edgekit.train.loop import train

        with View() as view:
            return train(data, str(model), folder, options.replace(imgsz=size), resume=begun, watch=view).best

    return learn, known.imgsz if known is not None and begun else None


def _target(name: str | None) -> str:
    """What to time for: as asked for, else OpenVINO where it is installed.

    Raises:
        UsageError, InputError: no such target, or nothing here to build it with.
    """
    from edgekit import targets
    from edgekit.errors import InputError

    if name is None:
        return "ort-fp32" if targets.get("ov-fp16").missing() else "ov-fp16"
    reason = targets.get(name).missing()
    if reason:
        raise InputError(reason)
    return name


def _accuracy(older: Checkpoint, result: Result, options: TrainOptions) -> dict[str, Any]:
    """The main metric on the validation images before and after, and the difference in points."""
    from edgekit import tasks
    from edgekit.nn.session import TorchSession
    from edgekit.runtime.predictor import Predictor
    from edgekit.verify.evaluate import evaluate

    session = TorchSession(older.net, older.info(options.imgsz, None), older.path, options.device)
    with Predictor(session, batch=options.batch) as predictor:
        before = evaluate(predictor, result.dataset.with_names(older.names)).scores.metrics
    metric = tasks.get(older.spec.task).metric
    after = result.metrics
    return {
        "metric": metric,
        "accuracy": {"before": before, "after": after, "points": 100 * (after[metric] - before[metric])},
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
    }


def _latency(model: Path, result: Result, target: str, budget: float, threads: int | None) -> dict[str, Any]:
    """Both models built for ``target`` at one size and timed in turns on validation images."""
    import tempfile

    from edgekit.bench.clock import ClockOptions
    from edgekit.bench.run import bench
    from edgekit.bundle.build import build
    from edgekit.bundle.loading import load
    from edgekit.bundle.options import BuildOptions
    from edgekit.verify.images import some_of

    size = _size(result)
    pictures = some_of(result.dataset)
    with tempfile.TemporaryDirectory() as folder, Phases("") as status:
        places = {}
        for name, source in (("before", model), ("after", result.best)):
            status.update(f"building {name} for {target}")
            build(source, target, Path(folder) / name, BuildOptions(imgsz=size))
            places[name] = load(Path(folder) / name, threads=threads)
        status.update("timing both in turns")
        records = bench(places, pictures, ClockOptions(budget_s=2 * budget), baseline="before")
        for predictor in places.values():
            predictor.close()
    ratio = records[1]["ratio"]
    return {
        "target": target,
        "imgsz": list(size),
        "latency": {
            **{record["artifact"]: {key: record[key] for key in ("whole_ms", "network_ms")} for record in records},
            "whole_ratio": ratio["whole_ms"],
            "network_ratio": ratio["network_ms"],
            "reliable": all(record["reliable"] for record in records),
            "disturbances": records[0]["disturbances"],
        },
        "machine": records[0]["machine"],
    }


def _size(result: Result) -> tuple[int, int]:
    from edgekit import checkpoint

    return checkpoint.load(result.best).imgsz


def _print(report: dict[str, Any]) -> None:
    accuracy, latency, metric = report["accuracy"], report["latency"], report["metric"]
    old, new = report["activation"]
    ratio = latency["whole_ratio"]
    lines = [
        f"{report['tuned']}: {new} instead of {old}, {report['epochs']} epochs, best after {report['best_epoch']}",
        f"{metric} {accuracy['before'][metric]:.4f} -> {accuracy['after'][metric]:.4f} "
        f"({accuracy['points']:+.2f} points)",
        f"{report['target']}, whole call: {latency['before']['whole_ms']['p50']:.2f} ms -> "
        f"{latency['after']['whole_ms']['p50']:.2f} ms, ratio {ratio['ratio']:.3f} ({ratio['low']:.3f} to "
        f"{ratio['high']:.3f})",
    ]
    lines += [f"not to be relied on: {sentence}" for sentence in latency["disturbances"]]
    for line in lines:
        console().print(line, soft_wrap=True, highlight=False)
