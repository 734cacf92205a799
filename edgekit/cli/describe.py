"""`edgekit describe`: a bundle's bill of materials, attestation or model card, from what was proved of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.options import DescribeOptions
from edgekit.cli._common import Json, console, emit_json


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    how: DescribeOptions,
    json: Json = False,
) -> None:
    """Write a bundle's CycloneDX bill of materials, in-toto attestation or Hugging Face card, from its manifest."""
    from edgekit.bundle.provenance import describing

    written = describing.write(bundle, how)
    if json:
        emit_json({"bundle": bundle, "format": how.format, "file": written})
    else:
        console().print(f"{written}: written", soft_wrap=True, markup=False)
