"""Which way to INT8 costs least: calibration size and method, and what else may be done to ranges and weights.

    python benchmarks/int8_methods.py --shared ../shared --out benchmarks/results/int8-methods.json
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python benchmarks/int8_methods.py ... --only nncf                # as if without VNNI
    python benchmarks/int8_methods.py --plot --out benchmarks/results/int8-methods.json             # .png beside it

Raw differences of the main metric in points, every checkpoint on its own validation images, at 320 px:
`yolo12n-bccd.pt` (mAP50-95, 72 images; its train split has 292, which stand where 512 are asked for) and
`yolo12n-obb-table-tennis.pt` (rotated mAP50-95, 55 images; 570 in train). By:

- `edgekit tensorrt`: edgekit's symmetric pairs, by range method and number of images, with and without bias correction;
- `edgekit onnxruntime`: its uint8 pairs for ONNX Runtime's x86 kernels;
- `onnxruntime`: `quantize_static` of ONNX Runtime, the same nodes left alone;
- `nncf`: what `ov-int8` is made with, by preset, range estimator, weight bits, bias correction, SmoothQuant of
  convolutions, and alignment of channels (equalisation).

CPU milliseconds, where placement or form differ, are those of the process and its threads for one run of the network,
lower quartile of runs that take turns with the float model. Rows are saved as they come and not measured twice.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import clipping
import numpy as np
import onnx

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.data import open_dataset
from edgekit.graph.export import export
from edgekit.nn import layers
from edgekit.quantize import calibration, groups, ir, qdq, ranges
from edgekit.runtime.versions import versions
from edgekit.spec import Graph, Session
from edgekit.verify import accuracy

SETS = {
    "bccd": ("yolo12n-bccd.pt", "bccd/data.yaml", (16, 64, 292)),
    "table tennis": ("yolo12n-obb-table-tennis.pt", "table_tennis_obb/data.yaml", (16, 64, 256, 512)),
}
SIDE, USUAL = 320, 64
CPU_RUNS = 8
METHODS = (*ranges.METHODS, *clipping.METHODS)
# How an activation's range is made of those of the images: NNCF's names.
ESTIMATORS = {"minmax": "MINMAX", "mean": "MEAN_MINMAX", "percentile": "MEAN_QUANTILE"}
LIMIT = "ONEDNN_MAX_CPU_ISA"  # what OpenVINO's kernels may use of the processor

Row = dict[str, Any]


def plan() -> Iterator[Row]:
    """What to measure; the first of a tool's rows is what edgekit does."""
    usual: Row = {"set": "bccd", "images": USUAL, "weight_bits": 8, "bias": True}
    nncf: Row = {"by": "nncf", **usual, "method": "minmax", "symmetric": False}
    limit = os.environ.get(LIMIT)
    if limit:
        yield from ({**nncf, "weight_bits": bits, "processor": limit} for bits in (8, 7))
        return
    for name, (_, _, sizes) in SETS.items():
        for images in sizes:
            for method in METHODS:
                yield {"by": "edgekit tensorrt", **usual, "set": name, "images": images, "method": method}
    yield {"by": "edgekit tensorrt", **usual, "method": "percentile", "bias": False}
    yield {"by": "edgekit tensorrt", **usual, "method": "percentile", "weight_bits": 7}
    for change in ({"method": "percentile"}, {"method": "percentile", "weight_bits": 7}, {"method": "minmax"}):
        yield {"by": "edgekit onnxruntime", **usual, **change}
    for change in ({"activations": "uint8"}, {"activations": "int8"}, {"activations": "uint8", "weight_bits": 7}):
        yield {"by": "onnxruntime", **usual, "method": "minmax", "bias": False, **change}
    yield nncf
    changes: tuple[Row, ...] = (
        {"weight_bits": 7},
        {"symmetric": True},
        {"method": "mean"},
        {"method": "percentile"},
        {"bias": False},
        {"smoothing": 0.5},
        {"alignment": True},
        *({"images": images} for images in (16, 292)),
    )
    yield from ({**nncf, **change} for change in changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="rows whose `by` starts so")
    parser.add_argument("--plot", action="store_true", help="draw what is in --out")
    options = parser.parse_args()
    document = json.loads(options.out.read_text()) if options.out.exists() else {"rows": []}
    if options.plot:
        plot(document["rows"], options.out.with_suffix(".png"))
        return
    known = [row["what"] for row in document["rows"]]
    waiting = [what for what in plan() if what not in known and what["by"].startswith(options.only or "")]
    with tempfile.TemporaryDirectory() as scratch:
        benches: dict[str, Bench] = {}
        for what in waiting:
            name = what["set"]
            if name not in benches:
                benches = {name: Bench(options.shared, Path(scratch), *SETS[name])}  # one at a time: they hold images
            document["rows"].append({"what": what, **benches[name].measure(what)})
            print(document["rows"][-1], flush=True)
            packages = versions("edgekit", "onnx", "onnxruntime", "openvino", "nncf")
            about = {"imgsz": SIDE, "versions": packages, "machine": machine.describe()}
            document = {"schema": 1, "kind": "int8-methods", **about, "rows": document["rows"]}
            options.out.write_text(json.dumps(document, indent=1) + "\n")


class Bench:
    """The float graphs, the calibration images and the judge, made once."""

    def __init__(self, shared: Path, scratch: Path, file: str, data: str, sizes: tuple[int, ...]) -> None:
        self.scratch = scratch
        self.statistics: dict[tuple[str, int], dict[str, ranges.Statistics]] = {}
        loaded = checkpoint.load(shared / "fixtures" / file)
        self.graphs = {
            target: export(
                loaded, scratch / f"{target}.onnx", (SIDE, SIDE), head="topk", recipe=targets.get(target).recipe
            )
            for target in ("ort-int8", "ov-int8")
        }
        info = self.graphs["ort-int8"].info
        judged = open_dataset(shared / "data" / data, info.task, "val", None, info.names)
        train = open_dataset(shared / "data" / data, info.task, "train", None, info.names)
        chosen = calibration.choose(train, max(sizes), 0, judged)
        self.batches = calibration.tensors(calibration.located(chosen, [(shared / "data" / data).parent]), info)
        self.judge = accuracy.by_labels(judged)
        self.floats = {"ort": self.open("ort-int8", self.graphs["ort-int8"].path)}
        files = scratch / "ov-fp32"
        files.mkdir(exist_ok=True)
        targets.get("ov-fp32").build(self.graphs["ov-int8"], files)
        self.floats["ov"] = targets.get("ov-fp32").open(files, info)
        self.before = self.judge.score(self.floats["ort"])

    def open(self, target: str, path: Path) -> Session:
        session: Session = targets.get(target).open(path, self.graphs[target].info)
        return session

    def measure(self, what: Row) -> Row:
        began = time.process_time()
        batches = self.batches[: what["images"]]
        make = {"nncf": self._nncf, "onnxruntime": self._static}.get(what["by"], self._explicit)
        session = make(what, batches)
        made = time.process_time() - began
        after = self.judge.score(session)
        row = {
            "before": self.before,
            "after": after,
            "drop_points": 100 * (self.before - after),
            "quantize_cpu_s": round(made, 1),
        }
        if what["by"] != "edgekit tensorrt":  # whose form is not for this processor
            floats = self.floats["ov" if what["by"] == "nncf" else "ort"]
            own, other = _cpu_ms(session, floats, batches[0])
            row |= {"cpu_ms": round(own, 2), "float_cpu_ms": round(other, 2)}
        return row

    def _explicit(self, what: Row, batches: list[np.ndarray]) -> Session:
        graph, fuse = self.graphs["ort-int8"], what["by"].split()[1]
        if (fuse, len(batches)) not in self.statistics:
            self.statistics[fuse, len(batches)] = ranges.collect(graph.path, batches, qdq.wanted(graph.path, fuse))
        found = self.statistics[fuse, len(batches)]
        limits = clipping.limits(found, what["method"], symmetric=fuse == "tensorrt")
        means = {n: s.channel_means for n, s in found.items() if s.channel_means is not None} if what["bias"] else None
        out = self.scratch / "explicit.onnx"
        qdq.quantize(graph.path, out, limits, (), fuse, means, what["weight_bits"])
        return self.open("ort-int8", out)

    def _nncf(self, what: Row, batches: list[np.ndarray]) -> Session:
        import nncf

        out = self.scratch / "model.xml"
        graph: Graph = self.graphs["ov-int8"]
        with mock.patch("nncf.quantize", partial(_changed, nncf.quantize, what)):
            ir.quantize(graph.path, out, batches, (), what["weight_bits"])
        return self.open("ov-int8", out)

    def _static(self, what: Row, batches: list[np.ndarray]) -> Session:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        graph, out = self.graphs["ort-int8"], self.scratch / "static.onnx"
        source = graph.info.inputs[0].name
        waiting = iter(batches)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> Any:
                batch = next(waiting, None)
                return None if batch is None else {source: batch}

        names = [node.name for node in onnx.load(graph.path).graph.node]
        head = layers.head_of(names)
        signed = what["activations"] == "int8"
        quantize_static(
            str(graph.path),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=what["weight_bits"] == 7,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[name for name in names if groups.of(name, head) is None],
            extra_options={"ActivationSymmetric": signed, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return self.open("ort-int8", out)


def _changed(quantize: Callable[..., Any], what: Row, model: Any, dataset: Any, **options: Any) -> Any:
    """NNCF as edgekit calls it but for what a row changes."""
    import nncf

    estimators = nncf.quantization.range_estimator.RangeEstimatorParametersSet
    advanced = options["advanced_parameters"]
    advanced.activations_range_estimator_params = getattr(estimators, ESTIMATORS[what["method"]])
    advanced.disable_bias_correction = not what["bias"]
    advanced.disable_channel_alignment = not what.get("alignment")
    advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(convolution=what.get("smoothing", -1))
    if what["symmetric"]:
        options["preset"] = nncf.QuantizationPreset.PERFORMANCE
    return quantize(model, dataset, **options)


def _cpu_ms(session: Session, other: Session, batch: np.ndarray) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(CPU_RUNS):
        for contestant, spent in zip((session, other), times, strict=True):
            contestant.run(batch)
            began = time.process_time()
            contestant.run(batch)
            spent.append(1e3 * (time.process_time() - began))
    return float(np.percentile(times[0], 25)), float(np.percentile(times[1], 25))


def plot(rows: list[Row], out: Path) -> None:
    """Points lost against calibration images, a line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(SETS), figsize=(11, 4), sharey=False)
    for axes, (name, (file, _, sizes)) in zip(panels, SETS.items(), strict=True):
        sized = [r for r in rows if r["what"]["by"] == "edgekit tensorrt" and r["what"]["set"] == name]
        sized = [r for r in sized if r["what"]["bias"] and r["what"]["weight_bits"] == 8]
        for method in METHODS:
            line = sorted((r["what"]["images"], r["drop_points"]) for r in sized if r["what"]["method"] == method)
            axes.plot(*zip(*line, strict=True), marker="o", label=method)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xscale="log", xlabel="calibration images", ylabel="mAP50-95 lost, points", title=f"{file}, int8 Q/DQ")
        axes.set_xticks(sizes, [str(s) for s in sizes])
        axes.minorticks_off()
        axes.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
