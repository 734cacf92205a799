"""`edgekit gpu-check`: what works on the NVIDIA GPU here, in one report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import Json, console, emit_json, spelt
from edgekit.report.gpu.options import GpuOptions


def command(
    options: GpuOptions,
    out: Annotated[Path, typer.Option(help="The results file, written after every step.")] = Path("gpu.json"),
    json: Json = False,
) -> None:
    """Try everything that needs an NVIDIA GPU, and say what works."""
    from edgekit.report.gpu import runner, words

    def say(line: str) -> None:
        console().print(spelt(line), markup=False, highlight=False, soft_wrap=True)

    document = runner.run(options, out, say)
    if json:
        emit_json(document)
    else:
        say("")
        say(words.conclusion(document))
        say(f"{out}: everything that was found; docs/guides/gpus.md says where to send it")
    if any(step["state"] in runner.BAD for step in document["steps"]):
        raise typer.Exit(1)
