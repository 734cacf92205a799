"""``plan.json``: what was chosen and why, and how to build the same choice elsewhere without measuring.

| key | holds |
|---|---|
| ``schema kind`` | 1, ``plan`` |
| ``wish max_drop_points accuracy`` | what was asked for; metric, set, images and the float model's score |
| ``choice`` | ``target batch streams threads imgsz head`` of the winner; ``shapes`` and ``variant`` if any |
| ``load`` | of ``throughput``: how ``edgekit.load`` opens it, and on what kind of machine (``runtime/setting.py``) |
| ``why`` | one sentence |
| ``rows`` | every candidate: milliseconds with interval, ratio to the winner, accuracy, points lost, front, verdict |
| ``ladder`` | of ``edgekit tune --to``: ``to reference reached speedup``, and ``steps`` as they were tried |
| ``left_out`` | targets that could not be built here, and why |
| ``reliable disturbances machine`` | of the last race |

    plan = read(Path("plan.json"))
    check_needs(plan, data=True)          # raises the sentence that says what is missing here
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.autotune import Candidate, Objective
from edgekit.autotune.candidates import missing
from edgekit.autotune.select import Outcome, Row
from edgekit.bench import machine
from edgekit.errors import InputError, UsageError
from edgekit.runtime.setting import Setting
from edgekit.spec import HEADS, ModelInfo, parse_imgsz

SCHEMA = 1
FILE = "plan.json"
_MOST_BYTES = 4 << 20
_MOST = 4096  # of a batch, streams or threads

Plan = dict[str, Any]


def document(
    wish: Objective,
    limit: float,
    outcome: Outcome,
    left_out: Mapping[str, str],
    accuracy: Mapping[str, Any],
    race: Mapping[str, Any],
    info: ModelInfo | None = None,
) -> Plan:
    """The plan as JSON-ready keys; without a winner there is no ``choice``."""
    base = outcome.rows[outcome.winner].time if outcome.winner else None
    found: Plan = {
        "schema": SCHEMA,
        "kind": "plan",
        "wish": {"goal": wish.goal, "bound": wish.bound},
        "max_drop_points": limit,
        "accuracy": dict(accuracy),
        "rows": [_row(row, base.ratio if base else None) for row in outcome.rows.values()],
        "left_out": dict(left_out),
        **race,
        "machine": machine.describe(),
    }
    if outcome.winner and info is not None:
        chosen = outcome.rows[outcome.winner].candidate
        found["choice"] = {
            "target": chosen.target,
            "batch": chosen.batch,
            "streams": chosen.streams,
            "threads": chosen.threads,
            "imgsz": list(info.imgsz),
            **({"shapes": [list(shape) for shape in chosen.shapes]} if chosen.shapes else {}),
            **({"variant": chosen.variant} if chosen.variant else {}),
            "head": info.head,
            "candidates": info.candidates,
        }
        if wish.goal == "throughput":
            found["load"] = Setting(chosen.streams, chosen.batch, chosen.threads).entry()
        found["why"] = why(wish, outcome)
    return found


def why(wish: Objective, outcome: Outcome) -> str:
    """One sentence for the winner: its figure, what it loses, and the runner-up or those that were faster."""
    winner = outcome.rows[str(outcome.winner)]
    assert winner.time is not None and winner.judged is not None
    text = f"{winner.candidate.name}: {wish.text(winner.time.ms)}, loses {winner.judged.drop_points:.2f} points"
    others = [(row.time.ms, row) for row in outcome.rows.values() if row is not winner and row.time is not None]
    faster = [row for ms, row in others if ms < winner.time.ms and row.against is None]
    if faster:
        return f"{text}; faster but not within the limit: " + ", ".join(row.candidate.name for row in faster)
    if not others:
        return f"{text}; nothing else can be built here"
    ms, following = min(others, key=lambda pair: pair[0])
    return f"{text}; next is {following.candidate.name}, {wish.text(ms)}"


def _row(row: Row, best: float | None) -> dict[str, Any]:
    time, judged = row.time, row.judged
    return {
        "candidate": row.candidate.name,
        "target": row.candidate.target,
        "batch": row.candidate.batch,
        "streams": row.candidate.streams,
        "threads": row.candidate.threads,
        "ms_per_image": {"p50": time.ms, "p50_low": time.low, "p50_high": time.high} if time else None,
        "times_the_winner": time.ratio / best if time and best else None,
        "accuracy": judged.accuracy if judged else None,
        "drop_points": judged.drop_points if judged else None,
        **({"scores": judged.scores} if judged and judged.scores else {}),
        "front": row.front,
        "verdict": row.verdict,
    }


def read(path: Path) -> Plan:
    """A plan that ``edgekit build --target auto`` wrote, checked as far as a replay relies on it.

    Raises:
        InputError: it is not one, was written by a newer edgekit, or a value of its choice cannot be.
    """
    if not path.is_file():
        raise InputError(f"`plan` {path}: no such file; give the plan.json of a bundle that `target` auto made")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError
        found = json.loads(path.read_text(encoding="utf-8"))
        kind, schema = found["kind"], found["schema"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        raise InputError(f"`plan` {path}: not a plan; give the plan.json that `target` auto made") from error
    if kind != "plan" or not _whole(schema, 1 << 30):
        raise InputError(f"`plan` {path}: not a plan; give the plan.json that `target` auto made")
    if schema > SCHEMA:
        raise InputError(f"`plan` {path}: plan schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    _check_choice(path, found)
    plan: Plan = found
    return plan


def _check_choice(path: Path, found: Plan) -> None:
    choice, limit = found.get("choice"), found.get("max_drop_points")
    if not isinstance(choice, dict):
        raise InputError(f"`plan` {path}: it chose nothing; make another with `target` auto")

    def wrong(key: str) -> InputError:
        return InputError(f"`plan` {path}: its choice has {key} {choice.get(key)!r}; make another with `target` auto")

    for key, known in (("target", targets.names()), ("head", HEADS)):
        if choice.get(key) not in known:
            raise wrong(key)
    for key in ("batch", "streams"):
        if not _whole(choice.get(key), _MOST):
            raise wrong(key)
    for key, most in (("threads", _MOST), ("candidates", 1 << 24)):
        if choice.get(key) is not None and not _whole(choice[key], most):
            raise wrong(key)
    shapes = choice.get("shapes", [])
    if not isinstance(shapes, list):
        raise wrong("shapes")
    for key, size in (("imgsz", choice.get("imgsz")), *(("shapes", shape) for shape in shapes)):
        if not isinstance(size, list) or len(size) != 2 or not all(_whole(side, _MOST) for side in size):
            raise wrong(key)
        parse_imgsz((size[0], size[1]))
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit <= 100:
        raise InputError(f"`plan` {path}: max_drop_points {limit!r} is not 0 to 100; make another with `target` auto")


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def candidate(plan: Plan) -> Candidate:
    """The plan's choice."""
    choice = plan["choice"]
    shapes = tuple((height, width) for height, width in choice.get("shapes", []))
    return Candidate(choice["target"], choice["batch"], choice["streams"], choice["threads"], shapes)


def check_needs(plan: Plan, path: Path, data: bool) -> None:
    """Whether this machine has what the plan needs.

    Raises:
        UsageError: it has not; the sentence says what is missing and what to do.
    """
    reason = missing(plan["choice"]["target"], data)
    if reason:
        raise UsageError(
            f"`plan` {path}: it needs {plan['choice']['target']}: {reason}; or make a plan here: `target` auto"
        )


def differences(plan: Plan) -> list[str]:
    """What is unlike the machine the plan was made on: its choice may not be the fastest here."""
    there = plan.get("machine")
    return machine.same_machine(there, machine.describe()) if isinstance(there, dict) else []
