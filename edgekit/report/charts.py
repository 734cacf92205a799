"""Drawings of a report as inline SVG, coloured by the page's style sheet, so that they follow dark mode and print.

    pareto([Point("ov-fp16", 41.0, 44.1), Point("ov-int8", 27.8, 43.9)], "ms an image", "mAP 50-95")
    strips([("ov-fp16", record["whole_ms"])])

Every drawing says in ``<title>`` and ``<desc>`` what it shows; the same numbers are in a table beside it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 34, 46
SERIES = 6  # colors of the style sheet, .s0 to .s5

_numbers = itertools.count(1)


class Point(NamedTuple):
    """A model in the Pareto drawing; ``chosen`` has a ring around it."""

    name: str
    x: float
    y: float
    chosen: bool = False


def pareto(
    points: Sequence[Point],
    x_name: str,
    y_name: str,
    rising: bool = False,
    least: float | None = None,
    others: Sequence[float] = (),
    legend: str = "",
) -> str:
    """Speed against accuracy, one point at least. Points that no other beats in both are joined by a line.

    Args:
        rising: a larger x is better, not a smaller one.
        least: accuracy that is asked for, a dashed line.
        others: x of what has no accuracy, as ticks on the axis.
        legend: a line of text above the drawing.
    """
    ys = [p.y for p in points] + ([] if least is None else [least])
    x_axis = ticks(0, max([p.x for p in points] + [*others]) * 1.15)
    pad = max((max(ys) - min(ys)) * 0.3, 0.5)
    y_axis = ticks(min(ys) - pad, max(ys) + pad)
    place = _Frame(x_axis, y_axis)
    line = " ".join(f"{place.x(p.x):.1f},{place.y(p.y):.1f}" for p in unbeaten(points, rising))
    bottom = HEIGHT - BOTTOM
    marks = [f'<path class="other" d="M{place.x(x):.1f} {bottom - 6}v12"/>' for x in others]
    if legend:
        marks.append(f'<text class="legend" x="{LEFT}" y="29">{escape(legend)}</text>')
    if least is not None:
        marks.append(f'<path class="least" d="M{LEFT} {place.y(least):.1f}H{WIDTH - RIGHT}"/>')
    for i, p in enumerate(points):
        x, y = place.x(p.x), place.y(p.y)
        # Off the line between points: left of it, or right of it at the left edge of the drawing.
        left = x > WIDTH * 0.35
        at = f'x="{x + (-10 if left else 10):.1f}" y="{y + (18 if left == rising else -10):.1f}"'
        marks.append(f'<circle class="s{i % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        if p.chosen:
            marks.append(f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="10"/>')
        marks.append(f'<text class="label" {at} text-anchor="{"end" if left else "start"}">{escape(p.name)}</text>')
    said = "; ".join(f"{p.name}: {p.x:.1f} {x_name}, {p.y:.1f} {y_name}" for p in points)
    body = [*place.axes(x_name, y_name), f'<polyline class="front" points="{line}"/>', *marks]
    better = "right" if rising else "left"
    return _svg(f"{y_name} over {x_name}, up and {better} is better", said, body, WIDTH, HEIGHT)


def alone(svg: str) -> str:
    """A drawing of this module as a file of its own, which brings its style along."""
    style = Path(__file__).with_name("templates") / "drawing.css"
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        "<title", f"<style>{style.read_text(encoding='utf-8')}</style><title", 1
    )


def strip(times: Mapping[str, float], longest: float, name: str, kind: int = 0) -> str:
    """One distribution on a shared scale: line to the maximum, bar to the 99th percentile, tick at the median."""

    def at(value: float) -> float:
        return 100 * min(value, longest) / longest

    low, middle, high = at(times["min"]), at(times["p50"]), at(times["p99"])
    end = at(times.get("max", times["p99"]))
    body = [
        f'<line class="whisker" x1="{low:.2f}%" x2="{end:.2f}%" y1="14" y2="14"/>',
        f'<rect class="s{kind % SERIES}" x="{low:.2f}%" width="{max(high - low, 0.4):.2f}%" y="6" height="16" rx="3"/>',
        f'<line class="median" x1="{middle:.2f}%" x2="{middle:.2f}%" y1="2" y2="26"/>',
    ]
    said = ", ".join(f"{key} {times[key]:.2f} ms" for key in ("min", "p50", "p90", "p99"))
    return _svg(f"times of {name}", said, body, None, 28)


def bar(share: float, name: str) -> str:
    """A bar of ``share`` (0 to 1) of the width."""
    width = 100 * min(max(share, 0.0), 1.0)
    body = [f'<rect class="s0" x="0" width="{width:.2f}%" y="2" height="10" rx="2"/>']
    return _svg(name, f"{share:.1%}", body, None, 14)


class _Frame:
    """Numbers to places inside the drawing, and its axes."""

    def __init__(self, x_axis: Sequence[float], y_axis: Sequence[float]) -> None:
        self.x_axis, self.y_axis = x_axis, y_axis

    def x(self, value: float) -> float:
        low, high = self.x_axis[0], self.x_axis[-1]
        return LEFT + (value - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_axis[0], self.y_axis[-1]
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_name: str, y_name: str) -> list[str]:
        found = []
        for value in self.y_axis:
            y = self.y(value)
            found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            found.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in self.x_axis:
            x = self.x(value)
            found.append(
                f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        found.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
        found.append(f'<text class="axis" x="4" y="16">{escape(y_name)}</text>')
        return found


def unbeaten(points: Sequence[Point], rising: bool = False) -> list[Point]:
    """Points that nothing else beats in both, fastest first."""
    front: list[Point] = []
    for p in sorted(points, key=lambda p: (-p.x if rising else p.x, -p.y)):
        if not front or p.y > front[-1].y:
            front.append(p)
    return front


def ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that span ``low`` to ``high``."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _svg(title: str, description: str, body: Sequence[str], width: int | None, height: int) -> str:
    number = next(_numbers)
    size = f'viewBox="0 0 {width} {height}"' if width else f'width="100%" height="{height}"'
    return (
        f'<svg class="{"drawing" if width else "strip"}" {size} role="img" aria-labelledby="t{number} d{number}">'
        f'<title id="t{number}">{escape(title)}</title><desc id="d{number}">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )
