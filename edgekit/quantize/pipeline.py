"""From a float32 graph to the one a narrower target is built from, with the proof that it is still good enough.

    lowered = lower(graph, targets.get("ov-int8"), folder, Wishes(data=Path("bccd/data.yaml")), artifact=try_it)
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

from edgekit.data import open_dataset
from edgekit.errors import GateError, InputError
from edgekit.parity import read_images
from edgekit.quantize import (
    Lowered,
    Wishes,
    accuracy,
    calibration,
    fp16,
    ir,
    qdq,
    ranges,
    search,
    sensitivity,
    weight_bits,
)
from edgekit.spec import Graph, Session
from edgekit.targets import Target, reference

# From 64 images on it loses no more than `mse`, within what 72 images can tell; `minmax` and `entropy` do:
# benchmarks/results/int8-methods.json
LIMITS = "percentile"
UNLABELLED = 100  # images that agreement is measured on, at most

Say = Callable[[str], None]


def lower(
    graph: Graph,
    target: Target,
    folder: Path,
    wishes: Wishes | None,
    artifact: Callable[[Graph], Session],
    say: Say = lambda _: None,
) -> Lowered:
    """Quantize (or halve) ``graph`` for ``target``.

    Args:
        graph: exported for ``target``, float32.
        folder: scratch, which the returned graph lies in.
        artifact: a graph → a session of what is built from it.
        say: called with a line at each step.

    Raises:
        InputError, UsageError: the graph or the data cannot be used.
        GateError: more accuracy is lost than allowed, whatever is put back; ``evidence`` says what was tried.
    """
    if wishes is None or wishes.data is None:  # half precision, which can do without
        half = folder / "half.onnx"
        kept = fp16.to_fp16(graph.path, half)
        return Lowered(dataclasses.replace(graph, path=half), _kept(kept))
    bits = weight_bits(target, wishes)
    qdq.check(onnx.load(graph.path), graph.path)
    manifest = _manifest(graph, wishes)
    if not wishes.judged:
        manifest = dataclasses.replace(manifest, images=manifest.images[: calibration.LEAST])
    say(f"calibrating on {len(manifest.images)} images")
    batches = calibration.batches(manifest, wishes.data, graph.info)
    writer = _Writer(graph, target, folder, batches, bits)
    calibrated, pictures = {"calibration": _calibrated(manifest)}, _pictures(manifest, wishes.data)
    if target.int8:
        calibrated["quantization"] = {"weight_bits": bits}
    if not wishes.judged:
        return Lowered(writer.write(()), calibrated | _kept(writer.kept), pictures)
    runner = reference().open(graph.path, graph.info)
    judge = _judge(graph, wishes, runner)
    say("judging the floating-point model")
    before = judge.score(runner)
    say(f"judging {target.name}")

    def score(skip: Sequence[str]) -> float:
        session = artifact(writer.write(skip))
        value = judge.score(session)
        session.close()
        return value

    after = score(())
    row = _row(judge, wishes, before, after)
    found = search.Found((), after)
    if 100 * (before - after) > wishes.max_drop:
        say("ranking groups by what each costs")
        row["ranking"] = writer.rank()
        say("searching for the fewest groups to put back")
        found = search.put_back(row["ranking"], score, wishes.max_drop / 100, before, after)
        row |= {"tried": found.tried, "after": found.after, "drop_points": 100 * (before - found.after)}
        if found.groups is None:
            raise GateError(_sentence(target.name, row, after), {"accuracy": row})
    row["put_back"] = list(found.groups or ())
    narrow = writer.write(row["put_back"])
    return Lowered(narrow, {"accuracy": row, **calibrated, **_kept(writer.kept)}, pictures)


class _Writer:
    """Writes the narrow graph with any groups left alone; what calibration found is computed once."""

    def __init__(self, graph: Graph, target: Target, folder: Path, batches: Sequence[np.ndarray], bits: int) -> None:
        self.graph, self.folder, self.batches, self.bits = graph, folder, batches, bits
        self.form = target.narrowed()
        self.fuse = "onnxruntime" if self.form == "qdq" else "tensorrt"
        self.kept: list[fp16.Finding] = []  # in float32, by the last graph of FP16
        self._statistics: dict[str, ranges.Statistics] | None = None

    def write(self, skip: Collection[str]) -> Graph:
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


def _manifest(graph: Graph, wishes: Wishes) -> calibration.Manifest:
    assert wishes.data is not None
    if wishes.calibration is not None:
        judged, manifest = _labelled(graph, wishes), calibration.read(wishes.calibration)
        if len(manifest.images) < calibration.LEAST and not wishes.force:
            raise InputError(
                f"{wishes.calibration}: {len(manifest.images)} images; fewer than {calibration.LEAST} say nothing "
                "about ranges (--force takes them)"
            )
    elif wishes.data.suffix.lower() == ".json":
        _labelled(graph, wishes)  # what is wrong with the set itself is said first
        raise InputError(
            f"{wishes.data}: a COCO file is one split, the one accuracy is judged on; choose calibration images from "
            "another (edgekit calibrate TRAIN.json --out FILE) and give --calibration FILE"
        )
    else:
        train = open_dataset(wishes.data, graph.info.task, "train", None, _names(graph, wishes))
        judged = _labelled(graph, wishes)
        manifest = calibration.choose(train, wishes.count, wishes.seed, judged, wishes.force)
    if judged is not None:
        calibration.check_disjoint(manifest, judged)
    return manifest


def _labelled(graph: Graph, wishes: Wishes) -> Any:
    """The split accuracy is judged on; None where agreement on ``images`` stands in."""
    assert wishes.data is not None
    beside = wishes.images if wishes.data.suffix.lower() == ".json" else None
    try:
        return open_dataset(wishes.data, graph.info.task, "val", beside, _names(graph, wishes))
    except InputError as error:
        if beside is not None or not wishes.data.exists():
            raise
        if wishes.images is None:
            raise InputError(f"{error}; or give --images, to measure agreement with the float model on them") from error
        return None


def _names(graph: Graph, wishes: Wishes) -> tuple[str, ...] | None:
    """The classes that labels must be of, where labels matter."""
    return graph.info.names if wishes.judged else None


def _judge(graph: Graph, wishes: Wishes, runner: Session) -> accuracy.Judge:
    dataset = _labelled(graph, wishes)
    if dataset is not None:
        return accuracy.by_labels(dataset)
    assert wishes.images is not None
    return accuracy.by_agreement(read_images(wishes.images, UNLABELLED), runner, wishes.images.name)


def _row(judge: accuracy.Judge, wishes: Wishes, before: float, after: float) -> dict[str, Any]:
    return {
        "metric": judge.metric,
        "kind": judge.kind,
        "on": judge.on,
        "images": judge.images,
        "before": before,
        "after": after,
        "drop_points": 100 * (before - after),
        "limit_points": wishes.max_drop,
    }


def _sentence(target: str, row: dict[str, Any], first: float) -> str:
    worst = ", ".join(str(r["group"]) for r in row["ranking"][:3])
    least = min(float(trial["drop_points"]) for trial in row["tried"])
    return (
        f"{target}: {row['metric']} drops by {100 * (row['before'] - first):.2f} points, {row['limit_points']:g} are "
        f"allowed (--max-drop); putting groups back ({worst} first, {len(row['tried'])} trials) brought it to "
        f"{least:.2f} at best"
    )


def _calibrated(manifest: calibration.Manifest) -> dict[str, Any]:
    return {
        "sha256": manifest.sha256,
        "images": len(manifest.images),
        "set": manifest.set,
        "split": manifest.split,
        "seed": manifest.seed,
        **({"warning": manifest.warning} if manifest.warning else {}),
    }


def _pictures(manifest: calibration.Manifest, data: Path, most: int = 8) -> list[np.ndarray]:
    from edgekit.image import read_image

    folder = data if data.is_dir() else data.parent
    return [read_image(folder / entry.path) for entry in manifest.images[:most]]


def _kept(findings: Sequence[fp16.Finding]) -> dict[str, Any]:
    """``kept_float32`` for the manifest: values that would overflow or vanish in FP16, if there are any."""
    return {"kept_float32": [dataclasses.asdict(finding) for finding in findings]} if findings else {}
