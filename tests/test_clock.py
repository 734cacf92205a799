"""The clock on simulated time, where the truth is known, and a few short runs on real time."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from edgekit.bench import clock, intervals
from edgekit.bench.clock import ClockOptions, Comparison, measure, settled, summary
from edgekit.bench.noise import Counters, NoiseMonitor
from edgekit.errors import InputError, UsageError


class SimulatedMachine:
    """A machine whose calls take simulated time: base time, times its mood (slow and shared), times noise."""

    def __init__(self, seed: int = 0, noise: float = 0.02, mood: float = 0.0, memory_s: float = 0.5) -> None:
        self.now, self.log = 0.0, []
        self.rng = np.random.default_rng(seed)
        self.noise, self.mood, self.memory_s, self._level, self._at = noise, mood, memory_s, 0.0, 0.0

    def timer(self) -> float:
        return self.now

    def slowness(self) -> float:
        keep = math.exp(-(self.now - self._at) / self.memory_s)
        self._level = keep * self._level + math.sqrt(1 - keep * keep) * self.rng.normal()
        self._at = self.now
        return math.exp(self.mood * self._level)

    def contestant(self, name: str, seconds: Callable[[int], float]) -> Callable[[Any], None]:
        """A callable whose k-th call takes ``seconds(k)`` on a quiet machine."""
        calls = iter(range(10**9))

        def call(item: Any) -> None:
            self.log.append((name, item))
            self.now += seconds(next(calls)) * self.slowness() * math.exp(self.noise * self.rng.normal())

        return call

    def watch(self, busy: Callable[[float], float] = lambda now: 0.0) -> NoiseMonitor:
        """A watch of two cores, one used by this process and ``busy(now)`` CPU seconds by others so far."""

        def read() -> Counters:
            return Counters(self.now, own_s=self.now, busy_s=self.now + busy(self.now), steal_s=0.0, preempted=0.0)

        return NoiseMonitor(read, cores=2, timer=self.timer)


def run(machine: SimulatedMachine, options: ClockOptions, **times: Callable[[int], float]) -> Comparison:
    contestants = {name: machine.contestant(name, seconds) for name, seconds in times.items()}
    return measure(contestants, list(range(7)), options, timer=machine.timer, watch=machine.watch())


def test_medians_and_ratios_are_recovered() -> None:
    result = run(SimulatedMachine(), ClockOptions(budget_s=60), a=lambda k: 0.010, b=lambda k: 0.006, c=lambda k: 0.02)
    for name, ms in {"a": 10.0, "b": 6.0, "c": 20.0}.items():
        assert result.stages[name]["whole_ms"]["p50"] == pytest.approx(ms, rel=0.02)
    for name, truth in {"b": 0.6, "c": 2.0}.items():
        figures = result.ratios[name]["whole_ms"]
        assert figures["low"] < truth < figures["high"]
        assert figures["ratio"] == pytest.approx(truth, rel=0.02)
        assert figures["n"] == result.rounds
    assert result.stopped == "narrow"
    assert result.reliable, result.disturbances
    assert "a" not in result.ratios


def test_ratios_survive_a_machine_that_changes_speed() -> None:
    """Speed wanders by 30 % with a memory of many rounds: the ratio of interleaved calls does not care."""
    machine = SimulatedMachine(seed=1, mood=0.3, memory_s=2.0)
    result = run(machine, ClockOptions(budget_s=20), a=lambda k: 0.010, b=lambda k: 0.008)
    assert result.ratios["b"]["whole_ms"]["ratio"] == pytest.approx(0.8, rel=0.02)


@pytest.mark.long
def test_one_against_its_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval of the ratio contains one as often as it says, with no allowance for loading twice."""
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    options = ClockOptions(budget_s=3, resolution=0.0)
    hits = 0
    for seed in range(40):
        machine = SimulatedMachine(seed, noise=0.05, mood=0.2, memory_s=0.1)
        figures = run(machine, options, a=lambda k: 0.01, b=lambda k: 0.01).ratios["b"]["whole_ms"]
        hits += figures["low"] <= 1.0 <= figures["high"]
    assert hits >= 36


def test_resolution_widens_ratios_only() -> None:
    results = [
        run(SimulatedMachine(), ClockOptions(budget_s=60, resolution=r), a=lambda k: 0.01, b=lambda k: 0.01)
        for r in (0.0, 0.05)
    ]
    narrow, wide = (r.ratios["b"]["whole_ms"] for r in results)
    assert wide["low"] == pytest.approx(narrow["low"] / 1.05)
    assert wide["high"] == pytest.approx(narrow["high"] * 1.05)
    assert results[0].stages == results[1].stages


def test_calls_are_interleaved_on_the_same_items() -> None:
    machine = SimulatedMachine()
    options = ClockOptions(budget_s=1000, min_rounds=140, max_rounds=140, width=1e-9)
    result = run(machine, options, a=lambda k: 0.01, b=lambda k: 0.01, c=lambda k: 0.01)
    measured = machine.log[3 * result.warmup["calls"] :]
    rounds = [measured[i : i + 3] for i in range(0, len(measured), 3)]
    assert len(rounds) == 140 == result.rounds
    for calls in rounds:
        assert {name for name, _ in calls} == {"a", "b", "c"}
        assert len({item for _, item in calls}) == 1
    for position in range(3):  # nobody always goes first
        assert {calls[position][0] for calls in rounds} == {"a", "b", "c"}
    firsts = [calls[0][0] for calls in rounds]
    assert all(30 <= firsts.count(name) <= 65 for name in "abc")
    per_item = [sum(calls[0][1] == item for calls in rounds) for item in range(7)]
    assert max(per_item) - min(per_item) <= 2


def test_every_round_is_followed_by_its_mirror() -> None:
    turns: Iterator[list[str]] = clock._turns(["a", "b", "c"], np.random.default_rng(0))
    for _ in range(20):
        assert next(turns) == next(turns)[::-1]


def test_warm_up_lasts_as_long_as_the_start_is_slow() -> None:
    options = ClockOptions(budget_s=60)
    steady = run(SimulatedMachine(noise=0.001), options, a=lambda k: 0.01)
    assert steady.warmup == {"calls": 2 * clock.WINDOW, "unsettled": []}
    slow = run(SimulatedMachine(noise=0.001), options, a=lambda k: 0.01 * (1 + 5 * math.exp(-k / 20)))
    assert 60 <= slow.warmup["calls"] <= 140  # 5 exp(-k/20) has fallen to 25 % and to 0.5 % by then
    assert slow.stages["a"]["whole_ms"]["max"] < 0.013 * 1e3
    assert slow.reliable, slow.disturbances


def test_a_contestant_that_never_settles_is_named() -> None:
    result = run(SimulatedMachine(noise=0.001), ClockOptions(budget_s=20), a=lambda k: 0.01, b=lambda k: 0.01 * 1.02**k)
    assert result.warmup["unsettled"] == ["b"]
    assert any(s.startswith("b had not settled") for s in result.disturbances)


def test_settled_allows_for_scatter() -> None:
    assert not settled([1.0] * 9)
    assert settled([1.0] * 10)
    assert not settled([1.0] * 5 + [1.1] * 5)
    assert settled([1.0, 1.3, 0.8, 1.2, 0.9, 1.1, 1.4, 0.8, 1.2, 1.0])


@pytest.mark.parametrize(
    ("noise", "stopped", "reliable"), [(0.02, "narrow", True), (0.15, "budget", True), (0.6, "budget", False)]
)
def test_stops_when_narrow_or_when_the_budget_ends(noise: float, stopped: str, reliable: bool) -> None:
    machine = SimulatedMachine(noise=noise)
    result = run(machine, ClockOptions(budget_s=5, width=0.03), a=lambda k: 0.010, b=lambda k: 0.005)
    assert result.stopped == stopped
    assert result.reliable == reliable, result.disturbances
    figures = result.stages["a"]["whole_ms"]
    assert ((figures["p50_high"] - figures["p50_low"]) / figures["p50"] <= 0.03) == (stopped == "narrow")
    assert (5.0 <= result.seconds < 5.5) == (stopped == "budget")
    assert any("is known to" in s for s in result.disturbances) != reliable


def test_slow_models_get_one_round_at_least() -> None:
    result = run(SimulatedMachine(), ClockOptions(budget_s=1), a=lambda k: 5.0)
    assert result.stopped == "budget"
    assert result.stages["a"]["whole_ms"]["n"] == 1
    assert "only 1 calls of each were measured; give it more time" in result.disturbances


def test_drift_of_a_ratio_is_reported() -> None:
    options = ClockOptions(budget_s=1000, min_rounds=400, max_rounds=400)
    late = run(SimulatedMachine(), options, a=lambda k: 0.01, b=lambda k: 0.01 * (1.08 if k > 210 else 1.0))
    assert any(s.startswith("the ratio of b to a moved by") for s in late.disturbances)
    assert not any(s.startswith("the time of b moved") for s in late.disturbances)
    early = run(SimulatedMachine(), options, a=lambda k: 0.01 if k < 300 else 0.012, b=lambda k: 0.01)
    assert any(s.startswith("the time of a moved by") for s in early.disturbances)


def test_other_load_in_the_middle_is_flagged() -> None:
    machine = SimulatedMachine()
    options = ClockOptions(budget_s=10, width=1e-6)
    contestants = {"a": machine.contestant("a", lambda k: 0.01)}
    watch = machine.watch(busy=lambda now: 0.9 * max(now - 6.0, 0.0))
    result = measure(contestants, [0], options, timer=machine.timer, watch=watch)
    assert not result.reliable
    assert re.match(r"other processes used 0\.9 of 2 cores for (39|40|41)% of the run", result.disturbances[0])


def test_stages_come_from_the_contestant() -> None:
    machine = SimulatedMachine(noise=0.0)

    def call(item: int) -> dict[str, float]:
        machine.now += 0.010
        return {"pre_ms": 1.0, "network_ms": 7.0 + item, "post_ms": 1.0}

    def fast(item: int) -> dict[str, float]:
        machine.now += 0.005
        return {"network_ms": (7.0 + item) / 4}

    result = measure({"a": call, "b": fast}, [0, 1], timer=machine.timer, watch=machine.watch())
    assert list(result.stages["a"]) == ["whole_ms", "pre_ms", "network_ms", "post_ms"]
    assert result.stages["a"]["whole_ms"]["p50"] == pytest.approx(10.0)
    assert result.stages["a"]["network_ms"]["p50"] == pytest.approx(7.5, abs=0.5)
    assert result.ratios["b"]["network_ms"]["ratio"] == pytest.approx(0.25)  # paired: the item cancels
    assert result.ratios["b"].keys() == {"whole_ms", "network_ms"}


def test_a_models_outputs_are_not_stages() -> None:
    machine = SimulatedMachine()

    def call(item: int) -> dict[str, Any]:
        machine.now += 0.001
        return {"boxes": np.zeros(4), "scores": np.zeros(1)}

    result = measure({"a": call}, [0], timer=machine.timer, watch=machine.watch())
    assert list(result.stages["a"]) == ["whole_ms"]


def test_changing_stages_are_a_bug() -> None:
    machine, calls = SimulatedMachine(), iter(range(100))

    def call(item: int) -> dict[str, float]:
        machine.now += 0.001
        return {"pre_ms": 1.0} if next(calls) % 2 else {"post_ms": 1.0}

    with pytest.raises(ValueError, match="'a' returned the stages"):
        measure({"a": call}, [0], timer=machine.timer, watch=machine.watch())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_stage_times_are_a_bug(value: float) -> None:
    with pytest.raises(ValueError, match="a stage cannot take these milliseconds"):
        measure({"a": lambda item: {"pre_ms": value}}, [0])


def test_a_timer_too_coarse_for_the_call() -> None:
    machine, calls = SimulatedMachine(), iter(range(10**6))

    def instant(item: int) -> None:
        machine.now += 1.0 if next(calls) % 50 == 49 else 0.0

    result = measure({"a": instant, "b": instant}, [0], timer=machine.timer, watch=machine.watch())
    json.dumps(result.to_dict(), allow_nan=False)


def test_rests_and_lead_ins_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, rests = SimulatedMachine(noise=0.0), []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        machine.now += seconds

    monkeypatch.setattr(clock, "rest", rest)
    slow_first = ClockOptions(rest_s=0.5, lead_in=2, max_rounds=30)
    result = run(machine, slow_first, a=lambda k: 0.01 if k % 3 == 2 else 0.3, b=lambda k: 0.02)
    assert set(rests) == {0.5}
    assert 3 * len(rests) == len(machine.log)
    assert result.stages["a"]["whole_ms"]["max"] == pytest.approx(10.0)
    by_turn = [machine.log[i : i + 3] for i in range(0, len(machine.log), 3)]
    assert all(len(set(turn)) == 1 for turn in by_turn)  # one contestant on one item


@pytest.mark.parametrize(
    ("busy_s", "limit_s", "rested_s"), [(0.06, 0.15, 0.063), (0.0, 0.15, 0.003), (9.0, 0.15, 0.15)]
)
def test_resting_lasts_until_own_threads_sleep(
    busy_s: float, limit_s: float, rested_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    fake = types.SimpleNamespace(
        perf_counter=lambda: now[0],
        process_time=lambda: min(now[0], busy_s),
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    monkeypatch.setattr(clock, "time", fake)
    clock.rest(limit_s)
    assert now[0] == pytest.approx(rested_s, abs=0.0011)


def test_garbage_collection_is_off_meanwhile_and_back_on_afterwards() -> None:
    def call(item: int) -> None:
        assert not gc.isenabled()
        raise KeyError("from the contestant")

    assert gc.isenabled()
    with pytest.raises(KeyError, match="from the contestant"):
        measure({"a": call}, [0])
    assert gc.isenabled()


def test_same_seed_same_order() -> None:
    def order(seed: int) -> list[Any]:
        machine = SimulatedMachine()
        run(machine, ClockOptions(budget_s=2, seed=seed), a=lambda k: 0.01, b=lambda k: 0.01)
        return machine.log

    assert order(1) == order(1)
    assert order(1)[:100] != order(2)[:100]


def test_summary_is_numpys() -> None:
    values = np.random.default_rng(0).lognormal(size=500)
    figures = summary(values)
    assert {"min", "p50", "p90", "p99", "max", "mean", "n"} <= figures.keys()
    assert figures["p90"] == np.quantile(values, 0.9)
    assert figures["p99"] == np.quantile(values, 0.99)
    assert (figures["min"], figures["max"]) == (values.min(), values.max())
    assert figures["n"] == 500
    assert figures["p50_low"] < np.median(values) < figures["p50_high"]


def test_result_is_json_with_the_contracts_keys() -> None:
    lines: list[tuple[float, str]] = []
    machine = SimulatedMachine()
    contestants = {"a": machine.contestant("a", lambda k: 0.01), "b": machine.contestant("b", lambda k: 0.01)}
    result = measure(
        contestants,
        [0],
        baseline="b",
        timer=machine.timer,
        watch=machine.watch(),
        progress=lambda share, sentence: lines.append((share, sentence)),
    )
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert {"min", "p50", "p90", "p99", "n"} <= record["stages"]["a"]["whole_ms"].keys()
    assert record["reliable"] is True
    assert record["baseline"] == "b"
    assert record["schema"] == 1
    assert list(record["ratios"]) == ["a"]
    assert "samples" not in record
    assert lines
    assert all(0.0 < share <= 1.0 for share, _ in lines)


@pytest.mark.parametrize(
    ("contestants", "items", "baseline", "message"),
    [({}, [0], None, "model"), ({"a": id}, [], None, "image"), ({"a": id}, [0], "z", "'z' is not among")],
)
def test_bad_input(contestants: dict[str, Any], items: list[int], baseline: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(contestants, items, baseline=baseline)


@pytest.mark.parametrize(
    "wrong", [{"width": 0.0}, {"confidence": 1.0}, {"budget_s": 0}, {"min_rounds": 9, "max_rounds": 3}]
)
def test_bad_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ClockOptions(**wrong)


def test_a_real_hog_started_in_the_middle_is_flagged() -> None:
    hogs: list[subprocess.Popen[bytes]] = []
    watch, began, data = NoiseMonitor(), time.perf_counter(), bytes(1_000_000)

    def call(item: int) -> None:
        hashlib.sha256(data).digest()
        if not hogs and time.perf_counter() - began > 1.5:
            count = 1 + math.ceil(0.05 * watch.cores)
            hogs.extend(subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count))

    try:
        result = measure({"a": call}, [0], ClockOptions(budget_s=3.5, width=1e-9), watch=watch)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    if "other load" in watch.unmeasured():
        pytest.skip("this system does not tell how much CPU other processes use")
    assert any(s.startswith("other processes used") for s in result.disturbances)
