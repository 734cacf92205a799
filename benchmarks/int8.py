"""What INT8 costs and gains: every real checkpoint built for every INT8 target, judged on its own set.

    python benchmarks/int8.py --shared ../shared --out benchmarks/results/int8.json --count 300

A row is what `edgekit build` wrote into the bundle: the main metric before and after on the artifact itself, what was
put back, and the time of the whole call against the best floating-point artifact of the same runtime, interleaved. Rows
are saved as they come; those that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.bench import machine
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
from edgekit.errors import GateError
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.versions import versions

MANIFEST = ("accuracy", "speed", "calibration", "quantization")
GRAPH_ALONE = {"engine": "no"}  # accuracy is that of the graph; engines are benchmarks/rtx_build.py's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300, help="calibration images")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each comparison of speed; 0 leaves it out")
    parser.add_argument("--recalibrate", action="store_true", help="recalibrate scores where that is better")
    timed = [target.name for target in targets.every() if target.floats]
    parser.add_argument("--targets", nargs="*", default=[*timed, "trt-rtx-int8"])
    parser.add_argument("--tasks", nargs="*")
    options = parser.parse_args()
    recorded = json.loads((options.shared / "fixtures" / "expected.json").read_text())["val"]
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    known = {(row["checkpoint"], row["target"]) for row in rows}
    for target in options.targets:
        for task, entry in recorded.items():
            if (entry["checkpoint"], target) in known or (options.tasks and task not in options.tasks):
                continue
            rows.append(measure(task, entry, target, options))
            print(rows[-1], flush=True)
            save(rows, options.out)


def save(rows: list[dict[str, Any]], out: Path) -> None:
    packages = versions("edgekit", "torch", "onnx", "onnxruntime", "openvino", "nncf")
    document = {"schema": 1, "kind": "int8", "versions": packages, "machine": machine.describe(), "rows": rows}
    out.write_text(json.dumps(document, indent=1) + "\n")


def measure(task: str, entry: dict[str, Any], target: str, options: argparse.Namespace) -> dict[str, Any]:
    """One build's figures; of a failed one the evidence."""
    row: dict[str, Any] = {"checkpoint": entry["checkpoint"], "task": task, "target": target, "imgsz": entry["imgsz"]}
    wishes = QuantizeOptions(
        options.shared / "data" / entry["data"],
        count=options.count,
        timing_s=options.seconds,
        recalibrate_scores=options.recalibrate and task != "classify",
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "bundle"
        source = options.shared / "fixtures" / entry["checkpoint"]
        try:
            size = (entry["imgsz"],) * 2
            build(
                source,
                target,
                out,
                BuildOptions(imgsz=size, quantize=wishes, target=GRAPH_ALONE if target.startswith("trt") else None),
            )
        except GateError as error:
            return row | {"failed": str(error), **{k: v for k, v in error.evidence.items() if k in MANIFEST}}
        manifest = read_bundle(out, verify=False).manifest
    return row | {key: manifest[key] for key in MANIFEST if key in manifest}


if __name__ == "__main__":
    main()
