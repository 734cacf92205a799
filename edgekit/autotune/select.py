"""Who is timed again, who is judged, who is dropped, who wins. Pure: clocks, builds and accuracy come from outside.

    outcome = choose(candidates, time=clock, judge=accuracy, limit=0.5, order=order())
    outcome.winner, outcome.rows["ov-int8"].verdict

1. Everybody is timed shortly, in turns. Of one bundle's forms (streams), which share their accuracy, those that are
   clearly slower than the best form are dropped at once.
2. The fastest that is not judged yet is judged: its bundle is built in full and its accuracy measured. Within the limit
   it may win; whoever is clearly slower than the best of those is dropped *unjudged*, since it could not win.
3. Repeated, with the clock running again for those that are left, until everybody left is judged; then they are timed
   for longer. The fastest wins. Among those that the clock cannot tell from the fastest the more accurate wins, then
   the wider precision, then fewer streams.

*Clearly slower*: the intervals of the two paired ratios are more than ``CLEAR`` apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.autotune import Candidate, Objective
from edgekit.spec import Json

CLEAR = 0.03
SAME_POINTS = 0.05  # differences of accuracy below this are no reason to prefer one

Say = Callable[[str], None]


@dataclass(frozen=True)
class Time:
    """Milliseconds an image: median, its interval; and the ratio to the clock's baseline with its interval."""

    ms: float
    low: float
    high: float
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0


@dataclass(frozen=True)
class Judged:
    """Accuracy of a bundle (a fraction) and points lost against the float model; or why there is no such bundle.

    ``scores`` has F1 and the class that loses most, as manifests have them, and ``over`` what is further lost than was
    allowed, beside the metric."""

    accuracy: float | None
    drop_points: float | None
    refused: str | None = None
    scores: Json = field(default_factory=dict)
    over: tuple[str, ...] = ()

    def verdict(self, limit: float) -> str | None:
        """Why it may not be taken where ``limit`` points may be lost, or None."""
        if self.refused or self.drop_points is None:
            return self.refused or "could not be judged"
        if self.drop_points > limit:
            return f"loses {self.drop_points:.2f} points, {limit:g} allowed"
        return "; ".join(self.over) or None


@dataclass
class Row:
    """One candidate: what is known of it and what became of it."""

    candidate: Candidate
    time: Time | None = None
    judged: Judged | None = None
    verdict: str = ""
    against: str | None = None  # who beat it, where it was dropped for its speed
    front: bool = False


@dataclass(frozen=True)
class Outcome:
    """All candidates by name, and the winner's name; None where nobody is within the limit."""

    rows: dict[str, Row]
    winner: str | None


# Names and the baseline of their ratios, and whether it is the last time.
Clock = Callable[[Sequence[str], str, bool], Mapping[str, Time]]


def choose(
    entries: Sequence[Candidate],
    clock: Clock,
    judge: Callable[[Candidate], Judged],
    limit: float,
    order: Sequence[str] = (),
    say: Say = lambda _: None,
) -> Outcome:
    """Find the fastest of ``entries`` that loses at most ``limit`` points.

    Args:
        entries: at least one.
        clock: (names, baseline, last) -> time of each.
        judge: called at most once for each bundle.
        order: targets from the widest precision to the narrowest, which decides ties.
        say: called with a line at each decision.
    """
    rows = {entry.name: Row(entry) for entry in entries}
    alive = list(rows)
    known: dict[str, Judged] = {}
    _race(rows, clock, alive, alive[0])
    _drop_slower_forms(rows, alive, say)
    while waiting := [name for name in alive if rows[name].judged is None]:
        lead = min(waiting, key=lambda name: _ms(rows[name]))
        bundle = rows[lead].candidate.bundle
        say(f"judging {bundle}, {_ms(rows[lead]):.3g} ms an image")
        known[bundle] = judge(rows[lead].candidate)
        _spread(rows, alive, bundle, known[bundle], limit, say)
        best = _best(rows, alive)
        if best is not None and len(alive) > 1:
            _race(rows, clock, alive, best)
            _drop_slower(rows, alive, say)
    if not alive:
        return Outcome(with_front(rows), None)
    if len(alive) > 1:
        _race(rows, clock, alive, str(_best(rows, alive)), last=True)
    winner = _winner(rows, alive, order)
    rows[winner].verdict = "chosen"
    return Outcome(with_front(rows), winner)


def nearest(outcome: Outcome) -> Row | None:
    """Of those that were judged and lose too much, the one that loses least; the faster of equals."""
    lossy = [row for row in outcome.rows.values() if row.judged is not None and row.judged.drop_points is not None]
    return min(lossy, key=lambda row: (_drop(row), _ms(row)), default=None)


def unmet(wish: Objective, outcome: Outcome) -> bool:
    """Whether even the winner is outside the wish's bound."""
    return outcome.winner is not None and not wish.holds(_ms(outcome.rows[outcome.winner]))


def _race(rows: dict[str, Row], clock: Clock, names: Sequence[str], baseline: str, last: bool = False) -> None:
    """Run a race and note its times; those of rows dropped before are carried over by what the baseline took then and
    takes now, so that all figures are as if of one race."""
    times, then = clock(list(names), baseline, last), rows[baseline].time
    for name, row in rows.items():
        if name in times:
            row.time = times[name]
        elif row.time is not None and then is not None:
            drift, old = times[baseline].ms / then.ms, row.time
            slower = 1 / then.ratio
            row.time = Time(
                old.ms * drift,
                old.low * drift,
                old.high * drift,
                old.ratio * slower,
                old.ratio_low * slower,
                old.ratio_high * slower,
            )


def _drop_slower_forms(rows: dict[str, Row], alive: list[str], say: Say) -> None:
    for name in list(alive):
        bundle = rows[name].candidate.bundle
        forms = [other for other in alive if rows[other].candidate.bundle == bundle]
        best = min(forms, key=lambda other: _ms(rows[other]))
        _drop_if_slower(rows, alive, name, best, say)


def _drop_slower(rows: dict[str, Row], alive: list[str], say: Say) -> None:
    best = _best(rows, alive)
    for name in list(alive):
        _drop_if_slower(rows, alive, name, str(best), say)


def _drop_if_slower(rows: dict[str, Row], alive: list[str], name: str, best: str, say: Say) -> None:
    own, other = _time(rows[name]), _time(rows[best])
    if name != best and own.ratio_low > (1 + CLEAR) * other.ratio_high:
        rows[name].verdict = f"{own.ms / other.ms:.2f} times as long as {best}"
        rows[name].against = best
        alive.remove(name)
        say(f"{name} is out: {rows[name].verdict}")


def _spread(rows: dict[str, Row], alive: list[str], bundle: str, judged: Judged, limit: float, say: Say) -> None:
    """What is now known of a bundle, to all its candidates; they leave if it cannot win."""
    for name, row in rows.items():
        if row.candidate.bundle != bundle:
            continue
        row.judged = judged
        against = judged.verdict(limit)
        if against is None or name not in alive:
            continue
        row.verdict = against
        alive.remove(name)
        say(f"{name} is out: {row.verdict}")


def _best(rows: Mapping[str, Row], alive: Sequence[str]) -> str | None:
    """The fastest of those known to be within the limit."""
    fitting = [name for name in alive if rows[name].judged is not None]
    return min(fitting, key=lambda name: _ms(rows[name]), default=None)


def _winner(rows: Mapping[str, Row], alive: Sequence[str], order: Sequence[str]) -> str:
    """The fastest, or of those the clock cannot tell from it the best by accuracy, precision and simplicity."""
    fastest = min(alive, key=lambda name: _time(rows[name]).ratio)
    limit = _time(rows[fastest]).ratio_high
    equal = [name for name in alive if name == fastest or _time(rows[name]).ratio_low <= limit]

    def rank(name: str) -> tuple[float, int, int, float]:
        candidate, place = rows[name].candidate, {target: i for i, target in enumerate(order)}
        wide = place.get(candidate.target, len(order))
        steps = round(_drop(rows[name]) / SAME_POINTS)
        return steps, wide, candidate.streams * candidate.batch, _ms(rows[name])

    winner = min(equal, key=rank)
    for name in alive:
        if name == winner:
            continue
        if name in equal:
            less = _drop(rows[name]) - _drop(rows[winner]) >= SAME_POINTS
            why = "loses less" if less else "is wider or simpler"
            rows[name].verdict = f"within the clock's error of {winner}, which {why}"
        else:
            rows[name].verdict = f"{_ms(rows[name]) / _ms(rows[winner]):.2f} times as long as {winner}"
        rows[name].against = winner
    return winner


def with_front(rows: dict[str, Row]) -> dict[str, Row]:
    """Marks the Pareto front of what was judged: nobody else is both as fast and as accurate, and better in one."""
    judged = [row for row in rows.values() if row.judged is not None and row.judged.drop_points is not None]
    for row in judged:
        row.front = not any(
            _ms(other) <= _ms(row)
            and _drop(other) <= _drop(row)
            and (_ms(other), _drop(other)) != (_ms(row), _drop(row))
            for other in judged
        )
    return rows


def _time(row: Row) -> Time:
    assert row.time is not None, "timed before anything is asked of it"
    return row.time


def _ms(row: Row) -> float:
    return _time(row).ms


def _drop(row: Row) -> float:
    assert row.judged is not None and row.judged.drop_points is not None
    return row.judged.drop_points
