"""What it saves to give OpenVINO canvases as they are (uint8 NHWC BGR) instead of float32 planes: one model built both
ways, taking turns.

    edgekit build yolo12n.pt --target ov-fp16 --out pixels
    edgekit build yolo12n.pt --target ov-fp16 --option input=float --out floats
    python benchmarks/input.py IMAGE... --pair floats pixels --threads 2 --out benchmarks/results/input.json

For every pair: the times of the stages, the ratios of pixels to float of whole calls and stages with their intervals
(below 1: pixels are faster), and how far each is from PyTorch, by its manifest. Reading files is not timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edgekit.bench import machine
from edgekit.bench.clock import ClockOptions
from edgekit.bench.run import bench
from edgekit.bundle import loading
from edgekit.runtime.image import read_image
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.predictor import STAGES
from edgekit.runtime.versions import versions


def main() -> None:
    options = _options()
    images = [read_image(path) for path in options.images]
    rows = []
    for pair in options.pair:
        rows.append(compare(*pair, images, options.threads, options.budget))
        print(json.dumps(rows[-1]), flush=True)
    document = {
        "schema": 1,
        "kind": "input",
        "images": len(images),
        "threads": options.threads,
        "rows": rows,
        "versions": versions("edgekit", "openvino", "opencv-python-headless", "numpy"),
        "machine": machine.describe(),
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def compare(floats: Path, pixels: Path, images: list[Any], threads: int | None, budget_s: float) -> dict[str, Any]:
    read = {"float": read_bundle(floats), "pixels": read_bundle(pixels)}
    if read["float"].info.takes_uint8 or not read["pixels"].info.takes_uint8:
        raise SystemExit(f"--pair {floats} {pixels}: give the float bundle first, then the one of pixels")
    predictors = {name: loading.load(opened.path, threads=threads) for name, opened in read.items()}
    records = bench(predictors, images, ClockOptions(budget_s=budget_s), baseline="float")
    return {
        "target": read["pixels"].target,
        "model": read["pixels"].info.spec.name if read["pixels"].info.spec else None,
        "imgsz": list(read["pixels"].info.imgsz),
        "precision_executed": records[1]["precision_executed"],
        **{record["artifact"]: {stage: record[stage] for stage in STAGES} for record in records},
        "ratio": records[1]["ratio"],
        "rounds": records[1]["rounds"],
        "reliable": records[1]["reliable"],
        "disturbances": records[1]["disturbances"],
        "parity": {name: opened.manifest.get("parity") for name, opened in read.items()},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--pair", nargs=2, type=Path, action="append", required=True, metavar=("FLOAT", "PIXELS"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--budget", type=float, default=15.0, help="seconds a pair")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
