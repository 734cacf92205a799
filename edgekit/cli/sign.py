"""`edgekit sign`: a signature over a whole bundle, which `edgekit verify` and OpenSSF's model_signing check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.options import SignOptions
from edgekit.cli._common import Json, console, emit_json


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    how: SignOptions,
    json: Json = False,
) -> None:
    """Sign every file of a bundle, with a key, a certificate or by name through sigstore; writes BUNDLE/model.sig."""
    from edgekit.bundle.provenance import signing

    written = signing.sign(bundle, how)
    if json:
        emit_json({"bundle": bundle, "signature": written})
    else:
        console().print(f"{written}: signed", soft_wrap=True, markup=False)
