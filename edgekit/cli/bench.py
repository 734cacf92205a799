"""`edgekit bench`: how long a call takes, where the time goes and how good the answers are, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.bench.options import BenchOptions
from edgekit.cli import _bench_tables as tables
from edgekit.cli._common import Force, Json, check_out, console, emit_json, write_json
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.errors import GateError, UsageError
from edgekit.runtime.options import OpenOptions, Options

if TYPE_CHECKING:
    from edgekit.data.dataset import Dataset
    from edgekit.runtime.predictor import Predictor
    from edgekit.runtime.setting import Setting

MOVED = {"--table": "table"}  # an option once, a command now

Records = list[dict[str, Any]]


def command(
    model: Annotated[
        list[Path],
        typer.Argument(help="Bundles, checkpoints, ONNX files and OpenVINO folders, those of other tools included."),
    ],
    wanted: BenchOptions,
    how: Annotated[OpenOptions, Only("task", "outputs", "imgsz", "device")],
    keep: Annotated[Options, Only("conf")],
    out: Annotated[Path | None, typer.Option(help="Write the JSON document to this file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Time models, interleaved, on real images: pre-processing, network, post-processing, the whole call."""
    check_out(out, force)
    names = _names(model, wanted.baseline)
    _check_files(model, wanted)
    opening = _Opening(how, keep.conf, wanted.threads)
    failures: list[str] = []
    if wanted.throughput or wanted.cameras:
        show = tables.throughput if wanted.throughput else tables.cameras
        records = (_throughput if wanted.throughput else _cameras)(names, opening, wanted)
    else:
        gate = _gate(wanted)
        records = _times(names, opening, wanted)
        show, failures = tables.times, gate(records)
    if wanted.require_stable:
        unstable = dict.fromkeys(d for record in records for d in record["disturbances"])
        failures += [f"the run was disturbed: {'; '.join(unstable)}"] if unstable else []
    _finish(records, failures, show, json, out)
    if wanted.store:
        _store(model, records)


@dataclass(frozen=True)
class _Opening:
    """How the models are opened: the options they share."""

    how: OpenOptions
    conf: float
    threads: tuple[int, ...]

    def options(self) -> dict[str, Any]:
        """Arguments of ``edgekit.bundle.loading.load``, JSON-ready."""
        same = {
            "device": self.how.device,
            "imgsz": self.how.imgsz,
            "task": self.how.task,
            "outputs": self.how.outputs,
            "conf": self.conf,
        }
        return {**same, "threads": self.threads[0] if self.threads else None, "foreign": True, "plan": False}

    def load(self, name: str) -> Predictor:
        from edgekit.bundle.loading import load

        return load(name, **self.options())

    def served(self, name: str, setting: Setting) -> Predictor:
        from edgekit.bundle.loading import load

        chosen = setting.options(OpenOptions())
        return load(name, **{**self.options(), **{n: getattr(chosen, n) for n in ("streams", "batch", "threads")}})

    def streams(self, name: str, count: int, threads: int | None) -> list[Predictor]:
        from edgekit.bundle.loading import open_streams
        from edgekit.runtime.predictor import Predictor

        how = self.how
        sessions = open_streams(name, count, how.device, threads, how.imgsz, True, how.task, how.outputs)
        return [Predictor(session, Options(conf=self.conf)) for session in sessions]


def _names(models: Sequence[Path], baseline: str | None) -> list[str]:
    names = [str(path) for path in models]
    places = [path.resolve() for path in models]
    twice = next((name for i, name in enumerate(names) if places[i] in places[:i]), None)
    if twice is not None:
        raise UsageError(f"bench: {twice} is given twice; copy it to compare a model with itself")
    if baseline is not None and baseline not in names:
        raise UsageError(f"`baseline` {baseline}: not among the models: {', '.join(names)}")
    return names


def _check_files(models: Sequence[Path], wanted: BenchOptions) -> None:
    """Refuse what is not there before anything is loaded."""
    from edgekit.bundle import preflight
    from edgekit.bundle.planned import check_storable
    from edgekit.runtime.sources import open_sources

    preflight.check_models(models)
    for path in models if wanted.store else ():
        check_storable(path)
    if wanted.data is not None:
        preflight.check_data(wanted.data)
    if wanted.images:
        open_sources(wanted.images)


def _gate(wanted: BenchOptions) -> Callable[[Records], list[str]]:
    """The speed gate as a function from records to failures; the old results are read now, before time is spent."""
    from edgekit.bench import gate

    old = gate.load_results(wanted.against) if wanted.against else None

    def judge(records: Records) -> list[str]:
        if old is None:
            return []
        verdict = gate.against(old, records, wanted.max_slowdown)
        for note in verdict.notes:
            console().print(note, soft_wrap=True, markup=False)
        return verdict.failures

    return judge


def _datasets(wanted: BenchOptions, predictors: Mapping[str, Predictor]) -> dict[str, Dataset]:
    """The labelled set in each model's order of classes; empty without ``--data``."""
    data = wanted.data
    if data is None:
        return {}
    from edgekit.bench.run import check_tasks
    from edgekit.data.open import open_split
    from edgekit.verify.evaluate import labels_for

    check_tasks(predictors)
    task = next(iter(predictors.values())).info.task
    dataset = open_split(data, task, wanted.split, wanted.images)
    return {name: labels_for(predictor.session, dataset) for name, predictor in predictors.items()}


@contextmanager
def _progress() -> Iterator[Callable[[float, str], None]]:
    with Phases("timing") as status:
        yield lambda share, what: status.update(f"{share:.0%}: {what}")


def _times(names: Sequence[str], opening: _Opening, wanted: BenchOptions) -> Records:
    """Times side by side, and what was asked for beside them."""
    from edgekit.bench.clock import ClockOptions
    from edgekit.bench.run import bench
    from edgekit.verify.images import images_for

    with ExitStack() as stack:
        predictors = {name: stack.enter_context(opening.load(name)) for name in names}
        sets = _datasets(wanted, predictors)
        pictures = images_for(wanted.images, next(iter(sets.values()), None))
        clock = ClockOptions(width=wanted.width, budget_s=wanted.budget * len(names))
        with _progress() as progress:
            records = bench(predictors, pictures, clock, wanted.baseline, progress)
        for record, (name, predictor) in zip(records, predictors.items(), strict=True):
            post_ms = record["post_ms"]["p50"] if wanted.profile else None
            record |= _extras(name, predictor, pictures, opening, sets.get(name), post_ms, wanted.cold)
    return records


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
    with Phases(f"looking closer at {name}"):
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
    from edgekit.verify.evaluate import evaluate

    evaluation = evaluate(predictor, dataset)
    metric = tasks.get(predictor.info.task).metric
    figures = evaluation.scores.metrics
    same = {"images": evaluation.images, "skipped": len(evaluation.skipped), "protocol": evaluation.protocol}
    return {"metric": metric, "value": figures[metric], "metrics": figures, **same}


def _throughput(names: Sequence[str], opening: _Opening, wanted: BenchOptions) -> Records:
    from functools import partial

    from edgekit.bench.run import check_tasks, choices, sweep
    from edgekit.verify.images import images_for

    pictures = images_for(wanted.images)
    with ExitStack() as stack:
        infos = {name: stack.enter_context(opening.load(name)) for name in names}
        check_tasks(infos)
        configs = {n: choices(p.info.batch, wanted.streams, wanted.batches, wanted.threads) for n, p in infos.items()}
    with _progress() as progress:
        return [sweep(name, partial(opening.streams, name), pictures, configs[name], progress) for name in names]


def _cameras(names: Sequence[str], opening: _Opening, wanted: BenchOptions) -> Records:
    from functools import partial

    from edgekit.bench.cameras import clock, race, settings
    from edgekit.bench.run import check_tasks
    from edgekit.verify.images import images_for

    assert wanted.cameras is not None
    pictures, count = images_for(wanted.images), wanted.cameras
    with ExitStack() as stack:
        found = {name: stack.enter_context(opening.load(name)) for name in names}
        check_tasks(found)
        asked = wanted.streams, wanted.batches, wanted.threads
        tried = {name: settings(count, each.info.batch, *asked) for name, each in found.items()}
    how = clock(wanted.budget, wanted.width)
    with _progress() as progress:
        return [race(n, partial(opening.served, n), pictures, count, tried[n], how, progress) for n in names]


def _store(models: Sequence[Path], records: Records) -> None:
    from edgekit.bundle.planned import store
    from edgekit.runtime.setting import Setting

    for path, record in zip(models, records, strict=True):
        best = record["best"]
        evidence = {name: record[name] for name in ("cameras", "settings", "reliable", "disturbances", "machine")}
        store(path, Setting(best["streams"], best["batch"], best["threads"]), evidence)
        console().print(f"stored in {path}: edgekit.load uses it on machines like this", soft_wrap=True, markup=False)


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
