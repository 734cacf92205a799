"""A set that every implementation of the host side is held to: bundles x images -> the results they must give.

    make(Path("conformance"), [Path("a-ov-fp32"), Path("b-ort-fp32")], [Path("images")])
    check(Path("conformance"))["failed"]     # 0

The folder holds ``bundles/``, ``images/`` and ``conformance.json``: the tolerances and, for every pair, the options
and the expected result as ``predict --json`` prints it. Same count and order, boxes within 0.5 px, scores within 1e-3:
an implementation in another language (or of tomorrow) passes if ``check``'s rules hold for what it prints.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.loading import load
from edgekit.errors import InputError
from edgekit.masks import decode_rle
from edgekit.results import Result
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.sources import open_sources

SCHEMA = 1
DOCUMENT = "conformance.json"
TOLERANCES = {"boxes_px": 0.5, "keypoints_px": 0.5, "scores": 1e-3, "angle_rad": 2e-2, "mask_iou": 0.98}
OPTIONS: dict[str, Any] = {"conf": 0.25, "iou": 0.7, "max_det": 300}


def make(out: Path, bundles: Sequence[Path], sources: Sequence[str | Path], most: int = 4) -> dict[str, Any]:
    """Write a conformance set into the new folder ``out``.

    Args:
        out: the folder to make.
        bundles: bundles, copied in; their folder names must differ.
        sources: images or folders of images; the first ``most`` of each are copied in.
        most: images taken of each source.

    Raises:
        InputError: ``out`` is there, a bundle or an image cannot be used, or two have one name.
    """
    if out.exists():
        raise InputError(f"--out {out}: already exists; give a new folder")
    scratch = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "images").mkdir(parents=True)
        images = [
            _copy_image(Path(path), scratch) for source in sources for path in open_sources([source]).paths[:most]
        ]
        cases = []
        for path in bundles:
            name = path.resolve().name
            if (scratch / "bundles" / name).exists():
                raise InputError(f"{path}: a second bundle called {name!r}; rename one of them")
            read_bundle(path)
            shutil.copytree(path, scratch / "bundles" / name)
            predictor = load(scratch / "bundles" / name, **OPTIONS)
            for image in images:
                expected = predictor(scratch / image)[0].to_dict() | {"image": image}
                cases.append({"bundle": f"bundles/{name}", "image": image, "options": OPTIONS, "expected": expected})
            predictor.close()
        document = {"schema": SCHEMA, "tolerances": TOLERANCES, "cases": cases}
        (scratch / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return document


def _copy_image(path: Path, scratch: Path) -> str:
    target = scratch / "images" / path.name
    if target.exists():
        raise InputError(f"{path}: a second image called {path.name!r}; rename one of them")
    shutil.copyfile(path, target)
    return f"images/{path.name}"


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
        raise InputError(f"{where}: no conformance set; make one with: edgekit conformance make") from error
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
