"""Speed and accuracy of the candidates that were judged, the Pareto front, and where those lie that were not.

draw(plan, Path("plan.png"))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.errors import optional

FILE = "plan.png"


def draw(plan: dict[str, Any], path: Path) -> None:
    """Write the picture of a plan's rows.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with optional("drawing the plan", "train"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    fast = plan["wish"]["goal"] == "throughput"
    timed = [row for row in plan["rows"] if row["ms_per_image"]]
    judged = [row for row in timed if row["accuracy"] is not None]

    def place(row: dict[str, Any]) -> float:
        ms = float(row["ms_per_image"]["p50"])
        return 1e3 / ms if fast else ms

    front = sorted((row for row in judged if row["front"]), key=place)
    axes.step([place(r) for r in front], [r["accuracy"] for r in front], where="pre" if fast else "post", color="0.7")
    for row in judged:
        chosen = row["verdict"] == "chosen"
        axes.plot(place(row), row["accuracy"], "*" if chosen else "o", ms=14 if chosen else 7, color="C0")
        axes.annotate(row["candidate"], (place(row), row["accuracy"]), xytext=(6, 5), textcoords="offset points")
    # Not judged: no height to draw at, so a mark on the axis.
    for row in timed:
        if row["accuracy"] is None:
            axes.plot(place(row), 0.02, "|", ms=12, color="C3", transform=axes.get_xaxis_transform())
    about = plan["accuracy"]
    if judged and about:
        lowest = about["float"] - plan["max_drop_points"] / 100
        axes.axhline(lowest, color="C3", lw=0.8, ls="--")
        axes.set_ylabel(f"{about['metric']} on {about['on']}")
    axes.set_xlabel("images per second" if fast else "milliseconds an image")
    axes.set_title(
        "star: chosen; line: front; dashes: least accuracy allowed; ticks: too slow to be judged", fontsize=9
    )
    axes.margins(0.15)
    figure.savefig(path, dpi=110) if figure.canvas else FigureCanvasAgg(figure).print_png(str(path))
