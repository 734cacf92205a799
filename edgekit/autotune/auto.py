"""``edgekit build --target auto``: the fastest of what this machine can run, within a limit on accuracy.

    made = auto(Path("yolo12n.pt"), Path("yolo12n-here"), Objective("latency"), BuildOptions(quantize=...))
    made.manifest["plan"]["why"]          # 'ov-int8: 21.3 ms, loses 0.11 points; next is ov-fp16, 28.9 ms'

The folder is the winning bundle as ``edgekit build --target T`` makes it, with ``plan`` in its manifest, ``plan.json``
and ``plan.svg`` beside its files. ``replay`` builds a plan's choice on another machine without measuring.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.autotune import Candidate, Objective, document, picture
from edgekit.autotune.candidates import candidates, order
from edgekit.autotune.select import Outcome, Row, choose, nearest, unmet
from edgekit.autotune.tuner import Job, Tuner
from edgekit.bundle import build as building
from edgekit.bundle import fitted, preflight
from edgekit.bundle.exports import Exports
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import View
from edgekit.bundle.source import describe
from edgekit.errors import GateError, InputError, UsageError
from edgekit.quantize import QuantizeOptions
from edgekit.quantize.sets import Sets
from edgekit.runtime.manifest import Bundle, read_bundle
from edgekit.runtime.sources import read_images
from edgekit.spec import Images

Say = Callable[[str], None]


def auto(
    source: Path,
    out: Path,
    wish: Objective,
    options: BuildOptions,
    say: Say = lambda _: None,
    seconds: float = 1.0,
    view: View | None = None,
) -> Bundle:
    """Build, time and judge candidates, and leave the winner's bundle in ``out``.

    Args:
        source, options: as ``edgekit.bundle.build.build`` takes them. Without ``data`` or ``calibration`` INT8 is left
            out; without labels accuracy is agreement with the float model.
        say: called with a line at each step.
        seconds: scale of the time given to races.
        view: what the camera shows; every target is then a candidate in the input sizes that fit it, too.

    Raises:
        InputError, UsageError: nothing can be built here, or of this; the data cannot be used.
        GateError: no candidate is within the limit, or none fast enough for the wish; the nearest is named.
    """
    preflight.check_out(out)
    entries, left_out, sets = _candidates(source, wish, options)
    for note in sets.notes if sets else ():
        say(f"note: {note}")
    if options.images:
        read_images(options.images)
    limit = options.quantize.max_drop
    if not entries:
        raise InputError(f"`target` auto: nothing can be built here ({'; '.join(left_out.values())})")
    if view is not None:
        fitted.check_model(source)
        options = dataclasses.replace(options, images=options.images or view.images)
    with building.failures_to(out), building.workspace(out) as folder:
        with Tuner(Job(source, options, sets, view), folder, wish, say, seconds) as contest:
            entries += contest.fitting(entries)
            refused = contest.build(entries)
            left_out |= refused
            entries = [entry for entry in entries if entry.bundle not in refused]
            if not entries:
                raise InputError(_none_built(source, refused))
            outcome = choose(entries, contest.clock, contest.judge, limit, order(), say)
            race = race_of(contest)
            plan = document.document(wish, limit, outcome, left_out, contest.accuracy(), race)
            if outcome.winner is None:
                raise GateError(_nobody(wish, limit, outcome), {"plan": plan})
            row = outcome.rows[outcome.winner]
            if unmet(wish, outcome):
                raise GateError(_too_slow(wish, row, limit, outcome), {"plan": plan})
            files = contest.take(row.candidate)
            info = read_bundle(files, verify=False).info
            plan = document.document(wish, limit, outcome, left_out, contest.accuracy(), race, info)
        seal(files, plan)
        building.move_into_place(files, out)
    return read_bundle(out, verify=False)


def _candidates(
    source: Path, wish: Objective, options: BuildOptions
) -> tuple[list[Candidate], dict[str, str], Sets | None]:
    """What can be built here, why the rest cannot, and what is calibrated and judged on."""
    known, asked = describe(source), options.quantize
    given = bool(asked.sources or asked.calibration)
    sets = preflight.of_sets(known, asked, calibrate=False) if given else None
    found, left_out = candidates(wish, given and (sets is None or sets.manifest is not None), options.batch or 1)
    if sets is not None and sets.lacking:
        left_out |= {name: sets.lacking for name in left_out if targets.get(name).int8}
    return found, left_out, sets


def _none_built(source: Path, refused: Mapping[str, str]) -> str:
    reasons = list(dict.fromkeys(refused.values()))
    return reasons[0] if len(reasons) == 1 else f"{source}: no target could be built ({'; '.join(reasons)})"


def replay(
    source: Path,
    path: Path,
    out: Path,
    wishes: QuantizeOptions,
    images: Images = None,
    say: Say = lambda _: None,
) -> Bundle:
    """Build what the plan in ``path`` chose, without timing anything; INT8 is calibrated and judged here, too.

    Raises:
        InputError: ``path`` holds no plan.
        UsageError: this machine, or the request, lacks what the plan needs, or ``source`` is of another activation.
        GateError: the bundle's own gates, as for ``edgekit build``.
    """
    plan = document.read(path)
    document.check_needs(plan, path, bool(wishes.sources or wishes.calibration))
    choice = document.candidate(plan)
    size = (plan["choice"]["imgsz"][0], plan["choice"]["imgsz"][1])
    for difference in document.differences(plan):
        say(f"unlike where the plan was made: {difference}")
    narrow = targets.get(choice.target).int8
    own = dataclasses.replace(wishes, max_drop=plan["max_drop_points"], timing_s=0) if narrow else QuantizeOptions()
    form = {"head": plan["choice"]["head"], "candidates": plan["choice"].get("candidates")}
    options = BuildOptions(size, choice.batch, images, **form, quantize=own)
    shapes = choice.shapes or (size,)
    with building.failures_to(out), building.workspace(out) as folder:
        files, exports = folder / "planned", Exports(folder)
        variant = plan["choice"].get("variant")
        if variant and exports.checkpoint(source).spec.activation.replace(":", "-") != variant:
            raise UsageError(f"`plan` {path}: is of a checkpoint with {variant}; give that one, not {source}")
        sets = fitted.sets_of(source, options, targets.get(choice.target)) if len(shapes) > 1 else None
        fitted.assemble(source, choice.target, files, shapes, options, say, exports, sets)
        seal(files, plan | {"replayed": True})
        building.move_into_place(files, out)
    return read_bundle(out, verify=False)


def seal(files: Path, plan: dict[str, Any]) -> None:
    """Put the plan into a bundle: its own files and a key of the manifest, whose list of files grows by them."""
    (files / document.FILE).write_text(json.dumps(plan, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    picture.draw(plan, files / picture.FILE)
    fitted.reseal(files, {"plan": plan})


def how_to_load(out: Path, choice: Candidate) -> str:
    """The line of Python that runs the bundle as it was timed."""
    switches = {"streams": None if choice.streams == 1 else choice.streams, "threads": choice.threads}
    extra = "".join(f", {name}={value}" for name, value in switches.items() if value is not None)
    return f'edgekit.load("{out}"{extra})'


def race_of(contest: Tuner) -> dict[str, Any]:
    """How far the last race can be relied on, for the plan."""
    last = contest.last
    assert last is not None
    return {"reliable": last.reliable, "disturbances": last.disturbances, "rounds": last.rounds}


def _nobody(wish: Objective, limit: float, outcome: Outcome) -> str:
    row = nearest(outcome)
    if row is None or row.judged is None or row.judged.drop_points is None or row.time is None:
        reasons = "; ".join(dict.fromkeys(row.verdict for row in outcome.rows.values() if row.verdict))
        return f"`target` auto: no candidate could be judged ({reasons})"
    drop = row.judged.drop_points
    return (
        f"`max_drop` {limit:g}: no candidate loses so little; the nearest is {row.candidate.name}, "
        f"{wish.text(row.time.ms)}, which loses {drop:.2f} points (`max_drop` {_above(drop):g} would take it)"
    )


def _above(points: float) -> float:
    """``points`` rounded up to two decimals."""
    return -(-points * 100 // 1) / 100


def _too_slow(wish: Objective, row: Row, limit: float, outcome: Outcome) -> str:
    assert row.time is not None
    asked = f"`objective` {wish.goal}:{wish.bound:g}"
    text = f"{asked}: no candidate is so fast here; the nearest is {row.candidate.name} with {wish.text(row.time.ms)}"
    lossy = [
        (other.judged.drop_points, other.candidate.name)
        for other in outcome.rows.values()
        if other.time and wish.holds(other.time.ms) and other.judged and other.judged.drop_points is not None
    ]
    if not lossy:
        return f"{text}; a smaller model or `imgsz` would be faster"
    lost, name = min(lossy)
    return f"{text}; {name} is, but loses {lost:.2f} points (`max_drop` {limit:g})"
