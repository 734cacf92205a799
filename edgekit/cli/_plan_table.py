"""The one table that says why ``edgekit build --target auto`` chose what it chose, and the front in letters.

show(Path("yolo12n-here"), manifest["plan"])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.cli._common import console

WIDTH, HEIGHT = 56, 12  # of the drawing, in characters


def show(out: Path, plan: dict[str, Any]) -> None:
    """Table, drawing, the sentence, and the line that loads the bundle as it was timed."""
    from rich.table import Table

    fast = plan["wish"]["goal"] == "throughput"
    about = plan["accuracy"]
    metric = f"{about['metric']}" if about else "accuracy"
    table = Table(title=_title(plan))
    for heading in ("", "candidate"):
        table.add_column(heading)
    for heading in ("images/s" if fast else "ms", "interval", "times the winner", metric, "points lost"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    rows = sorted(plan["rows"], key=lambda row: row["ms_per_image"]["p50"])
    for letter, row in zip(_letters(len(rows)), rows, strict=True):
        table.add_row(
            letter, row["candidate"], *_figures(row, fast), row["verdict"] + (" (front)" if row["front"] else "")
        )
    console().print(table)
    for reason in dict.fromkeys(plan["left_out"].values()):
        those = ", ".join(target for target, why in plan["left_out"].items() if why == reason)
        console().print(f"not tried: {those}: {reason}", markup=False, soft_wrap=True)
    drawing = sketch(rows, fast)
    if drawing:
        console().print("\n".join(drawing), markup=False)
    console().print(f"chosen: {plan['why']}", markup=False, soft_wrap=True)
    for sentence in plan["disturbances"]:
        console().print(f"[yellow]unreliable:[/yellow] {sentence}", soft_wrap=True)
    console().print(f"run it as it was timed: {_load(out, plan['choice'])}", markup=False, soft_wrap=True)


def _title(plan: dict[str, Any]) -> str:
    about, wish = plan["accuracy"], plan["wish"]
    on = f"{about['metric']} on {about['images']} images of {about['on']}" if about else "nothing was judged"
    if about.get("seen") == 0:
        on += ", on which the float model finds nothing: parity is all the proof there is (--data gives more)"
    replayed = ", from a plan made elsewhere or before: nothing was timed now" if plan.get("replayed") else ""
    return f"fastest for {wish['goal']} with at most {plan['max_drop_points']:g} points lost; {on}{replayed}"


def _figures(row: dict[str, Any], fast: bool) -> list[str]:
    ms = row["ms_per_image"]
    low, middle, high = (ms[key] for key in ("p50_low", "p50", "p50_high"))
    if fast:
        low, middle, high = 1e3 / high, 1e3 / middle, 1e3 / low
    times = "–" if row["times_the_winner"] is None else f"{row['times_the_winner']:.2f}"
    unknown = row["accuracy"] is None
    return [
        f"{middle:.2f}",
        f"{low:.2f} – {high:.2f}",
        times,
        "not judged" if unknown else f"{row['accuracy']:.4f}",
        "–" if unknown else f"{row['drop_points']:.2f}",
    ]


def sketch(rows: list[dict[str, Any]], fast: bool) -> list[str]:
    """Lines of a drawing: accuracy upwards, speed to the right; a letter a row, capital on the front. Empty for one."""
    judged = [
        (letter, row) for letter, row in zip(_letters(len(rows)), rows, strict=True) if row["accuracy"] is not None
    ]
    if len(judged) < 2:
        return []
    across = [1e3 / row["ms_per_image"]["p50"] for _, row in judged]
    up = [row["accuracy"] for _, row in judged]
    field = [[" "] * WIDTH for _ in range(HEIGHT)]
    for (letter, row), x, y in zip(judged, across, up, strict=True):
        column = _cell(x, min(across), max(across), WIDTH)
        line = HEIGHT - 1 - _cell(y, min(up), max(up), HEIGHT)
        field[line][column] = letter.upper() if row["front"] else letter
    lines = [f"{max(up):.4f} |" + "".join(field[0])]
    lines += [" " * 7 + "|" + "".join(line) for line in field[1:-1]]
    lines += [f"{min(up):.4f} |" + "".join(field[-1]), " " * 7 + "+" + "-" * WIDTH]
    words = "images/s: " if fast else "ms, faster to the right: "
    ends = [x if fast else 1e3 / x for x in (min(across), max(across))]
    return [*lines, " " * 8 + f"{words}{ends[0]:.3g} … {ends[1]:.3g}; capitals: the front"]


def _cell(value: float, low: float, high: float, cells: int) -> int:
    return round((value - low) / (high - low) * (cells - 1)) if high > low else cells // 2


def _letters(count: int) -> list[str]:
    return [chr(ord("a") + i % 26) for i in range(count)]


def _load(out: Path, choice: dict[str, Any]) -> str:
    from edgekit.autotune import Candidate
    from edgekit.autotune.auto import how_to_load

    return how_to_load(out, Candidate(choice["target"], choice["batch"], choice["streams"], choice["threads"]))
