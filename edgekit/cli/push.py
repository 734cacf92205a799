"""`edgekit push`: a bundle or an index to a folder, a registry or the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Json, emit_json
from edgekit.cli._streams import write_document


def command(
    artifact: Annotated[Path, typer.Argument(help="A bundle, or an index with its bundles beneath it.")],
    to: Annotated[str, typer.Argument(help="file:FOLDER, oci://HOST/NAME or hf://OWNER/NAME, each with :TAG.")],
    json: Json = False,
) -> None:
    """Send a bundle or an index, checked; prints the reference by digest that brings back exactly this."""
    from edgekit.bundle.store import push

    reference = push(artifact, to)
    if json:
        emit_json({"artifact": artifact, "reference": reference})
    else:
        write_document(reference)
