"""Milliseconds a call of the C++ library, of edgekit's Python and of bare OpenVINO: the same images, taking turns.

    python benchmarks/cpp.py BUNDLE IMAGE... --rounds 50 --threads 2 --out benchmarks/results/cpp.json

- cpp: tests/cpp/probe.cpp, compiled with -O3 in build/cpp-release, a process that stays alive; its own clock.
- python: `Predictor.timed`: pre-processing, network, post-processing and the whole.
- bare: cv2.resize into a letterbox, division by 255 where the model takes floats, and one OpenVINO request; no
  post-processing at all.

`--conf 0.001` keeps up to 300 detections: what post-processing costs at its worst. Reading files is not timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _sides import compiled_probe

REPO = Path(__file__).resolve().parents[1]
POST_MS = 0.3  # of 300 detections in C++
OVER_BARE = 1.05  # edgekit's Python against bare OpenVINO and a letterbox

Times = dict[str, float]


def main() -> None:
    options = _options()
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.noise import NoiseMonitor
    from edgekit.runtime.image import read_image

    images = [read_image(path) for path in options.images]
    with tempfile.TemporaryDirectory() as scratch:
        cpp, process = _cpp(options, Path(scratch))
        sides = {"cpp": cpp, "python": _python(options), "bare": _bare(options)}
        for call in sides.values():
            for image in images:
                call(image)
        times: dict[str, list[Times]] = {name: [] for name in sides}
        with NoiseMonitor(helpers=[process]) as watch:
            for number in range(options.rounds):
                for image in images:
                    for name in sorted(sides, key=lambda n: (list(sides).index(n) + number) % 3):
                        times[name].append(sides[name](image))
                    watch.tick()
    whole = {name: np.array([t["whole_ms"] for t in rows]) for name, rows in times.items()}
    post = np.array([t["post_ms"] for t in times["cpp"]])
    count = np.array([t["count"] for t in times["cpp"]])
    ratios = {
        "cpp_over_python": float(np.median(whole["cpp"] / whole["python"])),
        "python_over_bare": float(np.median(whole["python"] / whole["bare"])),
    }
    report = {
        "what": "milliseconds a call, interleaved",
        "bundle": Path(options.bundle).name,
        "threads": options.threads,
        "conf": options.conf,
        "iou": options.iou,
        "detections": {"min": int(count.min()), "max": int(count.max())},
        "ratios": ratios,
        "ms": {name: _stages(rows) for name, rows in times.items()},
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "machine": machine.describe(),
        "pass": {
            "cpp <= python": ratios["cpp_over_python"] <= 1.0,
            "python <= 1.05 bare": ratios["python_over_bare"] <= OVER_BARE,
            "post of the fullest image": float(np.median(post[count == count.max()])) < POST_MS,
        },
    }
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(0 if all(report["pass"].values()) else 1)


def _stages(rows: list[Times]) -> dict[str, dict[str, float]]:
    found = {}
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        found[key] = {
            "min": float(values.min()),
            "p50": float(np.median(values)),
            "p90": float(np.percentile(values, 90)),
        }
    return found


def _cpp(options: argparse.Namespace, scratch: Path) -> tuple[Callable[[Any], Times], int]:
    """A call of the C++ library, and the process it runs in."""
    process = subprocess.Popen([compiled_probe()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(*words: object) -> Any:
        assert process.stdin and process.stdout
        process.stdin.write("\t".join(map(str, words)) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        if "error" in answer:
            sys.exit(answer["error"])
        return answer["ok"]

    ask("load", options.bundle, options.threads or 0)

    def call(image: Any) -> Times:
        pixels = scratch / "pixels"
        pixels.write_bytes(image.tobytes())
        height, width, channels = image.shape
        words = [f"conf={options.conf}", f"iou={options.iou}", "max_det=300"]
        answer = ask("predict", options.bundle, pixels, width, height, channels, 0, *words)
        names = ("pre_ms", "network_ms", "post_ms", "whole_ms")
        return {**dict(zip(names, answer["times"], strict=True)), "count": len(answer["labels"])}

    return call, process.pid


def _python(options: argparse.Namespace) -> Callable[[Any], Times]:
    import edgekit

    model = edgekit.load(options.bundle, threads=options.threads, conf=options.conf, iou=options.iou, max_det=300)
    return lambda image: model.timed(image)[1]


def _bare(options: argparse.Namespace) -> Callable[[Any], Times]:
    import cv2
    import openvino

    from edgekit.runtime.manifest import read_bundle

    read = read_bundle(Path(options.bundle))
    height, width = read.info.imgsz
    properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if read.target == "ov-fp32":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    if options.threads:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    model = openvino.Core().compile_model(str(Path(options.bundle) / "model.xml"), "CPU", properties)
    request = model.create_infer_request()

    def call(image: Any) -> Times:
        start = time.perf_counter()
        ratio = min(height / image.shape[0], width / image.shape[1])
        size = round(image.shape[1] * ratio), round(image.shape[0] * ratio)
        canvas = np.full((height, width, 3), 114, np.uint8)
        top, left = (height - size[1]) // 2, (width - size[0]) // 2
        canvas[top : top + size[1], left : left + size[0]] = cv2.resize(image, size)
        batch = canvas[None] if read.info.takes_uint8 else cv2.dnn.blobFromImage(canvas, 1 / 255, swapRB=True)
        request.infer([batch], share_inputs=True, share_outputs=True)
        return {"whole_ms": 1e3 * (time.perf_counter() - start)}

    return call


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--iou", type=float, default=0.7, help="near 1 keeps all 300 candidates")
    parser.add_argument("--out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
