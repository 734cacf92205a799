"""Times models side by side on the same images: pre-processing, network, post-processing and the whole call.

    records = bench({"a": predictor_a, "b": predictor_b}, images)
    records[0]["whole_ms"]["p50"], records[1]["ratio"]["whole_ms"]["ratio"]

Every contestant is a Predictor, so what is timed is the very call an application makes: array in, Results out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.bench import machine
from edgekit.bench.clock import SCHEMA, ClockOptions, Comparison, measure
from edgekit.runtime.predictor import STAGES, Predictor


def bench(
    predictors: Mapping[str, Predictor],
    images: Sequence[Any],
    options: ClockOptions | None = None,
    baseline: str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Time every predictor, interleaved, and describe each run as one JSON-ready record.

    Args:
        predictors: artifact name -> predictor.
        images: uint8 BGR arrays ``[h, w, 3]``, cycled.
        options: when to stop and how sure to be.
        baseline: name that ratios are taken against; the first by default.
        progress: called with the share of the budget used and a sentence.

    Raises:
        InputError: no predictors, no images, or an unknown baseline.
    """
    calls = {name: _call(predictor) for name, predictor in predictors.items()}
    comparison = measure(calls, images, options, baseline=baseline, progress=progress)
    about = machine.describe()
    return [_record(name, predictors[name], comparison, about) for name in predictors]


def _call(predictor: Predictor) -> Callable[[Any], dict[str, float]]:
    return lambda image: predictor.timed(image)[1]


def _record(name: str, predictor: Predictor, found: Comparison, about: dict[str, Any]) -> dict[str, Any]:
    executed = predictor.session.precision_by_type()
    floats = {p: n for p, n in executed.items() if p not in ("i64", "i32", "none")}
    return {
        "schema": SCHEMA,
        "artifact": name,
        "target": predictor.session.target,
        "task": predictor.info.task,
        "imgsz": list(predictor.info.imgsz),
        "precision_executed": max(floats, key=floats.__getitem__) if floats else None,
        "precision_by_type": executed,
        **{stage: found.stages[name][stage] for stage in STAGES},
        "ratio": found.ratios.get(name),
        "baseline": found.baseline,
        "rounds": found.rounds,
        "warmup": found.warmup,
        "stopped": found.stopped,
        "reliable": found.reliable,
        "disturbances": found.disturbances,
        "machine": about,
    }
