"""What training with INT8's rounding gains: a trained network and the one --qat made of it, both built for INT8.

    edgekit train bccd/data.yaml --model yolo12n-bccd.pt --qat --epochs 3 --nominal-batch 16 --optimizer adamw \\
        --lr 1e-4 --warmup 0.5 --close-mosaic 2 --imgsz 320 --out runs/bccd-qat
    python benchmarks/qat.py yolo12n-bccd.pt runs/bccd-qat/best.pt --data bccd/data.yaml

Every convolution but those the targets always keep is quantized, whatever it costs (no limit on the drop, so nothing
is put back). A row is what `edgekit build` wrote into the bundle: the main metric before and after, on the artifact
itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from edgekit import checkpoint
from edgekit.bench import machine
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.manifest import read_bundle

NO_LIMIT = 100.0  # points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--targets", nargs="+", default=["ov-int8", "ort-int8"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "qat.json")
    options = parser.parse_args()
    rows = []
    for target in options.targets:
        for path in options.checkpoints:
            rows.append({"checkpoint": f"{path.parent.name}/{path.name}", **measured(path, target, options.data)})
            print(rows[-1], flush=True)
    document = {"schema": 1, "kind": "qat", "machine": machine.describe(), "rows": rows}
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def measured(path: Path, target: str, data: Path) -> dict[str, Any]:
    """The accuracy of one build, and how the checkpoint was trained."""
    trained = checkpoint.load(path).provenance.get("options", {})
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "bundle"
        build(path, target, out, BuildOptions(quantize=QuantizeOptions(data, max_drop=NO_LIMIT, timing_s=0)))
        manifest = read_bundle(out, verify=False).manifest
    return {"qat": trained.get("qat", False), "target": target, "accuracy": manifest["accuracy"]}


if __name__ == "__main__":
    main()
