"""The speed gate: are today's figures slower than those of an older results file, and may they be compared at all?

    verdict = against(load_results("results.json"), today, max_slowdown=0.10)
    verdict.passed        # False
    verdict.failures      # ['street.ov (ov-int8): 41.0 ms where it was 35.2 ms, 16.5% slower; 10.0% are allowed']

Both sides are what ``edgekit bench --json`` prints: a list of records with ``artifact``, ``target``, ``whole_ms``,
``reliable`` and ``machine``. Medians are compared, record by record; figures of another machine are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bench.clock import SCHEMA, WHOLE
from edgekit.bench.machine import changed_versions, same_machine
from edgekit.errors import InputError, UsageError, command_line

RESULTS = command_line("bench", json=True)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class GateResult:
    """Outcome of the gate: ``failures`` (none: passed) and ``notes`` to read beside it."""

    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def load_results(path: str | Path) -> list[Record]:
    """Read and check a file written by ``edgekit bench --json``.

    Raises:
        InputError: unreadable, not JSON, or not bench results of this schema.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable bench results ({error}); write some with {RESULTS}") from None
    return check_results(document, str(path))


def check_results(document: Any, source: str = "results") -> list[Record]:
    """The records of a bench document, after looking at everything the gate relies on.

    Raises:
        InputError: another schema, or not bench results; names ``source``.
    """
    if not isinstance(document, list) or not document:
        raise InputError(f"{source}: not bench results (a list of records); write some with {RESULTS}")
    for number, record in enumerate(document):
        where = f"{source}: record {number}"
        if not isinstance(record, Mapping):
            raise InputError(f"{where} is not a bench record; write results with {RESULTS}")
        if (schema := record.get("schema", SCHEMA)) != SCHEMA:
            raise InputError(f"{where} has schema {schema!r}, this edgekit reads {SCHEMA}; measure the old model again")
        median = record[WHOLE].get("p50") if isinstance(record.get(WHOLE), Mapping) else None
        if isinstance(median, bool) or not isinstance(median, (int, float)) or not 0 < median < math.inf:
            raise InputError(f"{where} has no median time at {WHOLE}.p50; write results with {RESULTS}")
        for key, kind in (("artifact", str), ("machine", Mapping)):
            if not isinstance(record.get(key), kind):
                raise InputError(f"{where} has no {key!r}; write results with {RESULTS}")
    return document


def against(
    old: Sequence[Record], new: Sequence[Record], max_slowdown: float, *, any_machine: bool = False
) -> GateResult:
    """Compare the medians of whole calls, record by record (same artifact and target).

    Args:
        old, new: documents of ``edgekit bench --json``.
        max_slowdown: allowed growth of the median as a fraction; 0.1 lets 11.0 ms pass where it was 10.0 ms.
        any_machine: compare across machines all the same, with a note.

    Raises:
        UsageError: ``max_slowdown`` is negative or not a number.
        InputError: another schema, nothing in common, a record listed twice, or records of different machines.
    """
    if not 0 <= max_slowdown < math.inf:
        raise UsageError(f"`max_slowdown` {max_slowdown}: give a fraction of at least 0, e.g. 10%")
    before, now = (_by_name(check_results(side, what), what) for side, what in ((old, "old results"), (new, "new")))
    common = [key for key in now if key in before]
    if not common:
        raise InputError(
            f"the old results hold none of what was measured now ({_title(next(iter(now)))}); "
            f"they hold {', '.join(_title(key) for key in list(before)[:5])}"
        )
    failures: list[str] = []
    notes = [f"{_title(key)}: not in the old results, not judged" for key in now if key not in before]
    notes += [f"{_title(key)}: in the old results only, not judged" for key in before if key not in now]
    for key in common:
        a, b = before[key], now[key]
        differences = same_machine(a["machine"], b["machine"])
        if differences and not any_machine:
            raise InputError(f"{_title(key)}: measured on another machine ({'; '.join(differences)}); use one for both")
        sentence, slower = _compare(_title(key), a, b, max_slowdown)
        (failures if slower else notes).append(sentence)
        notes += [f"compared across machines: {d}" for d in differences]
        notes += [f"software changed: {change}" for change in changed_versions(a["machine"], b["machine"])]
    return GateResult(failures, list(dict.fromkeys(notes)))


def _compare(title: str, old: Record, new: Record, max_slowdown: float) -> tuple[str, bool]:
    """(what changed in a sentence, whether it is more than allowed)."""
    before, now = float(old[WHOLE]["p50"]), float(new[WHOLE]["p50"])
    change = now / before - 1.0
    direction = "slower" if change > 0 else "faster"
    text = f"{title}: {now:.4g} ms where it was {before:.4g} ms, {abs(change):.1%} {direction}"
    slower = change > max_slowdown + 1e-9  # 11.0 / 10.0 is a little more than 1.1 in binary
    if slower:
        text += f"; {max_slowdown:.1%} are allowed"
    doubtful = [side for side, record in (("old", old), ("new", new)) if record.get("reliable") is False]
    if doubtful:
        text += f" (but the {' and the '.join(doubtful)} run is marked unreliable: measure again)"
    return text, slower


def _by_name(records: Sequence[Record], source: str) -> dict[tuple[str, str], Record]:
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (str(record["artifact"]), str(record.get("target")))
        if key in found:
            raise InputError(f"{source}: {_title(key)} is listed twice; give each artifact once")
        found[key] = record
    return found


def _title(key: tuple[str, str]) -> str:
    return f"{key[0]} ({key[1]})"
