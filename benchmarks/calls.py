"""One image, array to final boxes: edgekit's bundles beside the peer's exports of the same weights, taking turns.

    python benchmarks/calls.py IMAGE... --ours BUNDLE... --theirs EXPORT... --threads 2 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --rounds 15 --out benchmarks/results/calls-n.json

Every contestant is a process of its own that has its model loaded and the images decoded, and answers each of them once
when told to; the order turns round from round to round. A contestant's time in a round is the median over the images of
its whole call: letterbox, network, suppression, results. For every pair of a bundle and an export the ratio of the two
times of the same round is given with its bootstrap interval (above 1: the bundle is faster), also of every further
bundle and the first, and minima and medians of all calls besides.

The peer is run, never imported: this file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _sides import serve, side, take_turns

REPO = Path(__file__).resolve().parents[1]
WARM = 3  # calls of each image, not counted


def main() -> None:
    options = _options()
    if options.worker:
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.noise import NoiseMonitor
    from edgekit.runtime.versions import versions

    with ExitStack() as stack:
        sides = {
            (kind, path): stack.enter_context(side(__file__, kind, python, "--one", str(Path(path).resolve())))
            for kind, python, paths in (
                ("edgekit", sys.executable, options.ours),
                ("peer", options.peer_python, options.theirs),
            )
            for path in paths
        }
        for work in sides.values():
            work()
        with NoiseMonitor(helpers=[work.pid for work in sides.values()]) as watch:
            answers = take_turns(sides, options.rounds, watch.tick)
    document = {
        "schema": 1,
        "kind": "calls",
        "what": "one image, array to final boxes, beside the peer",
        "imgsz": options.imgsz,
        "images": len(options.images),
        "rounds": options.rounds,
        "threads": options.threads,
        **_figures(answers),
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "versions": versions("edgekit", "openvino", "onnxruntime"),
        "machine": machine.describe(),
    }
    if options.out:
        Path(options.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: document[key] for key in ("rows", "ratios", "disturbances")}, indent=1))


def _figures(answers: dict[tuple[str, str], list[dict[str, Any]]]) -> dict[str, Any]:
    """Rows of single contestants, and the ratio of every export to every bundle."""
    import numpy as np

    from edgekit.bench.intervals import ratio_interval

    def label(name: tuple[str, str]) -> str:
        return " ".join([name[0], *Path(name[1]).parts[-2:]])

    calls = {name: np.array([run["ms"] for run in runs]) for name, runs in answers.items()}  # [rounds, images]
    rows = [
        {
            "contestant": label(name),
            "objects": answers[name][-1]["objects"],
            "whole_ms": {"min": float(ms.min()), "p50": float(np.median(ms)), "p90": float(np.quantile(ms, 0.9))},
        }
        for name, ms in calls.items()
    ]
    ratios = []
    own = [name for name in calls if name[0] == "edgekit"]
    pairs = [(theirs, ours) for ours in own for theirs in calls if theirs[0] == "peer"]
    for theirs, ours in [*pairs, *((other, own[0]) for other in own[1:])]:
        ratio, low, high = ratio_interval(np.median(calls[theirs], 1), np.median(calls[ours], 1))
        least = float(calls[theirs].min() / calls[ours].min())
        ratios.append(
            {"of": label(theirs), "to": label(ours), "ratio": ratio, "low": low, "high": high, "of_minima": least}
        )
    return {"rows": rows, "ratios": ratios}


def _edgekit(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(REPO))
    import edgekit

    def load() -> Callable[[Any], int]:
        model = edgekit.load(options.one, threads=options.threads, conf=0.25)
        return lambda image: len(model(image)[0])

    _serve(options.images, load)


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import torch
    from ultralytics import YOLO

    def load() -> Callable[[Any], int]:
        if options.threads:
            torch.set_num_threads(options.threads)
        model, size = YOLO(options.one, task="detect"), _size_of(options)
        return lambda image: len(model(image, imgsz=size, conf=0.25, verbose=False)[0])

    _serve(options.images, load)


def _size_of(options: argparse.Namespace) -> Any:
    """What an export was made for, as it says beside itself; else --imgsz."""
    about = Path(options.one) / "metadata.yaml"
    if not about.is_file():
        return options.imgsz
    import yaml

    return yaml.safe_load(about.read_text(encoding="utf-8"))["imgsz"]


def _serve(paths: list[str], load: Callable[[], Callable[[Any], int]]) -> None:
    """Load and warm up when first told to (what libraries print then is out of the way), and answer the images."""
    import cv2

    images = [cv2.imread(path) for path in paths]
    loaded: list[Callable[[Any], int]] = []

    def run() -> dict[str, Any]:
        if not loaded:
            loaded.append(load())
            for image in images * WARM:
                loaded[0](image)
        predict = loaded[0]
        ms, objects = [], 0
        for image in images:
            began = time.perf_counter()
            objects += predict(image)
            ms.append(1e3 * (time.perf_counter() - began))
        return {"ms": ms, "objects": objects}

    serve(run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--ours", nargs="+", required=True, help="bundles")
    parser.add_argument("--theirs", nargs="+", required=True, help="the peer's exports")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--peer-scripts", required=True)
    parser.add_argument("--out")
    parser.add_argument("--worker")
    parser.add_argument("--one", help="the contestant of this process")
    options = parser.parse_args()
    options.images = [str(Path(image).resolve()) for image in options.images]
    return options


if __name__ == "__main__":
    main()
