"""A set that every implementation of the host side is held to: bundles x images -> the results they must give.

    check(Path("conformance"))["failed"]     # 0

``benchmarks/conformance.py`` makes such a folder of ``bundles/``, ``images/`` and ``conformance.json``: the tolerances
and, for every pair, the options and the expected result as ``predict --json`` prints it. Same count and order, boxes
within 0.5 px, scores within 1e-3: an implementation in another language (or of tomorrow) passes if ``check``'s rules
hold for what it prints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.loading import load
from edgekit.errors import InputError
from edgekit.runtime.masks import decode_rle
from edgekit.runtime.results import Result

SCHEMA = 1
DOCUMENT = "conformance.json"
TOLERANCES = {"boxes_px": 0.5, "keypoints_px": 0.5, "scores": 1e-3, "angle_rad": 2e-2, "mask_iou": 0.98}


def check(folder: Path, device: str | None = None) -> dict[str, Any]:
    """Run every case again with this implementation.

    Returns:
        ``cases``, ``failed`` and a row per failure: bundle, image and what is wrong.

    Raises:
        InputError: no conformance set, or one of a newer schema.
    """
    document = _read(folder)
    failures = []
    predictors: dict[str, Any] = {}
    for case in document["cases"]:
        name = case["bundle"]
        if name not in predictors:
            predictors[name] = load(folder / name, device=device)
        found = predictors[name].predict(folder / case["image"], **case["options"])[0]
        wrong = differences(case["expected"], found, document["tolerances"])
        if wrong:
            failures.append({"bundle": name, "image": case["image"], "wrong": wrong})
    for predictor in predictors.values():
        predictor.close()
    return {"cases": len(document["cases"]), "failed": len(failures), "failures": failures}


def _read(folder: Path) -> dict[str, Any]:
    where = folder / DOCUMENT
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
        schema = int(document["schema"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: no conformance set; make one with benchmarks/conformance.py") from error
    if schema > SCHEMA:
        raise InputError(f"{where}: conformance schema {schema}, this edgekit reads up to {SCHEMA}; upgrade edgekit")
    return dict(document)


def differences(expected: dict[str, Any], found: Result, tolerances: dict[str, float]) -> list[str]:
    """What is wrong with ``found``, in sentences; empty where it conforms."""
    given = found.to_dict()
    wrong = []
    for key in ("labels", "names"):
        if expected.get(key) != given.get(key):
            return [f"{key} are {given.get(key)}, expected {expected.get(key)}"]
    limits = {
        "boxes": tolerances["boxes_px"],
        "keypoints": tolerances["keypoints_px"],
        "scores": tolerances["scores"],
        "probs": tolerances["scores"],
    }
    for key, limit in limits.items():
        if (key in expected) != (key in given):
            wrong.append(f"{key} are {'missing' if key in expected else 'unexpected'}")
        elif key in expected:
            gap = _gap(expected[key], given[key])
            if not gap <= limit:
                wrong.append(f"{key} are off by {gap:.3g}, allowed {limit:g}")
    if "rotated_boxes" in expected:
        want, have = (np.array(v, float).reshape(-1, 5) for v in (expected["rotated_boxes"], given["rotated_boxes"]))
        turn = np.abs((want[:, 4] - have[:, 4] + np.pi / 2) % np.pi - np.pi / 2).max(initial=0.0)
        gap = _gap(want[:, :4], have[:, :4])
        if not (gap <= tolerances["boxes_px"] and turn <= tolerances["angle_rad"]):
            wrong.append(f"rotated_boxes are off by {gap:.3g} px and {turn:.3g} rad")
    if "masks" in expected:
        overlaps = [_mask_iou(a, b) for a, b in zip(expected["masks"], given["masks"], strict=True)]
        if overlaps and not min(overlaps) >= tolerances["mask_iou"]:
            wrong.append(f"a mask overlaps the expected one by {min(overlaps):.3f} only")
    return wrong


def _gap(want: Any, have: Any) -> float:
    a, b = np.array(want, float), np.array(have, float)
    return float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")


def _mask_iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    first, second = decode_rle(a), decode_rle(b)
    union = int((first | second).sum())
    return 1.0 if union == 0 else float((first & second).sum() / union)
