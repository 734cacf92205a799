"""`edgekit export`: a checkpoint as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli._common import (
    Batch,
    Candidates,
    Force,
    Head,
    ImgSz,
    Json,
    check_head,
    console,
    emit_json,
    refuse_existing,
)


def command(
    checkpoint: Annotated[Path, typer.Argument(help="An edgekit or published checkpoint.")],
    out: Annotated[Path, typer.Option(help="The .onnx file to write.")],
    imgsz: ImgSz = None,
    batch: Batch = 1,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Let any batch through.")] = False,
    opset: Annotated[int, typer.Option(help="ONNX opset, 17 to 24.")] = 18,
    head: Head = "topk",
    candidates: Candidates = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, decoding included; the file alone says what its outputs mean."""
    refuse_existing(out, force)
    check_head(head, candidates)
    from edgekit.errors import UsageError, optional
    from edgekit.spec import parse_imgsz

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out}: give a name ending in .onnx")
    size = parse_imgsz(imgsz) if imgsz else None
    from edgekit.bundle import preflight

    preflight.of_export(checkpoint, out, head, None if dynamic_batch else batch, opset)
    with optional("export", "train"):
        from edgekit import checkpoint as checkpoints
    with optional("export", "onnx"):
        from edgekit.graph.export import export
    with console().status(f"exporting {checkpoint}"):
        loaded, same = checkpoints.load(checkpoint), None if dynamic_batch else batch
        graph = export(loaded, out, size, same, opset, head, candidates=candidates)
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
