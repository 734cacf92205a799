"""`edgekit verify`: is a bundle what it says, and does it answer as it must on this machine and device?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.options import SignatureOptions, VerifyOptions
from edgekit.cli._common import Json, console, emit_json
from edgekit.cli._options import Without


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    how: Annotated[VerifyOptions, Without("signature")],
    signed: SignatureOptions,
    json: Json = False,
) -> None:
    """Check a bundle's signature, files and self-test on this machine; exits 1 when one is not as it must be."""
    from edgekit.bundle.verification import FAILED, verify
    from edgekit.errors import GateError

    found = verify(bundle, dataclasses.replace(how, signature=signed))
    failed = [check for check in found if check.state == FAILED]
    if json:
        emit_json({"bundle": bundle, "passed": not failed, "checks": [check.to_dict() for check in found]})
    for check in found:
        if check.state != FAILED:
            console().print(f"{check.name}: {check.state}: {check.message}", soft_wrap=True, markup=False)
    if failed:
        raise GateError(failed[0].message)
