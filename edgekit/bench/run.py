"""Times models side by side on the same images: pre-processing, network, post-processing and the whole call.

    records = bench({"a": predictor_a, "b": predictor_b}, images)
    records[0]["whole_ms"]["p50"], records[1]["ratio"]["whole_ms"]["ratio"]

Every contestant is a Predictor, so what is timed is the very call an application makes: array in, Results out.
``cold`` and ``sweep`` are the other two questions: the first call of a fresh process, and images per second.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bench import machine
from edgekit.bench.clock import SCHEMA, ClockOptions, Comparison, measure
from edgekit.bench.cold import cold_start
from edgekit.bench.noise import NoiseMonitor
from edgekit.bench.throughput import Config, Stream, grid, throughput
from edgekit.errors import UsageError
from edgekit.runtime.predictor import STAGES, Predictor

REST_S = 0.15  # more than any runtime was seen spinning after a call
COLD_RUNS = 3
_NOT_COMPUTED_IN = ("i64", "i32", "none")  # indices and shapes

Progress = Callable[[float, str], None]


def bench(
    predictors: Mapping[str, Predictor],
    images: Sequence[Any],
    options: ClockOptions | None = None,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Time every predictor, interleaved, and describe each run as one JSON-ready record.

    Args:
        predictors: artifact name -> predictor.
        images: uint8 BGR arrays ``[h, w, 3]``, cycled.
        options: when to stop and how sure to be. Several predictors rest and lead in whatever it says, so that each
            is timed as if it were alone.
        baseline: name that ratios are taken against; the first by default.
        progress: called with the share of the budget used and a sentence.

    Raises:
        InputError: no predictors, no images, or an unknown baseline.
        UsageError: the models are of different tasks.
    """
    check_tasks(predictors)
    options = options or ClockOptions()
    if len(predictors) > 1:
        options = replace(options, rest_s=REST_S, lead_in=1)
    calls = {name: _call(predictor) for name, predictor in predictors.items()}
    watch = NoiseMonitor(gpu=any(p.session.gpu for p in predictors.values()))
    comparison = measure(calls, images, options, baseline=baseline, progress=progress, watch=watch)
    here = machine.describe()
    return [_record(name, predictors[name], comparison, here) for name in predictors]


def check_tasks(predictors: Mapping[str, Predictor]) -> None:
    """Raise UsageError if two models do not answer the same question."""
    task_of = {name: predictor.info.task for name, predictor in predictors.items()}
    first = next(iter(task_of), "")
    for name, task in task_of.items():
        if task != task_of[first]:
            raise UsageError(
                f"{first} is a {task_of[first]} model and {name} a {task} model; only models of one task compare"
            )


def _call(predictor: Predictor) -> Callable[[Any], dict[str, float]]:
    return lambda image: predictor.timed(image)[1]


def about(name: str, predictor: Predictor) -> dict[str, Any]:
    """What a record says of the model itself."""
    session = predictor.session
    executed = session.precision_by_type()
    computed = {precision: n for precision, n in executed.items() if precision not in _NOT_COMPUTED_IN}
    kernels = session.kernels()
    return {
        "schema": SCHEMA,
        "artifact": name,
        "target": session.target,
        "task": predictor.info.task,
        "imgsz": list(predictor.info.imgsz),
        "head": predictor.info.head,
        "candidates": predictor.info.candidates,
        "precision_executed": max(computed, key=computed.__getitem__) if computed else None,
        "precision_by_type": executed,
        "instruction_sets_executed": machine.executed_sets(kernels) if kernels else None,
    }


def _record(name: str, predictor: Predictor, found: Comparison, here: dict[str, Any]) -> dict[str, Any]:
    return {
        **about(name, predictor),
        **{stage: found.stages[name][stage] for stage in STAGES},
        "ratio": found.ratios.get(name),
        "baseline": found.baseline,
        "rounds": found.rounds,
        "warmup": found.warmup,
        "stopped": found.stopped,
        "seconds": found.seconds,
        "reliable": found.reliable,
        "disturbances": found.disturbances,
        "unmeasured": found.watch["unmeasured"],
        "watch": found.watch,
        "machine": here,
    }


def cold(path: str, image: Any, options: Mapping[str, Any], runs: int = COLD_RUNS) -> dict[str, dict[str, float]]:
    """Milliseconds of the stages of a cold start, and memory, over fresh processes that open ``path``.

    Args:
        path: what ``edgekit.bundle.loading.load`` takes.
        image: uint8 BGR array ``[h, w, 3]``.
        options: of ``load``, JSON-ready.

    Returns:
        ``import_ms`` (edgekit, numpy and OpenCV), ``load_ms`` (the runtime's own import included), ``first_call_ms``,
        ``second_call_ms``, ``process_ms``, ``resident_mib``, ``peak_mib``; see ``cold.cold_start``.
    """
    stages = {
        "import": "import numpy; from edgekit.bundle.loading import load; import edgekit.runtime.predictor",
        "read": "image = numpy.load(pixels)",
        "load": "model = load(path, **options)",
        "first_call": "model.timed(image)",
        "second_call": "model.timed(image)",
    }
    with tempfile.TemporaryDirectory() as folder:
        pixels = str(Path(folder) / "image.npy")
        np.save(pixels, image)
        found = cold_start(stages, {"path": str(path), "pixels": pixels, "options": dict(options)}, runs=runs)
    del found["read_ms"]
    return found


def sweep(
    name: str,
    open_streams: Callable[[int, int | None], Sequence[Predictor]],
    images: Sequence[Any],
    configs: Sequence[Config],
    progress: Progress | None = None,
    seconds: float = 3.0,
) -> dict[str, Any]:
    """Images per second of one model in every configuration, as one JSON-ready record.

    Args:
        open_streams: (number, threads of each or None) -> predictors that may run at the same time.
        configs: ``streams``, ``batch`` and ``threads`` of each, see ``choices``.
        seconds: counted for each.

    Returns:
        What ``bench`` says of the model, ``throughput`` (rows of ``throughput.throughput``), ``best`` (the row with the
        highest median rate) and ``machine``.
    """
    opened: list[Predictor] = []

    def make(config: Config) -> list[Stream]:
        for predictor in opened:
            predictor.close()
        opened[:] = open_streams(config["streams"], config["threads"])
        for predictor in opened:
            predictor.batch = predictor.info.batch or config["batch"]
        return [predictor.predict for predictor in opened]

    rows = throughput(make, images, configs, seconds=seconds, progress=progress)
    record = {
        **about(name, opened[0]),
        "throughput": rows,
        "best": max(rows, key=lambda row: row["items_per_s"]["p50"]),
        "reliable": all(row["reliable"] for row in rows),
        "disturbances": list(dict.fromkeys(d for row in rows for d in row["disturbances"])),
        "machine": machine.describe(),
    }
    for predictor in opened:
        predictor.close()
    return record


def choices(
    fixed_batch: int | None,
    streams: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    threads: Sequence[int] | None = None,
    cores: int | None = None,
) -> list[Config]:
    """The configurations to try: those asked for, or one to as many streams as cores that share the cores evenly.

    Raises:
        UsageError: a batch the model was not built for.
    """
    cores = cores or len(machine.affinity())
    wrong = [b for b in batches or () if fixed_batch not in (None, b)]
    if wrong:
        raise UsageError(
            f"`batches` {wrong[0]}: the model was built for a batch of {fixed_batch}; build another for more"
        )
    batches = batches or ([fixed_batch] if fixed_batch else [1, 4])
    if streams and threads:
        return grid(streams=streams, batch=batches, threads=threads)
    if threads:
        return [{"streams": max(cores // t, 1), "batch": b, "threads": t} for t in threads for b in batches]
    streams = streams or [2**k for k in range(cores.bit_length()) if 2**k < cores] + [cores]
    return [{"streams": s, "batch": b, "threads": max(cores // s, 1)} for s in streams for b in batches]
