"""What half precision costs where no machine for it is at hand: every operator's output rounded, in float32 arithmetic.

    python benchmarks/half.py --shared ../shared --out benchmarks/results/half.json

Every real checkpoint on its own set: the float32 graph; the FP16 graph that `trt-rtx-fp16` is built from (decode tail
in float32); and the graph with everything rounded to bfloat16, as OpenVINO executes `ov-fp16` on CPUs with AMX. The
last is a worst case: such CPUs add in float32 and round only what leaves a fused kernel.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from edgekit import checkpoint, targets
from edgekit.bench import machine
from edgekit.data import open_dataset
from edgekit.graph import narrow
from edgekit.graph.export import export
from edgekit.quantize import fp16
from edgekit.runtime.versions import versions
from edgekit.verify import accuracy

TARGET = "trt-rtx-fp16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recorded = json.loads((options.shared / "fixtures" / "expected.json").read_text())["val"]
    rows = []
    for task, entry in recorded.items():
        rows.append({"checkpoint": entry["checkpoint"], "task": task, **measure(task, entry, options.shared)})
        print(rows[-1], flush=True)
        packages = versions("edgekit", "onnx", "onnxruntime")
        about = {"versions": packages, "machine": machine.describe()}
        document = {"schema": 1, "kind": "half", **about, "rows": rows}
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def measure(task: str, entry: dict[str, Any], shared: Path) -> dict[str, Any]:
    """The main metric of one checkpoint in the three precisions, and points lost."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        loaded = checkpoint.load(shared / "fixtures" / entry["checkpoint"])
        side = entry["imgsz"]
        graph = export(loaded, folder / "float32.onnx", (side, side), head="topk", recipe=targets.get(TARGET).recipe)
        fp16.to_fp16(graph.path, folder / "half.onnx")
        narrow.rounded(folder / "half.onnx", folder / "float16.onnx")
        narrow.rounded(graph.path, folder / "bfloat16.onnx", "bfloat16")
        judge = accuracy.by_labels(open_dataset(shared / "data" / entry["data"], task, "val", None, graph.info.names))
        runner = targets.get("ort-fp32")
        kinds = ("float32", "float16", "bfloat16")
        found = {k: judge.score(runner.open(folder / f"{k}.onnx", graph.info)) for k in kinds}
    lost = {f"{k}_drop_points": 100 * (found["float32"] - found[k]) for k in kinds[1:]}
    return {"metric": judge.metric, "images": judge.images, **found, **lost}


if __name__ == "__main__":
    main()
