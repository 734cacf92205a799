"""The gates of a narrower target: which candidate loses little enough, with as little as can be left in floating point.

    judge, before = judge_of(graph, sets, say)
    made, row = within_limit(quantizer, builder.trial, judge, before, options.max_drop, say)
    made.files, row["drop_points"]

One under the other: everything quantized, built and judged; above the limit a ranking of groups and a search for the
fewest to leave in floating point; evidence in the error where nothing suffices. Every candidate is quantized, built and
opened once: what was accepted is what the bundle gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import GateError
from edgekit.quantize import search
from edgekit.quantize.sets import Sets
from edgekit.spec import Graph, Json, Session, sha256_file
from edgekit.targets import reference
from edgekit.verify import accuracy

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


def judge_of(graph: Graph, sets: Sets, say: Say) -> tuple[accuracy.Evaluator, float]:
    """The judge, and what the floating-point model scores.

    Raises:
        InputError: the judge could prove nothing.
    """
    say("judging the floating-point model")
    runner = reference().open(graph.path, graph.info)
    if sets.labelled is not None:
        judge = accuracy.by_labels(sets.labelled)
    else:
        judge = accuracy.check_seen(accuracy.by_agreement(sets.unlabelled, runner, sets.on))
    before = judge.score(runner)
    runner.close()
    if judge.skipped:
        what = f"{judge.on}: images that cannot be read are left out: {len(judge.skipped)}"
        say(f"note: {what}; the first is {judge.skipped[0]}")
    return judge, before


def within_limit(
    quantizer: Quantizer,
    build: Callable[[Graph, Json], Artifact],
    judge: accuracy.Evaluator,
    before: float,
    limit: float,
    say: Say,
) -> tuple[Artifact, Json]:
    """The candidate with the fewest groups in floating point that loses at most ``limit`` points, built, and
    ``accuracy`` for the manifest.

    Args:
        build: a candidate and its keys of the manifest -> what is built of it, in a folder of its own.
        before: what the floating-point model scores.

    Raises:
        GateError: none does.
    """
    accepted: list[Artifact] = []

    def score(skip: Sequence[str]) -> float:
        made = build(*quantizer.candidate(skip))
        value = judge.score(made.session)
        if before - value > limit / 100:
            made.session.close()
        else:
            for older in accepted:
                older.session.close()
            accepted[:] = [made]
        return value

    say(f"judging {quantizer.target.name}")
    after = score(())
    row = _row(judge, quantizer.sets, limit, before, after)
    if not accepted:
        say("ranking groups by what each costs")
        row["ranking"] = quantizer.rank()
        say("searching for the fewest groups to put back")
        found = search.put_back(row["ranking"], score, limit / 100, before, after)
        row |= {"tried": found.tried, "after": found.after, "drop_points": 100 * (before - found.after)}
        if found.groups is None:
            raise GateError(_sentence(quantizer.target.name, row, after), {"accuracy": row})
        row["put_back"] = list(found.groups)
    return accepted[0], {"put_back": [], **row}


def _row(judge: accuracy.Evaluator, sets: Sets, limit: float, before: float, after: float) -> Json:
    row = {
        "metric": judge.metric,
        "kind": judge.kind,
        "on": judge.on,
        "images": judge.images - len(judge.skipped),
        "before": before,
        "after": after,
        "drop_points": 100 * (before - after),
        "limit_points": limit,
    }
    if judge.seen is not None:  # agreement: nobody else has these images' names
        row |= {"seen": judge.seen, "sha256": [sha256_file(p) for p in sets.unlabelled if isinstance(p, Path)]}
    if judge.skipped:
        row["unreadable"] = len(judge.skipped)
    return row | ({"warning": judge.warning} if judge.warning else {})


def _sentence(target: str, row: Json, first: float) -> str:
    worst = ", ".join(str(r["group"]) for r in row["ranking"][:3])
    least = min(float(trial["drop_points"]) for trial in row["tried"])
    return (
        f"{target}: {row['metric']} drops by {100 * (row['before'] - first):.2f} points, {row['limit_points']:g} are "
        f"allowed (`max_drop`); putting groups back ({worst} first, {len(row['tried'])} trials) brought it to "
        f"{least:.2f} at best"
    )
