"""How accurately edgekit trains, beside the peer or other runs at the same budget: all judged by `edgekit val`'s code.

    edgekit train bccd/data.yaml --imgsz 320 --epochs 30 --batch 16 --seed 0 --out runs/bccd-s0   # and s1, …
    python benchmarks/training.py runs/bccd-s0 runs/bccd-s1 --data bccd/data.yaml --peer yolo12n-bccd.pt \\
        --name "bccd, from scratch" --out benchmarks/results/training.json

    edgekit train balloon/data.yaml --model yolo12n-bccd.pt --out runs/tuned-s0 …            # and without --model
    python benchmarks/training.py runs/tuned-s0 runs/tuned-s1 --data balloon/data.yaml \\
        --against runs/new-s0 runs/new-s1 --name "balloon, fine-tuned against from scratch"

A row holds the metric of every run's best checkpoint, their mean and spread, and what they are compared with: the
checkpoint the peer made with its own defaults at the same epochs, batch and size, or runs that differ in how they began
(refused if they differ in anything else). Boxes' metrics of masks and keypoints stand in ``others``. Rows of the same
name are replaced.
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
from edgekit.bench import machine
from edgekit.bundle.loading import open_session
from edgekit.data import open_dataset
from edgekit.runtime.atomic import replacing
from edgekit.runtime.predictor import Predictor
from edgekit.verify.evaluate import evaluate

KEPT = ("map50_95", "map50", "mask_map50", "pose_map50")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--peer", type=Path, help="the checkpoint to compare with")
    other.add_argument("--against", type=Path, nargs="+", help="runs that began otherwise")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    options = parser.parse_args()
    settings = settings_of(options.runs[0])
    kept = ("epochs", "batch", "nominal_batch", "imgsz", "optimizer", "lr", "augment")
    row = {"name": options.name, **judged(options.runs, options.data)}
    row["settings"] = {key: settings[key] for key in kept}
    if options.peer:
        metric, theirs = judge(options.peer, options.data)
        row |= {"peer": theirs.pop(metric), "peer_checkpoint": options.peer.name}
        row |= {"peer_others": theirs, "start": Path(settings["model"]).name}
    else:
        began = settings_of(options.against[0])
        if any(settings[key] != began[key] for key in kept):
            raise SystemExit(f"{options.against[0]}: has other settings than {options.runs[0]}")
        row |= {"start": Path(settings["model"]).name, "against": judged(options.against, options.data)}
        row["against"]["start"] = Path(began["model"]).name
    document: dict[str, Any] = {"schema": 1, "kind": "training", "rows": []}
    if options.out.is_file():
        document = json.loads(options.out.read_text())
    document["rows"] = [r for r in document["rows"] if r["name"] != options.name] + [row]
    document["machine"] = machine.describe()
    with replacing(options.out) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(row, indent=1))


def settings_of(run: Path) -> dict[str, Any]:
    """What the run was told."""
    told: dict[str, Any] = json.loads((run / "options.json").read_text())
    return {"nominal_batch" if name == "nominal" else name: value for name, value in told.items()}


def judged(runs: list[Path], data: Path) -> dict[str, Any]:
    """Every run's seed and metric, and the metric's mean and spread."""
    found = [judge(run / "best.pt", data) for run in runs]
    metric = found[0][0]
    values = [value.pop(metric) for _, value in found]
    each = [{"seed": settings_of(run)["seed"], metric: value} for run, value in zip(runs, values, strict=True)]
    for run, (_, others) in zip(each, found, strict=True):
        run["others"] = others
    return {"metric": metric, "runs": each, "mean": float(np.mean(values)), "spread": float(np.ptp(values))}


def judge(checkpoint: Path, data: Path) -> tuple[str, dict[str, float]]:
    """The task's main metric; its value and those of ``KEPT`` for a checkpoint, at the checkpoint's own size."""
    session = open_session(checkpoint)
    dataset = open_dataset(data, session.info.task, "val", names=session.info.names)
    metric = tasks.get(session.info.task).metric
    with Predictor(session, batch=16) as predictor:
        metrics = evaluate(predictor, dataset).scores.metrics
    return metric, {name: metrics[name] for name in metrics if name in (metric, *KEPT)}


if __name__ == "__main__":
    main()
