"""How many images a second `val` scores, the network's own time aside: edgekit beside the peer, in one interleaved run.

    python benchmarks/val_speed.py CHECKPOINT.pt data.yaml --imgsz 320 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/val-speed-bccd.json

Each side is a process of its own that stays alive, has the model loaded and validates the whole set when told to; they
take turns. Both run the same checkpoint in PyTorch with the same batch, so what differs is everything else: reading,
resizing, suppression, matching, metrics. With BUNDLE --peer-model EXPORT_openvino_model --batch 1 each runs what it
makes of it, and the whole is what counts. What is timed and how it is told apart:

- whole: from the labels to the finished metrics, without starting Python and loading the model;
- without the network: the peer does one thing after the other, so its own figure for the forward passes is taken off.
  edgekit's parts overlap, where a difference would flatter it; it validates once more with the network's recorded
  answers in place of the network, and *that* whole is what counts;
- NMS: time inside the function that suppresses boxes, on both sides. The peer's environment has a slow one, so the
  ratio that is judged leaves it out on both sides; the others are in the report too.

The peer is run, never imported: this file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _sides import serve, side

REPO = Path(__file__).resolve().parents[1]
NEEDED = 2.0  # times the peer's rate


def main() -> None:
    options = _options()
    if options.worker:
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.noise import NoiseMonitor

    rounds: dict[str, list[dict[str, float]]] = {"edgekit": [], "peer": []}
    count = str(_count())
    with (
        side(__file__, "edgekit", sys.executable, "--images", count) as edgekit,
        side(__file__, "peer", options.peer_python, "--images", count) as peer,
    ):
        sides = {"edgekit": edgekit, "peer": peer}
        for work in sides.values():
            work()  # caches, thread pools and lazy imports
        with NoiseMonitor(helpers=[edgekit.pid, peer.pid]) as watch:
            for number in range(options.rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    rounds[name].append(sides[name]())
                    watch.tick()
                _say(f"round {number + 1}: " + ", ".join(f"{n} {r[-1]['whole_s']:.2f} s" for n, r in rounds.items()))
    report = {
        "what": "images per second of val, network time aside",
        "checkpoint": Path(options.checkpoint).name,
        "peer_model": Path(options.peer_model).name if options.peer_model else None,
        "data": Path(options.data).parent.name,
        "imgsz": options.imgsz,
        "batch": options.batch,
        **_summary(rounds),
        "rounds": rounds,
        "reliable": not watch.disturbances(),
        "disturbances": watch.disturbances(),
        "watch": watch.to_dict(),
        "machine": machine.describe(),
    }
    text = json.dumps(report, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text)
    judged = report["ratio_whole" if options.peer_model else "ratio"]
    sys.exit(0 if judged["p50"] >= NEEDED else 1)


def _summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Rates of both sides and their ratios, medians and ranges over the rounds."""
    import numpy as np

    rates: dict[str, dict[str, Any]] = {}
    for name, runs in rounds.items():
        whole, rest, nms = (np.array([r[key] for r in runs]) for key in ("whole_s", "rest_s", "nms_s"))
        seconds = {"whole": whole, "without_network": rest, "without_network_and_nms": rest - nms}
        rates[name] = {kind: runs[0]["images"] / values for kind, values in seconds.items()}
    ours, theirs = rates["edgekit"], rates["peer"]
    ratios = {
        "ratio": ours["without_network_and_nms"] / theirs["without_network_and_nms"],
        "ratio_with_nms": ours["without_network"] / theirs["without_network"],
        "ratio_with_our_nms_only": ours["without_network"] / theirs["without_network_and_nms"],
        "ratio_whole": ours["whole"] / theirs["whole"],
    }

    def figures(values: Any) -> dict[str, float]:
        return {"min": float(values.min()), "p50": float(np.median(values)), "max": float(values.max())}

    return {
        "images": int(rounds["edgekit"][0]["images"]),
        **{key: figures(values) for key, values in ratios.items()},
        "images_per_s": {name: {k: figures(v) for k, v in kinds.items()} for name, kinds in rates.items()},
        "metric": {name: runs[-1]["metric"] for name, runs in rounds.items()},
    }


# ---- the two workers ---------------------------------------------------------------------------------------------


def _edgekit(options: argparse.Namespace) -> None:
    sys.path.insert(0, str(REPO))
    from edgekit import tasks
    from edgekit.bundle.loading import open_session
    from edgekit.bundle.planned import for_all
    from edgekit.data import open_dataset
    from edgekit.runtime import postprocess
    from edgekit.runtime.manifest import is_bundle
    from edgekit.runtime.options import OpenOptions
    from edgekit.runtime.predictor import Predictor
    from edgekit.verify.evaluate import Evaluation, evaluate

    model = Path(options.checkpoint)
    how = OpenOptions(imgsz=None if is_bundle(model) else options.imgsz, threads=options.threads)
    session = _replay(open_session(model, for_all(model, how)))
    predictor = Predictor(session, batch=options.batch)
    nms = postprocess.nms = _Timed(postprocess.nms)

    def once() -> tuple[float, Evaluation]:
        start = time.perf_counter()
        dataset = open_dataset(options.data, session.info.task, names=session.info.names)
        evaluation = evaluate(predictor, dataset)
        return time.perf_counter() - start, evaluation

    def run() -> dict[str, Any]:
        session.record()
        whole, evaluation = once()
        session.replay()
        nms.seconds = 0.0
        rest, again = once()
        metric = tasks.get(session.info.task).metric
        assert again.scores.metrics == evaluation.scores.metrics
        parts = {f"{part}_s": seconds for part, seconds in again.seconds.items() if part not in ("whole", "network")}
        return {
            "images": evaluation.images,
            "metric": evaluation.scores.metrics[metric],
            "whole_s": whole,
            "rest_s": rest,
            "nms_s": nms.seconds,
            **parts,
        }

    serve(run)


def _replay(session: Any) -> Any:
    """``session``, which can give the answers it gave before to the same images, at no cost."""
    from edgekit.runtime.around import Around

    class Replay(Around):
        known: dict[bytes, dict[str, Any]]
        replaying = False

        def record(self) -> None:
            self.known, self.replaying = {}, False

        def replay(self) -> None:
            self.replaying = True

        def run(self, batch: Any) -> dict[str, Any]:
            key = batch[..., ::31, ::31].tobytes()
            if not self.replaying:
                self.known[key] = {role: value.copy() for role, value in super().run(batch).items()}
            return self.known[key]

    return Replay(session)


class _Timed:
    """A function and the seconds spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.seconds += time.perf_counter() - began


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import torch
    import torchvision
    from ultralytics import YOLO

    if options.threads:
        torch.set_num_threads(options.threads)
    nms = torchvision.ops.nms = _Timed(torchvision.ops.nms)
    model = YOLO(options.peer_model or options.checkpoint, task=options.task)

    def run() -> dict[str, Any]:
        nms.seconds = 0.0
        start = time.perf_counter()
        found = model.val(
            data=options.data, imgsz=options.imgsz, batch=options.batch, rect=False, plots=False, verbose=False,
            workers=options.peer_workers, device="cpu",
        )  # fmt: skip
        whole = time.perf_counter() - start
        images = options.images
        parts = {f"{part}_s": ms * images / 1e3 for part, ms in found.speed.items()}
        key = next(k for k in found.results_dict if k.startswith("metrics/mAP50-95") or k.endswith("top1"))
        return {
            "images": images,
            "metric": float(found.results_dict[key]),
            "whole_s": whole,
            "rest_s": whole - parts["inference_s"],
            "nms_s": nms.seconds,
            **parts,
        }

    serve(run)


def _count() -> int:
    """Images of the set, as edgekit counts them."""
    from edgekit.data import open_dataset

    return len(open_dataset(_options().data, _options().task))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=os.path.abspath)
    parser.add_argument("data", type=os.path.abspath, help="a data.yaml in a folder the peer may write its caches to")
    parser.add_argument("--peer-python", required=True, type=os.path.abspath, help="Python of the peer's environment")
    parser.add_argument("--peer-scripts", required=True, type=os.path.abspath, help="folder with cpu_torchvision.py")
    parser.add_argument("--peer-model", type=os.path.abspath, help="what the peer runs, if not the checkpoint")
    parser.add_argument("--peer-workers", type=int, default=0, help="the peer's loader processes")
    parser.add_argument("--task", default="detect")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=os.path.abspath)
    parser.add_argument("--worker", choices=("edgekit", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
