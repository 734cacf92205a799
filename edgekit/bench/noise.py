"""What else the machine did while something was timed: the evidence for or against believing the times.

``NoiseMonitor`` reads counters at the start, at every ``tick`` a quarter of a second or more after the last, at
the end; nothing runs in the background. What the system does not offer (other systems than Linux offer less) is
listed in ``unmeasured`` instead of passing for quiet.

    with NoiseMonitor() as watch:
        for item in items:
            work(item)
            watch.tick()
    watch.disturbances()       # ['other processes used 0.9 of 2 cores for 40% of the run']

Measured: CPU time of other processes on the CPUs this process may use, time stolen by the hypervisor, involuntary
context switches, throttling by a cgroup's CPU quota, clock frequency, and on request the GPU's throttle reasons.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from edgekit.bench.machine import affinity, cgroup_folders, gpus, read_text
from edgekit.spec import Json

EVERY_S = 0.25  # systems count in hundredths of a second: shorter windows would be mostly rounding
SHARE_OF_RUN = 0.10  # a disturbance that lasts less leaves medians alone
OTHER_CORES = 0.25  # of one core, used by others, or
OTHER_SHARE = 0.05  # of all cores, where that is more
STEAL_SHARE = 0.05  # of the CPU time asked for
PREEMPTED_PER_S = 200.0  # involuntary switches per second of own CPU time; a quiet run of two threads has up to 100
THROTTLED_SHARE = 0.02  # of the time
MHZ_CHANGE = 0.10  # of the highest

# Bits of NVML's clock event reasons that mean "slower than it could be" (nvml.h, nvmlClocksEventReasons). Left out:
# idle, and clocks that somebody set on purpose.
GPU_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


_FIELDS = {
    "busy_s": "other load",
    "steal_s": "steal time",
    "preempted": "involuntary switches",
    "throttled_s": "CPU quota",
    "mhz": "frequency",
}


@dataclass(frozen=True)
class Counters:
    """One reading; all but ``mhz`` only ever grow. None: not available here.

    Attributes:
        seconds: clock time.
        own_s: CPU time of this process, all threads.
        busy_s: CPU time of everybody on the CPUs this process may use.
        steal_s: time those CPUs were ready to run but the hypervisor ran somebody else.
        preempted: involuntary context switches of this process.
        throttled_s: time this cgroup stood still because its CPU quota was used up.
        mhz: the highest clock among those CPUs.
    """

    seconds: float
    own_s: float
    busy_s: float | None = None
    steal_s: float | None = None
    preempted: float | None = None
    throttled_s: float | None = None
    mhz: float | None = None


class NoiseMonitor:
    """Counts disturbance between entering and leaving a ``with`` block.

    Args:
        read: replaces the reading of the system's counters, and ``timer`` the clock behind their ``seconds`` (tests).
        cores: CPUs this process may use; found out by default.
        helpers: process ids whose CPU time, and their children's, is this run's own (workers that are timed from
            here).
        gpu: also note at every reading why the GPUs' clocks are held back: just after a call, before they idle.
    """

    def __init__(
        self,
        read: Callable[[], Counters] | None = None,
        *,
        cores: int | None = None,
        timer: Callable[[], float] = time.perf_counter,
        helpers: Sequence[int] = (),
        gpu: bool = False,
    ) -> None:
        cpus = affinity()
        self.read = read or (lambda: read_counters(cpus, helpers))
        self.timer = timer
        self.cores = cores or len(cpus)
        self.readings: list[Counters] = []
        self.gpu_states: list[Json] = []
        self._gpu = gpu

    def __enter__(self) -> NoiseMonitor:
        self.readings = [self.read()]
        return self

    def tick(self) -> None:
        """Take a reading if the last one is a quarter of a second old; call it between measurements."""
        if self.timer() - self.readings[-1].seconds >= EVERY_S:
            self._look()
            self.readings.append(self.read())

    def _look(self) -> None:
        if self._gpu:
            self.gpu_states += gpus()

    def __exit__(self, *exc: object) -> None:
        self._look()
        last = self.read()
        if len(self.readings) > 1 and last.seconds - self.readings[-1].seconds < EVERY_S / 2:
            self.readings.pop()  # a last window too short for the counters' grain joins the one before
        self.readings.append(last)

    def disturbances(self) -> list[str]:
        """One sentence for each kind of disturbance that lasted for at least a tenth of the time."""
        if self._seconds() < EVERY_S / 2:
            return []
        found = [self._other_load(), self._steal(), self._preempted(), self._throttled(), self._frequency()]
        return [sentence for sentence in found if sentence] + gpu_disturbances(self.gpu_states)

    def unmeasured(self) -> list[str]:
        """What could not be measured here."""
        if self._seconds() < EVERY_S / 2:
            return ["anything: the run was too short"]
        return [what for field, what in _FIELDS.items() if getattr(self.readings[-1], field) is None]

    def to_dict(self) -> Json:
        """Means over the run, JSON-ready; None where unmeasured."""
        seconds, own = self._seconds(), self._sum("own_s") or 0.0
        busy, steal, preempted = self._sum("busy_s"), self._sum("steal_s"), self._sum("preempted")
        throttled = self._sum("throttled_s")
        clocks = [r.mhz for r in self.readings if r.mhz is not None]

        def per(value: float | None, unit: float) -> float | None:
            return None if value is None or unit <= 0 else round(value / unit, 4)

        return {
            "seconds": round(seconds, 3),
            "cores": self.cores,
            "own_cores": per(own, seconds),
            "other_cores": per(None if busy is None else max(busy - own, 0.0), seconds),
            "steal_share": per(steal, own + (steal or 0.0)),
            "preempted_per_s": per(preempted, own),
            "throttled_share": per(throttled, seconds),
            "mhz": {"min": min(clocks), "max": max(clocks)} if clocks else None,
            "unmeasured": self.unmeasured(),
        }

    def _windows(self) -> list[tuple[Counters, Counters]]:
        return list(zip(self.readings, self.readings[1:], strict=False))

    def _seconds(self) -> float:
        return self.readings[-1].seconds - self.readings[0].seconds

    def _sum(self, field: str) -> float | None:
        first, last = getattr(self.readings[0], field), getattr(self.readings[-1], field)
        return None if first is None or last is None else last - first

    def _excess(self, rate: Callable[[Counters, Counters], float | None], limit: float) -> tuple[float, float] | None:
        """(mean rate while at or above the limit, share of the run that was), or None if that share is small."""
        above = weighed = 0.0
        for a, b in self._windows():
            value, seconds = rate(a, b), b.seconds - a.seconds
            if value is not None and value >= limit:
                above += seconds
                weighed += value * seconds
        share = above / self._seconds()
        return (weighed / above, share) if share >= SHARE_OF_RUN else None

    def _other_load(self) -> str | None:
        def others(a: Counters, b: Counters) -> float | None:
            if a.busy_s is None or b.busy_s is None:
                return None
            return ((b.busy_s - a.busy_s) - (b.own_s - a.own_s)) / (b.seconds - a.seconds)

        # On a full machine every core counts; where cores are free, a little load among many does not.
        full = (self._sum("own_s") or 0.0) / self._seconds() > 0.9 * self.cores
        limit = OTHER_CORES if full else max(OTHER_CORES, OTHER_SHARE * self.cores)
        found = self._excess(others, limit)
        if found is None:
            return None
        return f"other processes used {found[0]:.1f} of {self.cores} cores for {found[1]:.0%} of the run"

    def _steal(self) -> str | None:
        def stolen(a: Counters, b: Counters) -> float | None:
            if a.steal_s is None or b.steal_s is None:
                return None
            asked = (b.own_s - a.own_s) + (b.steal_s - a.steal_s)
            return (b.steal_s - a.steal_s) / asked if asked > 0.1 else None

        found = self._excess(stolen, 2 * STEAL_SHARE)  # in bursts, or on the average
        if found:
            return f"the hypervisor took away {found[0]:.0%} of the CPU time for {found[1]:.0%} of the run"
        mean = stolen(self.readings[0], self.readings[-1])
        if mean is None or mean < STEAL_SHARE:
            return None
        return f"the hypervisor took away {mean:.0%} of the CPU time"

    def _preempted(self) -> str | None:
        def rate(a: Counters, b: Counters) -> float | None:
            if a.preempted is None or b.preempted is None or b.own_s - a.own_s < 0.02:
                return None
            return (b.preempted - a.preempted) / (b.own_s - a.own_s)

        found = self._excess(rate, PREEMPTED_PER_S)
        if found is None:
            return None
        return (
            f"this process was interrupted by others {found[0]:.0f} times per second of CPU time for "
            f"{found[1]:.0%} of the run (are there more threads than cores?)"
        )

    def _throttled(self) -> str | None:
        throttled = self._sum("throttled_s")
        share = (throttled or 0.0) / self._seconds()
        if share < THROTTLED_SHARE:
            return None
        return f"the container's CPU quota stopped it for {share:.0%} of the run; use fewer threads or a larger quota"

    def _frequency(self) -> str | None:
        clocks = sorted(r.mhz for r in self.readings[1:] if r.mhz is not None)
        if len(clocks) < 2:
            return None
        rare = int(SHARE_OF_RUN * len(clocks))  # readings that may be odd at either end
        low, high = clocks[rare], clocks[-1 - rare]
        if high - low <= MHZ_CHANGE * high:
            return None
        return f"the clock frequency moved between {low:.0f} and {high:.0f} MHz"


def read_counters(cpus: frozenset[int] | None = None, helpers: Sequence[int] = ()) -> Counters:
    """A reading of this process, its helpers and ``cpus`` (those it may use, by default); about 0.5 ms on Linux."""
    cpus = affinity() if cpus is None else cpus
    busy, steal = cpu_seconds(cpus)
    return Counters(
        seconds=time.perf_counter(),
        own_s=time.process_time() + sum(map(family_seconds, helpers)),
        busy_s=busy,
        steal_s=steal,
        preempted=_involuntary_switches(),
        throttled_s=_throttled_s(),
        mhz=_highest_mhz(cpus),
    )


def cpu_seconds(cpus: frozenset[int]) -> tuple[float | None, float | None]:
    """(busy, stolen) seconds of ``cpus``; None where the system does not say, or shows zeros."""
    every = psutil.cpu_times(percpu=True)
    # Cores that are switched off are left out, which moves the others' places: then all of them are counted.
    times = [every[n] for n in cpus] if max(cpus) < len(every) else every
    if not any(map(sum, times)):
        return None, None
    busy = sum(getattr(t, kind, 0.0) for t in times for kind in ("user", "nice", "system", "irq", "softirq"))
    return busy, sum(t.steal for t in times) if hasattr(times[0], "steal") else None


def family_seconds(pid: int) -> float:
    """CPU seconds of a process and of everything it has started, ended children included."""
    total = 0.0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])  # own and ended children's, in user and system mode
    return total


def gpu_disturbances(states: Sequence[Json]) -> list[str]:
    """Sentences about what held GPUs back in at least a tenth of their states (``machine.gpus``)."""
    sentences = []
    for model in dict.fromkeys(state.get("model") for state in states):
        active = [state.get("throttle_reasons") or 0 for state in states if state.get("model") == model]
        for bit, reason in GPU_REASONS.items():
            share = sum(bool(bits & bit) for bits in active) / len(active)
            if share >= SHARE_OF_RUN:
                sentences.append(f"the GPU {model} was held back by {reason} for {share:.0%} of the run")
    return sentences


def _involuntary_switches() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def _throttled_s() -> float | None:
    """Seconds this cgroup or a parent stood still: ``throttled_usec`` in version 2, ``throttled_time`` (ns) in 1."""
    found = []
    for folder in cgroup_folders("cpu"):
        for line in (read_text(folder / "cpu.stat") or "").splitlines():
            key, _, value = line.partition(" ")
            if key in ("throttled_usec", "throttled_time"):
                found.append(int(value) / (1e6 if key == "throttled_usec" else 1e9))
    return max(found, default=None)


def _highest_mhz(cpus: frozenset[int]) -> float | None:
    texts = (read_text(f"/sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq") for n in sorted(cpus)[:64])
    clocks = [int(t) / 1e3 for t in texts if t and t.strip().isdigit()]
    return max(clocks, default=None)
