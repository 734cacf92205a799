"""The gates on accuracy: does an artifact lose little enough, and which candidate of a narrower target does, with as
little as can be left in floating point.

    gate = Gate.of(graph, sets, options.quantize, say)
    gate.check(made)                                            # of a floating-point target: made.parts["accuracy"]
    made, row = within_limit(quantizer, builder.trial, gate, say)
    made.files, row["drop_points"]

There are three limits: of the metric, of F1 at the float model's threshold, and of the class that loses most
(``verify/operating.py``). The manifest's ``accuracy`` has the same form whatever the target.

One under the other: everything quantized, built and judged, where asked for once more with its scores corrected; above
the limit a ranking of groups and a search for the fewest to leave in floating point; evidence in the error where
nothing suffices. Every candidate is quantized, built and opened once: what was accepted is what the bundle gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle.recalibrated import Recalibration
from edgekit.errors import GateError
from edgekit.quantize import QuantizeOptions, search
from edgekit.quantize.sets import Sets
from edgekit.spec import Graph, Json, Session, sha256_file
from edgekit.targets import reference
from edgekit.verify import accuracy, operating

if TYPE_CHECKING:
    from edgekit.quantize.candidates import Quantizer

Say = Callable[[str], None]


@dataclass
class Artifact:
    """What was built of a graph.

    Attributes:
        graph: with the ``info`` of what was built.
        files: the folder it was built in.
        session: open on it.
        instead: where it cannot run here: what was opened in its place, for the manifest.
        parts: further keys of the bundle's manifest.
    """

    graph: Graph
    files: Path
    session: Session
    instead: str | None
    parts: Json


@dataclass(frozen=True)
class Gate:
    """The ``judge``, what the floating-point model scored (``before``), and the ``limits`` of what may be lost."""

    judge: accuracy.Evaluator
    before: accuracy.Measured
    limits: operating.Limits
    sets: Sets

    @classmethod
    def of(cls, graph: Graph, sets: Sets, options: QuantizeOptions, say: Say) -> Gate:
        """With the float32 ``graph`` judged.

        Raises:
            InputError: the judge could prove nothing.
        """
        say("judging the floating-point model")
        runner = reference().open(graph.path, graph.info)
        if sets.labelled is not None:
            judge = accuracy.by_labels(sets.labelled)
        else:
            judge = accuracy.check_seen(accuracy.by_agreement(sets.unlabelled, runner, sets.on))
        before = judge.measure(runner)
        runner.close()
        if judge.skipped:
            what = f"{judge.on}: images that cannot be read are left out: {len(judge.skipped)}"
            say(f"note: {what}; the first is {judge.skipped[0]}")
        return cls(judge, before, limits_of(options), sets)

    def compared(self, after: accuracy.Measured) -> operating.Compared:
        """What was lost."""
        return operating.compared(self.before, after, self.limits)

    def row(self, after: accuracy.Measured, moved: Json | None = None) -> Json:
        """``accuracy`` for the manifest; ``moved`` says what became of a correction of scores that was asked for."""
        judge, before = self.judge, self.before.value
        row = {
            "metric": judge.metric,
            "kind": judge.kind,
            "on": judge.on,
            "images": judge.images - len(judge.skipped),
            "before": before,
            "after": after.value,
            "drop_points": 100 * (before - after.value),
            "limit_points": self.limits.metric,
            "put_back": [],
            **self.compared(after).row,
        }
        if judge.seen is not None:  # agreement: nobody else has these images' names
            row |= {"seen": judge.seen, "sha256": [sha256_file(p) for p in self.sets.unlabelled if isinstance(p, Path)]}
        if self.sets.judged is not None and self.sets.judged.license:
            row["license"] = self.sets.judged.license
        if judge.skipped:
            row["unreadable"] = len(judge.skipped)
        row |= {"recalibration": moved} if moved is not None else {}
        return row | ({"warning": judge.warning} if judge.warning else {})

    def check(self, made: Artifact, target: str, same: bool) -> None:
        """Judge an artifact that there is one of, and note it among its ``parts``.

        Args:
            same: it is the very graph that was judged, in the same runtime.

        Raises:
            GateError: it loses more than it may.
        """
        after = self.before if same else self.judge.measure(made.session)
        made.parts["accuracy"] = self.row(after)
        found = self.compared(after)
        if found.over:
            raise GateError(f"{target}: {found.said(self.judge.metric)}", {"accuracy": made.parts["accuracy"]})


def limits_of(options: QuantizeOptions) -> operating.Limits:
    """What may be lost, as it was asked for."""
    return operating.Limits(options.max_drop, options.max_f1_drop, options.max_class_drop)


def within_limit(
    quantizer: Quantizer, build: Callable[[Graph, Json], Artifact], gate: Gate, say: Say, recalibrate: bool = False
) -> tuple[Artifact, Json]:
    """The candidate with the fewest groups in floating point that is within the limits, built, and ``accuracy`` for
    the manifest.

    Args:
        build: a candidate and its keys of the manifest -> what is built of it, in a folder of its own.
        recalibrate: correct the scores of each where that is better (``recalibrated.py``).

    Raises:
        GateError: none is.
    """
    accepted: list[Artifact] = []
    scored: list[accuracy.Measured] = []
    kept: list[Json] = []  # ``accuracy`` of what is accepted
    recalibration = Recalibration(quantizer, gate, build, say) if recalibrate else None
    before, limit = gate.before.value, gate.limits.metric / 100

    def score(skip: Sequence[str]) -> float:
        """The metric; or, where another limit is further exceeded, as much below what it must be as that."""
        made = build(*quantizer.candidate(skip))
        after, moved = gate.judge.measure(made.session), None
        if recalibration is not None:
            made, after, moved = recalibration.improved(skip, made, after)
        scored.append(after)
        excess = gate.compared(after).excess
        if excess > 0:
            made.session.close()
        else:
            for older in accepted:
                older.session.close()
            accepted[:], kept[:] = [made], [gate.row(after, moved)]
        return min(after.value, before - limit - excess / 100) if excess > 0 else after.value

    name = quantizer.target.name
    say(f"judging {name}")
    first = score(())
    if accepted:
        return accepted[0], kept[0]
    say("ranking groups by what each costs")
    ranking = quantizer.rank()
    say("searching for the fewest groups to put back")
    found = search.put_back(ranking, score, limit, before, first)
    tried = [_trial(gate, trial, after) for trial, after in zip(found.tried, scored[1:], strict=True)]
    if found.groups is None:
        row = gate.row(scored[0]) | {"ranking": ranking, "tried": tried}
        said = gate.compared(scored[0]).said(gate.judge.metric)
        raise GateError(_sentence(name, said, row), {"accuracy": row})
    return accepted[0], kept[0] | {"ranking": ranking, "tried": tried, "put_back": list(found.groups)}


def _trial(gate: Gate, trial: Json, after: accuracy.Measured) -> Json:
    """A row of ``tried`` with what was measured."""
    over = gate.compared(after).over
    real = {"after": after.value, "drop_points": 100 * (gate.before.value - after.value)}
    return trial | real | ({"over": over} if over else {})


def _sentence(target: str, said: str, row: Json) -> str:
    worst = ", ".join(str(r["group"]) for r in row["ranking"][:3])
    least = min(float(trial["drop_points"]) for trial in row["tried"])
    return (
        f"{target}: {said}; putting groups back ({worst} first, {len(row['tried'])} trials) brought "
        f"{row['metric']} to a drop of {least:.2f} at best"
    )
