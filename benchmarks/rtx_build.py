"""What TensorRT-RTX builds without a GPU, how long that takes, what became of attention, and what the graphs lose.

    python benchmarks/rtx_build.py ../shared/fixtures/yolo12n-bccd.pt --data ../shared/data/bccd/data.yaml \\
        --out benchmarks/results/tensorrt-rtx.json

Both precisions for every architecture asked for. Seconds are the builder's own; `whole_s` is `edgekit build` with
export, calibration and judging on the whole set. Nothing is run on a GPU: accuracy is the graph's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
LIMITS = {"trt-rtx-fp16": 0.1, "trt-rtx-int8": 0.5}  # points of mAP that may be lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sm", default="75,86,89,120")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine

    with tempfile.TemporaryDirectory() as scratch:
        rows = [_built(target, options, Path(scratch) / target) for target in LIMITS]
    report = {
        "kind": "tensorrt-rtx",
        "what": "engines built by TensorRT-RTX without a GPU; accuracy of the graphs that went in",
        "model": options.model.name,
        "data": options.data.parent.name,
        "rows": rows,
        "engine_seconds": round(sum(engine["seconds"] for row in rows for engine in row["engines"]), 2),
        "machine": machine.describe(),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{options.out}: {sum(len(r['engines']) for r in rows)} engines in {report['engine_seconds']} s")


def _built(target: str, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    from edgekit.bundle import build
    from edgekit.bundle.options import BuildOptions
    from edgekit.quantize import QuantizeOptions

    start = time.perf_counter()
    wishes = QuantizeOptions(data=options.data, max_drop=LIMITS[target], timing_s=0)
    manifest = build.build(
        options.model, target, out, BuildOptions(target={"sm": options.sm}, quantize=wishes)
    ).manifest
    whole = time.perf_counter() - start
    keys = ("sm", "bytes", "sha256", "seconds", "sdk_version", "attention")
    return {
        "target": target,
        "whole_s": round(whole, 1),
        "accuracy": {k: v for k, v in manifest["accuracy"].items() if k not in ("ranking", "tried")},
        "engines": [{key: engine[key] for key in keys} for engine in manifest["engines"]],
    }


if __name__ == "__main__":
    main()
