"""Bundles for what a camera shows: built for the shapes of its pictures, held against the square model, sealed.

    made = build(Path("yolo12n.pt"), "ov-fp16", Path("street"), BuildOptions(), read_view("clip.mp4"))
    made.info.imgsz                           # (384, 640)
    made.manifest["source"]["drop_points"]    # 0.12, against the square float model

Each input size is a build of its own with all its proofs (``build.py``); here they are put into one folder, weights
stored once, and judged together: by labels where ``data`` has some, within ``max_drop``; else by how far they agree
with the square model on the source's pictures, which is stated and refuses nothing.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets, tasks
from edgekit.bundle import build as building
from edgekit.bundle import loading, preflight
from edgekit.bundle.exports import Exports
from edgekit.bundle.gates import limits_of
from edgekit.bundle.options import BuildOptions
from edgekit.bundle.shapes import Fit, Size, View, fit
from edgekit.bundle.source import describe
from edgekit.errors import GateError, UsageError, optional
from edgekit.quantize import QuantizeOptions, needed
from edgekit.quantize.pictures import JUDGED
from edgekit.quantize.sets import Sets
from edgekit.runtime.manifest import SHAPE_KEYS, Bundle, manifest_of, read_bundle, write_manifest
from edgekit.runtime.sources import read_images
from edgekit.spec import Json, Session
from edgekit.targets import Target
from edgekit.verify import accuracy, operating, parity

PROOFS = ("parity", "graph_parity", "weights_parity", "rounding", "detections", "accuracy", "speed")

Say = Callable[[str], None]


def build(source: Path, target: str, out: Path, options: BuildOptions, view: View, say: Say = lambda _: None) -> Bundle:
    """Build ``source`` for ``target`` in the input sizes that hold the pictures of ``view``.

    Args:
        source: a checkpoint.
        options: as ``building.build`` takes them; ``imgsz`` is the size whose scale is kept.
        say: called with a line at each step.

    Raises:
        InputError, UsageError: as for ``building.build``; a graph, whose size is fixed; a classifier.
        GateError: the same, or labels say that the shape costs more than ``max_drop``.
    """
    chosen = targets.get(target)
    options = dataclasses.replace(options, images=options.images or view.images).with_head(chosen.heads)
    check_model(source)
    sets = preflight.of_build(source, chosen, out, heeded(options, chosen)).sets or sets_of(source, options, chosen)
    with building.failures_to(out), building.workspace(out) as folder:
        exports = Exports(folder)
        found = fitting(exports, source, options, view, chosen)
        for note in found.notes:
            say(note)
        files = folder / "fitted"
        assemble(source, target, files, found.shapes, options, say, exports, sets)
        judge, before = judge_of(exports, source, options, sets, view)
        row = {"given": view.given, "pictures": pictures_of(view), "square": list(size_of(exports, source, options))}
        if judge is not None:
            say("judging it beside the square model")
            scores, exceeded = judged(files, judge, before, options.quantize)
            row |= scores
            _check(row, found, exceeded)
        _say_judged(row, say)
        reseal(files, {"source": row})
        building.move_into_place(files, out)
    return read_bundle(out, verify=False)


def heeded(options: BuildOptions, target: Target) -> BuildOptions:
    """Not judged as each size is built, where nothing is quantized: all of them are together, beside the square.

    Raises:
        UsageError: options that the target cannot heed.
    """
    if target.narrowing:
        return options
    needed(target, options.quantize)  # refuses, before they are left out
    return dataclasses.replace(options, quantize=QuantizeOptions(judged=False))


def check_model(source: Path) -> None:
    """Refuse what has no shape to choose.

    Raises:
        InputError, UsageError: a graph, whose size is fixed, or a classifier, which sees a square cut out.
    """
    known = describe(source)
    if known.info is not None:
        height, width = known.info.imgsz
        raise UsageError(f"`source`: {source} is a graph exported for {height},{width}; give the checkpoint it is of")
    if known.task is not None and not tasks.get(known.task).detects:
        raise UsageError(f"`source`: {source} is a classifier, which looks at a square cut out of the picture")


def sets_of(source: Path, options: BuildOptions, target: Target) -> Sets | None:
    """What ``data`` holds to judge on; None where there is none."""
    asked = options.quantize
    if not (asked.sources or asked.calibration):
        return None
    return preflight.of_sets(describe(source), asked, calibrate=target.int8)


def fitting(exports: Exports, source: Path, options: BuildOptions, view: View, target: Target) -> Fit:
    """The input sizes for ``view``."""
    areas = exports.checkpoint(source).spec.areas
    return fit(view, size_of(exports, source, options), areas, target.join is not None)


def size_of(exports: Exports, source: Path, options: BuildOptions) -> Size:
    """Of the square model: as asked for, else the checkpoint's own."""
    return options.imgsz or exports.checkpoint(source).imgsz


def pictures_of(view: View) -> list[Json]:
    return [{"width": w, "height": h, "count": count} for (h, w), count in view.sizes.items()]


def assemble(
    source: Path,
    target: str,
    out: Path,
    shapes: Sequence[Size],
    options: BuildOptions,
    say: Say,
    exports: Exports,
    sets: Sets | None,
) -> None:
    """A bundle with these input sizes in the folder ``out``, each built and proved by ``building.build``."""
    for number, shape in enumerate(shapes):
        place = out if number == 0 else out.with_name(f"{out.name}-{shape[0]}x{shape[1]}")
        own = dataclasses.replace(heeded(options, targets.get(target)), imgsz=shape)
        building.build(source, target, place, own, say, exports, sets)
        if number:
            say(f"joining {shape[0]},{shape[1]}")
            _join(targets.get(target), out, place)
            shutil.rmtree(place)


def _join(target: Target, out: Path, other: Path) -> None:
    """Add the bundle in ``other`` to the one in ``out`` as a further input size.

    Raises:
        GateError: it answers differently there.
    """
    assert target.join is not None
    theirs = read_bundle(other, verify=False)
    height, width = theirs.info.imgsz
    file = target.join(out, other, f"model-{height}x{width}")
    batch = parity.batch_of(parity.generated_images(1)[0], theirs.info)
    answers = [_answer(target.open(place, theirs.info), batch) for place in (other, out / file)]
    if not all(np.array_equal(answers[0][role], answers[1][role]) for role in answers[0]):
        raise GateError(f"{out / file}: answers differently than before its weights were shared")
    mine = read_bundle(out, verify=False).manifest
    row = {"file": file, **{key: theirs.manifest[key] for key in (*SHAPE_KEYS, *PROOFS) if key in theirs.manifest}}
    reseal(out, {"shapes": [*mine.get("shapes", []), row]})


def _answer(session: Session, batch: np.ndarray) -> dict[str, Any]:
    found = {role: np.array(value) for role, value in session.run(batch).items()}
    session.close()
    return found


def reseal(files: Path, parts: Json) -> None:
    """Write a bundle's manifest again, with further keys and the files that are there now."""
    old = read_bundle(files, verify=False)
    kept = {k: v for k, v in old.manifest.items() if k not in ("schema", "target", "files", *old.info.to_dict())}
    write_manifest(files, manifest_of(old.info, old.target, files, **(kept | parts)))


# ---- beside the square model -------------------------------------------------------------------------------------


def square(exports: Exports, source: Path, options: BuildOptions) -> Session:
    """The float model in the size whose scale is kept."""
    with optional(f"running {source}", "train"):
        from edgekit.nn.session import TorchSession
    loaded = exports.checkpoint(source)
    head = "raw" if options.head == "raw" else "topk"
    info = loaded.info(size_of(exports, source, options), 1, head, None if head == "raw" else options.candidates)
    return TorchSession(loaded.net, info, source)


def judge_of(
    exports: Exports, source: Path, options: BuildOptions, sets: Sets | None, view: View | None
) -> tuple[accuracy.Evaluator | None, accuracy.Measured]:
    """By labels where there are some, else by agreement on the view's pictures or the ``images``; and what the square
    model scores. None where there is nothing to look at.

    Raises:
        InputError: the square model finds nothing on any picture.
    """
    model = square(exports, source, options)
    if sets is not None and sets.labelled is not None:
        judge = accuracy.by_labels(sets.labelled)
        return judge, judge.measure(model)
    pictures: list[Any] = view.pictures(JUDGED) if view is not None else []
    on = f"pictures of {view.given}" if view is not None else "images"
    if not pictures and sets is not None:
        pictures, on = sets.unlabelled, sets.on
    if not pictures and options.images:
        pictures, on = read_images(options.images, JUDGED), "`images`"
    if not pictures:
        return None, accuracy.Measured(0.0)
    judge = accuracy.check_seen(accuracy.by_agreement(pictures, model, on))
    return judge, judge.measure(model)


def judged(
    files: Path, judge: accuracy.Evaluator, before: accuracy.Measured, asked: QuantizeOptions
) -> tuple[Json, str]:
    """What the bundle in ``files`` scores beside the square model, for the manifest; and, by labels, what is exceeded
    of the limits, "" where all hold."""
    session = loading.open_session(files)
    after = judge.measure(session)
    session.close()
    labels = judge.kind == "labels"
    found = operating.compared(before, after, limits_of(asked))
    row = {
        "metric": judge.metric,
        "kind": judge.kind,
        "on": judge.on,
        "images": judge.images - len(judge.skipped),
        "before": before.value,
        "after": after.value,
        "drop_points": 100 * (before.value - after.value),
        **({"limit_points": asked.max_drop} if labels else {}),
        **({"warning": judge.warning} if judge.warning else {}),
        **found.row,
    }
    return row, found.said(judge.metric) if labels else ""


def _check(row: Json, found: Fit, said: str) -> None:
    if not said:
        return
    shapes = " and ".join(f"{h},{w}" for h, w in found.shapes)
    raise GateError(
        f"`source` {row['given']}: at {shapes} on {row['on']}, beside the square model: {said}; does `data` show "
        "pictures like the source's?",
        {"source": row},
    )


def _say_judged(row: Json, say: Say) -> None:
    if "metric" not in row:
        say("note: `source`: nothing to judge the shape on; give `data`, `images`, or a video in place of a size")
