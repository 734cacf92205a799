"""From a checkpoint to something to deploy: `edgekit build`, proofs and gates included, beside the peer's export.

    python benchmarks/build_time.py yolo12n-bccd.pt bccd/data.yaml --peer-python PEER/bin/python \\
        --peer-scripts ../shared/peer --rounds 5 --out benchmarks/results/build-time.json

Whole processes taking turns, each in an empty folder, the order turned round every time:

- ov-fp16 at 640 px, beside the peer's half-precision OpenVINO export (no data, no proof);
- ov-int8 at 320 px, calibrated and judged on the set, beside the peer's INT8 OpenVINO export with the same set.

Seconds are what passed and what the processors worked for it (user and system, of the process and its threads). Of a
machine that has other things to do only the second kind says anything. A ratio below 1: edgekit is faster.
The peer is run, never imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
NEEDED = {"ov-fp16": 0.8, "ov-int8": 2.0}  # times the peer's time, at most
IMGSZ = {"ov-fp16": 640, "ov-int8": 320}
SECONDS = ("wall_s", "cpu_s")


def main() -> None:
    options = _options()
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.runtime.versions import versions

    rows = [_row(target, _runs(_commands(target, options), options.rounds)) for target in options.targets]
    document = {
        "schema": 1,
        "kind": "build-time",
        "what": "seconds of building with proofs and gates, beside the peer's export",
        "checkpoint": Path(options.checkpoint).name,
        "data": Path(options.data).parent.name,
        "rows": rows,
        "versions": versions("edgekit", "torch", "onnx", "openvino", "nncf"),
        "machine": machine.describe(),
    }
    if options.out:
        Path(options.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))


def _commands(target: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """The words of either side; what it makes goes into the folder it runs in."""
    size, narrow = str(IMGSZ[target]), target == "ov-int8"
    ours = [sys.executable, "-m", "edgekit", "build", options.checkpoint, "--target", target, "--imgsz", size]
    theirs = [options.peer_python, str(Path(options.peer_scripts) / "export.py"), options.checkpoint]
    theirs += ["--format", "openvino", "--precision", target.removeprefix("ov-"), "--imgsz", size]
    data = ["--data", options.data] if narrow else []
    return {"edgekit": [*ours, *data, "--out", "made"], "peer": [*theirs, *data, "--out", "made"]}


def _runs(commands: dict[str, list[str]], rounds: int) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in commands}
    for number in range(rounds):
        for side in sorted(commands, reverse=bool(number % 2)):
            runs[side].append(_run(commands[side]))
        print(f"round {number + 1}: { ({s: r[-1] for s, r in runs.items()}) }", file=sys.stderr, flush=True)
    return runs


def _run(command: list[str]) -> dict[str, float]:
    """Seconds that a command took, and the load when it ended."""
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "said.txt", "w+", encoding="utf-8") as said:
        environment = {**os.environ, "PYTHONPATH": str(REPO) if command[1] == "-m" else "", "YOLO_VERBOSE": "False"}
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=scratch, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-2000:]}")
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "load": os.getloadavg()[0]}


def _row(target: str, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    import numpy as np

    from edgekit.bench.intervals import ratio_interval

    values = {side: {key: np.array([run[key] for run in each]) for key in SECONDS} for side, each in runs.items()}
    return {
        "target": target,
        "imgsz": IMGSZ[target],
        "rounds": len(runs["peer"]),
        "needed": NEEDED[target],
        "load": [min(r["load"] for e in runs.values() for r in e), max(r["load"] for e in runs.values() for r in e)],
        **{
            side: {k: {"min": v.min(), "p50": float(np.median(v)), "max": v.max()} for k, v in each.items()}
            for side, each in values.items()
        },
        "times_the_peers": {
            key: dict(
                zip(("ratio", "low", "high"), ratio_interval(values["edgekit"][key], values["peer"][key]), strict=True)
            )
            for key in SECONDS
        },
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=os.path.abspath)
    parser.add_argument("data", type=os.path.abspath, help="data.yaml that ov-int8 is calibrated and judged on")
    parser.add_argument("--targets", nargs="+", choices=sorted(NEEDED), default=sorted(NEEDED))
    parser.add_argument("--peer-python", required=True, type=os.path.abspath)
    parser.add_argument("--peer-scripts", required=True, type=os.path.abspath, help="folder with export.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=os.path.abspath)
    return parser.parse_args()


if __name__ == "__main__":
    main()
