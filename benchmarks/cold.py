"""From the start of a process to the first boxes: edgekit beside the peer, fresh processes taking turns.

    python benchmarks/cold.py BUNDLE PEER_EXPORT IMAGE --peer-python PEER/bin/python --peer-scripts ../shared/peer \\
        --rounds 10 --out benchmarks/results/cold.json

Timed from outside: from starting the interpreter until its line with the number of boxes has been read, so importing,
reading and checking the model, compiling it, reading the image and the first call all count. Three contestants:

- edgekit: `edgekit.load(bundle)` and one call;
- edgekit, cache: the same with `cache=`, a folder that an earlier process has filled;
- edgekit, C++, with `--cpp`: tests/cpp/probe.cpp compiled with -O3, which loads the bundle and answers once; the pixels
  lie in a file, decoded;
- peer: `YOLO(export)` and one call, as its documentation has it.

Files lie in the system's cache for everybody (the first round does not count). The peer is run, never imported: this
file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _sides import compiled_probe

REPO = Path(__file__).resolve().parents[1]
NEEDED = 3.0  # times as fast as the peer

EDGEKIT = """
import json, sys, time
a = time.perf_counter()
import edgekit
model_path, image, cache = sys.argv[1:4]
model = edgekit.load(model_path, cache=cache or False, conf=0.25)
b = time.perf_counter()
found = len(model(image)[0].boxes)
print(json.dumps({"boxes": found, "load_ms": 1e3 * (b - a), "call_ms": 1e3 * (time.perf_counter() - b)}), flush=True)
"""
PEER = """
import json, sys, time
a = time.perf_counter()
model_path, image, scripts, side = sys.argv[1:5]
sys.path.insert(0, scripts)
import cpu_torchvision
from ultralytics import YOLO
model = YOLO(model_path, task="detect")
b = time.perf_counter()
found = len(model(image, imgsz=int(side), verbose=False)[0].boxes)
answer = {"boxes": found, "load_ms": 1e3 * (b - a), "call_ms": 1e3 * (time.perf_counter() - b)}
print("ANSWER" + json.dumps(answer), flush=True)
"""


def main() -> None:
    options = _options()
    sys.path.insert(0, str(REPO))
    import numpy as np

    from edgekit.bench import machine
    from edgekit.bench.intervals import ratio_interval
    from edgekit.runtime.manifest import read_bundle

    read = read_bundle(Path(options.bundle))
    with tempfile.TemporaryDirectory() as cache:
        ours = [sys.executable, "-c", EDGEKIT, options.bundle, options.image]
        theirs = [options.peer_python, "-c", PEER, options.export, options.image, options.peer_scripts]
        commands = {
            "edgekit": [*ours, ""],
            "edgekit, cache": [*ours, cache],
            "peer": [*theirs, str(read.info.imgsz[0])],
        }
        starts = {name: partial(_start, command) for name, command in commands.items()}
        if options.cpp:
            starts["edgekit, C++"] = _cpp(options, Path(cache) / "pixels")
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in starts}
        for number in range(options.rounds + 1):
            for name in sorted(starts, reverse=bool(number % 2)):
                found = starts[name]()
                if number:
                    rounds[name].append(found)
            print(f"round {number}", file=sys.stderr, flush=True)
    whole = {name: np.array([r["whole_ms"] for r in runs]) for name, runs in rounds.items()}
    rows = []
    for name, runs in rounds.items():
        ratio = ratio_interval(whole["peer"], whole[name]) if name != "peer" else None
        rows.append({
            "side": name,
            **{key: {"min": min(v), "p50": float(np.median(v)), "max": max(v), "n": len(v)}
               for key in ("whole_ms", "load_ms", "call_ms") for v in [[r[key] for r in runs]]},
            "boxes": runs[0]["boxes"],
            "times_as_fast_as_the_peer": dict(zip(("ratio", "low", "high"), ratio, strict=True)) if ratio else None,
        })  # fmt: skip
    document = {
        "schema": 1,
        "kind": "cold",
        "target": read.target,
        "imgsz": list(read.info.imgsz),
        "export": Path(options.export).name,
        "needed": NEEDED,
        "rows": rows,
        "import_ms": _imports(),
        "machine": machine.describe(),
    }
    if options.out:
        Path(options.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["rows"], indent=1))
    best = max(row["times_as_fast_as_the_peer"]["ratio"] for row in rows if row["times_as_fast_as_the_peer"])
    sys.exit(0 if best >= NEEDED else 1)


def _start(command: list[str]) -> dict[str, float]:
    """Start a process and wait for its line; what it said and the milliseconds until then."""
    with tempfile.TemporaryDirectory() as scratch:  # the peer may write where it runs
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=scratch, env=_environment())
        assert process.stdout
        answer: dict[str, Any] = {}
        for line in process.stdout:
            text = line.removeprefix("ANSWER")
            if text.startswith("{"):
                answer = {**json.loads(text), "whole_ms": 1e3 * (time.perf_counter() - began)}
                break
        process.stdout.read()
        if process.wait() or not answer:
            raise SystemExit(f"{command[0]} failed; its messages are above")
    return answer


def _cpp(options: argparse.Namespace, pixels: Path) -> Callable[[], dict[str, float]]:
    """The same of a program without Python."""
    from edgekit.runtime.image import read_image

    image = read_image(Path(options.image))
    pixels.write_bytes(image.tobytes())
    height, width, channels = image.shape
    program = compiled_probe()
    lines = [["load", options.bundle, 0], ["predict", options.bundle, pixels, width, height, channels, 0, "conf=0.25"]]
    asked = "".join("\t".join(map(str, line)) + "\n" for line in lines)

    def start() -> dict[str, float]:
        began = time.perf_counter()
        process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin and process.stdout
        process.stdin.write(asked)
        process.stdin.flush()
        process.stdout.readline()
        loaded = time.perf_counter()
        answer = json.loads(process.stdout.readline())
        done = time.perf_counter()
        process.stdin.close()
        if process.wait() or "error" in answer:
            raise SystemExit(f"{program}: {answer.get('error')}")
        times = {"whole_ms": done - began, "load_ms": loaded - began, "call_ms": done - loaded}
        return {"boxes": len(answer["ok"]["labels"]), **{name: 1e3 * seconds for name, seconds in times.items()}}

    return start


def _imports() -> dict[str, float]:
    """Milliseconds of importing, best of five fresh processes: edgekit alone, and what running a bundle imports."""
    from edgekit.bench.cold import cold_start

    stages = {"edgekit": "import edgekit", "runtime": "import edgekit.runtime.predictor", "openvino": "import openvino"}
    return {name: row["min"] for name, row in cold_start(stages).items() if name.removesuffix("_ms") in stages}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "YOLO_VERBOSE": "False"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=os.path.abspath)
    parser.add_argument("export", type=os.path.abspath, help="the peer's OpenVINO export of the same checkpoint")
    parser.add_argument("image", type=os.path.abspath)
    parser.add_argument("--peer-python", required=True, type=os.path.abspath)
    parser.add_argument("--peer-scripts", required=True, type=os.path.abspath, help="folder with cpu_torchvision.py")
    parser.add_argument("--cpp", action="store_true", help="also a program without Python")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=os.path.abspath)
    return parser.parse_args()


if __name__ == "__main__":
    main()
