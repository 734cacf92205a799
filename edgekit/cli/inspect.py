"""`edgekit inspect`: what a file or folder is and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Json, console, emit_json


def command(
    path: Annotated[Path, typer.Argument(help="A bundle, an index, a checkpoint or an ONNX file.")],
    json: Json = False,
) -> None:
    """Say what an artifact is: task, ports, precision, license, rewrites, parity, provenance, files."""
    from edgekit.bundle.inspection import inspect

    facts = inspect(path)
    if json:
        emit_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, title=str(facts["path"]))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        if key != "path" and value not in (None, [], {}):
            table.add_row(key.replace("_", " "), _text(value))
    console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_text(v) if not isinstance(v, dict) else _flat(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], dict):
            return "\n".join(_flat(v) for v in value)
        shown = ", ".join(str(v) for v in value[:12])
        return shown + (f", … ({len(value)})" if len(value) > 12 else "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(value: dict[str, Any]) -> str:
    return ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v not in (None, [], {}))
