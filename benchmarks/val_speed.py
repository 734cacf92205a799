"""How many images a second `val` scores, the network's own time aside: edgekit beside the peer, in one interleaved run.

    python benchmarks/val_speed.py CHECKPOINT.pt data.yaml --imgsz 320 \\
        --peer-python PEER/bin/python --peer-scripts ../shared/peer --out benchmarks/results/val-speed-bccd.json

Each side is a process of its own that stays alive, has the model loaded and validates the whole set when told to; they
take turns. Both run the same checkpoint in PyTorch with the same batch and threads, so what differs is everything else:
reading, resizing, suppression, matching, metrics. What is timed and how it is told apart:

- whole: reading the labels to the finished metrics, without starting Python and loading the model;
- network: the peer's own figure for its forward passes. edgekit's overlap with the rest, which stretches them, so the
  same batches are also run alone, and *that* time is taken off: what is left is all that the rest adds to the wait;
- NMS: time inside the operator that suppresses boxes; taken off for the peer (its environment has a slow one), not for
  edgekit.

The peer is run, never imported: this file calls it only where its own Python executes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
NEEDED = 2.0  # times the peer's rate


def main() -> None:
    options = _options()
    if options.worker:
        {"edgekit": _edgekit, "peer": _peer}[options.worker](options)
        return
    sys.path.insert(0, str(REPO))
    from edgekit.bench import machine
    from edgekit.bench.watch import Watch

    rounds: dict[str, list[dict[str, float]]] = {"edgekit": [], "peer": []}
    with _worker("edgekit", sys.executable) as edgekit, _worker("peer", options.peer_python) as peer:
        sides = {"edgekit": edgekit, "peer": peer}
        for side in sides.values():
            side()  # caches, thread pools and lazy imports
        with Watch(helpers=[edgekit.pid, peer.pid]) as watch:
            for number in range(options.rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    rounds[name].append(sides[name]())
                    watch.tick()
                _say(f"round {number + 1}: " + ", ".join(f"{n} {r[-1]['whole_s']:.2f} s" for n, r in rounds.items()))
    report = {
        "what": "images per second of val, network time aside",
        "checkpoint": Path(options.checkpoint).name,
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
    sys.exit(0 if report["ratio"]["p50"] >= NEEDED else 1)


def _summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Rates of both sides and their ratio, medians and ranges over the rounds."""
    import numpy as np

    rates: dict[str, dict[str, Any]] = {}
    for name, runs in rounds.items():
        n = runs[0]["images"]
        rest = np.array([r["whole_s"] - r["network_s"] for r in runs])
        nms = np.array([r["nms_s"] for r in runs])
        rates[name] = {
            "whole": n / np.array([r["whole_s"] for r in runs]),
            "without_network": n / rest,
            "without_network_and_nms": n / (rest - nms),
        }
    ours, theirs = rates["edgekit"], rates["peer"]
    ratios = {
        "ratio": ours["without_network"] / theirs["without_network_and_nms"],
        "ratio_with_the_peers_nms": ours["without_network"] / theirs["without_network"],
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
    import numpy as np

    from edgekit import tasks
    from edgekit.data import open_dataset
    from edgekit.evaluate import evaluate
    from edgekit.image import read_image
    from edgekit.loading import open_session
    from edgekit.runtime.predictor import Predictor

    session = open_session(options.checkpoint, None, options.threads, options.imgsz)
    predictor = Predictor(session, batch=options.batch)
    info = session.info

    def run() -> dict[str, Any]:
        start = time.perf_counter()
        dataset = open_dataset(options.data, info.task, names=info.names)
        evaluation = evaluate(predictor, dataset)
        whole = time.perf_counter() - start
        paths = [sample.path for sample in dataset.samples]
        alone = 0.0
        for first in range(0, len(paths), options.batch):
            batch, _ = predictor.preprocess([read_image(p) for p in paths[first : first + options.batch]])
            began = time.perf_counter()
            session.run(np.ascontiguousarray(batch))
            alone += time.perf_counter() - began
        busy = evaluation.seconds
        metric = evaluation.scores.metrics[tasks.get(info.task).metric]
        times = {"whole_s": whole, "network_s": alone, "network_overlapped_s": busy["network"], "nms_s": 0.0}
        parts = {f"{part}_s": busy[part] for part in ("read", "pre", "post", "score")}
        return {"images": len(dataset), "metric": metric, **times, **parts}

    _serve(run)


def _peer(options: argparse.Namespace) -> None:
    sys.path.insert(0, options.peer_scripts)
    import cpu_torchvision  # noqa: F401
    import torch
    import torchvision
    from ultralytics import YOLO

    if options.threads:
        torch.set_num_threads(options.threads)
    spent = [0.0]
    plain = torchvision.ops.nms

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(*args)
        finally:
            spent[0] += time.perf_counter() - began

    torchvision.ops.nms = timed
    model = YOLO(options.checkpoint)

    def run() -> dict[str, Any]:
        spent[0] = 0.0
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
            "network_s": parts["inference_s"],
            "nms_s": spent[0],
            **parts,
        }

    _serve(run)


def _serve(run: Callable[[], dict[str, Any]]) -> None:
    """Answer each line of standard input with one line of JSON; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for _ in sys.stdin:
        answers.write(json.dumps(run()) + "\n")
        answers.flush()


class _Side:
    """A worker process; calling it makes it validate once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.pid = process, process.pid

    def __call__(self) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]} ended without an answer; its messages are above")
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def _worker(name: str, python: str) -> Iterator[_Side]:
    words = [python, str(Path(__file__).resolve()), *sys.argv[1:], "--worker", name, "--images", str(_count())]
    with tempfile.TemporaryDirectory() as scratch:  # the peer writes a folder of results where it runs
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=scratch)
        try:
            yield _Side(process)
        finally:
            with suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            process.wait(60)


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
