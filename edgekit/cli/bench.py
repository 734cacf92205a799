"""`edgekit bench`: how long a call takes, where the time goes and how good the answers are, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli import _bench_table
from edgekit.cli import _bench_tables as tables
from edgekit.cli._common import (
    Conf,
    Device,
    Force,
    ImgSz,
    Json,
    console,
    emit_json,
    refuse_existing,
    write_json,
)
from edgekit.errors import GateError, UsageError

if TYPE_CHECKING:
    from edgekit.data.dataset import Dataset
    from edgekit.runtime.predictor import Predictor

BUDGET_S, TABLE_BUDGET_S = 20.0, 90.0  # most stop long before; scale x takes seconds a call and needs forty

Records = list[dict[str, Any]]


def command(
    model: Annotated[
        list[Path] | None,
        typer.Argument(help="Bundles, checkpoints, ONNX files and OpenVINO folders, those of other tools included."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Images: a file, a folder or a glob, as often as needed. Default: generated ones. --data's come "
            "before them; of a COCO JSON this is where its images are."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A labelled set: measure accuracy on it too.")] = None,
    split: Annotated[str, typer.Option(help="Of --data: train, val or test.")] = "val",
    baseline: Annotated[str | None, typer.Option(help="Model that ratios are against. Default: the first.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=1, help="Seconds per model, at most. Default: 20, and 90 with --table.")
    ] = None,
    width: Annotated[float, typer.Option(help="Stop when medians are known to this fraction.")] = 0.03,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time each operator type and stage, and say what would save most.")
    ] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Also time the first call of a fresh process; memory.")] = False,
    throughput: Annotated[
        bool, typer.Option("--throughput", help="Instead: images per second over streams, batches and threads.")
    ] = False,
    streams: Annotated[
        str | None, typer.Option(metavar="N,N", help="For --throughput. Default: up to the cores.")
    ] = None,
    batches: Annotated[
        str | None, typer.Option("--batches", metavar="N,N", help="For --throughput. Default: the model's.")
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="CPU threads. Default: the runtime's choice. Of each stream, and several, with --throughput.",
        ),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="Older results: fail if a model got slower.")] = None,
    max_slowdown: Annotated[str, typer.Option("--max-slowdown", metavar="N%", help="What --against allows.")] = "10%",
    require_stable: Annotated[
        bool, typer.Option("--require-stable", help="Fail when the machine disturbed the run.")
    ] = False,
    table: Annotated[
        bool, typer.Option("--table", help="Instead: the model-scale table, beside the published figures.")
    ] = False,
    targets: Annotated[
        str, typer.Option(metavar="A,B", help="Columns of --table. The first is what ratios are against.")
    ] = "ort-fp32,ov-fp32,ov-fp16",
    scales: Annotated[str, typer.Option(metavar="NSMLX", help="Rows of --table.")] = "nsmlx",
    family: Annotated[str, typer.Option(help="Of --table: v1.0 or turbo.")] = "v1.0",
    weights: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints for --table, yolo12n.pt … Default: random ones.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A manifest of `edgekit calibrate` for the INT8 targets of --table.")
    ] = None,
    max_drop: Annotated[float, typer.Option("--max-drop", min=0, help="Points INT8 may lose in --table.")] = 0.5,
    keep: Annotated[
        Path | None, typer.Option(help="Folder to keep the bundles of --table in, and to take them from the next time.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the JSON document to this file; of --table also .md or .csv.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="What a model of another tool is for, if it does not say.")] = None,
    imgsz: ImgSz = None,
    conf: Conf = 0.25,
    device: Device = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Time models, interleaved, on real images: pre-processing, network, post-processing, the whole call."""
    if out is not None:
        refuse_existing(out, force)
        if not out.parent.is_dir():
            raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    seconds = budget or (TABLE_BUDGET_S if table else BUDGET_S)
    if table:
        _alone("--table", model=model, throughput=throughput, **_extra(baseline, profile, cold, against))
        chosen = _bench_table.options(scales, targets, family, task, imgsz, weights, threads, seconds, width)
        inputs = _bench_table.Inputs(data, split, images, calibration, max_drop)
        _bench_table.run(chosen, inputs, out, keep, require_stable, json)
        return
    if not model:
        raise UsageError("bench: give at least one MODEL, or --table")
    names = _names(model, baseline)
    _check_files(model, data, images)
    opening = _Opening(device, imgsz, conf, task, _numbers("--threads", threads))
    if throughput:
        _alone("--throughput", data=data, **_extra(baseline, profile, cold, against))
        sizes = _numbers("--streams", streams), _numbers("--batches", batches)
        records = _throughput(names, opening, images, *sizes)
        show, failures = tables.throughput, []
    else:
        if streams or batches or len(opening.threads) > 1:
            raise UsageError("--streams, --batches and several --threads go with --throughput")
        from edgekit.verify.images import images_for

        gate = _gate(against, max_slowdown)
        with ExitStack() as stack:
            predictors = {name: stack.enter_context(opening.load(name)) for name in names}
            sets = _datasets(data, split, images, predictors)
            pictures = images_for(images, next(iter(sets.values()), None))
            records = _times(predictors, pictures, seconds * len(names), width, baseline)
            for record, (name, predictor) in zip(records, predictors.items(), strict=True):
                post_ms = record["post_ms"]["p50"] if profile else None
                record |= _extras(name, predictor, pictures, opening, sets.get(name), post_ms, cold)
        show, failures = tables.times, gate(records)
    if require_stable:
        unstable = dict.fromkeys(d for record in records for d in record["disturbances"])
        failures += [f"the run was disturbed: {'; '.join(unstable)}"] if unstable else []
    _finish(records, failures, show, json, out)


@dataclass(frozen=True)
class _Opening:
    """How the models are opened: the options they share."""

    device: str | None
    imgsz: str | None
    conf: float
    task: str | None
    threads: list[int]

    def options(self) -> dict[str, Any]:
        """Arguments of ``edgekit.bundle.loading.load``, JSON-ready."""
        threads = self.threads[0] if self.threads else None
        same = {"device": self.device, "threads": threads, "imgsz": self.imgsz, "conf": self.conf}
        return {**same, "foreign": True, "task": self.task}

    def load(self, name: str) -> Predictor:
        from edgekit.bundle.loading import load

        return load(name, **self.options())

    def streams(self, name: str, count: int, threads: int | None) -> list[Predictor]:
        from edgekit.bundle.loading import open_streams
        from edgekit.runtime.postprocess import Options
        from edgekit.runtime.predictor import Predictor

        sessions = open_streams(name, count, self.device, threads, self.imgsz, True, self.task)
        return [Predictor(session, Options(conf=self.conf)) for session in sessions]


def _names(models: Sequence[Path], baseline: str | None) -> list[str]:
    names = [str(path) for path in models]
    places = [path.resolve() for path in models]
    twice = next((name for i, name in enumerate(names) if places[i] in places[:i]), None)
    if twice is not None:
        raise UsageError(f"bench: {twice} is given twice; copy it to compare a model with itself")
    if baseline is not None and baseline not in names:
        raise UsageError(f"--baseline {baseline}: not among the models: {', '.join(names)}")
    return names


def _check_files(models: Sequence[Path], data: Path | None, images: list[str] | None) -> None:
    """Refuse what is not there before anything is loaded."""
    from edgekit.bundle import preflight
    from edgekit.runtime.sources import open_sources

    preflight.check_models(models)
    if data is not None:
        preflight.check_data(data)
    if images:
        open_sources(images)


def _numbers(flag: str, text: str | None) -> list[int]:
    """``"1,2"`` as [1, 2]; empty where the option was not given."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise UsageError(f"{flag} {text}: give whole numbers of at least 1, by commas")
    return list(dict.fromkeys(int(part) for part in parts))


def _extra(baseline: str | None, profile: bool, cold: bool, against: Path | None) -> dict[str, Any]:
    return {"baseline": baseline, "profile": profile, "cold": cold, "against": against}


def _alone(mode: str, **options: Any) -> None:
    given = ["MODEL" if name == "model" else f"--{name}" for name, value in options.items() if value]
    if given:
        raise UsageError(f"{mode} answers a question of its own: drop {' and '.join(given)}")


def _gate(against: Path | None, max_slowdown: str) -> Callable[[Records], list[str]]:
    """The speed gate as a function from records to failures; the old results are read now, before time is spent."""
    from edgekit.bench import gate

    limit = gate.parse_share(max_slowdown, "--max-slowdown")
    old = gate.load_results(against) if against else None

    def judge(records: Records) -> list[str]:
        if old is None:
            return []
        verdict = gate.against(old, records, limit)
        for note in verdict.notes:
            console().print(note, soft_wrap=True, markup=False)
        return verdict.failures

    return judge


def _datasets(
    data: Path | None, split: str, images: list[str] | None, predictors: Mapping[str, Predictor]
) -> dict[str, Dataset]:
    """The labelled set in each model's order of classes; empty without ``--data``."""
    if data is None:
        return {}
    from edgekit.bench.run import check_tasks
    from edgekit.data.open import open_split
    from edgekit.evaluate import labels_for

    check_tasks(predictors)
    task = next(iter(predictors.values())).info.task
    dataset = open_split(data, task, split, images)
    return {name: labels_for(predictor.session, dataset) for name, predictor in predictors.items()}


@contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    with console().status("timing") as status:
        yield lambda share, what: status.update(f"{share:.0%}: {what}")


def _times(
    predictors: Mapping[str, Predictor], pictures: Sequence[Any], budget: float, width: float, baseline: str | None
) -> Records:
    from edgekit.bench.clock import ClockOptions
    from edgekit.bench.run import bench

    with _progress() as progress:
        return bench(predictors, pictures, ClockOptions(width=width, budget_s=budget), baseline, progress)


def _extras(
    name: str,
    predictor: Predictor,
    pictures: Sequence[Any],
    opening: _Opening,
    dataset: Dataset | None,
    profiled_post_ms: float | None,
    cold: bool,
) -> dict[str, Any]:
    """What was asked for beside the times; a profile where the time of post-processing is given for it."""
    from edgekit.bench import profile as profiling
    from edgekit.bench import run
    from edgekit.bench.hints import hints

    found: dict[str, Any] = {}
    with console().status(f"looking closer at {name}"):
        if profiled_post_ms is not None:
            found["profile"] = profile = profiling.profile(predictor, pictures)
            profile["hints"] = hints(predictor, profile, profiled_post_ms)
        if cold:
            found["cold"] = run.cold(name, pictures[0], opening.options())
        if dataset is not None:
            found["accuracy"] = _accuracy(predictor, dataset)
    return found


def _accuracy(predictor: Predictor, dataset: Dataset) -> dict[str, Any]:
    from edgekit import tasks
    from edgekit.evaluate import evaluate

    evaluation = evaluate(predictor, dataset)
    metric = tasks.get(predictor.info.task).metric
    figures = evaluation.scores.metrics
    same = {"images": evaluation.images, "skipped": len(evaluation.skipped), "protocol": evaluation.protocol}
    return {"metric": metric, "value": figures[metric], "metrics": figures, **same}


def _throughput(
    names: Sequence[str], opening: _Opening, images: list[str] | None, streams: list[int], batches: list[int]
) -> Records:
    from functools import partial

    from edgekit.bench.run import check_tasks, choices, sweep
    from edgekit.verify.images import images_for

    pictures = images_for(images)
    with ExitStack() as stack:
        infos = {name: stack.enter_context(opening.load(name)) for name in names}
        check_tasks(infos)
        configs = {n: choices(p.info.batch, streams, batches, opening.threads) for n, p in infos.items()}
    with _progress() as progress:
        return [sweep(name, partial(opening.streams, name), pictures, configs[name], progress) for name in names]


def _finish(
    records: Records, failures: Sequence[str], show: Callable[[Records], None], json: bool, out: Path | None
) -> None:
    """Show and write the records; a failed gate leaves nothing at ``out`` and its evidence beside it.

    Raises:
        GateError: there are failures.
    """
    if json:
        emit_json(records)
    else:
        show(records)
    if out is not None:
        evidence = out.with_name(out.name + ".failed.json")
        if failures:
            write_json(evidence, {"failures": failures, "records": records})
        else:
            write_json(out, records)
            evidence.unlink(missing_ok=True)
    if failures:
        raise GateError("; ".join(failures))
