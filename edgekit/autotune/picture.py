"""Speed and accuracy of the candidates that were judged, the Pareto front, and where those lie that were not.

draw(plan, Path("plan.svg"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.report import charts

FILE = "plan.svg"
LEGEND = "ring: chosen; dashed: front; dotted: least accuracy allowed; ticks: not judged"


def draw(plan: dict[str, Any], path: Path) -> None:
    """Write the picture of a plan's rows; nothing where none was judged."""
    fast = plan["wish"]["goal"] == "throughput"
    about = plan["accuracy"]

    def place(row: dict[str, Any]) -> float:
        ms = float(row["ms_per_image"]["p50"])
        return 1e3 / ms if fast else ms

    timed = [row for row in plan["rows"] if row["ms_per_image"]]
    points = [
        charts.Point(row["candidate"], place(row), 100 * row["accuracy"], row["verdict"] == "chosen")
        for row in timed
        if row["accuracy"] is not None
    ]
    if not points:
        return
    least = 100 * about["float"] - plan["max_drop_points"] if about else None
    others = [place(row) for row in timed if row["accuracy"] is None]
    x_name = "images per second" if fast else "ms an image"
    y_name = f"{about['metric']} on {about['on']}, %" if about else "accuracy, %"
    drawn = charts.pareto(points, x_name, y_name, fast, least, others, LEGEND)
    path.write_text(charts.alone(drawn), encoding="utf-8")
