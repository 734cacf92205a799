"""Images per second on a folder: edgekit's stream beside the peer's batch predict, at equal cores, taking turns.

    python benchmarks/folder.py FOLDER BUNDLE PEER_EXPORT[@BATCH]... --streams 2 --threads 2 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --rounds 7 --out benchmarks/results/folder.json

Each side is a process of its own that has its model loaded, and goes through the whole folder when told to: reading and
decoding files, pre-processing, network, suppression and results. `@8` gives the peer eight images a call (its export
must have been made for that batch or a dynamic one); the best of its contestants counts. Cores are those this process
may use (`taskset` chooses them), the same for everybody; threads are each side's own default unless told.

The peer is run, never imported: this file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _sides import serve, side, take_turns

REPO = Path(__file__).resolve().parents[1]
NEEDED = 1.3  # times the peer's best


def main() -> None:
    options = _options()
    if options.worker:
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    import numpy as np

    from edgekit.bench import machine
    from edgekit.bench.intervals import ratio_interval
    from edgekit.bench.noise import NoiseMonitor
    from edgekit.runtime.manifest import read_bundle

    names = {"edgekit": Path(options.bundle).name}
    with ExitStack() as stack:
        sides = {"edgekit": stack.enter_context(side(__file__, "edgekit", sys.executable))}
        for export in options.exports:
            name = f"peer {Path(export).name}"
            names[name] = export
            sides[name] = stack.enter_context(side(__file__, "peer", options.peer_python, "--one", export))
        for work in sides.values():
            work()
        with NoiseMonitor(helpers=[work.pid for work in sides.values()]) as watch:
            rounds = take_turns(sides, options.rounds, watch.tick)
    seconds = {name: np.array([run["seconds"] for run in runs]) for name, runs in rounds.items()}
    best = min((name for name in sides if name != "edgekit"), key=lambda name: float(np.median(seconds[name])))
    ratio = dict(zip(("ratio", "low", "high"), ratio_interval(seconds[best], seconds["edgekit"]), strict=True))
    read = read_bundle(Path(options.bundle))
    document = {
        "schema": 1,
        "kind": "folder",
        "target": read.target,
        "imgsz": list(read.info.imgsz),
        "streams": options.streams,
        "threads": options.threads,
        "best_peer": best,
        "times_the_peers_rate": ratio,
        "needed": NEEDED,
        "rows": [
            {
                "side": name,
                "images": runs[0]["images"],
                "objects": runs[0]["objects"],
                "images_per_s": {
                    "min": float((runs[0]["images"] / seconds[name]).min()),
                    "p50": float(np.median(runs[0]["images"] / seconds[name])),
                    "max": float((runs[0]["images"] / seconds[name]).max()),
                    "n": len(runs),
                },
            }
            for name, runs in rounds.items()
        ],
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "machine": machine.describe(),
    }
    if options.out:
        Path(options.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(
        json.dumps({key: document[key] for key in ("best_peer", "times_the_peers_rate", "rows", "reliable")}, indent=1)
    )
    sys.exit(0 if ratio["ratio"] >= NEEDED else 1)


def _edgekit(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(REPO))
    import edgekit

    model = edgekit.load(options.bundle, streams=options.streams, threads=options.threads, conf=0.25)

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        counts = [len(result) for _, result in model.stream(options.folder)]
        return {"seconds": time.perf_counter() - began, "images": len(counts), "objects": sum(counts)}

    serve(run)


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import torch
    from ultralytics import YOLO

    path, _, batch = options.one.partition("@")
    if options.threads:
        torch.set_num_threads(options.threads)
    model = YOLO(path, task="detect")

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        found = model.predict(
            options.folder,
            imgsz=options.imgsz,
            conf=0.25,
            batch=int(batch or 1),
            stream=True,
            verbose=False,
            rect=False,
        )
        counts = [len(result) for result in found]
        return {"seconds": time.perf_counter() - began, "images": len(counts), "objects": sum(counts)}

    serve(run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=os.path.abspath)
    parser.add_argument("bundle", type=os.path.abspath)
    parser.add_argument("exports", nargs="+", type=os.path.abspath, help="the peer's exports, FOLDER or FOLDER@BATCH")
    parser.add_argument("--peer-python", required=True, type=os.path.abspath)
    parser.add_argument("--peer-scripts", required=True, type=os.path.abspath, help="folder with cpu_torchvision.py")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=os.path.abspath)
    parser.add_argument("--worker", choices=("edgekit", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
