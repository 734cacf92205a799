"""Which setting serves so many cameras fastest: streams, batch and threads, in turns.

    tried = settings(cameras=4, fixed_batch=None)
    record = race("yolo12n-ov", opened, images, 4, tried)
    record["best"]                              # {'streams': 2, 'batch': 1, 'threads': 2, 'frames_per_s': {...}, ...}

What is timed is ``model.stream`` of that many sources, which always have a frame: array in, Results out. No more frames
are worked on at once than there are cameras, as the rest would only be later.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from edgekit.bench import machine
from edgekit.bench.clock import FEWEST, WHOLE, ClockOptions, Comparison, Progress, measure
from edgekit.bench.run import REST_S, about
from edgekit.errors import UsageError
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.processor import usable_cpus
from edgekit.runtime.setting import Setting

PASSES = 2  # frames of every camera in one timed call, at least
# Times the fastest's time: as fast, and then fewer frames at once are better, each of which is sooner done.
ALIKE = 1.02


def settings(
    cameras: int,
    fixed_batch: int | None,
    streams: Sequence[int] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    cores: int | None = None,
) -> list[Setting]:
    """What to try, the plainest first: every combination of what is asked for; else of streams up to the cores, and
    batches, as many as there are cameras for, on all cores.

    Args:
        fixed_batch: the model's; None: it takes any.
        threads: for all streams together.

    Raises:
        UsageError: a batch that the model was not built for.
    """
    cores = cores or usable_cpus()
    wrong = [batch for batch in batches if fixed_batch not in (None, batch)]
    if wrong:
        raise UsageError(
            f"`batches` {wrong[0]}: the model was built for a batch of {fixed_batch}; build another for more"
        )
    asked = bool(streams or batches)
    batches = batches or ([fixed_batch] if fixed_batch else _doubled(cameras))
    found = []
    for count in streams or _doubled(min(cameras, cores)):
        own: Sequence[int | None] = threads or ((None,) if count == 1 else (cores,))
        found += [Setting(count, b, t) for b in batches for t in own if asked or count == 1 or count * b <= cameras]
    return sorted(found, key=lambda setting: (setting.streams * setting.batch, setting.streams))


def race(
    name: str,
    opened: Callable[[Setting], Predictor],
    images: Sequence[Any],
    cameras: int,
    tried: Sequence[Setting],
    options: ClockOptions | None = None,
    progress: Progress | None = None,
    timer: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Frames a second of so many cameras in every setting, in turns, as one JSON-ready record.

    Args:
        opened: the model in a setting; closed afterwards.
        images: uint8 BGR arrays ``[h, w, 3]``, which the cameras show.
        tried: the first is what ratios are against.
        timer: seconds; replaced by a simulated clock in tests.

    Returns:
        What ``bench`` says of the model, ``cameras``, ``settings`` (of each ``streams batch threads``, ``frames_per_s``
        as ``p50 low high n``, ``ratio`` of its time to the first's as ``ratio low high n``), ``best`` (the plainest of
        the fastest that are surely faster than the first, else the first), ``rounds``, ``reliable``, ``disturbances``,
        ``machine``.
    """
    options = options or ClockOptions()
    with ExitStack() as stack:
        predictors = {each.name: stack.enter_context(opened(each)) for each in tried}
        calls = {each.name: _call(predictors[each.name], cameras, each.streams * each.batch, timer) for each in tried}
        places = [[images[(i + k) % len(images)] for k in range(len(images))] for i in range(len(images))]
        found = measure(calls, places, options, progress=progress, timer=timer)
        known = about(name, predictors[tried[0].name])
    rows = [_row(each, found) for each in tried]
    sure = found.rounds >= FEWEST
    faster = [row for row in rows if sure and row["ratio"] and row["ratio"]["high"] < 1]
    least = min((row["ratio"]["ratio"] for row in faster), default=1.0)
    return {
        **known,
        "cameras": cameras,
        "settings": rows,
        "best": next((row for row in faster if row["ratio"]["ratio"] <= ALIKE * least), rows[0]),
        "rounds": found.rounds,
        "reliable": found.reliable,
        "disturbances": found.disturbances,
        "machine": machine.describe(),
    }


def clock(budget_s: float, width: float) -> ClockOptions:
    """How long and how sure: a call is many frames, so that fewer are enough, and leads in by itself."""
    return ClockOptions(budget_s=budget_s, width=width, min_rounds=10, rest_s=REST_S)


def _call(
    predictor: Predictor, cameras: int, at_once: int, timer: Callable[[], float]
) -> Callable[[Sequence[Any]], dict[str, float]]:
    """Some frames of every camera through the model, full runs only; milliseconds a frame."""
    frames = math.ceil(PASSES * cameras / at_once) * at_once

    def call(pictures: Sequence[Any]) -> dict[str, float]:
        shown = [pictures[i % len(pictures)] for i in range(frames)]
        start = timer()
        with predictor.stream([iter(shown[k::cameras]) for k in range(cameras)], max_queue_delay_ms=math.inf) as found:
            for _ in found:
                pass
        return {WHOLE: 1e3 * (timer() - start) / frames}

    return call


def _row(setting: Setting, found: Comparison) -> dict[str, Any]:
    ms = found.stages[setting.name][WHOLE]
    rates = {"p50": 1e3 / ms["p50"], "low": 1e3 / ms["p50_high"], "high": 1e3 / ms["p50_low"], "n": ms["n"]}
    ratio = found.ratios.get(setting.name, {}).get(WHOLE)
    return {
        "streams": setting.streams,
        "batch": setting.batch,
        "threads": setting.threads,
        "frames_per_s": rates,
        "ratio": ratio,
    }


def _doubled(most: int) -> list[int]:
    """1, 2, 4 … and ``most``."""
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]
