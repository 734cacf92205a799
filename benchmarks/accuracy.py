"""Accuracy of the real checkpoints from every runtime, beside what the tool that trained them reports.

    python benchmarks/accuracy.py --shared ../shared --out benchmarks/results/accuracy.json
    python benchmarks/accuracy.py --shared ../shared --targets ov-fp32 ov-fp16 --out accuracy-here.json

Each checkpoint is measured in PyTorch under both protocols and, built, in each target under COCO's; the recorded
figures are those of `fixtures/expected.json`. The difference between the two protocols on the same predictions is how
much of a difference to the recorded figure the protocol explains. What `ov-fp16` computes in is the machine's choice
(`executed` says what it was), so its accuracy is measured once for each kind of machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit import metrics
from edgekit.bench import machine
from edgekit.bundle.build import build
from edgekit.bundle.loading import open_session
from edgekit.bundle.options import BuildOptions
from edgekit.data import open_dataset
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.versions import versions
from edgekit.verify.evaluate import evaluate

KEYS = ("map50_95", "map50", "mask_map50_95", "pose_map50_95", "top1")
TARGETS = ("pytorch", "ort-fp32", "ov-fp32", "ov-fp16")  # those of eight bits are judged by benchmarks/int8.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    options = parser.parse_args()
    recorded = json.loads((options.shared / "fixtures" / "expected.json").read_text())["val"]
    packages = versions("edgekit", "torch", "onnxruntime", "openvino", "faster-coco-eval")
    rows: list[dict[str, Any]] = []
    document = {"schema": 1, "kind": "accuracy", "versions": packages, "machine": machine.describe(), "rows": rows}
    for task, entry in recorded.items():
        rows += measure(task, entry, options.shared, options.targets)
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def measure(task: str, entry: dict[str, Any], shared: Path, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """A row per runtime and protocol of one checkpoint."""
    source = shared / "fixtures" / entry["checkpoint"]
    rows = []

    def add(path: Path, protocol: str) -> None:
        session = open_session(path, imgsz=entry["imgsz"])
        dataset = open_dataset(shared / "data" / entry["data"], task, names=session.info.names)
        found = evaluate(Predictor(session), dataset, metrics.Options(protocol))
        rows.append(
            {
                "checkpoint": entry["checkpoint"],
                "task": task,
                "target": session.target,
                "head": session.info.head,
                "executed": session.precision_by_type(),
                "protocol": protocol,
                "images": found.images,
                "recorded": entry["metrics"],
                "tolerance": entry["tolerance"],
                "measured": {k: round(v, 5) for k, v in found.scores.metrics.items() if k in KEYS},
            }
        )
        print(rows[-1], flush=True)

    if "pytorch" in wanted:
        add(source, "coco")
        add(source, "ultralytics")
    with tempfile.TemporaryDirectory() as scratch:
        for target in (t for t in wanted if t != "pytorch"):
            out = Path(scratch) / target
            build(source, target, out, BuildOptions(imgsz=(entry["imgsz"],) * 2, head="raw"))
            add(out, "coco")
    return rows


if __name__ == "__main__":
    main()
