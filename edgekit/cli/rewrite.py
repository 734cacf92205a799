"""`edgekit rewrite`: an ONNX file from anywhere, made better for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.runtime.options import OpenOptions


def command(
    model: Annotated[Path, typer.Argument(help="An ONNX file of a YOLO12 model, edgekit's or anybody's.")],
    target: Annotated[str, typer.Option(help="Whose rules to apply; `edgekit doctor` lists the targets.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    how: Annotated[OpenOptions, Only("imgsz")],
    opset: Annotated[int | None, typer.Option(help="ONNX opset. Default: the target's.", show_default=False)] = None,
    with_rule: Annotated[list[str] | None, typer.Option("--with", metavar="RULE", help="Also apply this rule.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="RULE", help="Leave this rule of the target's out.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Rewrite an ONNX file for a target and prove that it is still the same function.

    Attention is recognised however it is spelled. Metadata, inputs and outputs stay as they are; a file for images of
    any size is fixed at --imgsz.
    """
    refuse_existing(out, force)
    from edgekit import targets
    from edgekit.checkpoint import catalog
    from edgekit.errors import UsageError, optional

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: give a name ending in .onnx")
    with optional("rewriting ONNX files", "onnx"):
        from edgekit.graph.files import rewrite_file
        from edgekit.graph.rewrite import recipe_for
    from edgekit.bundle.build import failures_to
    from edgekit.spec import parse_imgsz

    recipe = recipe_for(targets.get(target).recipe, opset, with_rule or (), without or ())
    with failures_to(out), Phases(f"rewriting {model}"):
        result = rewrite_file(
            model, out, recipe, catalog.attention_counts(), size=parse_imgsz(how.imgsz) if how.imgsz else None
        )
    facts = {
        "out": out,
        "target": target,
        "opset": dict(zip(("before", "after"), result.opset, strict=True)),
        "operators": dict(zip(("before", "after"), result.nodes, strict=True)),
        "rewrites": [report.to_dict() for report in result.reports],
        "equality": {row.output: {"max_abs": row.largest, "tolerance": row.allowed} for row in result.equality},
    }
    if json:
        emit_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("rule", "fired", "refused", title=f"{facts['out']} for {facts['target']}")
    for row in facts["rewrites"]:
        table.add_row(row["rule"], str(row["fired"]), "\n".join(f"{r['node']}: {r['why']}" for r in row["refused"]))
    console().print(table)
    for what in ("opset", "operators"):
        console().print(f"{what}: {facts[what]['before']} before, {facts[what]['after']} after")
    for name, row in facts["equality"].items():
        console().print(f"{name}: differs by {row['max_abs']:.2g}; rounding may explain {row['tolerance']:.2g}")
