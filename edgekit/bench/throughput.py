"""Items per second with several of them in flight: a figure of its own, never one over the latency.

A configuration is a mapping such as ``{"streams": 4, "batch": 8, "threads": 1}``. For each one the caller makes the
streams: callables of a list of ``batch`` items, each of which runs in a thread of its own, over and over.

    def make(config):
        model = compile(threads=config["threads"], streams=config["streams"])
        return [model.request().run for _ in range(config["streams"])]

    rows = throughput(make, images, grid(streams=[1, 2, 4], batch=[1, 8], threads=[1, 2]))
    max(rows, key=lambda row: row["items_per_s"]["p50"])["config"]

Counted are equal windows from when every stream is past its first calls to when the first one is told to stop; a call
that crosses a window's edge counts there for the part of its time that lies inside. So neither start nor end counts,
and slow calls are not rounded to whole ones. Each window gives a rate; their spread is part of the result.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bench.noise import NoiseMonitor
from edgekit.errors import InputError

Config = dict[str, Any]
Stream = Callable[[list[Any]], Any]
Span = tuple[float, float]

WARM_CALLS = 2  # of every stream before counting starts
SPREAD = 0.10  # windows of a steady run differ by less


def grid(**choices: Iterable[Any]) -> list[Config]:
    """Every combination: ``grid(streams=[1, 2], batch=[1, 8])`` → four configurations, the last key fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def throughput(
    make: Callable[[Config], Sequence[Stream]],
    items: Sequence[Any],
    configs: Sequence[Config],
    *,
    seconds: float = 3.0,
    windows: int = 6,
    warmup_s: float = 0.5,
    progress: Callable[[float, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Items per second of every configuration, in the order given.

    Args:
        make: configuration → its streams; called when its turn comes, and what it made is dropped afterwards.
        items: cycled; every stream starts at another place.
        configs: what to try; ``batch`` (default 1) is how many items a call gets.
        seconds: counted, after a warm-up of at least ``warmup_s`` and two calls of every stream.
        windows: how many equal parts those seconds are cut into.
        progress: called before each configuration with the share done and a sentence.

    Returns:
        For each: ``config``, ``streams``, ``items_per_s`` (``min p50 mean max n``: of the windows), ``call_ms``
        (``p50 p99 n``: of the calls that began in them), ``reliable``, ``disturbances`` and ``watch``.

    Raises:
        InputError: no items, or a configuration without streams.
    """
    if not len(items):
        raise InputError("nothing to time: give at least one image")
    rows = []
    for done, config in enumerate(configs):
        if progress:
            progress(done / len(configs), ", ".join(f"{key} {value}" for key, value in config.items()))
        streams = make(config)
        if not streams:
            raise InputError(f"the configuration {config} has no streams")
        batch = int(config.get("batch", 1))
        with NoiseMonitor() as watch:
            spans, start, stop = _drive(streams, items, batch, seconds, warmup_s, watch)
        rates = batch * window_rates(spans, np.linspace(start, stop, windows + 1))
        rows.append({"config": config, "streams": len(streams), **_figures(rates, spans, start, stop, watch)})
        del streams
    return rows


def window_rates(spans: Sequence[Span], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """[W] calls per second in the windows between ``edges`` [W + 1], from the (begin, end) seconds of calls.

    A call counts in a window for the fraction of its duration that overlaps the window.
    """
    begin, end = np.asarray(spans, dtype=np.float64).reshape(-1, 2).T
    overlap = np.minimum(end[:, None], edges[1:]) - np.maximum(begin[:, None], edges[:-1])
    parts = np.clip(overlap, 0.0, None) / np.maximum(end - begin, 1e-9)[:, None]
    return np.asarray(parts.sum(axis=0) / np.diff(edges))


def _drive(
    streams: Sequence[Stream], items: Sequence[Any], batch: int, seconds: float, warmup_s: float, watch: NoiseMonitor
) -> tuple[list[Span], float, float]:
    """Run every stream in its own thread; (spans of all calls, start and end of the counted time)."""
    stop = threading.Event()
    spans: list[list[Span]] = [[] for _ in streams]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        feed = itertools.islice(itertools.cycle(items), index * len(items) // len(streams), None)
        try:
            while not stop.is_set():
                chosen = list(itertools.islice(feed, batch))
                begin = time.perf_counter()
                streams[index](chosen)
                spans[index].append((begin, time.perf_counter()))
        except BaseException as error:  # reported by the caller's thread
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(streams))]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        while not errors and (time.perf_counter() - began < warmup_s or min(map(len, spans)) < WARM_CALLS):
            time.sleep(0.01)
        start = time.perf_counter()
        while not errors and time.perf_counter() - start < seconds:
            time.sleep(min(0.05, seconds / 10))
            watch.tick()
        end = time.perf_counter()
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [span for stream in spans for span in stream], start, end


def _figures(
    rates: NDArray[np.float64], spans: Sequence[Span], start: float, stop: float, watch: NoiseMonitor
) -> dict[str, Any]:
    calls = [1e3 * (end - begin) for begin, end in spans if start <= begin < stop] or [
        1e3 * (end - begin) for begin, end in spans
    ]
    p50, p99 = (float(v) for v in np.percentile(calls, [50, 99]))
    doubts = watch.disturbances()
    middle = float(np.median(rates))
    low, high = (float(v) for v in np.percentile(rates, [25, 75]))
    if high - low > SPREAD * middle:
        doubts.append(f"half of the windows spread over {(high - low) / middle:.0%} of the median; give more time")
    return {
        "items_per_s": {
            "min": float(rates.min()),
            "p50": middle,
            "mean": float(rates.mean()),
            "max": float(rates.max()),
            "n": len(rates),
        },
        "call_ms": {"p50": p50, "p99": p99, "n": len(calls)},
        "reliable": not doubts,
        "disturbances": doubts,
        "watch": watch.to_dict(),
    }
