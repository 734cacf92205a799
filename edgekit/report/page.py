"""The page itself: templates filled with what was found, one HTML file that needs nothing from elsewhere.

    text = bundles_page(bundles.compare(paths, Request()))
    write(text, Path("report.html"))

jinja2 fills the templates (escaping whatever comes from outside). Style, drawings and pictures are inside the file, and
there is no script: the page reads the same in a mail, on paper and offline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.errors import InputError, optional
from edgekit.report import charts
from edgekit.runtime.atomic import replacing

MOST_BYTES = 5_000_000
LARGEST_ROWS = 12  # of a profile
MOST_SHOWN = 24  # members of a list in a manifest
STAGES = {"pre_ms": "pre-processing", "network_ms": "network", "post_ms": "post-processing"}


def bundles_page(found: Mapping[str, Any]) -> str:
    """The page of ``bundles.compare``'s findings."""
    entries = found["entries"]
    timed = [e for e in entries if e["stages"]]
    longest = max((e["stages"]["whole_ms"]["p99"] for e in timed), default=1.0) * 1.04
    points = [
        charts.Point(e["name"], e["ms"], 100 * e["accuracy"]["value"]) for e in entries if e["ms"] and e["accuracy"]
    ]
    strips = [
        charts.strip(e["stages"]["whole_ms"], longest, e["name"], i) for i, e in enumerate(entries) if e["stages"]
    ]
    return _filled(
        "bundles.html",
        {
            **found,
            "pareto": charts.pareto(points, "ms an image", points_name(entries)) if len(points) > 1 else None,
            "timed": list(zip(timed, strips, strict=True)),
            "stage_names": STAGES,
            "scored": [e for e in entries if e["accuracy"]],
            "reasons": list(dict.fromkeys(reason for e in entries for reason in e["disturbances"])),
            "largest_rows": LARGEST_ROWS,
        },
    )


def points_name(entries: Sequence[Mapping[str, Any]]) -> str:
    """What the vertical axis shows."""
    return next(str(e["accuracy"]["metric_name"]) for e in entries if e["accuracy"])


def write(text: str, out: Path) -> int:
    """Write the page whole or not at all; its size in bytes.

    Raises:
        InputError: larger than a page that people mail around should be.
    """
    data = text.encode("utf-8")
    if len(data) > MOST_BYTES:
        raise InputError(
            f"{out}: the page would have {len(data) / 1e6:.1f} MB, 5 are allowed; show fewer with `pictures`"
        )
    with replacing(out) as partial:
        partial.write_bytes(data)
    return len(data)


def _filled(name: str, context: Mapping[str, Any]) -> str:
    with optional("edgekit report", "report"):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # of charts.py, which escapes what it is given
    environment.filters["plain"] = _plain
    environment.filters["combined"] = lambda mapping, more: {**mapping, **more}
    environment.globals["bar"] = charts.bar
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(name).render(**context, made=made, version=__version__)


def _plain(value: Any) -> str:
    """Nested values of a manifest in a line that can be read."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items() if v is not None) or "–"
    if isinstance(value, (list, tuple)):
        more = [f"… {len(value) - MOST_SHOWN} more"] if len(value) > MOST_SHOWN else []
        return ", ".join([*(_plain(v) for v in value[:MOST_SHOWN]), *more]) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None or value == "" else str(value)
