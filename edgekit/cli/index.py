"""`edgekit index`: one file over several bundles of a model, of which each machine runs the first that it can."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing


def command(
    out: Annotated[Path, typer.Argument(help="The index to write, e.g. fleet/index.json.")],
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of one model, beneath the index's folder.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Write an index of bundles; it is a MODEL anywhere, and the fastest of them that runs on a machine is used."""
    from edgekit.bundle.fleet import write_index
    from edgekit.errors import UsageError

    refuse_existing(out, force, "")
    if out.suffix.lower() != ".json":
        raise UsageError(f"{out}: an index is a JSON file; give a name that ends in .json")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.parent}; make it first")
    index = write_index(out, bundles)
    if json:
        emit_json({"index": out, "weights": index.weights, "task": index.task, "bundles": index.entries})
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table("tried", "bundle", "target", "needs", "SM", "ms", title=str(out), title_justify="left")
        for number, entry in enumerate(index.entries, 1):
            architectures = ", ".join(map(str, entry.sm))
            time = f"{entry.ms:.1f}" if entry.ms else ""
            table.add_row(str(number), escape(entry.path), entry.target, ", ".join(entry.needs), architectures, time)
        console().print(table)
