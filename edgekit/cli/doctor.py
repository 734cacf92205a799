"""``edgekit doctor``: what is installed, and what each target lacks."""

from __future__ import annotations

from typing import Any

from edgekit.cli._common import Json, console, emit_json


def command(json: Json = False) -> None:
    """Say what is installed here and what each target lacks."""
    from edgekit.bench.doctor import examine

    report = examine()
    if json:
        emit_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()
    out.print(f"edgekit {report['edgekit']}, Python {report['python']}, {report['platform']}")

    cpu = report["cpu"]
    out.print(f"{cpu['model']}, {cpu['usable']} cores to use: {' '.join(cpu['instruction_sets'])}", markup=False)
    for gpu in report["gpus"]:
        out.print(
            f"{gpu['model']}, driver {gpu['driver']}, compute capability {gpu['compute_capability']}", markup=False
        )
    out.print()

    packages = Table("package", "version", "extra", "for", box=None, header_style="bold")
    for p in report["packages"]:
        packages.add_row(p["installed"] or p["name"], p["version"] or "[dim]not installed", p["extra"], p["use"])
    out.print(packages)
    out.print()

    table = Table("target", "", box=None, header_style="bold")
    for t in report["targets"]:
        table.add_row(t["name"], "[green]ready" if t["ready"] else t["note"].replace("[", r"\["))
    out.print(table)

    names = ", ".join(each["name"] for each in report["experimental"])
    out.print(f"experimental, run on no GPU yet (`edgekit gpu-check`): {names} of trt-*", markup=False, soft_wrap=True)

    for warning in report["warnings"]:
        out.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
