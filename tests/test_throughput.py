"""Throughput: rates of known call patterns in closed form, and what the streams are given to do."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import numpy as np
import pytest

from edgekit.bench.throughput import grid, throughput, window_rates
from edgekit.errors import InputError


def test_grid() -> None:
    assert grid(streams=[1, 2], batch=[4, 8]) == [
        {"streams": 1, "batch": 4},
        {"streams": 1, "batch": 8},
        {"streams": 2, "batch": 4},
        {"streams": 2, "batch": 8},
    ]


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.7, 2.5])
def test_rate_of_back_to_back_calls_whatever_their_length(seconds: float) -> None:
    """Three streams of calls without gaps do 3 / duration calls per second in every window, also longer than it."""
    spans = [
        (offset + k * seconds, offset + (k + 1) * seconds)
        for offset in (0.0, -0.013, -0.4 * seconds)
        for k in range(int(8 / seconds) + 2)
    ]
    assert window_rates(spans, np.linspace(1.0, 7.0, 7)) == pytest.approx([3 / seconds] * 6)


def test_rate_counts_a_crossing_call_where_it_lies() -> None:
    rates = window_rates([(0.5, 1.5), (1.75, 3.75)], np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    assert rates == pytest.approx([0.5, 0.5 + 0.125, 0.5, 0.375])
    assert rates.sum() == pytest.approx(2.0)


def test_streams_run_together_on_batches_of_cycled_items() -> None:
    seen: dict[int, list[list[int]]] = {}
    running, together, lock = [0], [0], threading.Lock()

    def make(config: dict[str, Any]) -> list[Any]:
        def stream(index: int) -> Any:
            def call(items: list[int]) -> None:
                with lock:
                    running[0] += 1
                    together[0] = max(together[0], running[0])
                    seen.setdefault(index, []).append(items)
                time.sleep(0.004)
                with lock:
                    running[0] -= 1

            return call

        return [stream(i) for i in range(config["streams"])]

    (row,) = throughput(make, list(range(10)), grid(streams=[2], batch=[3]), seconds=0.3, warmup_s=0.02)
    assert together[0] == 2
    assert seen[0][:4] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1]]
    assert seen[1][0] == [5, 6, 7]
    assert json.loads(json.dumps(row)) == row
    assert row["config"] == {"streams": 2, "batch": 3}
    assert row["streams"] == 2
    rates = row["items_per_s"]
    assert rates["n"] == 6
    assert rates["min"] <= rates["p50"] <= rates["max"]
    assert rates["mean"] < 2 * 3 / 0.004  # sleeping is never shorter than asked for
    assert row["reliable"] == (not row["disturbances"])


def test_a_failing_stream_ends_the_run_with_its_own_error() -> None:
    def broken(items: list[int]) -> None:
        raise ZeroDivisionError("in the stream")

    with pytest.raises(ZeroDivisionError, match="in the stream"):
        throughput(lambda config: [broken, lambda items: time.sleep(0.001)], [0], [{}])


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one image"):
        throughput(lambda config: [id], [], [{}])
    with pytest.raises(InputError, match="no streams"):
        throughput(lambda config: [], [1], [{"streams": 0}])
