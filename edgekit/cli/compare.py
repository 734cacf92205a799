"""`edgekit compare`: are two models the same function, and if not, where do they part?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Images, Json, console, emit_json
from edgekit.cli._options import Only
from edgekit.cli._progress import Phases
from edgekit.runtime.options import OpenOptions, Options


def command(
    first: Annotated[
        Path, typer.Argument(help="The reference: a checkpoint, bundle or ONNX file, or another tool's model.")
    ],
    second: Annotated[Path, typer.Argument(help="The model to hold against it.")],
    how: Annotated[OpenOptions, Only("task", "outputs", "imgsz")],
    keep: Annotated[Options, Only("conf")],
    images: Images = None,
    most: Annotated[int, typer.Option(min=1, help="Use at most this many images.")] = 16,
    json: Json = False,
) -> None:
    """Compare two models' outputs, detections and stages; exits 1 when they are not the same function."""
    from edgekit.bundle import preflight
    from edgekit.errors import GateError
    from edgekit.spec import parse_imgsz
    from edgekit.verify.images import images_for
    from edgekit.verify.stages import sentence

    size = parse_imgsz(how.imgsz) if how.imgsz else None
    preflight.check_models([first, second])
    pictures = images_for(images, None, most)
    from edgekit.bundle.compare import compare

    with Phases("comparing"):
        report = compare(first, second, pictures, keep.conf, size, how.task, how.outputs)
    if json:
        emit_json(report)
    else:
        _print(report)
    failed = [f"{role} differ by {row['why']}" for role, row in (report["roles"] or {}).items() if not row["pass"]]
    if failed:
        where = sentence(report["stage"]) if report["stage"] else ""
        raise GateError(f"{second}: not the same function as {first}: {', '.join(failed)}{where}")
    found = report["detections"]
    if found.get("cut_off", 0) > found.get("allowed", 0):
        raise GateError(f"{second}: not what {first} finds: {found['warning']}")
    if not found.get("pass", True):
        raise GateError(
            f"{second}: not what {first} finds: {found['unexplained']} objects of {found['first']} and "
            f"{found['second']} are found by one of the two only, {found['allowed']} may be"
        )


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
    numbers = {k: v for k, v in found.items() if not isinstance(v, (bool, str))}
    console().print(", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in numbers.items()))
    stage = report["stage"]
    if stage and stage["path"]:
        console().print(
            f"first stage that differs: {stage['words']} ({stage['path']}), relative error {stage['error']:.2g} "
            f"where it was {stage['error_before']:.2g} before"
        )
