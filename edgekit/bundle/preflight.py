"""What can be known about a request before the work begins, checked in one place and in the order of what it takes.

    checked = of_build(source, targets.get("ov-int8"), out, BuildOptions(quantize=...))
    checked.options, checked.sets            # the target's own, and what is calibrated and judged on

First words and numbers, then packages, then the files: a wrong word is refused in a fraction of a second, bad data
after a look at the data. Nothing here imports torch, makes a network or runs one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from edgekit import quantize, tasks
from edgekit.bundle import layouts
from edgekit.bundle import source as sources
from edgekit.bundle.options import BuildOptions
from edgekit.checkpoint import catalog
from edgekit.errors import InputError, UsageError
from edgekit.quantize import QuantizeOptions
from edgekit.quantize.sets import Sets, open_sets
from edgekit.runtime.manifest import is_bundle
from edgekit.runtime.sources import read_images
from edgekit.spec import check_opset, parse_imgsz
from edgekit.targets import Target, TargetOptions
from edgekit.tasks import ports


@dataclass(frozen=True)
class Checked:
    """The target's own options, and what is calibrated and judged on; None where nothing is, or the model's task is not
    known before it is read in full."""

    options: TargetOptions
    sets: Sets | None = None


def of_build(source: Path, target: Target, out: Path, options: BuildOptions, sets: Sets | None = None) -> Checked:
    """Refuse what ``edgekit.bundle.build.build`` could not do with these arguments.

    Args:
        sets: settled before.

    Raises:
        InputError, UsageError, MissingPackageError: one sentence on what is wrong and what to do.
    """
    narrow = quantize.needed(target, options.quantize)
    layouts.check(options.layout, target)
    own = own_options(target, options.target)
    if options.layout is not None and not own.complete and not target.servers[options.layout].files:
        raise UsageError(f"`layout` {options.layout}: `no_engine` leaves nothing to serve; drop one of them")
    head = options.with_head(target.heads).head or "topk"
    _check_head(target, head, options.candidates)
    if refused := target.refused_batch(options.batch):
        raise UsageError(refused)
    if options.imgsz is not None:
        parse_imgsz(options.imgsz)
    if target.int8 and options.batch is None:
        raise InputError(f"{source}: INT8 needs a fixed batch and size, not a dynamic shape; leave `dynamic_batch` out")
    check_out(out)
    found = sources.describe(source)
    layouts.check(options.layout, target, found.task)
    if found.info is None and found.task is not None:
        ports.check_head(found.task, head, options.batch)
    _check_graph(found, target, options.imgsz)
    if options.images:
        read_images(options.images)
    if not (options.quantize.sources or options.quantize.calibration):
        return Checked(own)
    if narrow:
        quantize.check_packages(target)
    return Checked(own, sets or of_sets(found, to_judge(options.quantize, narrow), calibrate=narrow))


def to_judge(options: QuantizeOptions, narrow: bool) -> QuantizeOptions:
    """The options to open sets with: where nothing is calibrated, few pictures are enough."""
    return options if narrow else replace(options, force=True)


def of_export(source: Path, out: Path, head: str, batch: int | None, opset: int) -> None:
    """Refuse what ``edgekit.graph.export.export`` could not do with these arguments.

    Raises:
        InputError, UsageError, MissingPackageError: one sentence on what is wrong and what to do.
    """
    check_opset(opset)
    check_folder(out)
    found = sources.describe(source, "exporting")
    if found.info is not None:
        raise InputError(f"{source}: a graph already; give the checkpoint it was exported from")
    if found.task is not None:
        ports.check_head(found.task, head, batch)


def of_training(
    data: Path, model: str | None, task: str | None, teacher: str | None, images: Sequence[str] | None, out: Path
) -> None:
    """Refuse what no training could begin with: files that are not there or of another kind, a teacher of another task.

    Args:
        model: a published name or a checkpoint, as ``edgekit train --model`` takes it.

    Raises:
        InputError, UsageError, MissingPackageError: one sentence on what is wrong and what to do.
    """
    check_data(data)
    for place in images or ():
        if not glob.has_magic(place) and not Path(place).exists():
            raise InputError(f"`images` {place}: there is no such file or folder; give where the images of {data} are")
    check_folder(out)
    named = model or "yolo12n"
    if Path(named).suffix == ".pt" or Path(named).exists():
        own = sources.describe(Path(named), "training from").task
    else:
        own = catalog.spec(named, task).task
    wanted = tasks.get(task).name if task else own
    taught = sources.describe(Path(teacher), "learning from").task if teacher else None
    if None not in (wanted, taught) and wanted != taught:
        raise UsageError(f"`teacher` {teacher}: a {taught} network cannot teach a {wanted} one")


def check_data(data: Path) -> None:
    """Refuse what is no labelled set by its name.

    Raises:
        InputError: there is nothing, or something else.
    """
    if not data.exists():
        raise InputError(f"{data}: there is no such file or folder; give a data.yaml, a COCO JSON or a folder")
    if not data.is_dir() and data.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise InputError(f"{data}: is no set of labelled images; give a data.yaml, a COCO JSON or a folder")


def check_models(models: Iterable[Path]) -> None:
    """Refuse models that are not there, before the first of them is loaded.

    Raises:
        InputError: one is not there.
    """
    for model in models:
        if not model.exists():
            raise InputError(f"{model}: no such file or folder; give a bundle, a checkpoint or an exported ONNX file")


def of_sets(source: sources.Source, options: QuantizeOptions, calibrate: bool = True) -> Sets | None:
    """What is calibrated and judged on, where the model's task is known already.

    Raises:
        InputError, UsageError, MissingPackageError: the data cannot be used.
    """
    if source.task is None or source.names is None:
        return None
    if options.recalibrate_scores and not tasks.get(source.task).detects:
        raise UsageError(f"`recalibrate_scores`: a {source.task} model has no scores that a threshold is set on")
    sets = open_sets(options, source.task, source.names, calibrate)
    if sets.labelled is not None and options.judged and tasks.get(source.task).detects:
        from edgekit.metrics.coco import evaluator_package

        evaluator_package()
    return sets


def _check_graph(source: sources.Source, target: Target, imgsz: tuple[int, int] | None) -> None:
    if source.info is None:
        return
    path = source.path / "model.onnx" if source.path.is_dir() else source.path
    if target.int8:
        from edgekit.graph.files import load
        from edgekit.quantize import qdq

        qdq.check(load(path), path)
        if source.info.batch is None:
            raise InputError(
                f"{source.path}: INT8 needs a fixed batch and size, and this one is dynamic; export it again"
            )
    if imgsz not in (None, source.info.imgsz):
        height, width = source.info.imgsz
        raise InputError(f"{path}: exported for {height},{width}; export it again with `imgsz`")


def _check_head(target: Target, head: str, candidates: int | None) -> None:
    """Raise UsageError unless the target has such a head, and one of so many candidates."""
    if head not in target.heads:
        has = " and ".join(target.heads)
        raise UsageError(f"`head` {head}: {target.name} has {has}, whose duplicates are suppressed afterwards")
    most = target.most_candidates
    if most is not None and candidates is not None and candidates > most:
        raise UsageError(
            f"`candidates` {candidates}: {target.name} sorts no more than {most}; give fewer, or `head` raw"
        )


def own_options(target: Target, texts: Mapping[str, str] | None) -> TargetOptions:
    """The target's own options.

    Raises:
        UsageError: there is no such option or value.
        InputError: what the target is built with is not installed.
    """
    if texts and not fields(target.options):
        raise UsageError(f"`option` {next(iter(texts))}: {target.name} has no options of its own")
    chosen: TargetOptions = target.options.parse(texts) if texts else target.options()
    if chosen.complete:
        reason = target.missing()
        if reason:
            raise InputError(reason)
        target.prepare(target, chosen)  # refuses now what it would after the export
    return chosen


def check_out(out: Path) -> None:
    """Refuse a place where no bundle can be put.

    Raises:
        InputError: something else is there, or its folder cannot be written.
    """
    if out.is_dir() and not out.is_symlink():
        if any(out.iterdir()) and not is_bundle(out):
            raise InputError(f"`out` {out}: a folder with other files in it; give a new name or empty it")
    elif out.exists():
        raise InputError(f"`out` {out}: a file, where a bundle needs a folder; give another name")
    check_folder(out)


def check_folder(out: Path) -> None:
    """Refuse a file or folder to write that its folder cannot take.

    Raises:
        InputError: a folder above is a file, or may not be written.
    """
    above = next(place for place in out.absolute().parents if place.exists())
    if not above.is_dir():
        raise InputError(f"`out` {out}: {above} is a file, no folder; give another name")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"`out` {out}: the folder {above} cannot be written to; give another name")
