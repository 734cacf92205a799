"""`edgekit report`: one HTML page about bundles and other models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Force, Json, check_out, console, emit_json
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.errors import UsageError
from edgekit.report.request import Request
from edgekit.runtime.options import OpenOptions


def command(
    what: Annotated[
        list[Path], typer.Argument(help="Bundles or other models, those of other tools included; the baseline first.")
    ],
    asked: Request,
    how: Annotated[OpenOptions, Only("task", "outputs", "imgsz")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write one HTML page: the verdict, times, accuracy by class, images that differ, proof and origin."""
    check_out(out, force)
    from edgekit.bundle import preflight
    from edgekit.report import bundles, page

    preflight.check_models(what)
    runs = [path for path in what if (path / "results.csv").is_file()]
    if runs:
        raise UsageError(f"report: {runs[0]} is a training run, whose plots are in that folder; give models")
    with Phases("") as status:
        found = bundles.compare(what, asked, lambda line: status.update(line), how)
    headline = found["verdict"].headline
    size = page.write(page.bundles_page(found), out)
    if json:
        emit_json({"out": out, "bytes": size, "verdict": headline})
        return
    console().print(headline, markup=False)
    console().print(f"{out}: {size / 1e6:.2f} MB", markup=False)
