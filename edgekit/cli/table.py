"""`edgekit table`: every scale for every target, beside the published figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgekit.bench.options import TableOptions
from edgekit.cli._common import Force, Json, check_out, console, emit_json, write_json
from edgekit.cli._progress import Phases
from edgekit.errors import GateError, UsageError
from edgekit.runtime.atomic import replacing

if TYPE_CHECKING:
    from edgekit.report.table import Plan

SUFFIXES = (".json", ".md", ".csv")


def command(
    wanted: TableOptions,
    out: Annotated[Path | None, typer.Option(help="Write the table to this file: .json, .md or .csv.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build, time and score every scale for every target, beside the published figures; takes up where it stopped.

    With --out each finished row is kept in OUT.partial until the whole is there. INT8 targets need --data or
    --calibration.
    """
    check_out(out, force)
    from edgekit.data.open import open_split
    from edgekit.report import table
    from edgekit.verify.images import images_for

    plan = _plan(wanted)
    _check(plan, wanted, out)
    dataset = open_split(wanted.data, plan.task, wanted.split, wanted.images) if wanted.data else None
    state = out.with_name(out.name + ".partial") if out else None
    with Phases("") as status:
        document = table.measure(
            plan,
            images_for(None if dataset else wanted.images, dataset),
            dataset,
            state,
            wanted.work_dir,
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
    if wanted.require_stable and doubts:
        raise GateError(f"the run was disturbed: {'; '.join(dict.fromkeys(doubts))}")


def _plan(wanted: TableOptions) -> Plan:
    from edgekit import tasks
    from edgekit.quantize import QuantizeOptions
    from edgekit.report.table import Plan

    return Plan(
        wanted.scales,
        wanted.targets,
        wanted.family,
        tasks.get(wanted.task).name,
        wanted.imgsz,
        wanted.weights,
        QuantizeOptions(wanted.data, wanted.calibration, wanted.images, max_drop=wanted.max_drop),
        wanted.budget,
        wanted.width,
        wanted.threads,
    )


def _check(plan: Plan, wanted: TableOptions, out: Path | None) -> None:
    """Refuse now what would be refused after hours.

    Raises:
        UsageError, InputError: an option cannot be followed.
    """
    from edgekit import targets
    from edgekit.bundle import preflight
    from edgekit.quantize import calibration

    if out is not None and out.suffix not in SUFFIXES:
        raise UsageError(f"`out` {out}: tables are written as {', '.join(SUFFIXES)}")
    int8 = [target for target in plan.targets if targets.get(target).int8]
    if int8 and wanted.data is None and wanted.calibration is None:
        raise UsageError(f"`targets` {int8[0]}: INT8 is calibrated on images; give `data` or `calibration`")
    if wanted.calibration is not None:
        calibration.read(wanted.calibration)
    if out is not None:
        preflight.check_folder(out)
    if wanted.work_dir is not None:
        if wanted.work_dir.exists() and not wanted.work_dir.is_dir():
            raise UsageError(f"`work_dir` {wanted.work_dir}: a file; give the folder to keep the bundles in")
        wanted.work_dir.mkdir(parents=True, exist_ok=True)


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
