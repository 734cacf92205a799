"""How accurately edgekit trains, beside the peer at the same budget: finished runs, all judged by `edgekit val`'s code.

    edgekit train bccd/data.yaml --imgsz 320 --epochs 30 --batch 16 --seed 0 --out runs/bccd-s0   # and s1, …
    python benchmarks/training.py runs/bccd-s0 runs/bccd-s1 --data bccd/data.yaml --peer yolo12n-bccd.pt \\
        --name "bccd, from scratch" --out benchmarks/results/training.json

A row holds the metric of every run's best checkpoint, their mean and spread, and the metric of the checkpoint the peer
made with its own defaults at the same epochs, batch and size. Rows of the same name are replaced.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgekit import tasks
from edgekit.atomic import replacing
from edgekit.bench import machine
from edgekit.data import open_dataset
from edgekit.evaluate import evaluate
from edgekit.loading import open_session
from edgekit.runtime.predictor import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True, help="the checkpoint to compare with")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    options = parser.parse_args()
    metric, theirs = judge(options.peer, options.data)
    ours = [judge(run / "best.pt", options.data)[1] for run in options.runs]
    settings = json.loads((options.runs[0] / "options.json").read_text())
    kept = ("epochs", "batch", "imgsz", "optimizer", "lr", "augment")
    row = {
        "name": options.name,
        "metric": metric,
        "runs": [
            {"seed": json.loads((run / "options.json").read_text())["seed"], metric: value}
            for run, value in zip(options.runs, ours, strict=True)
        ],
        "mean": float(np.mean(ours)),
        "spread": float(np.ptp(ours)),
        "peer": theirs,
        "peer_checkpoint": options.peer.name,
        "settings": {key: settings[key] for key in kept},
    }
    document: dict[str, Any] = {"schema": 1, "kind": "training", "rows": []}
    if options.out.is_file():
        document = json.loads(options.out.read_text())
    document["rows"] = [r for r in document["rows"] if r["name"] != options.name] + [row]
    document["machine"] = machine.describe()
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def judge(checkpoint: Path, data: Path) -> tuple[str, float]:
    """The task's main metric and its value for a checkpoint, at the checkpoint's own size."""
    session = open_session(checkpoint)
    dataset = open_dataset(data, session.info.task, "val", names=session.info.names)
    metric = tasks.get(session.info.task).metric
    with Predictor(session, batch=16) as predictor:
        return metric, evaluate(predictor, dataset).scores.metrics[metric]


if __name__ == "__main__":
    main()
