"""``edgekit build --imgsz-search``: speed and accuracy over input sizes, and the smallest that loses little enough.

    made = search(Path("yolo12n.pt"), "ov-fp16", Path("small"), BuildOptions(quantize=QuantizeOptions(data=data)))
    [(row["candidate"], row["ms_per_image"]["p50"], row["drop_points"]) for row in made.manifest["plan"]["rows"]]

Every size is built with all its proofs, timed in turns with the others and judged beside the float model in the full
size: nothing is left out of the curve. The bundle holds it as a plan (``document.py``) and as a picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from edgekit import targets
from edgekit.autotune import Candidate, Objective, document
from edgekit.autotune.auto import race_of, seal
from edgekit.autotune.select import Outcome, Row, nearest, with_front
from edgekit.autotune.tuner import Job, Tuner
from edgekit.bundle import build as building
from edgekit.bundle import fitted, preflight
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import Size, View, divides
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime.manifest import Bundle, read_bundle
from edgekit.spec import STRIDE

SHARES = (1.0, 0.875, 0.75, 0.625, 0.5)  # of the full size's sides

Say = Callable[[str], None]


def search(
    source: Path,
    target: str,
    out: Path,
    options: BuildOptions,
    say: Say = lambda _: None,
    seconds: float = 1.0,
    view: View | None = None,
) -> Bundle:
    """Build ``source`` for ``target`` in the smallest input size within ``max_drop``, and leave it in ``out``.

    Args:
        source: a checkpoint.
        options: as ``edgekit.bundle.build.build`` takes them, with something to judge on; ``imgsz`` is the full size.
        say: called with a line at each step.
        seconds: scale of the time given to timing.
        view: what the camera shows: of every size the shapes that fit it.

    Raises:
        InputError, UsageError: nothing can be built of this, or there is nothing to judge on.
        GateError: no size is within the limit; the nearest is named.
    """
    chosen, asked = targets.get(target), options.quantize
    if not (asked.sources or asked.calibration or options.images or (view and view.sources)):
        raise UsageError("`imgsz_search`: accuracy decides; give `data`, a labelled set, or `images`")
    options = dataclasses.replace(options, images=options.images or (view.images if view else None)).with_head(
        chosen.heads
    )
    fitted.check_model(source)
    sets = preflight.of_build(source, chosen, out, fitted.heeded(options, chosen)).sets
    sets = sets or fitted.sets_of(source, options, chosen)
    wish, limit = Objective(), asked.max_drop
    with building.failures_to(out), building.workspace(out) as folder:
        with Tuner(Job(source, options, sets, view), folder, wish, say, seconds) as contest:
            entries = _entries(contest, target, options.batch or 1)
            refused = contest.build(entries)
            entries = [entry for entry in entries if entry.bundle not in refused]
            if not entries:
                raise InputError(next(iter(refused.values())))
            outcome = _curve(contest, entries, limit)
            plan = document.document(wish, limit, outcome, refused, contest.accuracy(), race_of(contest))
            if outcome.winner is None:
                raise GateError(_none(limit, outcome), {"plan": plan})
            files = contest.take(outcome.rows[outcome.winner].candidate)
            info = read_bundle(files, verify=False).info
            plan = document.document(wish, limit, outcome, refused, contest.accuracy(), race_of(contest), info)
        seal(files, plan)
        building.move_into_place(files, out)
    return read_bundle(out, verify=False)


def sizes(base: Size, areas: Sequence[int]) -> list[Size]:
    """Input sizes to try, the full one first: multiples of 32 whose tokens divide into ``areas``."""
    found = [(_whole(base[0] * share), _whole(base[1] * share)) for share in SHARES]
    return [size for size in dict.fromkeys(found) if divides(size, areas)]


def _whole(side: float) -> int:
    return max(round(side / STRIDE), 1) * STRIDE


def _entries(contest: Tuner, target: str, batch: int) -> list[Candidate]:
    base, areas = contest.base()
    found = sizes(base, areas)
    if not found:
        raise UsageError(f"`imgsz` {base[0]},{base[1]}: its tokens do not divide into areas of attention; give another")
    shapes = [contest.shapes(target, size) for size in found]
    return [Candidate(target, batch, shapes=each) for each in dict.fromkeys(shapes)]


def _curve(contest: Tuner, entries: Sequence[Candidate], limit: float) -> Outcome:
    """Every size with its time and accuracy; the smallest within the limit wins."""
    rows = {entry.name: Row(entry) for entry in entries}
    for row in rows.values():
        row.judged = contest.judge(row.candidate)
    first = next(iter(rows))
    for name, time in contest.clock(list(rows), first, True).items():
        rows[name].time = time
    fitting = [row for row in rows.values() if row.judged and row.judged.verdict(limit) is None]
    winner = min(fitting, key=lambda row: sum(h * w for h, w in row.candidate.shapes), default=None)
    for row in rows.values():
        against = row.judged.verdict(limit) if row.judged else None
        row.verdict = against or "larger than need be"
        row.against = winner.candidate.name if winner and row in fitting and row is not winner else None
    if winner is not None:
        winner.verdict = "chosen"
    return Outcome(with_front(rows), winner.candidate.name if winner else None)


def _drop(row: Row) -> float:
    drop = row.judged.drop_points if row.judged else None
    return float("inf") if drop is None else drop


def _none(limit: float, outcome: Outcome) -> str:
    row = nearest(outcome)
    if row is None:
        return "`imgsz_search`: no size could be judged"
    return (
        f"`max_drop` {limit:g}: no input size loses so little against the float model in the full size; the nearest is "
        f"{row.candidate.name}, which loses {_drop(row):.2f} points"
    )
