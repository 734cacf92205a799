"""The ladder of `edgekit tune --to`: what was tried, step by step, with accuracy and speed.

show(manifest["plan"], Path("fast"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.cli._common import console


def show(plan: dict[str, Any], out: Path | None = None) -> None:
    """Table, what could not be tried, and how the bundle in ``out`` is loaded; without ``out`` there is none."""
    from rich.table import Table

    ladder, about = plan["ladder"], plan["accuracy"]
    metric = about.get("metric", "accuracy")
    title = f"{ladder['to']:g} times as fast as {ladder['reference']}, at most {plan['max_drop_points']:g} points lost"
    if about:
        title += f"; {metric} on {about['images']} images of {about['on']}, {about['float']:.4f} of the float model"
    table = Table(title=title)
    for heading in ("step", "lever", "candidate"):
        table.add_column(heading)
    for heading in ("ms", "times as fast", "interval", metric, "points lost", "F1 lost", "points per ms"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in ladder["steps"]:
        table.add_row(*_cells(row), style="bold" if row["taken"] else None)
    console().print(table)
    for reason in dict.fromkeys(plan["left_out"].values()):
        those = ", ".join(target for target, why in plan["left_out"].items() if why == reason)
        console().print(f"not tried: {those}: {reason}", markup=False, soft_wrap=True)
    for sentence in _exceeded(ladder["steps"]):
        console().print(f"WARNING: {sentence}", markup=False, soft_wrap=True)
    for sentence in plan["disturbances"]:
        console().print(f"unreliable: {sentence}", markup=False, soft_wrap=True)
    if out is not None:
        console().print(f"chosen: {plan['why']}", markup=False, soft_wrap=True)
        threads = plan["choice"]["threads"]
        extra = "" if threads is None else f", threads={threads}"
        console().print(f'run it as it was timed: edgekit.load("{out}"{extra})', markup=False, soft_wrap=True)


def _cells(row: dict[str, Any]) -> list[str]:
    speed, point = row["speedup"], row["scores"].get("operating_point")
    return [
        str(row["step"]),
        row["lever"],
        row["candidate"],
        _number(row["ms"] and row["ms"]["p50"]),
        _number(speed and speed["ratio"]),
        f"{speed['low']:.2f} – {speed['high']:.2f}" if speed else "–",
        _number(row["accuracy"], 4),
        _number(row["drop_points"]),
        _number(point and point["drop_points"]),
        _number(row["points_per_ms"]),
        row["verdict"],
    ]


def _number(value: float | None, places: int = 2) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _exceeded(steps: list[dict[str, Any]]) -> list[str]:
    """What the last rung loses beyond limits that were not asked for."""
    exceeds: list[str] = [row for row in steps if row["taken"]][-1]["scores"].get("exceeds", [])
    return exceeds
