"""Hold an installation to bundles, images and the results they must give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Json, console, emit_json
from edgekit.cli._options import Only
from edgekit.runtime.options import OpenOptions


def check(
    folder: Annotated[Path, typer.Argument(help="A folder made by benchmarks/conformance.py.")],
    how: Annotated[OpenOptions, Only("device")],
    json: Json = False,
) -> None:
    """Hold this installation to a conformance set; exits 1 where it does not conform."""
    from edgekit.bundle import conformance
    from edgekit.errors import GateError

    report = conformance.check(folder, how.device)
    if json:
        emit_json(report)
    for failure in report["failures"]:
        console().print(f"{failure['bundle']} on {failure['image']}: {'; '.join(failure['wrong'])}", soft_wrap=True)
    if report["failed"]:
        raise GateError(f"{folder}: {report['failed']} of {report['cases']} cases do not conform")
    console().print(f"{report['cases']} cases conform")


commands = (check,)
