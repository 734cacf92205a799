"""`edgekit classes`: a command in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import emit_json


def command(model: Annotated[Path, typer.Argument(help="A bundle.")]) -> None:
    """Print the names of a model's classes."""
    from edgekit.runtime.manifest import read_bundle

    emit_json(list(read_bundle(model).info.names))
