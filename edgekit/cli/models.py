"""`edgekit models`: the scale table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgekit.cli._common import Json, console, emit_json


def command(
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    family: Annotated[str | None, typer.Option(help="Only this family: v1.0 or turbo.")] = None,
    json: Json = False,
) -> None:
    """List the models: parameters, FLOPs with and without attention, published figures."""
    from edgekit import tasks
    from edgekit.checkpoint import catalog
    from edgekit.errors import UsageError
    from edgekit.spec import FAMILIES

    if family is not None and family not in FAMILIES:
        raise UsageError(f"--family {family}: families are {', '.join(FAMILIES)}")
    wanted = tasks.get(task).name if task else None
    specs = [catalog.spec(name) for name in catalog.names()]
    rows = [_row(s) for s in specs if wanted in (None, s.task) and family in (None, s.family)]
    if json:
        emit_json(rows)
    else:
        _print(rows)


def _row(spec: Any) -> dict[str, Any]:
    from edgekit import tasks
    from edgekit.checkpoint import catalog

    counted = catalog.counted(spec)
    convolutions = counted.get("convolution_flops", 0)  # 0 where nobody counted, which becomes null
    return {
        "name": spec.name,
        "task": spec.task,
        "scale": spec.scale,
        "family": spec.family,
        "parameters": counted.get("parameters"),
        "flops_g": round(convolutions / 1e9, 3) or None,
        "flops_with_attention_g": round((convolutions + counted.get("attention_flops", 0)) / 1e9, 3) or None,
        "imgsz": counted.get("imgsz", tasks.get(spec.task).imgsz),
        "published": catalog.published(spec),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(
        title="YOLO12 models",
        caption="Published figures are the authors' (COCO val2017, T4 TensorRT FP16); "
        "none of them was measured by edgekit. FLOPs: two per multiply-add.",
    )
    for heading in (
        "model",
        "family",
        "px",
        "parameters M",
        "FLOPs G\n(convolutions)",
        "FLOPs G\n(with attention)",
        "published\nmAP50-95",
        "published\nT4 ms",
    ):
        table.add_column(heading, justify="left" if heading in ("model", "family") else "right")
    for row in rows:
        figures = row["published"] or {}
        table.add_row(
            row["name"],
            row["family"],
            str(row["imgsz"]),
            f"{row['parameters'] / 1e6:.1f}" if row["parameters"] else "–",
            f"{row['flops_g']:.1f}" if row["flops_g"] else "–",
            f"{row['flops_with_attention_g']:.1f}" if row["flops_with_attention_g"] else "–",
            f"{100 * figures['map50_95']:.1f}" if figures else "–",
            f"{figures['t4_fp16_ms']:.2f}" if figures else "–",
        )
    console().print(table)
