"""The clock: times contestants side by side until the medians are known, and says when not to believe it.

What it times: any callable of one item, most often one real image. The whole call is timed from outside; a callable
that knows its stages returns them, ``{"pre_ms": 2.1, "network_ms": 40.3, "post_ms": 1.2}``, and other return values
are ignored. How:

- warm-up lasts until successive windows of calls agree, not for a fixed count;
- contestants take turns call by call on the same item, in an order drawn anew and then reversed, so that whatever
  slows the machine slows all of them, and ratios are taken within a round;
- on request each turn waits until this process's own threads sleep and begins with a call that is not timed: some
  runtimes let their threads spin on long after a call has returned, which would slow whoever comes next;
- it runs until the confidence interval of every median and every ratio is narrow enough, or the budget ends;
- the garbage collector is off, and ``watch`` counts what else the machine was doing. ``reliable`` is True only if
  there is nothing in ``disturbances``.

    result = measure({"fp32": a, "int8": b}, images, ClockOptions(budget_s=20))
    result.stages["int8"]["whole_ms"]["p50"]     # 31.2
    result.ratios["int8"]["whole_ms"]            # {'ratio': 0.61, 'low': 0.60, 'high': 0.62, 'n': 240}
    result.disturbances                          # ['other processes used 0.9 of 2 cores for 40% of the run']
"""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.bench.intervals import median_interval, ratio_interval
from edgekit.bench.noise import NoiseMonitor
from edgekit.errors import InputError, UsageError
from edgekit.runtime.garbage import no_garbage_collection

SCHEMA = 1  # of a result's JSON; `gate` refuses any other
WHOLE = "whole_ms"
Call = Callable[[Any], Any]
Progress = Callable[[float, str], None]
Samples = Mapping[str, Mapping[str, NDArray[np.float64]]]  # contestant → stage → [rounds] milliseconds

FEWEST = 6  # calls for which an interval of 95 % exists
WINDOW = 5  # calls in a warm-up window
SETTLED = 0.02  # windows whose medians are this close agree, however quiet the machine is
WARMUP_SHARE = 0.25  # of the budget, at most
TIME_LIMIT = 0.10  # a time is believed if its interval is narrower, and it moved less between quarters of the run
RATIO_LIMIT = 0.05  # and so is a ratio
REST_LOOK_S = 0.001
REST_SHARE = 0.3  # of one core: more and a thread is still busy


@dataclass(frozen=True)
class ClockOptions:
    """When to stop and how sure to be.

    Attributes:
        width: whole width of the confidence intervals to reach, as a fraction of the median. Missing it is no reason
            to doubt the figures; intervals wider than 10 % (times) or 5 % (ratios), and than this, are.
        confidence: of every interval.
        budget_s: seconds for warm-up and measurement together.
        min_rounds, max_rounds: bounds on the calls of each contestant; the budget goes before the minimum.
        resolution: ratios are never claimed to be known better than plus or minus this fraction, since loading one
            and the same file twice gives two copies that differ (where their memory lies), which no repetition of
            calls can average away.
        rest_s: wait before a turn, at most so long, until this process's own threads sleep; 0 does not wait. ONNX
            Runtime's threads were seen spinning for 60 ms after a call, which made a neighbour 1.5 times slower.
        lead_in: untimed calls at the beginning of a turn, so that the timed one finds its own threads awake and its
            weights in the cache, as in an application that runs one model.
        seed: of turn orders, item orders and the bootstrap.
    """

    width: float = 0.03
    confidence: float = 0.95
    budget_s: float = 20.0
    min_rounds: int = 30
    max_rounds: int = 20_000
    resolution: float = 0.01
    rest_s: float = 0.0
    lead_in: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "confidence"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise UsageError(f"{name} {getattr(self, name)}: give a fraction between 0 and 1")
        if self.budget_s <= 0 or min(self.resolution, self.rest_s, self.lead_in) < 0:
            raise UsageError("budget_s must be above zero; resolution, rest_s and lead_in must not be negative")
        if not 1 <= self.min_rounds <= self.max_rounds:
            raise UsageError(f"min_rounds {self.min_rounds} must be between 1 and max_rounds {self.max_rounds}")


@dataclass(frozen=True)
class Comparison:
    """What ``measure`` found. Times are milliseconds; a ratio below one means faster than the baseline.

    Attributes:
        stages: contestant → stage → ``min p50 p90 p99 max mean n`` and ``p50_low p50_high``, the median's interval.
        ratios: contestant (all but the baseline) → stage → ``ratio low high n``: median of the rounds' paired ratios.
        baseline: whom the ratios are against.
        rounds: measured calls of each contestant.
        warmup: ``calls`` of each contestant before that, and the names that had ``unsettled`` times at its end.
        stopped: ``narrow`` (every interval reached the width), ``budget`` or ``rounds``.
        disturbances: sentences, each a reason not to believe the figures.
        watch: what the machine did meanwhile.
        samples: contestant → stage → [rounds] in measured order; not part of the JSON.
    """

    stages: dict[str, dict[str, dict[str, float]]]
    ratios: dict[str, dict[str, dict[str, float]]]
    baseline: str
    rounds: int
    warmup: dict[str, Any]
    stopped: str
    seconds: float
    disturbances: list[str]
    watch: dict[str, Any]
    options: ClockOptions
    samples: dict[str, dict[str, NDArray[np.float64]]] = dataclasses.field(repr=False)

    @property
    def reliable(self) -> bool:
        """Whether nothing speaks against the figures."""
        return not self.disturbances

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the samples."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "samples"}
        fields["options"] = dataclasses.asdict(self.options)
        return {"schema": SCHEMA, "reliable": self.reliable, **fields}


def measure(
    contestants: Mapping[str, Call],
    items: Sequence[Any],
    options: ClockOptions | None = None,
    *,
    baseline: str | None = None,
    progress: Progress | None = None,
    timer: Callable[[], float] = time.perf_counter,
    watch: NoiseMonitor | None = None,
) -> Comparison:
    """Time every contestant on the same items, taking turns (see the module's text).

    Args:
        contestants: name → callable of one item. A returned mapping of numbers whose keys all end in ``_ms`` is
            read as stage times in milliseconds (``whole_ms`` among them replaces the clock's own).
        items: cycled, shuffled anew in every pass.
        baseline: whom ratios are against; the first contestant by default.
        progress: called now and then, between calls, with the share of the budget used and a sentence.
        timer: seconds; replaced by a simulated clock in tests.
        watch: counts disturbance; a fresh ``NoiseMonitor()`` by default.

    Raises:
        InputError: no contestants, no items, or an unknown baseline.
    """
    options = options or ClockOptions()
    if not contestants or not len(items):
        raise InputError(f"nothing to time: give at least one {'image' if contestants else 'model'}")
    baseline = next(iter(contestants)) if baseline is None else baseline
    if baseline not in contestants:
        raise InputError(f"the baseline {baseline!r} is not among what is timed: {', '.join(contestants)}")
    race = _Race(contestants, items, options, timer)
    watch = watch or NoiseMonitor()
    started = timer()
    gc.collect()
    with no_garbage_collection():  # one in the middle of a call would be charged to whoever was running
        warmup = _warm_up(race, started + WARMUP_SHARE * options.budget_s)
        with watch:
            stopped = _run(race, baseline, started, watch, progress)
    samples = race.arrays()
    return Comparison(
        stages={name: {s: summary(v, options.confidence) for s, v in samples[name].items()} for name in contestants},
        ratios=_ratios(samples, baseline, options),
        baseline=baseline,
        rounds=race.rounds,
        warmup=warmup,
        stopped=stopped,
        seconds=timer() - started,
        disturbances=watch.disturbances() + _doubts(samples, baseline, options, warmup["unsettled"]),
        watch=watch.to_dict(),
        options=options,
        samples=samples,
    )


def summary(values: ArrayLike, confidence: float = 0.95) -> dict[str, float]:
    """``min p50 p90 p99 max mean n`` of [N] measurements in measured order, and the interval of the median.

    Percentiles interpolate linearly between order statistics; with few measurements p99 is close to the maximum.
    """
    x = np.asarray(values, dtype=np.float64)
    low, high = median_interval(x, confidence)
    p50, p90, p99 = (float(v) for v in np.percentile(x, [50, 90, 99]))
    figures = {"min": float(x.min()), "p50": p50, "p90": p90, "p99": p99, "max": float(x.max())}
    return {**figures, "mean": float(x.mean()), "n": len(x), "p50_low": low, "p50_high": high}


class _Race:
    """The contestants and their samples so far; ``round`` lets each of them do the same item once."""

    def __init__(
        self,
        contestants: Mapping[str, Call],
        items: Sequence[Any],
        options: ClockOptions,
        timer: Callable[[], float],
    ) -> None:
        rng = np.random.default_rng(options.seed)
        self.contestants, self.items, self.options, self.timer = contestants, items, options, timer
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.rounds = 0
        self._turns = _turns(list(contestants), rng)
        self._order = _shuffled(len(items), rng)
        self.restart()

    def restart(self) -> None:
        self.samples = {name: {} for name in self.contestants}
        self.rounds = 0

    def round(self) -> None:
        item = self.items[next(self._order)]
        for name in next(self._turns):
            call = self.contestants[name]
            if self.options.rest_s:
                rest(self.options.rest_s)
            for _ in range(self.options.lead_in):
                call(item)
            start = self.timer()
            returned = call(item)
            whole_ms = 1e3 * (self.timer() - start)
            stages = {WHOLE: whole_ms, **_stages(returned)}
            stages[WHOLE] = max(stages[WHOLE], 1e-6)  # ratios need more than nothing, even from a coarse timer
            known = self.samples[name]
            if self.rounds and stages.keys() != known.keys():
                raise ValueError(f"{name!r} returned the stages {sorted(stages)}, before that {sorted(known)}")
            for stage, value in stages.items():
                known.setdefault(stage, []).append(value)
        self.rounds += 1

    def arrays(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        return {name: {s: np.asarray(v) for s, v in stages.items()} for name, stages in self.samples.items()}


def _stages(returned: Any) -> dict[str, float]:
    """Stage times if that is what a contestant returned (a model's outputs are a mapping too, of arrays)."""
    if not isinstance(returned, Mapping) or not all(isinstance(k, str) and k.endswith("_ms") for k in returned):
        return {}
    stages = {stage: float(value) for stage, value in returned.items()}
    if not all(0.0 <= value < math.inf for value in stages.values()):
        raise ValueError(f"a stage cannot take these milliseconds: {stages}")
    return stages


def _turns(names: list[str], rng: np.random.Generator) -> Iterator[list[str]]:
    """A random order, then its reverse, and so on: nobody profits from going first, or after a certain other."""
    while True:
        order = [names[i] for i in rng.permutation(len(names))]
        yield order
        yield order[::-1]


def _shuffled(count: int, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in rng.permutation(count))


def rest(at_most_s: float) -> None:
    """Return when this process uses next to no CPU time, three looks in a row, or after ``at_most_s`` seconds."""
    until, quiet = time.perf_counter() + at_most_s, 0
    while quiet < 3 and time.perf_counter() < until:
        began, used = time.perf_counter(), time.process_time()
        time.sleep(REST_LOOK_S)
        idle = time.process_time() - used < REST_SHARE * (time.perf_counter() - began)
        quiet = quiet + 1 if idle else 0


def settled(times: Sequence[float]) -> bool:
    """Whether the last two windows of calls have the same median, to 2 % or to what their own scatter allows."""
    if len(times) < 2 * WINDOW:
        return False
    windows = np.asarray(times[-2 * WINDOW :]).reshape(2, WINDOW)
    medians = np.median(windows, axis=1)
    scatter = np.median(np.abs(windows - medians[:, None]), axis=1)
    # Standard error of a median of normal data is 1.253 sigma / sqrt(n), sigma being 1.483 times the median deviation.
    error = 1.253 * 1.483 * math.hypot(*scatter) / math.sqrt(WINDOW)
    return bool(abs(medians[1] - medians[0]) <= max(SETTLED * medians[1], 2.0 * error))


def _warm_up(race: _Race, until: float) -> dict[str, Any]:
    """Rounds until everybody has settled or ``until`` has come; the samples are dropped."""
    unsettled = list(race.contestants)
    while unsettled and not (race.rounds and race.timer() >= until) and race.rounds < race.options.max_rounds:
        race.round()
        unsettled = [name for name in race.contestants if not settled(race.samples[name][WHOLE])]
    calls = race.rounds
    race.restart()
    return {"calls": calls, "unsettled": unsettled}


def _run(race: _Race, baseline: str, started: float, watch: NoiseMonitor, progress: Progress | None) -> str:
    """Rounds until the intervals are narrow, or the budget or the rounds are used up; returns which."""
    options, next_look = race.options, race.options.min_rounds
    while race.rounds < options.max_rounds:
        race.round()
        watch.tick()
        if race.timer() - started >= options.budget_s:
            return "budget"
        if race.rounds >= next_look:
            widths = _widths(race.arrays(), baseline, options)
            wide = next((f"{what} is known to {width:.1%}" for width, _, what in widths if width > options.width), None)
            if progress:
                used = (race.timer() - started) / options.budget_s
                progress(used, f"{race.rounds} rounds, {wide or 'all intervals are narrow'}")
            if wide is None:
                return "narrow"
            next_look = max(race.rounds + 10, int(1.15 * race.rounds))
    return "rounds"


def _widths(samples: Samples, baseline: str, options: ClockOptions) -> Iterator[tuple[float, float, str]]:
    """(width, largest one to believe, of what) of every time's and ratio's interval, as fractions of the median.

    Those that cost little come first: who looks for one that is too wide seldom needs the bootstrap.
    """
    for name, stages in samples.items():
        low, high = median_interval(stages[WHOLE], options.confidence)
        yield (high - low) / float(np.median(stages[WHOLE])), max(TIME_LIMIT, options.width), f"the time of {name}"
    for name in _others(samples, baseline):
        pair = samples[name][WHOLE], samples[baseline][WHOLE]
        ratio, low, high = ratio_interval(*pair, options.confidence, options.seed)
        yield (high - low) / ratio, max(RATIO_LIMIT, options.width), f"the ratio of {name} to {baseline}"


def _others(samples: Samples, baseline: str) -> list[str]:
    return [name for name in samples if name != baseline]


def _ratios(samples: Samples, baseline: str, options: ClockOptions) -> dict[str, dict[str, dict[str, float]]]:
    """Paired ratios of every contestant and stage that the baseline has too; a stage of no duration has none."""
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for name in _others(samples, baseline):
        ratios[name] = {}
        for stage, values in samples[name].items():
            base = samples[baseline].get(stage)
            if base is None or min(values.min(), base.min()) <= 0.0:
                continue
            ratio, low, high = ratio_interval(values, base, options.confidence, options.seed)
            slack = 1.0 + options.resolution
            ratios[name][stage] = {"ratio": ratio, "low": low / slack, "high": high * slack, "n": len(values)}
    return ratios


def _doubts(samples: Samples, baseline: str, options: ClockOptions, unsettled: Sequence[str]) -> list[str]:
    """What the samples themselves say against being believed: no steady state, few calls, wide intervals, drift."""
    doubts = [f"{name} had not settled when the warm-up's share of the budget ended" for name in unsettled]
    if (calls := len(samples[baseline][WHOLE])) < FEWEST:
        doubts.append(f"only {calls} calls of each were measured; give it more time")
    for width, limit, what in _widths(samples, baseline, options):
        if width > limit:
            doubts.append(f"{what} is known to {width:.0%} only; give it more time, or the machine more quiet")
    for name, stages in samples.items():
        doubts += _drift(stages[WHOLE], TIME_LIMIT, f"the time of {name}")
    for name in _others(samples, baseline):
        ratio = samples[name][WHOLE] / samples[baseline][WHOLE]
        doubts += _drift(ratio, RATIO_LIMIT, f"the ratio of {name} to {baseline}")
    return doubts


def _drift(values: NDArray[np.float64], limit: float, what: str) -> list[str]:
    """A sentence if two quarters of the run have medians further apart than ``limit`` and than chance allows."""
    quarters = np.array_split(values, 4)
    if len(quarters[-1]) < 6:
        return []
    medians = [float(np.median(q)) for q in quarters]
    first, last = sorted((int(np.argmin(medians)), int(np.argmax(medians))))
    apart = max(medians) / min(medians) - 1.0
    intervals = [median_interval(quarters[i], 0.99) for i in (first, last)]
    overlap = max(low for low, _ in intervals) <= min(high for _, high in intervals)
    if apart <= limit or overlap:
        return []
    return [f"{what} moved by {apart:.0%} between quarters {first + 1} and {last + 1} of the run"]
