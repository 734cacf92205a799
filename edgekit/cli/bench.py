"""`edgekit bench`: how long a call takes, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import Conf, Device, ImgSz, Json, Threads, console, emit_json


def command(
    model: Annotated[list[Path], typer.Argument(help="Bundles, checkpoints or exported ONNX files.")],
    images: Annotated[
        Path | None, typer.Option(help="Real images to time on. Default: generated ones.", show_default=False)
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Model that ratios are against. Default: the first.")] = None,
    budget: Annotated[float, typer.Option(min=1, help="Seconds per model, at most.")] = 20.0,
    width: Annotated[float, typer.Option(help="Stop when medians are known to this fraction.")] = 0.03,
    imgsz: ImgSz = None,
    conf: Conf = 0.25,
    device: Device = None,
    threads: Threads = None,
    require_stable: Annotated[
        bool, typer.Option("--require-stable", help="Fail when the machine disturbed the run.")
    ] = False,
    json: Json = False,
) -> None:
    """Time models, interleaved, on real images: pre-processing, network, post-processing, the whole call."""
    from edgekit import parity
    from edgekit.bench.clock import ClockOptions
    from edgekit.bench.run import bench
    from edgekit.errors import GateError, UsageError
    from edgekit.loading import load

    names = [str(path) for path in model]
    if len(set(names)) != len(names):
        raise UsageError(f"bench: {max(names, key=names.count)} is given twice; copy it to compare a model with itself")
    if baseline is not None and baseline not in names:
        raise UsageError(f"--baseline {baseline}: not among the models: {', '.join(names)}")
    pictures = parity.read_images(images) if images else parity.generated_images()
    predictors = {name: load(name, device, threads, imgsz, conf=conf) for name in names}
    options = ClockOptions(width=width, budget_s=budget * len(names))
    with console().status("timing") as status:
        records = bench(
            predictors, pictures, options, baseline, lambda share, what: status.update(f"{share:.0%}: {what}")
        )
    if json:
        emit_json(records)
    else:
        _print(records)
    disturbances = records[0]["disturbances"]
    if require_stable and disturbances:
        raise GateError(f"the run was disturbed: {'; '.join(disturbances)}")


def _print(records: list[dict[str, Any]]) -> None:
    from rich.table import Table

    first = records[0]
    cpu = first["machine"].get("cpu", {})
    table = Table(
        title=f"milliseconds a call, {first['rounds']} interleaved rounds each",
        caption=f"{cpu.get('model', 'unknown CPU')}, {cpu.get('usable', '?')} cores; "
        "median (minimum – p99) for the whole call, medians for its parts",
    )
    for heading in ("model", "target", "executes", "pre", "network", "post", "whole", "ratio"):
        table.add_column(heading, justify="left" if heading in ("model", "target", "executes") else "right")
    for record in records:
        whole, ratio = record["whole_ms"], (record["ratio"] or {}).get("whole_ms")
        table.add_row(
            record["artifact"],
            record["target"],
            record["precision_executed"] or "?",
            *(f"{record[stage]['p50']:.2f}" for stage in ("pre_ms", "network_ms", "post_ms")),
            f"{whole['p50']:.2f} ({whole['min']:.2f} – {whole['p99']:.2f})",
            f"{ratio['ratio']:.3f} ({ratio['low']:.3f} – {ratio['high']:.3f})" if ratio else "1 (baseline)",
        )
    console().print(table)
    for sentence in first["disturbances"]:
        console().print(f"[yellow]unreliable:[/yellow] {sentence}")
