"""`edgekit pull`: a bundle or an index from a folder, a registry or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Json, console, emit_json


def command(
    reference: Annotated[str, typer.Argument(help="What `edgekit push` printed, or the same by :TAG.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    json: Json = False,
) -> None:
    """Bring a bundle or an index; every file is verified, and the folder appears whole or not at all."""
    from edgekit.bundle.store import pull

    digest = pull(reference, out)
    if json:
        emit_json({"out": out, "digest": digest})
    else:
        console().print(f"{out}: {digest}", soft_wrap=True, markup=False)
