"""From a float32 graph to the one a narrower target is built from, with the proof that it is still good enough.

    sets = open_sets(wishes, info.task, info.names)         # before the export
    lowered = lower(graph, targets.get("ov-int8"), folder, wishes, artifact=try_it, sets=sets)
    lowered.graph.path, lowered.parts["accuracy"]["drop_points"]

One under the other: calibration images, ranges, quantization, the artifact judged; above the limit a ranking of groups
and a search for the fewest to put back; evidence in the error where nothing suffices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit.errors import GateError
from edgekit.image import read_image
from edgekit.quantize import Lowered, Wishes, calibration, fp16, ir, qdq, ranges, search, sensitivity, weight_bits
from edgekit.quantize.sets import Sets
from edgekit.spec import Graph, Session, sha256_file
from edgekit.targets import Target, reference
from edgekit.verify import accuracy

# From 64 images on it loses no more than `mse`, within what 72 images can tell; `minmax` and `entropy` do:
# benchmarks/results/int8-methods.json
LIMITS = "percentile"

PICTURES = 8  # to time on

Say = Callable[[str], None]


def lower(
    graph: Graph,
    target: Target,
    folder: Path,
    wishes: Wishes | None,
    artifact: Callable[[Graph], Session],
    say: Say = lambda _: None,
    sets: Sets | None = None,
) -> Lowered:
    """Quantize (or halve) ``graph`` for ``target``.

    Args:
        graph: exported for ``target``, float32.
        folder: scratch, which the returned graph lies in.
        artifact: a graph → a session of what is built from it.
        say: called with a line at each step.
        sets: what is calibrated and judged on; None: nothing is, which half precision can do without.

    Raises:
        InputError, UsageError: the graph or the data cannot be used.
        GateError: more accuracy is lost than allowed, whatever is put back; ``evidence`` says what was tried.
    """
    if not target.int8 and (wishes is None or sets is None):
        half = folder / "half.onnx"
        kept = fp16.to_fp16(graph.path, half)
        return Lowered(dataclasses.replace(graph, path=half), _kept(kept))
    assert wishes is not None and sets is not None and sets.manifest is not None
    bits = weight_bits(target, wishes)
    qdq.check(onnx.load(graph.path), graph.path)
    manifest = sets.manifest
    if not wishes.judged:
        manifest = dataclasses.replace(manifest, images=manifest.images[: calibration.LEAST])
    files = sets.files[: len(manifest.images)]
    judge, before = _judge(graph, sets, say) if wishes.judged else (None, 0.0)
    say(f"calibrating on {len(files)} images")
    writer = _Writer(graph, target, folder, calibration.tensors(files, graph.info), bits)
    parts = {"calibration": _calibrated(manifest, sets)}
    if target.int8:
        parts["quantization"] = {"weight_bits": bits}
    if judge is None:
        narrow = writer.write(())
    else:
        narrow, parts["accuracy"] = _within_limit(writer, artifact, judge, before, wishes.max_drop, sets, say)
    return Lowered(narrow, parts | _kept(writer.kept), [read_image(path) for path in files[:PICTURES]])


def _within_limit(
    writer: _Writer,
    artifact: Callable[[Graph], Session],
    judge: accuracy.Judge,
    before: float,
    limit: float,
    sets: Sets,
    say: Say,
) -> tuple[Graph, dict[str, Any]]:
    """The narrow graph with as few groups in floating point as keep it within ``limit`` points, and what was found.

    Raises:
        GateError: none do.
    """

    def score(skip: Sequence[str]) -> float:
        session = artifact(writer.write(skip))
        value = judge.score(session)
        session.close()  # type: ignore[attr-defined]
        return value

    say(f"judging {writer.target.name}")
    after = score(())
    row = _row(judge, sets, limit, before, after)
    found = search.Found((), after)
    if 100 * (before - after) > limit:
        say("ranking groups by what each costs")
        row["ranking"] = writer.rank()
        say("searching for the fewest groups to put back")
        found = search.put_back(row["ranking"], score, limit / 100, before, after)
        row |= {"tried": found.tried, "after": found.after, "drop_points": 100 * (before - found.after)}
        if found.groups is None:
            raise GateError(_sentence(writer.target.name, row, after), {"accuracy": row})
    row["put_back"] = list(found.groups or ())
    return writer.write(row["put_back"]), row


class _Writer:
    """Writes the narrow graph with any groups left alone; what calibration found is computed once."""

    def __init__(self, graph: Graph, target: Target, folder: Path, batches: Sequence[np.ndarray], bits: int) -> None:
        self.graph, self.target, self.folder, self.batches, self.bits = graph, target, folder, batches, bits
        self.form = target.narrowed()
        self.fuse = "onnxruntime" if self.form == "qdq" else "tensorrt"
        self.kept: list[fp16.Finding] = []  # in float32, by the last graph of FP16
        self._last: tuple[frozenset[str], Graph] | None = None
        self._statistics: dict[str, ranges.Statistics] | None = None

    def write(self, skip: Collection[str]) -> Graph:
        if self._last is None or self._last[0] != frozenset(skip):
            self._last = frozenset(skip), self._write(skip)
        return self._last[1]

    def _write(self, skip: Collection[str]) -> Graph:
        out = self.folder / {"ir": "int8.xml", "fp16": "half.onnx"}.get(self.form, "int8.onnx")
        if self.form == "ir":
            ir.quantize(self.graph.path, out, self.batches, skip, weight_bits=self.bits)
        elif self.form == "fp16":
            self.kept = fp16.to_fp16(self.graph.path, out, ranges.limits(self.statistics(), "minmax"), skip)
        else:
            self._explicit(out, skip)
        if self.form == "qdq-fp16":
            wide, out = out, self.folder / "half.onnx"
            self.kept = fp16.to_fp16(wide, out, ranges.limits(self.statistics(), "minmax"))
        return dataclasses.replace(self.graph, path=out)

    def rank(self) -> list[dict[str, Any]]:
        statistics = self.statistics()
        limits = ranges.limits(statistics, LIMITS)
        return sensitivity.rank(self.graph.path, limits, self.batches, self.folder, _means(statistics), self.bits)

    def statistics(self) -> dict[str, ranges.Statistics]:
        """Of the values that INT8 needs; of all where FP16 must not overflow."""
        if self._statistics is None:
            names = None if "fp16" in self.form else qdq.wanted(self.graph.path, self.fuse)
            self._statistics = ranges.collect(self.graph.path, self.batches, names)
        return self._statistics

    def _explicit(self, out: Path, skip: Collection[str]) -> None:
        statistics = self.statistics()
        limits = ranges.limits(statistics, LIMITS, symmetric=self.fuse == "tensorrt")
        qdq.quantize(self.graph.path, out, limits, skip, self.fuse, _means(statistics), self.bits)


def _means(statistics: dict[str, ranges.Statistics]) -> dict[str, np.ndarray]:
    found = {name: s.channel_means for name, s in statistics.items()}
    return {name: means for name, means in found.items() if means is not None}


def _judge(graph: Graph, sets: Sets, say: Say) -> tuple[accuracy.Judge, float]:
    """The judge, and what the floating-point model scores.

    Raises:
        InputError: the judge could prove nothing.
    """
    say("judging the floating-point model")
    runner = reference().open(graph.path, graph.info)
    if sets.labelled is not None:
        judge = accuracy.by_labels(sets.labelled)
    else:
        judge = accuracy.check_seen(accuracy.by_agreement(sets.unlabelled, runner, sets.on))
    before = judge.score(runner)
    if judge.skipped:
        what = f"{judge.on}: images that cannot be read are left out: {len(judge.skipped)}"
        say(f"note: {what}; the first is {judge.skipped[0]}")
    return judge, before


def _row(judge: accuracy.Judge, sets: Sets, limit: float, before: float, after: float) -> dict[str, Any]:
    row = {
        "metric": judge.metric,
        "kind": judge.kind,
        "on": judge.on,
        "images": judge.images - len(judge.skipped),
        "before": before,
        "after": after,
        "drop_points": 100 * (before - after),
        "limit_points": limit,
    }
    if judge.seen is not None:  # agreement: nobody else has these images' names
        row |= {"seen": judge.seen, "sha256": [sha256_file(p) for p in sets.unlabelled if isinstance(p, Path)]}
    if judge.skipped:
        row["unreadable"] = len(judge.skipped)
    return row | ({"warning": judge.warning} if judge.warning else {})


def _sentence(target: str, row: dict[str, Any], first: float) -> str:
    worst = ", ".join(str(r["group"]) for r in row["ranking"][:3])
    least = min(float(trial["drop_points"]) for trial in row["tried"])
    return (
        f"{target}: {row['metric']} drops by {100 * (row['before'] - first):.2f} points, {row['limit_points']:g} are "
        f"allowed (--max-drop); putting groups back ({worst} first, {len(row['tried'])} trials) brought it to "
        f"{least:.2f} at best"
    )


def _calibrated(manifest: calibration.Manifest, sets: Sets) -> dict[str, Any]:
    return {
        "sha256": manifest.sha256,
        "images": len(manifest.images),
        "set": manifest.set,
        "split": manifest.split,
        "seed": manifest.seed,
        "files": {entry.path: entry.sha256 for entry in manifest.images},
        **({"notes": manifest.named(sets.notes)} if sets.notes else {}),
        **({"warning": manifest.warning} if manifest.warning else {}),
    }


def _kept(findings: Sequence[fp16.Finding]) -> dict[str, Any]:
    """``kept_float32`` for the manifest: values that would overflow or vanish in FP16, if there are any."""
    return {"kept_float32": [dataclasses.asdict(finding) for finding in findings]} if findings else {}
