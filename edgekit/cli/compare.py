"""`edgekit compare`: are two models the same function, and if not, where do they part?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Conf, Images, ImgSz, Json, console, emit_json


def command(
    first: Annotated[
        Path, typer.Argument(help="The reference: a checkpoint, bundle or ONNX file, or another tool's model.")
    ],
    second: Annotated[Path, typer.Argument(help="The model to hold against it.")],
    images: Images = None,
    most: Annotated[int, typer.Option(min=1, help="Use at most this many images.")] = 16,
    imgsz: ImgSz = None,
    task: Annotated[
        str | None, typer.Option(help="Of another tool's model that does not say: detect, segment, …")
    ] = None,
    conf: Conf = 0.25,
    json: Json = False,
) -> None:
    """Compare two models' outputs, detections and stages; exits 1 when they are not the same function."""
    from edgekit import parity, preflight
    from edgekit.errors import GateError
    from edgekit.spec import parse_imgsz

    size = parse_imgsz(imgsz) if imgsz else None
    preflight.check_models([first, second])
    pictures = parity.read_images(images, most) if images else parity.generated_images()
    from edgekit.compare import compare

    with console().status("comparing"):
        report = compare(first, second, pictures, conf, size, task)
    if json:
        emit_json(report)
    else:
        _print(report)
    failed = [role for role, row in (report["roles"] or {}).items() if not row["pass"]]
    if failed:
        where = f"; first at {report['stage']['words']}" if report["stage"] else ""
        raise GateError(f"{second}: {', '.join(failed)} differ from {first} by more than the tolerance{where}")


def _print(report: dict[str, Any]) -> None:
    from rich.table import Table

    if report["roles"] is None:
        console().print("the two have different heads, so only what they find is compared")
    else:
        table = Table(title=f"raw outputs on {report['images']} images")
        for heading in ("role", "largest difference", "mean", "tolerance", ""):
            table.add_column(heading, justify="left" if heading in ("role", "") else "right")
        for role, row in report["roles"].items():
            verdict = "ok" if row["pass"] else "[red]DIFFERS[/red]"
            table.add_row(role, *(f"{row[k]:.2g}" for k in ("max_abs", "mean_abs", "tolerance")), verdict)
        console().print(table)
    found = report["detections"]
    console().print(", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in found.items()))
    stage = report["stage"]
    if stage:
        console().print(
            f"first stage that differs: {stage['words']} ({stage['path']}), relative error {stage['error']:.2g} "
            f"where it was {stage['error_before']:.2g} before"
        )
