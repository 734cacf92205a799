"""Graphs that a narrower target could be built from: quantized or halved, with any groups left in floating point.

    sets = open_sets(options, info.task, info.names)         # before the export
    quantizer = Quantizer(graph, targets.get("ov-int8"), folder, options, sets)
    quantizer.candidate(()).path                             # everything in eight bits that can be
    quantizer.rank()[0]["group"]                             # which group that costs most

Which of them is good enough, ``edgekit.bundle.gates`` finds out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx

from edgekit.quantize import QuantizeOptions, calibration, fp16, ir, logits, qdq, ranges, sensitivity, weight_bits
from edgekit.quantize.sets import Sets
from edgekit.runtime.image import read_image
from edgekit.spec import Graph, Json
from edgekit.targets import Target

# From 64 images on it loses no more than `mse`, within what 72 images can tell; `minmax` and `entropy` do:
# benchmarks/results/int8-methods.json
LIMITS = "percentile"

PICTURES = 8  # to time on


def halved(graph: Graph, folder: Path) -> tuple[Graph, Json]:
    """``graph`` in half precision, of which nothing was calibrated, and further keys of the bundle's manifest."""
    half = folder / "half.onnx"
    return dataclasses.replace(graph, path=half), _kept(fp16.to_fp16(graph.path, half))


class Quantizer:
    """Makes candidates of one graph for one target; what calibration finds is computed once.

    Args:
        graph: exported for ``target``, float32.
        folder: scratch, which candidates lie in; the next one takes the place of the last.
        sets: with the images to calibrate on.

    Attributes:
        files: the images calibrated on.

    Raises:
        InputError, UsageError: the graph or the data cannot be used.
    """

    def __init__(self, graph: Graph, target: Target, folder: Path, options: QuantizeOptions, sets: Sets) -> None:
        assert sets.manifest is not None
        self.graph, self.target, self.folder, self.sets = graph, target, folder, sets
        self.bits = weight_bits(target, options)
        qdq.check(onnx.load(graph.path), graph.path)
        manifest = sets.manifest
        if not options.judged:
            manifest = dataclasses.replace(manifest, images=manifest.images[: calibration.LEAST])
        self.manifest, self.files = manifest, sets.files[: len(manifest.images)]
        self._form = target.narrowed()
        self._fuse = "onnxruntime" if self._form == "qdq" else "tensorrt"
        self._kept: list[fp16.Finding] = []  # in float32, by the last graph of FP16
        self._batches: list[np.ndarray] = []
        self._statistics: dict[str, ranges.Statistics] | None = None

    def candidate(self, skip: Collection[str] = (), shifts: Sequence[float] = ()) -> tuple[Graph, Json]:
        """The narrow graph with the groups and nodes ``skip`` left in floating point, ``shifts`` added to the logits of
        its classes if there are any, and further keys of the manifest: ``calibration``, ``quantization`` and
        ``kept_float32``."""
        source = self.graph.path
        if shifts:
            source = self.folder / "shifted.onnx"
            logits.shifted(self.graph.path, source, shifts)
        out = self.folder / {"ir": "int8.xml", "fp16": "half.onnx"}.get(self._form, "int8.onnx")
        if self._form == "ir":
            ir.quantize(source, out, self.batches(), skip, weight_bits=self.bits)
        elif self._form == "fp16":
            self._kept = fp16.to_fp16(source, out, ranges.limits(self.statistics(), "minmax"), skip)
        else:
            self._explicit(source, out, skip)
        if self._form == "qdq-fp16":
            wide, out = out, self.folder / "half.onnx"
            self._kept = fp16.to_fp16(wide, out, ranges.limits(self.statistics(), "minmax"))
        parts = {"calibration": _calibrated(self.manifest, self.sets)}
        if self.target.int8:
            parts["quantization"] = {"weight_bits": self.bits}
        return dataclasses.replace(self.graph, path=out), parts | _kept(self._kept)

    def rank(self) -> list[Json]:
        """Groups, those first that cost most in eight bits (``sensitivity.rank``)."""
        statistics = self.statistics()
        limits = ranges.limits(statistics, LIMITS)
        return sensitivity.rank(self.graph.path, limits, self.batches(), self.folder, _means(statistics), self.bits)

    def pictures(self) -> list[np.ndarray]:
        """A few of the images, uint8 BGR, to time on."""
        return [read_image(path) for path in self.files[:PICTURES]]

    def batches(self) -> list[np.ndarray]:
        """The images as the graph takes them, float32 ``[B, 3, H, W]`` each."""
        if not self._batches:
            self._batches = calibration.tensors(self.files, self.graph.info)
        return self._batches

    def statistics(self) -> dict[str, ranges.Statistics]:
        """Of the values that INT8 needs; of all where FP16 must not overflow."""
        if self._statistics is None:
            names = None if "fp16" in self._form else qdq.wanted(self.graph.path, self._fuse)
            self._statistics = ranges.collect(self.graph.path, self.batches(), names)
        return self._statistics

    def _explicit(self, source: Path, out: Path, skip: Collection[str]) -> None:
        statistics = self.statistics()
        limits = ranges.limits(statistics, LIMITS, symmetric=self._fuse == "tensorrt")
        qdq.quantize(source, out, limits, skip, self._fuse, _means(statistics), self.bits)


def _means(statistics: dict[str, ranges.Statistics]) -> dict[str, np.ndarray]:
    found = {name: s.channel_means for name, s in statistics.items()}
    return {name: means for name, means in found.items() if means is not None}


def _calibrated(manifest: calibration.Manifest, sets: Sets) -> Json:
    return {
        "sha256": manifest.sha256,
        "images": len(manifest.images),
        "set": manifest.set,
        "split": manifest.split,
        "seed": manifest.seed,
        "files": {entry.path: entry.sha256 for entry in manifest.images},
        **({"license": sets.pool.license} if sets.pool is not None and sets.pool.license else {}),
        **({"notes": manifest.named(sets.notes)} if sets.notes else {}),
        **({"warning": manifest.warning} if manifest.warning else {}),
    }


def _kept(findings: Sequence[fp16.Finding]) -> Json:
    """``kept_float32`` for the manifest: values that would overflow or vanish in FP16, if there are any."""
    return {"kept_float32": [dataclasses.asdict(finding) for finding in findings]} if findings else {}
