"""``edgekit tune --to 2x``: from a checkpoint to a bundle that is so many times as fast, within a limit on accuracy.

    made = reach(Path("yolo12n.pt"), Path("fast"), Wanted(to=2.0), BuildOptions(quantize=QuantizeOptions(data=data)))
    made.manifest["plan"]["ladder"]["steps"]        # what was tried, with speed, accuracy and what became of it

Speed is the whole call's, in turns with the checkpoint's own bundle of ``target`` in the full input size. Accuracy is
held against the float model in that size, whatever was done to it. The bundle is the last rung of ``ladder.py``, with a
plan as ``--target auto`` leaves it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import targets, tasks
from edgekit.autotune import Candidate, Objective, document
from edgekit.autotune.auto import race_of, seal
from edgekit.autotune.candidates import candidates
from edgekit.autotune.ladder import START, Ladder, Move, Rung, climb
from edgekit.autotune.select import Judged, Outcome, Row, Time, with_front
from edgekit.autotune.sizes import sizes
from edgekit.autotune.tuner import Job, Tuner
from edgekit.bundle import build as building
from edgekit.bundle import preflight
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import Size, View
from edgekit.bundle.source import Source, describe
from edgekit.data.images import image_size
from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize.sets import Sets
from edgekit.runtime.manifest import Bundle, read_bundle
from edgekit.targets._target import PRECISIONS

LOOKED_AT = 500  # images of a set whose sizes say what it shows
PRUNED = "pruned"
PRUNED_SHARE = 0.5  # of the limit: what is lost on the images ranked on is less than on others

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is to be reached.

    Attributes:
        to: times as fast.
        target: as what: the checkpoint's own bundle of this target.
        threads: of every session; None: the runtime's choice.
        learn: makes a checkpoint with another activation, which takes a training at the input size that it is given;
            None: there is none.
        activation: its name.
        size: what it learns in; None: what the ladder finds best.
    """

    to: float
    target: str
    threads: int | None = None
    learn: Callable[[Size], Path] | None = None
    activation: str = ""
    size: Size | None = None


def reach(
    source: Path,
    out: Path,
    wanted: Wanted,
    options: BuildOptions,
    say: Say = lambda _: None,
    seconds: float = 1.0,
    view: View | None = None,
) -> Bundle:
    """Build ``source`` so that it is ``wanted.to`` times as fast and loses at most ``max_drop``; leave it in ``out``.

    Args:
        source: a checkpoint.
        options: as ``edgekit.bundle.build.build`` takes them, with something to judge on; ``imgsz`` is the full size.
        say: called with a line at each step.
        seconds: scale of the time given to races.
        view: what the camera shows; what the set shows by default.

    Raises:
        InputError, UsageError: nothing can be built of this, or there is nothing to judge on.
        GateError: nothing is as fast within the limit; the ladder so far is its evidence, the nearest is named.
    """
    known = _checked(source, out)
    sets = preflight.of_sets(known, options.quantize, calibrate=False)
    if sets is None or sets.judged is None:
        raise UsageError("`to`: accuracy decides; give `data`, a labelled set or pictures")
    detects = known.task is not None and tasks.get(known.task).detects
    if view is None and detects:
        view = view_of(sets)
    elif not detects:
        view = None  # a classifier sees a square cut out
    names, left_out = _targets(wanted.target, sets)
    for note in sets.notes:
        say(f"note: {note}")
    with building.failures_to(out), building.workspace(out) as folder:
        with Tuner(Job(source, options, sets, view), folder, Objective(), say, seconds) as contest:
            world = Levers(contest, wanted, names)
            ladder = climb(world.start(), world, wanted.to, options.quantize.max_drop, say)
            plan = _plan(ladder, left_out, contest)
            if not ladder.reached:
                raise GateError(_unreached(ladder, wanted), {"plan": plan})
            files = contest.take(ladder.last.candidate)
            plan = _plan(ladder, left_out, contest, read_bundle(files, verify=False))
        seal(files, plan)
        building.move_into_place(files, out)
    return read_bundle(out, verify=False)


def _checked(source: Path, out: Path) -> Source:
    preflight.check_out(out)
    known = describe(source)
    if known.info is not None:
        height, width = known.info.imgsz
        raise UsageError(f"`to`: {source} is a graph exported for {height},{width}; give the checkpoint it is of")
    return known


def view_of(sets: Sets) -> View | None:
    """What the pictures of a set that is judged on are like; None where none can be read."""
    assert sets.judged is not None
    found: Counter[Size] = Counter()
    for sample in sets.judged.spread(LOOKED_AT):
        try:
            width, height = image_size(sample.path)
        except InputError:
            continue
        found[height, width] += 1
    return View(f"pictures of {sets.on}", dict(found)) if found else None


def _targets(reference: str, sets: Sets) -> tuple[list[str], dict[str, str]]:
    """Targets as narrow as ``reference`` or narrower that run here, and why others do not."""
    found, left_out = candidates(Objective(), sets.manifest is not None)
    if sets.lacking:
        left_out |= {name: sets.lacking for name in left_out if targets.get(name).int8}
    widest = PRECISIONS.index(targets.get(reference).precision)
    narrow = {name for name in targets.names() if PRECISIONS.index(targets.get(name).precision) >= widest}
    return [entry.target for entry in found if entry.target in narrow], {
        name: reason for name, reason in left_out.items() if name in narrow
    }


@dataclass(frozen=True)
class _State:
    """What the levers have made so far."""

    target: str
    size: Size
    fitted: bool = False
    activation: str = ""
    pruned: bool = False

    @property
    def variant(self) -> str:
        """The checkpoint that it is built from."""
        return "+".join(filter(None, (self.activation, PRUNED if self.pruned else "")))


@dataclass
class Levers:
    """What can be done to a checkpoint here, as ``ladder.climb`` asks for it."""

    contest: Tuner
    wanted: Wanted
    names: Sequence[str]
    _states: dict[str, _State] = field(default_factory=dict)
    _shares: dict[str, float] = field(default_factory=dict)  # of the start's time, as last seen

    def start(self) -> Candidate:
        """The checkpoint as it is."""
        base, _ = self.contest.base()
        return self._candidate(_State(self.wanted.target, base))

    def moves(self, candidate: Candidate) -> list[Move]:
        state = self._states[candidate.name]
        precision = PRECISIONS.index(targets.get(state.target).precision)
        found: list[tuple[str, str, _State]] = []
        if not state.fitted and self.contest.job.view is not None:
            found.append(("shape", "shape", dataclasses.replace(state, fitted=True)))
        smaller = self._smaller(state.size)
        if smaller is not None:
            found.append(("size", "size", dataclasses.replace(state, size=smaller)))
        if not state.pruned:
            found.append(("pruning", f"pruning {state.variant}", dataclasses.replace(state, pruned=True)))
        for name in self.names:
            if name != state.target and PRECISIONS.index(targets.get(name).precision) >= precision:
                found.append(("precision", name, dataclasses.replace(state, target=name)))
        if self.wanted.learn is not None and not state.activation:
            name = self.wanted.activation.replace(":", "-")
            for size in dict.fromkeys((self._learnt_in(state), state.size)):
                learnt = dataclasses.replace(state, activation=name, size=size)
                found.append(("activation", f"activation {size}", learnt))
        return [move for each in found if (move := self._move(*each)) is not None and move.candidate != candidate]

    def _move(self, lever: str, key: str, state: _State) -> Move | None:
        try:
            made = self._candidate(state)
        except UsageError:  # no input of that size divides into areas of attention
            return None
        narrows = lever == "precision" and targets.get(state.target).int8
        return Move(lever, made, key, narrows, slow=lever == "activation")

    def _candidate(self, state: _State) -> Candidate:
        shapes = self.contest.shapes(state.target, state.size) if state.fitted else (state.size,)
        made = Candidate(state.target, threads=self.wanted.threads, shapes=shapes, variant=state.variant)
        self._states.setdefault(made.name, state)
        return made

    def _smaller(self, size: Size, share: float = 1.0) -> Size | None:
        """The next smaller input, of at most this share of the area."""
        base, areas = self.contest.base()
        most = share * size[0] * size[1]
        return next((each for each in sizes(base, areas) if each != size and each[0] * each[1] <= most), None)

    def _learnt_in(self, state: _State) -> Size:
        """The input that a network with another activation learns in: the largest in which the old one would be fast
        enough if time went with the area, for there accuracy has to be won; the next smaller where there is none."""
        if self.wanted.size is not None:
            return self.wanted.size
        now = self._shares.get(self._candidate(state).name, 1.0)
        return self._smaller(state.size, 1 / (self.wanted.to * now)) or self._smaller(state.size) or state.size

    def build(self, candidate: Candidate) -> str | None:
        state, variants = self._states[candidate.name], self.contest.variants
        if state.activation and state.activation not in variants:
            assert self.wanted.learn is not None
            self.contest.say(f"training with {state.activation} at {state.size[0]},{state.size[1]}")
            variants[state.activation] = self.wanted.learn(state.size)
        if state.variant and state.variant not in variants:
            limit = PRUNED_SHARE * self.contest.job.options.quantize.max_drop
            try:
                variants[state.variant] = self.contest.pruned(state.activation, state.variant, state.size, limit)
            except InputError as error:
                return str(error)
        return self.contest.build([candidate]).get(candidate.bundle)

    def stands_in(self, candidate: Candidate) -> bool:
        return candidate.bundle not in self.contest.bundles

    def clock(self, names: Sequence[str], baseline: str, last: bool) -> Mapping[str, Time]:
        times = self.contest.clock(names, baseline, last)
        self._shares |= {name: time.ratio for name, time in times.items()}
        return times

    def judge(self, candidate: Candidate, limit: float | None) -> Judged:
        self.contest.say(f"judging {candidate.bundle}")
        return self.contest.judge(candidate, limit)


# ---- what is said ------------------------------------------------------------------------------------------------


def _plan(ladder: Ladder, left_out: Mapping[str, str], contest: Tuner, made: Bundle | None = None) -> dict[str, Any]:
    """The plan of ``document.py`` with the ``ladder``; a winner where something was made."""
    rows = {rung.candidate.name: _row(rung, ladder) for rung in ladder.rungs if rung.time is not None}
    outcome = Outcome(with_front(rows), ladder.last.candidate.name if made else None)
    race = race_of(contest) if contest.last else {"reliable": False, "disturbances": ["nothing was timed"], "rounds": 0}
    info = made.info if made else None
    plan = document.document(Objective(), ladder.limit, outcome, left_out, contest.accuracy(), race, info)
    if made:
        last, start = ladder.last, ladder.rungs[0].candidate.name
        plan["why"] = (
            f"{last.candidate.name}: {last.speedup:.2f} times as fast as {start}, loses {last.drop:.2f} points"
        )
    plan["ladder"] = {
        "to": ladder.to,
        "reference": ladder.rungs[0].candidate.name,
        "reached": ladder.reached,
        "speedup": _speedup(ladder.last),
        "steps": [_step(rung) for rung in ladder.rungs],
    }
    taken = contest.left_out.get(ladder.last.candidate.variant)
    if taken is not None:
        plan["ladder"]["pruned"] = {"branches": list(taken.branches), "of": taken.parts}
    return plan


def _row(rung: Rung, ladder: Ladder) -> Row:
    chosen = ladder.reached and rung is ladder.last
    said = "chosen" if chosen else f"a step: {rung.lever}" if rung.taken else rung.verdict
    return Row(rung.candidate, rung.time, rung.judged, said)


def _step(rung: Rung) -> dict[str, Any]:
    judged, time = rung.judged, rung.time
    return {
        "step": rung.step,
        "lever": rung.lever,
        "candidate": rung.candidate.name,
        "taken": rung.taken,
        "ms": {"p50": time.ms, "p50_low": time.low, "p50_high": time.high} if time else None,
        "speedup": _speedup(rung),
        "accuracy": judged.accuracy if judged else None,
        "drop_points": judged.drop_points if judged else None,
        "points_per_ms": rung.exchange,
        "scores": judged.scores if judged else {},
        "verdict": rung.verdict,
    }


def _speedup(rung: Rung) -> dict[str, float] | None:
    """Times as fast as the start, with the interval of the ratio."""
    time = rung.time
    return {"ratio": 1 / time.ratio, "low": 1 / time.ratio_high, "high": 1 / time.ratio_low} if time else None


def _unreached(ladder: Ladder, wanted: Wanted) -> str:
    last, start, asked = ladder.last, ladder.rungs[0], f"`to` {ladder.to:g}x"
    if last is start:
        what = "no lever saves time within the limit" if last.verdict == START else last.verdict
        return f"{asked}: {start.candidate.name}, the start: {what} (`max_drop` {ladder.limit:g})"
    text = (
        f"{asked}: nothing here is so much faster than {start.candidate.name} with at most {ladder.limit:g} points "
        f"lost (`max_drop`); the nearest is {last.candidate.name}, {last.speedup:.2f} times as fast, which loses "
        f"{last.drop:.2f} points"
    )
    other = ladder.beyond()
    if other is not None:
        text += f"; {other.candidate.name} is {other.speedup:.2f} times as fast, but loses {other.drop:.2f}"
    if wanted.learn is None:
        text += "; `train`, a folder, lets the network learn a faster activation in a smaller input, too"
    return text
