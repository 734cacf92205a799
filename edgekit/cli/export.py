"""`edgekit export`: a checkpoint as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.bundle.options import BuildOptions
from edgekit.cli._common import Force, Json, console, emit_json, refuse_existing
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases


def command(
    checkpoint: Annotated[Path, typer.Argument(help="An edgekit or published checkpoint.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    wanted: Annotated[BuildOptions, Only("imgsz", "batch", "head", "candidates")],
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Let any batch through.")] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset, 17 to 24.")] = 18,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, decoding included; the file alone says what its outputs mean."""
    refuse_existing(out, force)
    from edgekit.bundle import preflight
    from edgekit.errors import UsageError, optional

    if out.suffix != ".onnx":
        raise UsageError(f"`out` {out}: give a name ending in .onnx")
    batch = None if dynamic_batch else wanted.batch
    head = wanted.head or "topk"
    preflight.of_export(checkpoint, out, head, batch, opset)
    with optional("export", "train"):
        from edgekit import checkpoint as checkpoints
    with optional("export", "onnx"):
        from edgekit.graph.export import export
    with Phases(f"exporting {checkpoint}"):
        loaded = checkpoints.load(checkpoint)
        graph = export(loaded, out, wanted.imgsz, batch, opset, head, candidates=wanted.candidates)
    if json:
        emit_json(
            {
                "out": graph.path,
                "sha256": graph.sha256,
                "opset": opset,
                **graph.info.to_dict(),
                "rewrites": graph.provenance["rewrites"],
            }
        )
    else:
        for port in graph.info.outputs:
            console().print(f"  {port.role}: {port.name} {list(port.shape)}")
        fired = ", ".join(f"{r['rule']} ×{r['fired']}" for r in graph.provenance["rewrites"])
        console().print(f"{out}: {graph.path.stat().st_size / 1e6:.1f} MB, opset {opset}; rewrites: {fired}")
