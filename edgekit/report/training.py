"""A training run's folder as a page: how it went, how good the best checkpoint is, and where it fails.

    found = read(Path("runs/bccd"))
    found["best"]["map50_95"], found["charts"][0]

Only files of the folder are read: ``results.csv``, ``options.json``, the pictures, and of ``best.pt`` what it says of
itself, where PyTorch is installed. A run that still goes on is shown as far as it is.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, InputError
from edgekit.image import read_image
from edgekit.report import charts
from edgekit.report.pictures import data_address, shrunk

PICTURES = {
    "pr_curve.png": "Precision and recall",
    "f1_curve.png": "F1 and confidence threshold",
    "confusion.png": "Confusion matrix",
    "worst.png": "The images it does worst on: labels left, found right",
    "predictions.png": "Labels left, found right",
    "labels.png": "What the training images hold",
    "batch.png": "A batch as the network gets it",
}
SIDE = 1400  # pixels of a picture's longer side
MAIN = ("map50_95", "mask_map50_95", "pose_map50_95", "top1")
RESULTS = "results.csv"


def is_run(path: Path) -> bool:
    """Whether ``path`` is a folder that ``edgekit train`` wrote."""
    return (path / RESULTS).is_file() or ((path / "options.json").is_file() and (path / "resume.pt").is_file())


def read(folder: Path) -> dict[str, Any]:
    """Everything the page shows about a run.

    Raises:
        InputError: its ``results.csv`` is missing, empty or damaged.
    """
    rows = _history(folder / RESULTS)
    options = _options(folder / "options.json")
    metric = next((m for m in reversed(MAIN) if any(m in row for row in rows)), None)
    measured = [row for row in rows if metric in row]
    best = max(measured, key=lambda row: row[str(metric)]) if measured else None
    asked = options.get("epochs")
    done = int(rows[-1].get("epoch", len(rows)))
    return {
        "title": f"training run {folder.resolve().name}",
        "metric": metric,
        "best": best,
        "last": rows[-1],
        "epochs": done,
        "asked": asked,
        "rising": _still_rising(measured, str(metric)) if measured else False,
        "charts": _curves(rows),
        "pictures": _pictures(folder),
        "options": options,
        "provenance": _provenance(folder / "best.pt"),
    }


def _history(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{k: float(v) for k, v in row.items() if k and v not in ("", None)} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); it is written by edgekit train after each epoch") from None
    if not rows:
        raise InputError(f"{path}: holds no epoch yet; wait for the first one to end")
    return rows


def _options(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def _still_rising(rows: Sequence[Mapping[str, float]], metric: str) -> bool:
    """Whether the best epoch is among the last tenth, so that more epochs may well give more."""
    values = [row[metric] for row in rows]
    return len(values) >= 5 and values.index(max(values)) >= 0.9 * (len(values) - 1)


def _curves(rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Accuracy, losses and learning rate over epochs, as far as they were noted."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    groups = {
        "Accuracy": [k for k in keys if k.endswith(("map50_95", "map50", "top1", "top5"))],
        "Losses": [k for k in keys if k.startswith("loss_")],
        "Learning rate": [k for k in keys if k == "lr"],
    }
    found = []
    for title, names in groups.items():
        series = {n: [(r.get("epoch", i), r[n]) for i, r in enumerate(rows, 1) if n in r] for n in names}
        series = {n: pairs for n, pairs in series.items() if any(math.isfinite(y) for _, y in pairs)}
        if series:
            best = next((n for n in reversed(MAIN) if n in series), None)
            drawing = charts.lines(series, "epoch", title, best)
            found.append({"title": title, "svg": drawing, "names": [n.removeprefix("loss_") for n in series]})
    return found


def _pictures(folder: Path) -> list[dict[str, str]]:
    found = []
    for name, title in PICTURES.items():
        try:
            picture = read_image(folder / name)
        except InputError:
            continue
        found.append({"title": title, "address": data_address(shrunk(picture, SIDE), 85), "file": name})
    return found


def _provenance(path: Path) -> dict[str, Any]:
    """What the best checkpoint says of itself; why not, where it cannot be read."""
    from edgekit.inspection import inspect

    try:
        facts = inspect(path)
    except EdgekitError as error:
        return {"not read": str(error)}
    kept = {k: facts[k] for k in ("model", "task", "imgsz", "licence", "sha256") if facts.get(k) is not None}
    return kept | {k: v for k, v in facts["provenance"].items() if k not in ("options",)}
