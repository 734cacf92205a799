"""Which change buys most speed for least accuracy, one after the other. Pure: builds, clocks and accuracy come from
outside.

    ladder = climb(Candidate("ov-fp16"), world, to=2.0, limit=0.5)
    [(rung.lever, 1 / rung.time.ratio, rung.judged.drop_points) for rung in ladder.taken]

1. Of what runs now every lever makes one candidate: a shape, a smaller size, a narrower precision. Each is timed in
   turns with what runs now and with the start; one that saves nothing here is left out for good.
2. The others are judged. One that loses more than the limit in all is left out for good. Of the rest the one is taken
   that loses the fewest points for a millisecond saved, where some are fast enough of those; once one is found that
   loses nothing no more are tried, and the others wait.
3. Repeated until the speed is reached or no lever is left. A lever that takes a training comes when nothing else is
   left; what lost too much before may be tried again after it.
4. All that was taken is timed again in turns with the start, for longer. Short of the speed, it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgekit.autotune import Candidate
from edgekit.autotune.select import CLEAR, SAME_POINTS, Judged, Time
from edgekit.errors import InputError

START = "start"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Move:
    """What a lever makes of what runs now.

    Attributes:
        lever: its name.
        candidate: what it makes.
        key: what is left out for good where this turns out useless.
        narrows: whether the build has a gate of its own, which may lose what the limit has left.
        slow: whether making it takes a training.
    """

    lever: str
    candidate: Candidate
    key: str
    narrows: bool = False
    slow: bool = False


class World(Protocol):
    """Who builds, times and judges."""

    def moves(self, candidate: Candidate) -> Sequence[Move]:
        """What could be tried, the cheapest first."""

    def build(self, candidate: Candidate) -> str | None:
        """Makes something to time; why that cannot be done, or None."""

    def stands_in(self, candidate: Candidate) -> bool:
        """Whether what is timed is not yet what is judged."""

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> Mapping[str, Time]:
        """Times in turns, see ``select.Clock``."""

    def judge(self, candidate: Candidate, limit: float | None) -> Judged:
        """What it loses; ``limit`` for the gate of its build."""


@dataclass
class Rung:
    """One candidate that was tried.

    Attributes:
        step: when, from 1; 0 is the start.
        time: its ratios are to the start.
        exchange: points lost for a millisecond saved, against what ran then.
        verdict: what became of it.
    """

    lever: str
    candidate: Candidate
    step: int
    time: Time | None = None
    judged: Judged | None = None
    exchange: float | None = None
    verdict: str = ""
    taken: bool = False

    @property
    def speedup(self) -> float:
        return 1 / self.time.ratio if self.time else 0.0

    @property
    def drop(self) -> float:
        assert self.judged is not None and self.judged.drop_points is not None
        return self.judged.drop_points


@dataclass
class Ladder:
    """Everything that was tried, in order, and whether what was taken last is fast enough."""

    to: float
    limit: float
    rungs: list[Rung] = field(default_factory=list)
    reached: bool = False

    @property
    def taken(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.taken]

    @property
    def last(self) -> Rung:
        return self.taken[-1]

    def beyond(self) -> Rung | None:
        """Of those fast enough that were refused for their accuracy the one that loses least."""
        fast = [rung for rung in self.rungs if not rung.taken and rung.speedup >= self.to]
        judged = [rung for rung in fast if rung.judged and rung.judged.drop_points is not None]
        return min(judged, key=lambda rung: rung.drop, default=None)


def climb(start: Candidate, world: World, to: float, limit: float, say: Say = lambda _: None) -> Ladder:
    """Take levers until ``start`` is ``to`` times as fast, as long as no more than ``limit`` points are lost in all.

    Raises:
        InputError: the start cannot be built.
    """
    refused = world.build(start)
    if refused:
        raise InputError(refused)
    first = Rung(START, start, 0, judged=world.judge(start, None), verdict=START, taken=True)
    ladder = Ladder(to, limit, [first])
    assert first.judged is not None
    against = first.judged.verdict(limit)
    if against:
        first.verdict = against
        return ladder
    dead: dict[str, bool] = {}
    confirmed = first
    while not ladder.reached and _stepped(ladder, world, dead, say):
        if ladder.last.speedup >= to:
            _confirm(ladder, world)
            confirmed = ladder.last
            ladder.reached = ladder.last.speedup >= to
    if ladder.last is not confirmed:
        _confirm(ladder, world)
        ladder.reached = ladder.last.speedup >= to
    return ladder


def _confirm(ladder: Ladder, world: World) -> None:
    """The times of all that was taken, from one long race; of the others from what the start takes in it."""
    names, first = [rung.candidate.name for rung in ladder.taken], ladder.rungs[0]
    times = world.clock(names, names[0], True)
    first.time = times[names[0]]
    for rung in ladder.rungs[1:]:
        if rung.taken:
            rung.time = times[rung.candidate.name]
        elif rung.time is not None:
            rung.time = _scaled(first.time, rung.time)


def _scaled(first: Time, other: Time) -> Time:
    """``other`` with milliseconds as if of the race in which the start took ``first``."""
    ratio, low, high = other.ratio, other.ratio_low, other.ratio_high
    return Time(first.ms * ratio, first.ms * low, first.ms * high, ratio, low, high)


def _stepped(ladder: Ladder, world: World, dead: dict[str, bool], say: Say) -> bool:
    """Whether a lever could be taken. ``dead`` are keys of those that are out, True for their accuracy."""
    now, step = ladder.last, ladder.rungs[-1].step + 1
    fitting: list[Rung] = []
    slow: set[str] = set()
    for move in world.moves(now.candidate):
        if move.key in dead or (move.slow and fitting):
            continue
        rung = Rung(move.lever, move.candidate, step)
        ladder.rungs.append(rung)
        _try(rung, move, now, ladder, world)
        if rung.verdict:
            dead[move.key] = rung.judged is not None
            say(f"step {step}: {rung.candidate.name} is out: {rung.verdict}")
            continue
        fitting.append(rung)
        slow |= {move.lever} if move.slow else set()
        if rung.drop - now.drop <= SAME_POINTS:
            break  # nothing else can cost less
    if not fitting:
        return False
    enough = [rung for rung in fitting if rung.speedup >= ladder.to]
    best = min(enough or fitting, key=lambda rung: (max(rung.exchange or 0, 0), -rung.speedup))
    for rung in fitting:
        rung.taken = rung is best
        later = "is not fast enough, as is" if enough and rung not in enough else "costs more for a millisecond than"
        rung.verdict = "taken" if rung is best else f"{later} {best.candidate.name}"
    if best.lever in slow:  # another network, which may bear what this one did not
        for key in [key for key, lossy in dead.items() if lossy]:
            del dead[key]
    gained = f"{best.speedup:.2f} times as fast as the start, loses {best.drop:.2f} points"
    say(f"step {step}: {best.lever} is taken: {best.candidate.name}, {gained}")
    return True


def _try(rung: Rung, move: Move, now: Rung, ladder: Ladder, world: World) -> None:
    """Build, time and judge; ``verdict`` says why it may not be taken."""
    refused = world.build(rung.candidate)
    if refused:
        rung.verdict = refused
        return
    saved = _raced(rung, now, ladder, world)
    if saved <= 0:
        speeds = f"{rung.speedup:.2f} times as fast as the start, {now.candidate.name} {now.speedup:.2f}"
        rung.verdict = f"saves nothing here: {speeds}"
        return
    stands_in = world.stands_in(rung.candidate)
    rung.judged = world.judge(rung.candidate, max(ladder.limit - now.drop, 0.0) if move.narrows else None)
    against = rung.judged.verdict(ladder.limit)
    if against:
        rung.verdict = against
        return
    if stands_in:
        saved = _raced(rung, now, ladder, world)
    if saved <= 0:
        rung.verdict = "saves nothing here as it has to be for its accuracy"
        return
    rung.exchange = (rung.drop - now.drop) / saved


def _raced(rung: Rung, now: Rung, ladder: Ladder, world: World) -> float:
    """Notes the rung's time; milliseconds saved against what runs now, 0 where that is not clear."""
    first = ladder.rungs[0]
    names = dict.fromkeys((first.candidate.name, now.candidate.name, rung.candidate.name))
    times = world.clock(list(names), first.candidate.name, False)
    first.time = first.time or times[first.candidate.name]
    rung.time = _scaled(first.time, times[rung.candidate.name])
    before = times[now.candidate.name].ratio
    return first.time.ms * (before - rung.time.ratio) if rung.time.ratio < (1 - CLEAR) * before else 0.0
