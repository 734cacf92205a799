"""`edgekit report`: one HTML page about bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Force, Json, Threads, console, emit_json, refuse_existing
from edgekit.errors import UsageError


def command(
    what: Annotated[list[Path], typer.Argument(help="Bundles, the baseline first.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    data: Annotated[
        Path | None, typer.Option(help="Labelled set: accuracy by class, and images they differ on.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data: train, val or test.")] = "val",
    images: Annotated[
        list[str] | None,
        typer.Option(
            help="Images without labels: files, folders, globs, as often as needed; or the folder of a COCO JSON's.",
            show_default=False,
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Take times from this file of bench --json instead.", show_default=False)
    ] = None,
    val: Annotated[
        list[Path] | None, typer.Option(help="Take accuracy from this file of val --json; one a bundle.")
    ] = None,
    budget: Annotated[float, typer.Option(min=0, help="Seconds of timing per bundle; 0: none.")] = 20.0,
    max_drop: Annotated[float, typer.Option("--max-drop", min=0, help="Points a faster bundle may lose.")] = 1.0,
    pictures: Annotated[int, typer.Option(min=0, help="Images to show, at most.")] = 6,
    threads: Threads = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write one HTML page: the verdict, times, accuracy by class, images that differ, proof and origin."""
    refuse_existing(out, force)
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}; make it first")
    from edgekit.report import bundles, page

    runs = [path for path in what if (path / "results.csv").is_file()]
    if runs:
        raise UsageError(f"report: {runs[0]} is a training run, whose plots are in that folder; give bundles")
    asked = bundles.Request(data, split, images, results, tuple(val or ()), budget, max_drop, pictures, threads)
    with console().status("") as status:
        found = bundles.compare(what, asked, lambda line: status.update(line))
    headline = found["verdict"].headline
    size = page.write(page.bundles_page(found), out)
    if json:
        emit_json({"out": out, "bytes": size, "verdict": headline})
        return
    console().print(headline, markup=False)
    console().print(f"{out}: {size / 1e6:.2f} MB", markup=False)
