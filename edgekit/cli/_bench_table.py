"""``edgekit bench --table``: from its options to the table on the terminal, in a file or as JSON.

plan = options("nsmlx", "ort-fp32,ov-fp16", "v1.0", None, None, Path("weights"), None, 20.0, 0.03)
run(plan, Inputs(data, "val", images, None, 0.5), Path("table.json"), keep=None, require_stable=False, json=False)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.cli._common import console, emit_json, write_json
from edgekit.errors import GateError, UsageError
from edgekit.system.atomic import replacing

if TYPE_CHECKING:
    from edgekit.report.table import Plan

SUFFIXES = (".json", ".md", ".csv")


@dataclass(frozen=True)
class Inputs:
    """Where images and labels come from, and what INT8 may cost."""

    data: Path | None
    split: str
    images: list[str] | None
    calibration: Path | None
    max_drop: float


def options(
    scales: str,
    targets: str,
    family: str,
    task: str | None,
    imgsz: str | None,
    weights: Path | None,
    threads: str | None,
    budget: float,
    width: float,
) -> Plan:
    """The plan these options ask for.

    Raises:
        UsageError: one of them is not possible.
    """
    from edgekit import tasks
    from edgekit.report.table import Plan
    from edgekit.spec import parse_imgsz

    if threads is not None and not (threads.isdigit() and int(threads) > 0):
        raise UsageError(f"--threads {threads}: --table takes one whole number of at least 1")
    return Plan(
        scales=tuple(s for s in scales if s not in ", "),
        targets=tuple(t.strip() for t in targets.split(",") if t.strip()),
        family=family,
        task=tasks.get(task or "detect").name,
        imgsz=parse_imgsz(imgsz) if imgsz else None,
        weights=weights,
        budget_s=budget,
        width=width,
        threads=int(threads) if threads else None,
    )


def run(plan: Plan, inputs: Inputs, out: Path | None, keep: Path | None, require_stable: bool, json: bool) -> None:
    """Measure what is missing, show the table and write it.

    With ``out`` each finished row is kept in ``OUT.partial`` until the whole is there.

    Raises:
        GateError: ``require_stable`` and a row was measured on a disturbed machine; the rows are kept all the same.
    """
    from edgekit import targets
    from edgekit.bundle import preflight
    from edgekit.data.open import open_split
    from edgekit.quantize import QuantizeOptions, calibration
    from edgekit.report import table
    from edgekit.verify.images import images_for

    if out is not None and out.suffix not in SUFFIXES:
        raise UsageError(f"--out {out}: tables are written as {', '.join(SUFFIXES)}")
    int8 = [target for target in plan.targets if targets.get(target).int8]
    if int8 and inputs.data is None and inputs.calibration is None:
        raise UsageError(f"--targets {int8[0]}: INT8 is calibrated on images; give --data or --calibration")
    if inputs.calibration is not None:
        calibration.read(inputs.calibration)
    if out is not None:
        preflight.check_folder(out)
    if keep is not None:
        if keep.exists() and not keep.is_dir():
            raise UsageError(f"--keep {keep}: a file; give the folder to keep the bundles in")
        keep.mkdir(parents=True, exist_ok=True)
    dataset = open_split(inputs.data, plan.task, inputs.split, inputs.images) if inputs.data else None
    plan = replace(
        plan, wishes=QuantizeOptions(inputs.data, inputs.calibration, inputs.images, max_drop=inputs.max_drop)
    )
    state = out.with_name(out.name + ".partial") if out else None
    with console().status("") as status:
        document = table.measure(
            plan,
            images_for(None if dataset else inputs.images, dataset),
            dataset,
            state,
            keep,
            say=lambda line: status.update(line),
            progress=lambda share, what: status.update(f"timing, {share:.0%}: {what}"),
        )
    _show(document)
    if json:
        emit_json(document)
    if out is not None:
        _write(document, out)
    if state is not None:
        state.unlink(missing_ok=True)
    doubts = [d for row in document["rows"] for f in row["measured"].values() for d in f.get("disturbances", [])]
    if require_stable and doubts:
        raise GateError(f"the run was disturbed: {'; '.join(dict.fromkeys(doubts))}")


def _write(document: dict[str, Any], out: Path) -> None:
    from edgekit.report import table_text

    if out.suffix == ".json":
        write_json(out, document)
        return
    text = table_text.markdown(document) if out.suffix == ".md" else table_text.comma_separated(document)
    with replacing(out) as partial:
        partial.write_text(text, encoding="utf-8")


def _show(document: dict[str, Any]) -> None:
    """Two tables, of the networks and of what was measured: side by side they would need 150 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from edgekit.report import table_text

    headings, lines, notes = table_text.cells(document)
    counted, measured = (0, 3, 4, 5, 6), (0, 1, 2, 7, 8, 9, 10, 11)
    for title, columns, named in ((table_text.title(document), counted, 1), ("", measured, 3)):
        drawn = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
        for place, i in enumerate(columns):
            style = "dim" if headings[i] == "published" else None
            justify: Literal["left", "right"] = "left" if place < named else "right"
            longest = max(map(len, headings[i].split()))
            drawn.add_column(headings[i], justify=justify, style=style, min_width=longest, overflow="fold")
        for line, before in zip(lines, [None, *lines], strict=False):
            again = before is not None and line[0] == before[0]
            if again and columns is counted:
                continue
            drawn.add_row(*(Text("" if again and i == 0 else line[i]) for i in columns))
        console().print(drawn)
    for text in (*table_text.caption(document), *(f"[{i}] {note}" for i, note in enumerate(notes, 1))):
        console().print(text, soft_wrap=True, markup=False)
