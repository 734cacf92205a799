"""Which way to INT8 costs least: calibration size and method, and who places the Q/DQ pairs.

    python benchmarks/int8_methods.py --shared ../shared --out benchmarks/results/int8-methods.json
    python benchmarks/int8_methods.py --plot --out benchmarks/results/int8-methods.json      # .png beside it

One checkpoint (`yolo12n-bccd.pt`, 320 px) on its own 72 validation images, raw differences of mAP50-95 in points:

- `edgekit tensorrt`: edgekit's symmetric pairs, by range method and number of images, with and without bias correction;
- `edgekit onnxruntime`: its uint8 pairs for ONNX Runtime's x86 kernels;
- `onnxruntime`: `quantize_static` of ONNX Runtime, the same nodes left alone;
- `nncf`: what `ov-int8` is made with, by preset, range estimator, weight bits and bias correction.

CPU milliseconds are those of the process and its threads for one run of the network, lower quartile of runs that take
turns with the float model. Rows are saved as they come and not measured twice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.data import open_dataset
from edgekit.graph.export import export
from edgekit.quantize import accuracy, calibration, groups, ir, qdq, ranges
from edgekit.spec import Graph, Session
from edgekit.versions import versions

CHECKPOINT, DATA, SIDE = "yolo12n-bccd.pt", "bccd/data.yaml", 320
SIZES = (16, 64, 256)
CPU_RUNS = 15

Row = dict[str, Any]


def plan() -> Iterator[Row]:
    """What to measure."""
    for images in SIZES:
        for method in ranges.METHODS:
            yield {"by": "edgekit tensorrt", "method": method, "images": images, "bias": True, "weight_bits": 7}
    yield {"by": "edgekit tensorrt", "method": "percentile", "images": 64, "bias": False, "weight_bits": 7}
    yield {"by": "edgekit tensorrt", "method": "percentile", "images": 64, "bias": True, "weight_bits": 8}
    for method in ("minmax", "percentile", "mse"):
        yield {"by": "edgekit onnxruntime", "method": method, "images": 64, "bias": True, "weight_bits": 7}
    for activations in ("int8", "uint8"):
        for bits in (7, 8):
            yield {
                "by": "onnxruntime",
                "method": "minmax",
                "images": 64,
                "activations": activations,
                "weight_bits": bits,
            }
    for symmetric in (True, False):
        for bits in (7, 8):
            yield {
                "by": "nncf",
                "method": "minmax",
                "images": 64,
                "symmetric": symmetric,
                "weight_bits": bits,
                "bias": True,
            }
    for method in ("mean", "percentile"):
        yield {"by": "nncf", "method": method, "images": 64, "symmetric": False, "weight_bits": 7, "bias": True}
    yield {"by": "nncf", "method": "minmax", "images": 64, "symmetric": False, "weight_bits": 7, "bias": False}


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
        bench = Bench(options.shared, Path(scratch))
        for what in waiting:
            document["rows"].append({"what": what, **bench.measure(what)})
            print(document["rows"][-1], flush=True)
            packages = versions("edgekit", "onnx", "onnxruntime", "openvino", "nncf")
            about = {"checkpoint": CHECKPOINT, "imgsz": SIDE, "versions": packages, "machine": machine.describe()}
            document = {"schema": 1, "kind": "int8-methods", **about, "rows": document["rows"]}
            options.out.write_text(json.dumps(document, indent=1) + "\n")


class Bench:
    """The float graphs, the calibration images and the judge, made once."""

    def __init__(self, shared: Path, scratch: Path) -> None:
        self.scratch, self.statistics = scratch, {}
        loaded = checkpoint.load(shared / "fixtures" / CHECKPOINT)
        self.graphs = {
            target: export(loaded, scratch / f"{target}.onnx", (SIDE, SIDE), head="topk", target=target)
            for target in ("ort-int8", "ov-int8")
        }
        info = self.graphs["ort-int8"].info
        data = shared / "data" / DATA
        judged = open_dataset(data, info.task, "val", None, info.names)
        train = open_dataset(data, info.task, "train", None, info.names)
        self.batches = calibration.batches(calibration.choose(train, max(SIZES), 0, judged), data, info)
        self.judge = accuracy.by_labels(judged)
        self.floats = {"ort": self.open("ort-int8", self.graphs["ort-int8"].path)}
        files = scratch / "ov-fp32"
        files.mkdir()
        targets.backend("ov-fp32").build(self.graphs["ov-int8"], "ov-fp32", files)
        self.floats["ov"] = targets.backend("ov-fp32").open_session(files, info, "ov-fp32")
        self.before = self.judge.score(self.floats["ort"])

    def open(self, target: str, path: Path) -> Session:
        session: Session = targets.backend(target).open_session(path, self.graphs[target].info, target)
        return session

    def measure(self, what: Row) -> Row:
        began = time.process_time()
        batches = self.batches[: what["images"]]
        make = {"nncf": self._nncf, "onnxruntime": self._static}.get(what["by"], self._explicit)
        session = make(what, batches)
        made = time.process_time() - began
        after = self.judge.score(session)
        floats = self.floats["ov" if what["by"] == "nncf" else "ort"]
        own, other = _cpu_ms(session, floats, batches[0])
        return {
            "before": self.before,
            "after": after,
            "drop_points": 100 * (self.before - after),
            "quantize_cpu_s": round(made, 1),
            "cpu_ms": round(own, 2),
            "float_cpu_ms": round(other, 2),
        }

    def _explicit(self, what: Row, batches: list[np.ndarray]) -> Session:
        graph, fuse = self.graphs["ort-int8"], what["by"].split()[1]
        if (fuse, len(batches)) not in self.statistics:
            self.statistics[fuse, len(batches)] = ranges.collect(graph.path, batches, qdq.wanted(graph.path, fuse))
        found = self.statistics[fuse, len(batches)]
        limits = ranges.limits(found, what["method"], symmetric=fuse == "tensorrt")
        means = {n: s.channel_means for n, s in found.items() if s.channel_means is not None} if what["bias"] else None
        out = self.scratch / "explicit.onnx"
        qdq.quantize(graph.path, out, limits, (), fuse, means, 63 if what["weight_bits"] == 7 else 127)
        return self.open("ort-int8", out)

    def _nncf(self, what: Row, batches: list[np.ndarray]) -> Session:
        out = self.scratch / "model.xml"
        graph: Graph = self.graphs["ov-int8"]
        ir.quantize(graph.path, out, batches, (), what["method"], what["symmetric"], what["weight_bits"], what["bias"])
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
        head = groups.head_of(names)
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

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    sized = [
        r for r in rows if r["what"]["by"] == "edgekit tensorrt" and r["what"]["bias"] and r["what"]["weight_bits"] == 7
    ]
    for method in ranges.METHODS:
        line = sorted((r["what"]["images"], r["drop_points"]) for r in sized if r["what"]["method"] == method)
        axes.plot(*zip(*line, strict=True), marker="o", label=method)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(
        xscale="log", xlabel="calibration images", ylabel="mAP50-95 lost, points", title=f"{CHECKPOINT}, int8 Q/DQ"
    )
    axes.set_xticks(SIZES, [str(s) for s in SIZES])
    axes.legend()
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
