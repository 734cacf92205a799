"""Who should place the Q/DQ pairs of TensorRT's graph: edgekit, ONNX Runtime, NNCF or NVIDIA ModelOpt.

    python -m venv modelopt && modelopt/bin/pip install torch 'nvidia-modelopt[onnx]'     # an environment of its own
    python benchmarks/int8_placements.py --shared ../shared --modelopt modelopt/bin/python \\
        --out benchmarks/results/int8-placements.json

One checkpoint (`yolo12n-bccd.pt`, 320 px), the float32 graph that `trt-rtx-int8` starts from, the same 64 images, int8
symmetric, weights per channel. Every tool twice: left to itself, and told to leave alone what edgekit leaves alone
(attention's products, the decode tail). A row says:

- `drop_points`: mAP50-95 lost on the 72 validation images, every pair computed by ONNX Runtime as it stands (what it
  does to pairs by itself breaks one tool's graph: moved ahead of a Transpose they lose their type);
- `convolutions`, `pairs`: convolutions with quantized input and weights; QuantizeLinear nodes;
- `builds`: of TensorRT-RTX, per architecture, `ok` or its complaint: of the graph as the tool wrote it (`single`), and
  with the rest in FP16 (`half`, as edgekit builds it; by ModelOpt's own conversion for ModelOpt);
- `attention`: attentions that became one kernel, in the first of `builds` that is ok, `half` before `single`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.data import open_dataset
from edgekit.errors import EdgekitError
from edgekit.graph.export import export
from edgekit.nn import layers
from edgekit.quantize import calibration, fp16, groups, qdq, ranges
from edgekit.runtime.versions import versions
from edgekit.spec import Graph
from edgekit.targets import onnxruntime
from edgekit.targets._tensorrt_common import TensorRTOptions
from edgekit.verify import accuracy

CHECKPOINT, DATA, SIDE, IMAGES = "yolo12n-bccd.pt", "bccd/data.yaml", 320, 64
SMS = (75, 86, 120)
MODELOPT = """
import json, sys, numpy
from modelopt.onnx.quantization import quantize
job = json.load(sys.stdin)
quantize(job["graph"], "int8", {job["input"]: numpy.load(job["images"])}, calibration_eps=["cpu"],
         nodes_to_exclude=job["exclude"], high_precision_dtype=job["rest"], output_path=job["out"], log_level="ERROR")
"""

Row = dict[str, Any]


class AsItStands(onnxruntime.OrtSession):
    """A session that leaves pairs alone."""

    def _options(self) -> Any:
        options = super()._options()
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options


class Bench:
    """The float graph, the calibration images and the judge, made once."""

    def __init__(self, shared: Path, scratch: Path, modelopt: Path | None) -> None:
        self.scratch, self.modelopt = scratch, modelopt
        loaded = checkpoint.load(shared / "fixtures" / CHECKPOINT)
        self.graph: Graph = export(
            loaded, scratch / "float.onnx", (SIDE, SIDE), head="topk", recipe=targets.get("trt-rtx-int8").recipe
        )
        info = self.graph.info
        data = shared / "data" / DATA
        judged = open_dataset(data, info.task, "val", None, info.names)
        train = open_dataset(data, info.task, "train", None, info.names)
        chosen = calibration.choose(train, IMAGES, 0, judged)
        self.batches = calibration.tensors(calibration.located(chosen, [data.parent]), info)
        self.judge = accuracy.by_labels(judged)
        self.before = self.score(self.graph.path)
        self.names = [node.name for node in onnx.load(self.graph.path).graph.node]

    def score(self, path: Path) -> float:
        return self.judge.score(AsItStands(path, self.graph.info, "ort-fp32"))

    def exclude(self, told: bool) -> list[str]:
        head = layers.head_of(self.names)
        return [name for name in self.names if groups.of(name, head) is None] if told else []

    def measure(self, by: str, told: bool) -> Row:
        make: Callable[[Path, bool, str], None] = getattr(self, f"_{by}")
        out = self.scratch / f"{by}.onnx"
        row: Row = {"by": by, "told_what_to_leave": told}
        try:
            make(out, told, "fp32")
            after = self.score(out)
        except Exception as error:
            return row | {"failed": _short(error)}
        nodes = onnx.load(out).graph.node
        back = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        row |= {
            "before": self.before,
            "after": after,
            "drop_points": 100 * (self.before - after),
            "convolutions": sum(node.op_type == "Conv" and back.issuperset(node.input[:2]) for node in nodes),
            "pairs": sum(node.op_type == "QuantizeLinear" for node in nodes),
        }
        half = self.scratch / f"{by}-half.onnx"
        try:
            if by == "modelopt":
                make(half, told, "fp16")
            else:
                fp16.to_fp16(out, half)
        except Exception as error:
            row["half_failed"] = _short(error)
        built = {kind: self._built(path) for kind, path in (("half", half), ("single", out)) if path.is_file()}
        row["builds"] = {kind: {sm: text for sm, (text, _) in found.items()} for kind, found in built.items()}
        fused = [record for found in built.values() for _, record in found.values() if record is not None]
        return row | {"attention": fused[0] if fused else None}

    def _built(self, path: Path) -> dict[str, tuple[str, Row | None]]:
        found: dict[str, tuple[str, Row | None]] = {}
        for sm in SMS:
            folder = self.scratch / "engine"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            graph = Graph(path, self.graph.info, "")
            try:
                parts = targets.get("trt-rtx-int8").build(graph, folder, TensorRTOptions(sm=(sm,)))
                record = parts["engines"][0]["attention"]
                found[str(sm)] = "ok", {key: record[key] for key in ("fused", "of")}
            except EdgekitError as error:
                found[str(sm)] = _short(error), None
        return found

    def _edgekit(self, out: Path, told: bool, rest: str) -> None:
        found = ranges.collect(self.graph.path, self.batches, qdq.wanted(self.graph.path))
        means = {n: s.channel_means for n, s in found.items() if s.channel_means is not None}
        limits = ranges.limits(found, "percentile")
        qdq.quantize(self.graph.path, out, limits, means=means, weight_bits=8)

    def _onnxruntime(self, out: Path, told: bool, rest: str) -> None:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        source, waiting = self.graph.info.inputs[0].name, iter(self.batches)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> Any:
                batch = next(waiting, None)
                return None if batch is None else {source: batch}

        quantize_static(
            str(self.graph.path),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=self.exclude(told),
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )

    def _nncf(self, out: Path, told: bool, rest: str) -> None:
        import logging

        import nncf

        nncf.set_log_level(logging.ERROR)
        source = self.graph.info.inputs[0].name
        quantized = nncf.quantize(
            onnx.load(self.graph.path),
            nncf.Dataset(self.batches, lambda batch: {source: batch}),
            subset_size=len(self.batches),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric
            target_device=nncf.TargetDevice.ANY,
            ignored_scope=nncf.IgnoredScope(names=self.exclude(told), validate=False),
        )
        onnx.save(quantized, out)

    def _modelopt(self, out: Path, told: bool, rest: str) -> None:
        images = self.scratch / "images.npy"
        np.save(images, np.concatenate(self.batches))
        job = {
            "graph": str(self.graph.path),
            "input": self.graph.info.inputs[0].name,
            "images": str(images),
            "exclude": self.exclude(told),
            "rest": rest,
            "out": str(out),
        }
        done = subprocess.run(
            [str(self.modelopt), "-c", MODELOPT], input=json.dumps(job), text=True, capture_output=True
        )
        if done.returncode or not out.is_file():
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")

    def modelopt_version(self) -> str:
        words = "from importlib.metadata import version; print(version('nvidia-modelopt'))"
        return subprocess.run([str(self.modelopt), "-c", words], text=True, capture_output=True).stdout.strip()


def _short(error: Exception) -> str:
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", str(error).strip())
    return text.splitlines()[-1][-300:] if text else repr(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--modelopt", type=Path, help="Python of an environment with nvidia-modelopt[onnx]")
    parser.add_argument("--only", help="rows by this tool")
    options = parser.parse_args()
    rows: list[Row] = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    known = {(row["by"], row["told_what_to_leave"]) for row in rows}
    plan = [("edgekit", True), *((by, told) for by in ("onnxruntime", "nncf", "modelopt") for told in (True, False))]
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options.shared, Path(scratch), options.modelopt)
        for by, told in plan:
            if (by, told) in known or (options.only or by) != by or (by == "modelopt" and not options.modelopt):
                continue
            rows.append(bench.measure(by, told))
            print(rows[-1], flush=True)
            packages = versions("edgekit", "onnx", "onnxruntime", "nncf", "tensorrt-rtx")
            if options.modelopt:
                packages["nvidia-modelopt"] = bench.modelopt_version()
            about = {"checkpoint": CHECKPOINT, "imgsz": SIDE, "images": IMAGES}
            about |= {"versions": packages, "machine": machine.describe()}
            document = {"schema": 1, "kind": "int8-placements", **about, "rows": rows}
            options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
