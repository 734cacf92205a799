"""`edgekit build`: from a checkpoint to a bundle an application can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Batch, Force, Head, ImgSz, Json, check_head, console, emit_json, refuse_existing


def command(
    model: Annotated[Path, typer.Argument(help="A checkpoint, an exported ONNX file, or a bundle that holds one.")],
    target: Annotated[str, typer.Option(help="What to build for; `edgekit doctor` lists the targets.")],
    out: Annotated[Path, typer.Option(help="The bundle folder to write.")],
    imgsz: ImgSz = None,
    batch: Batch = 1,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Let any batch through.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="Images for the parity check. Default: generated ones.", show_default=False)
    ] = None,
    head: Head = "topk",
    force: Force = False,
    json: Json = False,
) -> None:
    """Build a bundle and prove that it computes what the checkpoint does; fails when it does not."""
    refuse_existing(out, force)
    check_head(head)
    from edgekit import build as building
    from edgekit.spec import parse_imgsz

    size = parse_imgsz(imgsz) if imgsz else None
    with console().status("") as status:
        bundle = building.build(
            model, target, out, size, None if dynamic_batch else batch, images, head, lambda step: status.update(step)
        )
    if json:
        emit_json({"out": out, **bundle.manifest})
    else:
        _print(out, bundle.manifest)


def _print(out: Path, manifest: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{out}: {manifest['target']}, {manifest['imgsz'][0]}x{manifest['imgsz'][1]}, parity")
    for heading in ("role", "largest difference", "mean", "tolerance", ""):
        table.add_column(heading, justify="left" if heading in ("role", "") else "right")
    for role, row in manifest["parity"].items():
        table.add_row(
            role,
            f"{row['max_abs']:.2g}",
            f"{row['mean_abs']:.2g}",
            f"{row['tolerance']:.2g}",
            "ok" if row["pass"] else "FAILED",
        )
    console().print(table)
    for row in manifest["rewrites"]:
        console().print(f"rewrite {row['rule']}: fired {row['fired']} of {row['expected']}")
    if manifest.get("licence"):
        console().print(f"licence of the weights: {manifest['licence']}")
