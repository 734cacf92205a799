"""The topk head against the raw head: the same detections after suppression, and what it costs in mAP at 0.001.

    python benchmarks/topk.py --shared ../shared --out benchmarks/results/topk.json

Times nothing. For every checkpoint both heads run on every image; detections at confidence 0.25 must be equal (count,
labels, boxes within 1e-3 px, scores within 1e-6). Accuracy at confidence 0.001 is measured with both heads too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import checkpoint, metrics
from edgekit.data import open_dataset
from edgekit.nn.session import TorchSession
from edgekit.runtime.options import Options
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.sources import open_sources
from edgekit.verify.evaluate import evaluate

SETS = {"coco_mix": "data/coco_mix/val2017", "bccd": "data/bccd/images/val"}
OWN = {
    "yolo12n-bccd": "bccd/data.yaml",
    "yolo12n-seg-balloon": "balloon/data.yaml",
    "yolo12n-pose-person": "person_pose/data.yaml",
    "yolo12n-obb-table-tennis": "table_tennis_obb/data.yaml",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True, help="folder of the real checkpoints and images")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for name, own in OWN.items():
        loaded = checkpoint.load(options.shared / "fixtures" / f"{name}.pt")
        raw, topk = (Predictor(TorchSession(loaded.net, loaded.info(head=head))) for head in ("raw", "topk"))
        for label, folder in SETS.items():
            rows.append({"checkpoint": name, "images": label, **same(raw, topk, options.shared / folder)})
            print(rows[-1], flush=True)
        dataset = open_dataset(options.shared / "data" / own, loaded.spec.task, names=loaded.names)
        found = [evaluate(p, dataset, metrics.Options()).scores.metrics for p in (raw, topk)]
        keys = ("map50_95", "mask_map50_95", "pose_map50_95")
        for key in (k for k in keys if k in found[0]):
            row = {"checkpoint": name, "images": own.split("/")[0], "metric": key}
            before, after = found[0][key], found[1][key]
            rows.append(row | {"raw": before, "topk": after, "difference": after - before})
            print(rows[-1], flush=True)
    options.out.write_text(json.dumps({"schema": 1, "kind": "topk", "rows": rows}, indent=1) + "\n")


def same(raw: Predictor, topk: Predictor, folder: Path) -> dict[str, Any]:
    """Detections of both heads on every image of a folder at confidence 0.25."""
    count = images = different = 0
    for frame in open_sources([folder]):
        if frame.image is None:
            raise SystemExit(str(frame.error))
        a, b = (p.predict(frame.image, **vars(Options(0.25)))[0] for p in (raw, topk))
        places = (a.boxes, b.boxes) if a.boxes is not None else (a.rotated_boxes, b.rotated_boxes)
        equal = len(a) == len(b) and bool((a.labels == b.labels).all())
        equal = equal and float(np.abs(places[0] - places[1]).max(initial=0)) <= 1e-3
        equal = equal and float(np.abs(a.scores - b.scores).max(initial=0)) <= 1e-6
        images, count, different = images + 1, count + len(a), different + (not equal)
    return {"number": images, "detections": count, "different": different}


if __name__ == "__main__":
    main()
