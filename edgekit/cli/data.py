"""Check a labelled set file by file, and see it on a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli._common import CocoImages, Force, Json, LabelWords, Seed, console, emit_json, refuse_existing
from edgekit.cli._progress import Counted
from edgekit.runtime.fields import option

if TYPE_CHECKING:
    from edgekit.data import Dataset, Issue
    from edgekit.data.check import Report

SHOWN = 8  # issues of a kind that are listed one by one
SIZES = 4  # image sizes that are listed
COLORS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class CheckOptions:
    """What is checked, and drawn."""

    task: str | None = None
    """Read the labels for this task. Default: found out."""
    split: tuple[str, ...] = option((), metavar="NAME")
    """train, val or test; more than once. Default: all."""
    sheet: Path | None = None
    """Draw a contact sheet of labelled images (PNG or JPEG)."""
    workers: int | None = option(None, least=1)
    """Images read at once. Default: by the processors."""
    quick: bool = False
    """Read headers and labels only: no pixels, duplicates or outlines."""
    cache: bool = True
    """Do not read again what did not change since an earlier check or training."""


def check(
    data: Annotated[list[Path], typer.Argument(help="A data.yaml, a folder of class folders, or COCO JSON files.")],
    wanted: CheckOptions,
    images: CocoImages = None,
    label_options: LabelWords = "",
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Read every image and label of a set and say what is wrong, file by file; exits 1 if there are errors."""
    if wanted.sheet is not None:
        refuse_existing(wanted.sheet, force, "sheet")
    from edgekit.data import LabelOptions
    from edgekit.data.check import examine, open_splits
    from edgekit.data.scan import Scan
    from edgekit.errors import GateError
    from edgekit.runtime.processor import usable_cpus

    reading = LabelOptions.from_text(label_options)
    scan = Scan.beside(data[0]) if wanted.cache else Scan()
    datasets = open_splits(data, wanted.task, images, wanted.split, reading, scan)
    with Counted("checking", sum(map(len, datasets))) as counter:
        report = examine(datasets, wanted.workers or usable_cpus(), counter.advance, scan, wanted.quick)
    if json:
        emit_json(_document(data, datasets, report, wanted.quick))
    else:
        _print_issues(report.issues)
        _print_splits(datasets, report)
    if wanted.sheet is not None:
        _draw(datasets, wanted.sheet, seed)
    counts = Counter(issue.severity for issue in report.issues)
    if not report.ok:
        raise GateError(f"{_named(data)}: {_counted(counts)}; the first is {_first(report.issues)}")
    looked = ", by headers and labels alone" if wanted.quick else ""
    console().print(f"{_named(data)}: {_counted(counts) or 'nothing wrong'}{looked}", soft_wrap=True, markup=False)


commands = (check,)


def _named(data: Sequence[Path]) -> str:
    return ", ".join(map(str, data))


def _first(issues: Sequence[Issue]) -> Issue:
    return next(issue for issue in issues if issue.severity == "error")


def _counted(counts: Counter[str]) -> str:
    """``2 errors, 1 warning``."""
    return ", ".join(f"{counts[s]:,} {s}{'' if counts[s] == 1 else 's'}" for s in COLORS if counts[s])


def _document(data: Sequence[Path], datasets: Sequence[Dataset], report: Report, quick: bool) -> dict[str, Any]:
    from edgekit.data import account_of

    return {
        "schema": 1,
        "kind": "data-check",
        "data": list(data) if len(data) > 1 else data[0],
        "task": datasets[0].task,
        "names": datasets[0].names,
        "quick": quick,
        "ok": report.ok,
        "splits": {
            dataset.split: {
                "source": dataset.source,
                "images": len(dataset),
                "objects": _objects(dataset),
                "per_class": dict(zip(dataset.names, dataset.counts()[1].tolist(), strict=True)),
                "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in sizes.most_common()],
                **{key: account_of(dataset).to_dict()[key] for key in ("left_out", "changed")},
            }
            for dataset, sizes in zip(datasets, report.sizes, strict=True)
        },
        "counts": Counter(issue.kind for issue in report.issues),
        "issues": report.issues,
    }


def _objects(dataset: Dataset) -> int:
    """Crowd regions are none."""
    return sum(int((~sample.labels.crowd).sum()) for sample in dataset.samples)


def _print_issues(issues: Sequence[Issue]) -> None:
    """By kind, errors first, long lists cut short."""
    from rich.markup import escape

    from edgekit.data.issues import KINDS

    out = console()
    for severity, shade in COLORS.items():
        for kind, meaning in KINDS.items():
            found = [issue for issue in issues if (issue.severity, issue.kind) == (severity, kind)]
            if not found:
                continue
            out.print(
                f"[bold {shade}]{severity}[/] {kind} ({sum(i.count for i in found):,}): {meaning}", soft_wrap=True
            )
            for issue in found[:SHOWN]:
                out.print(f"  {escape(str(issue))}", soft_wrap=True)
            if len(found) > SHOWN:
                out.print(f"  … and {len(found) - SHOWN:,} more; --json lists them all")


def _print_splits(datasets: Sequence[Dataset], report: Report) -> None:
    """Images, objects, sizes and objects per class of every split."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", *(dataset.split for dataset in datasets), title=f"task {datasets[0].task}", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("images", *(f"{len(dataset):,}" for dataset in datasets))
    if not datasets[0].classifies:
        table.add_row("objects", *(f"{_objects(dataset):,}" for dataset in datasets))
    table.add_row("image sizes", *map(_sizes, report.sizes), end_section=True)
    counts = [dict(zip(d.names, d.counts()[1].tolist(), strict=True)) for d in datasets]
    for name in dict.fromkeys(name for dataset in datasets for name in dataset.names):
        table.add_row(escape(name), *(f"{own.get(name, 0):,}" for own in counts))
    console().print(table)


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    """The commonest sizes, one a line, and the range of the others."""
    lines = [f"{w} x {h}: {n:,}" for (w, h), n in sizes.most_common(SIZES if len(sizes) > SIZES + 1 else SIZES + 1)]
    if len(sizes) > len(lines):
        sides = [side for size in sizes for side in size]
        lines.append(f"{len(sizes) - len(lines):,} other sizes, sides of {min(sides)} to {max(sides)}")
    return "\n".join(lines)


def _draw(datasets: Sequence[Dataset], sheet: Path, seed: int) -> None:
    from edgekit.data.sheet import contact_sheet
    from edgekit.runtime.image import write_image

    write_image(sheet, contact_sheet(datasets, seed=seed))
    console().print(f"contact sheet: {sheet}", soft_wrap=True, markup=False)
