"""What counts as a disturbance: scripted counters with a known truth, texts of /proc, and the real system."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgekit.bench import noise as module
from edgekit.bench.noise import Counters, NoiseMonitor, cpu_seconds, gpu_disturbances, read_counters


def watched(change: Callable[[float, Counters], Counters], seconds: float = 10.0, cores: int = 4) -> NoiseMonitor:
    """A watch over ``seconds`` during which this process uses one core and ``change`` alters the counters."""
    now = [0.0]

    def read() -> Counters:
        quiet = Counters(now[0], own_s=now[0], busy_s=now[0], steal_s=0.0, preempted=0.0, throttled_s=0.0, mhz=2000.0)
        return change(now[0], quiet)

    watch = NoiseMonitor(read, cores=cores, timer=lambda: now[0])
    with watch:
        for step in range(1, int(seconds * 100) + 1):
            now[0] = step / 100
            watch.tick()
    return watch


def test_quiet_is_quiet() -> None:
    watch = watched(lambda now, c: c)
    assert watch.disturbances() == []
    assert watch.unmeasured() == []
    figures = watch.to_dict()
    assert figures["own_cores"] == pytest.approx(1.0)
    assert figures["other_cores"] == figures["steal_share"] == figures["throttled_share"] == 0.0
    assert figures["seconds"] == 10.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda now, c: replace(c, busy_s=now + 0.9 * max(now - 6, 0)),
            "other processes used 0.9 of 4 cores for 40% of the run",
        ),
        (lambda now, c: replace(c, steal_s=0.06 * now), "the hypervisor took away 6% of the CPU time"),
        (
            lambda now, c: replace(c, steal_s=0.25 * min(now, 2.0)),
            "the hypervisor took away 20% of the CPU time for 20% of the run",
        ),
        (lambda now, c: replace(c, preempted=300 * now), "this process was interrupted by others 300 times per second"),
        (lambda now, c: replace(c, throttled_s=0.3 * now), "the container's CPU quota stopped it for 30% of the run"),
        (
            lambda now, c: replace(c, mhz=3000.0 if now < 5 else 2400.0),
            "the clock frequency moved between 2400 and 3000",
        ),
    ],
)
def test_each_disturbance_has_its_sentence(change: Callable[[float, Counters], Counters], sentence: str) -> None:
    (found,) = watched(change).disturbances()
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "change",
    [
        lambda now, c: replace(c, busy_s=now + 0.9 * max(now - 9.2, 0)),  # less than a tenth of the run
        lambda now, c: replace(c, busy_s=1.1 * now),  # a tenth of a core, all the time
        lambda now, c: replace(c, steal_s=0.02 * now),
        lambda now, c: replace(c, preempted=80 * now),
        lambda now, c: replace(c, mhz=2000.0 if now > 0.3 else 800.0),  # waking up
    ],
)
def test_small_things_are_let_pass(change: Callable[[float, Counters], Counters]) -> None:
    assert watched(change).disturbances() == []


def test_one_busy_core_matters_unless_many_are_free() -> None:
    def hog(now: float, c: Counters) -> Counters:
        return replace(c, busy_s=2 * now)

    def all_cores(now: float, c: Counters) -> Counters:
        return replace(c, own_s=63.5 * now, busy_s=64 * now)

    assert watched(hog, cores=2).disturbances()
    assert watched(hog, cores=16).disturbances()
    assert not watched(hog, cores=64).disturbances()
    assert watched(all_cores, cores=64).disturbances()  # every thread waits for the slowest one


def test_what_the_system_does_not_tell_is_listed_instead_of_passing_for_quiet() -> None:
    watch = watched(lambda now, c: Counters(now, own_s=now))
    assert watch.disturbances() == []
    assert watch.unmeasured() == ["other load", "steal time", "involuntary switches", "CPU quota", "frequency"]
    assert watch.to_dict()["other_cores"] is None


def test_a_run_too_short_to_judge_says_so() -> None:
    watch = watched(lambda now, c: replace(c, busy_s=50 * now), seconds=0.05)
    assert watch.disturbances() == []
    assert watch.unmeasured() == ["anything: the run was too short"]


def test_cpu_seconds_of_the_cpus_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    Times = namedtuple("Times", "user nice system idle iowait irq softirq steal")
    cores = [Times(100, 10, 50, 4000, 25, 2, 8, 30), Times(300, 10, 50, 5000, 25, 3, 7, 30)]
    monkeypatch.setattr(module.psutil, "cpu_times", lambda percpu: cores)
    assert cpu_seconds(frozenset({0, 1})) == (170 + 370, 60)
    assert cpu_seconds(frozenset({1})) == (370, 30)
    assert cpu_seconds(frozenset({1, 2})) == (170 + 370, 60)  # core 1 is off: 0 and 2 are what is listed
    cores[:] = [Times(*[0] * 8)] * 2  # a sandbox that hides it
    assert cpu_seconds(frozenset({0})) == (None, None)
    mac = namedtuple("mac", "user nice system idle")
    monkeypatch.setattr(module.psutil, "cpu_times", lambda percpu: [mac(5, 1, 2, 100)])
    assert cpu_seconds(frozenset({0})) == (8, None)


def test_a_helpers_time_and_its_childrens_is_our_own() -> None:
    busy = [sys.executable, "-c", "while True: pass"]
    helper = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({busy})"], start_new_session=True
    )
    try:
        before, deadline = read_counters(helpers=[helper.pid]), time.monotonic() + 60
        while read_counters(helpers=[helper.pid]).own_s - before.own_s < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        after = read_counters(helpers=[helper.pid])
        # The helper itself only waits: a second is its child's.
        assert sum(psutil.Process(helper.pid).cpu_times()[:2]) < 0.5
    finally:
        os.killpg(helper.pid, signal.SIGKILL)
        helper.wait()
    assert after.own_s - before.own_s >= 1


def test_counters_of_this_system_grow() -> None:
    first = read_counters()
    total = sum(i * i for i in range(300_000))
    second = read_counters()
    assert total
    assert second.seconds > first.seconds
    assert second.own_s > first.own_s
    for field in ("busy_s", "steal_s", "preempted", "throttled_s"):
        before, after = getattr(first, field), getattr(second, field)
        assert (before is None) == (after is None)
        assert before is None or after >= before


def test_counters_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_text", lambda path: None)
    monkeypatch.setattr(module, "cgroup_folders", lambda controller: [])
    monkeypatch.setattr(module.psutil, "cpu_times", lambda percpu: [(0.0,) * 8] * 64)
    counters = read_counters()
    assert counters.busy_s is counters.steal_s is counters.throttled_s is counters.mhz is None


def test_throttled_time_of_both_cgroup_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_usec 1500000\n")
    monkeypatch.setattr(module, "cgroup_folders", lambda controller: [tmp_path])
    assert read_counters().throttled_s == 1.5
    (tmp_path / "cpu.stat").write_text("nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n")
    assert read_counters().throttled_s == 2.5


def test_gpu_reasons() -> None:
    def states(*bits: int) -> list[dict[str, Any]]:
        return [{"model": "T4", "throttle_reasons": b} for b in bits]

    assert gpu_disturbances([]) == []
    assert gpu_disturbances(states(0x1, 0x0, 0x2)) == []  # idle, and clocks set on purpose
    assert gpu_disturbances([{"model": "T4", "throttle_reasons": None}]) == []
    assert gpu_disturbances(states(0x4, 0x24, 0x0, 0x0)) == [
        "the GPU T4 was held back by power cap for 50% of the run",
        "the GPU T4 was held back by software thermal slowdown for 25% of the run",
    ]
