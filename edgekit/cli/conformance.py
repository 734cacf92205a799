"""Make or check a set of bundles, images and the results they must give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Device, Json, console, emit_json


def make(
    bundle: Annotated[list[Path], typer.Argument(help="Bundles, one per task and runtime of interest.")],
    images: Annotated[list[Path], typer.Option(help="Images or folders of images; give it as often as you like.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    most: Annotated[int, typer.Option(min=1, help="Images taken of each folder.")] = 4,
    json: Json = False,
) -> None:
    """Write bundles, images and what the one must find in the other."""
    from edgekit.bundle import conformance

    document = conformance.make(out, bundle, images, most)
    if json:
        emit_json(document)
    else:
        console().print(f"{out}: {len(document['cases'])} cases")


def check(
    folder: Annotated[Path, typer.Argument(help="A folder made by `edgekit conformance make`.")],
    device: Device = None,
    json: Json = False,
) -> None:
    """Hold this installation to a conformance set; exits 1 where it does not conform."""
    from edgekit.bundle import conformance
    from edgekit.errors import GateError

    report = conformance.check(folder, device)
    if json:
        emit_json(report)
    for failure in report["failures"]:
        console().print(f"{failure['bundle']} on {failure['image']}: {'; '.join(failure['wrong'])}", soft_wrap=True)
    if report["failed"]:
        raise GateError(f"{folder}: {report['failed']} of {report['cases']} cases do not conform")
    console().print(f"{report['cases']} cases conform")


commands = (make, check)
