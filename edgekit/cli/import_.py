"""`edgekit import`: a published checkpoint becomes edgekit's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing


def command(
    checkpoint: Annotated[Path, typer.Argument(help="A published .pt file (or an edgekit checkpoint).")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    force: Force = False,
    json: Json = False,
) -> None:
    """Turn a published checkpoint into edgekit's own format, running no code from it."""
    refuse_existing(out, force)
    from edgekit import checkpoint as checkpoints
    from edgekit.errors import InputError

    loaded = checkpoints.load(checkpoint)
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: its folder does not exist; make it first")
    checkpoints.save(loaded, out)
    if json:
        emit_json(
            {
                "model": loaded.spec.name,
                "task": loaded.spec.task,
                "family": loaded.spec.family,
                "classes": loaded.spec.classes,
                "names": loaded.names,
                "imgsz": loaded.imgsz,
                "licence": loaded.licence,
                "checkpoint_sha256": loaded.sha256,
                "out": out,
            }
        )
    else:
        licence = f"; licence of the weights: {loaded.licence}" if loaded.licence else ""
        console().print(f"{out}: {loaded.spec.name} ({loaded.spec.family}), {loaded.spec.classes} classes{licence}")
