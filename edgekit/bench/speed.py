"""The speed gate: an INT8 artifact against the best floating-point one of the same runtime, here, interleaved.

row = against({"ov-fp32": a, "ov-fp16": b}, int8_session, images, required=1.1)
row["speedup"], row["low"], row["high"]        # 1.31, 1.29, 1.33: times faster than the fastest of them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.bench import machine
from edgekit.bench.clock import RATIO_LIMIT, WHOLE, ClockOptions
from edgekit.bench.run import bench
from edgekit.errors import GateError
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Session

BUDGET_S = 20.0


def against(
    floats: Mapping[str, Session],
    int8: Session,
    images: Sequence[np.ndarray],
    required: float | None = None,
    budget_s: float = BUDGET_S,
) -> dict[str, Any]:
    """How many times faster ``int8`` answers (the whole call) than the fastest of ``floats``.

    Args:
        floats: target → session.
        images: uint8 BGR, cycled.
        required: the least speedup; None only records.
        budget_s: seconds for everything, at most: it ends when the ratios are known well enough to be believed.

    Returns:
        ``against``, ``speedup`` with the interval ``low high``, ``int8_ms`` and ``float_ms`` (medians), ``reliable``,
        ``disturbances``, ``machine``, and a ``warning`` where INT8 is not faster.

    Raises:
        GateError: the speedup is below ``required``.
    """
    name = int8.target
    predictors = {name: Predictor(int8), **{target: Predictor(session) for target, session in floats.items()}}
    records = bench(predictors, images, ClockOptions(width=RATIO_LIMIT, budget_s=budget_s), baseline=name)
    # Ratios are against INT8, so that of a slower float model is the speedup itself; the fastest one counts.
    best = min((r for r in records if r["artifact"] != name), key=lambda r: float(r["ratio"][WHOLE]["ratio"]))
    ratio = best["ratio"][WHOLE]
    row: dict[str, Any] = {
        "against": best["artifact"],
        "speedup": ratio["ratio"],
        "low": ratio["low"],
        "high": ratio["high"],
        "int8_ms": records[0][WHOLE]["p50"],
        "float_ms": best[WHOLE]["p50"],
        "rounds": best["rounds"],
        "reliable": best["reliable"],
        "disturbances": best["disturbances"],
        "machine": machine.describe(),
    }
    if ratio["ratio"] <= 1:
        row["warning"] = (
            f"{name} takes {1 / ratio['ratio']:.2f} times as long as {best['artifact']} on this machine: "
            "use that one here"
        )
    if required is not None and ratio["ratio"] < required:
        raise GateError(
            f"{name} is {ratio['ratio']:.2f} times as fast as {best['artifact']} on this machine; "
            f"`require_speedup` asks for {required:g}",
            {"speed": row},
        )
    return row
