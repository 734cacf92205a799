"""The tables of ``edgekit bench``, on standard error.

times(records)             # side by side, then profiles and cold starts where they were measured
throughput(records)
cameras(records)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.cli._common import console

if TYPE_CHECKING:
    from rich.table import Table

Records = Sequence[dict[str, Any]]
_MOST_ROWS = 10  # of a profile; the document has them all


def times(records: Records) -> None:
    """Milliseconds a call, side by side."""
    first = records[0]
    metric = first.get("accuracy", {}).get("metric")
    table = _table(
        f"milliseconds a call, {first['rounds']} interleaved rounds each",
        ["model", "target", "executes"],
        ["pre", "network", "post", "whole", "ratio", *([metric] if metric else [])],
    )
    table.caption = f"{_machine(first)}; median (minimum – p99) for the whole call, medians for its parts"
    for record in records:
        whole, ratio = record["whole_ms"], (record["ratio"] or {}).get("whole_ms")
        table.add_row(
            record["artifact"],
            record["target"],
            record["precision_executed"] or "?",
            *(f"{record[stage]['p50']:.2f}" for stage in ("pre_ms", "network_ms", "post_ms")),
            f"{whole['p50']:.2f} ({whole['min']:.2f} – {whole['p99']:.2f})",
            f"{ratio['ratio']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})" if ratio else "1 (baseline)",
            *([f"{record['accuracy']['value']:.4f}"] if metric else []),
        )
    console().print(table)
    _colds(records)
    for record in records:
        if "profile" in record:
            _profile(record)
    _doubts(first)


def throughput(records: Records) -> None:
    """Images per second by streams, batch and threads; the best of each model marked."""

    def cells(row: Any) -> list[str]:
        rate, config = row["items_per_s"], row["config"]
        return [
            *(str(config[key]) for key in ("streams", "batch", "threads")),
            f"{rate['p50']:.1f}",
            f"{rate['min']:.1f} – {rate['max']:.1f}",
            f"{row['call_ms']['p50']:.1f}",
        ]

    columns = ["streams", "batch", "threads each", "images/s", "lowest – highest", "call ms (p50)"]
    _settings(records, "throughput", "images per second of whole calls", columns, cells)


def cameras(records: Records) -> None:
    """Frames per second of so many cameras by streams, batch and threads; the best of each model marked."""

    def cells(row: Any) -> list[str]:
        rate, ratio = row["frames_per_s"], row["ratio"]
        return [
            *(str(row[key] or "its own") for key in ("streams", "batch", "threads")),
            f"{rate['p50']:.1f}",
            f"{rate['low']:.1f} – {rate['high']:.1f}",
            f"{ratio['ratio']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})" if ratio else "1",
        ]

    title = f"frames per second of {records[0]['cameras']} cameras, in turns"
    columns = ["streams", "batch", "threads", "frames/s", "interval", "time, of the first's"]
    _settings(records, "settings", title, columns, cells)


def _settings(
    records: Records, rows: str, title: str, columns: Sequence[str], cells: Callable[[Any], list[str]]
) -> None:
    """A line for every setting of every model, a record's list ``rows``: the cells of its ``columns``, and remarks."""
    table = _table(title, ["model", "target"], [*columns, ""])
    table.caption = _machine(records[0])
    for record in records:
        for row in record[rows]:
            remarks = ["best"] * (row == record["best"]) + ["unreliable"] * (not row.get("reliable", True))
            table.add_row(record["artifact"], record["target"], *cells(row), " ".join(remarks))
    console().print(table)
    for record in records:
        _doubts(record)


def _colds(records: Records) -> None:
    if "cold" not in records[0]:
        return
    columns = {
        "import_ms": "import", "load_ms": "load", "first_call_ms": "first call", "second_call_ms": "second call",
        "process_ms": "whole process", "peak_mib": "peak memory, MiB",
    }  # fmt: skip
    runs = records[0]["cold"]["load_ms"]["n"]
    table = _table(f"cold start: milliseconds in a fresh process, medians of {runs}", ["model"], columns.values())
    for record in records:
        found = record["cold"]
        table.add_row(record["artifact"], *(f"{found[k]['p50']:.0f}" if k in found else "–" for k in columns))
    console().print(table)


def _profile(record: dict[str, Any]) -> None:
    found = record["profile"]
    stages, types = found["by_stage"][:_MOST_ROWS], found["by_type"][:_MOST_ROWS]
    title = f"{record['artifact']}: where {found['total_ms']:.1f} ms go, medians of {found['runs']} profiled runs"
    table = _table(title, ["stage"], ["ms", "share"])
    table.add_column("operator type")
    for heading in ("ms", "share", "operators"):
        table.add_column(heading, justify="right")
    for i in range(max(len(stages), len(types))):
        left = (
            [stages[i]["name"], f"{stages[i]['ms']:.2f}", f"{stages[i]['share']:.0%}"] if i < len(stages) else [""] * 3
        )
        right = (
            [types[i]["type"], f"{types[i]['ms']:.2f}", f"{types[i]['share']:.0%}", str(types[i]["operators"])]
            if i < len(types)
            else []
        )
        table.add_row(*left, *right)
    console().print(table)
    console().print("largest: " + "; ".join(found["largest"]), soft_wrap=True, markup=False)
    for hint in found["hints"]:
        console().print(f"worth measuring: {hint['text']}", soft_wrap=True, markup=False)


def _table(title: str, left: Sequence[str], right: Any) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _machine(record: dict[str, Any]) -> str:
    cpu = record["machine"].get("cpu", {})
    return f"{cpu.get('model') or 'unknown CPU'}, {cpu.get('usable', '?')} cores"


def _doubts(record: dict[str, Any]) -> None:
    for sentence in record["disturbances"]:
        console().print(f"[yellow]unreliable:[/yellow] {sentence}", soft_wrap=True)
    missing = record.get("unmeasured")
    if missing:
        console().print(f"could not be watched here: {', '.join(missing)}", soft_wrap=True)
