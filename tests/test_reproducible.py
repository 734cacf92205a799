"""Two builds from the same inputs give the same bytes, wherever and whenever they are made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx")

from edgekit import checkpoint, targets
from edgekit.runtime.manifest import MANIFEST
from tests.networks import pictures, settled

SIZE = (64, 96)
BUILD = """
import sys
from pathlib import Path
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
from edgekit.quantize.options import QuantizeOptions
model, out, data, *names = sys.argv[1:]
asked = QuantizeOptions(Path(data), max_drop=100, timing_s=0.5) if data else QuantizeOptions()
for name in names:
    own = {"engine": "no"} if name.startswith("trt-") else {}
    build(Path(model), name, Path(out) / name, BuildOptions(imgsz=(64, 96), target=own, quantize=asked))
"""
SETTINGS = (
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Asia/Tokyo", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "77"},
)
DOCUMENTED = Path(__file__).resolve().parents[1] / "docs/reference/manifest.md"

Contents = dict[str, bytes]


def contents(folder: Path) -> Contents:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def measured() -> set[str]:
    """The manifest's keys that are documented as measured: the first column of the table of that name."""
    table = DOCUMENTED.read_text(encoding="utf-8").split("## What is measured")[1]
    return set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def told(manifest: bytes) -> dict[str, Any]:
    """What it says, but for what is measured."""
    return {key: value for key, value in json.loads(manifest).items() if key not in measured()}


def built_twice(model: Path, wanted: Sequence[str], folder: Path, data: Callable[[Path, int], None] | None) -> None:
    """Build in two places and settings, and compare: model files byte for byte, manifests but for what is measured."""
    known = [targets.get(name) for name in wanted]
    names = [t.name for t in known if t.engines or (t.missing() is None and t.missing_to_build() is None)]
    made: list[Contents] = []
    for number, setting in enumerate(SETTINGS):
        out = folder / ("é" * number) / f"made {number}"
        out.mkdir(parents=True)
        source = out.parent / f"model{number}.pt"  # neither its name nor its place may matter
        source.write_bytes(model.read_bytes())
        images = folder / f"elsewhere{number}" / "set"
        if data is not None:
            data(images, number)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **setting}
        command = [sys.executable, "-c", BUILD, str(source), str(out), str(images) if data else "", *names]
        subprocess.run(command, cwd=out, env=environment, check=True, capture_output=True)
        made.append(contents(out))
    first, second = made
    assert set(first) == set(second)
    assert {name.split("/")[0] for name in first} == set(names)
    assert [n for n in first if not n.endswith(MANIFEST) and first[n] != second[n]] == []
    for name in (n for n in first if n.endswith(MANIFEST)):
        assert told(first[name]) == told(second[name])
        assert data is not None or first[name] == second[name]


@pytest.mark.slow
def test_two_builds_are_equal(tmp_path: Path) -> None:
    model = checkpoint.save(settled("yolo12n", pictures(), 4e-3, ("a", "b", "c")), tmp_path / "model.pt")
    built_twice(model, ("ort-fp32", "ov-fp32", "ov-fp16", "ncnn-fp16", "trt-fp16"), tmp_path, None)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "detect"])
@pytest.mark.parametrize("target", ["ort-int8", "ov-int8", "trt-int8"])
def test_two_builds_in_eight_bits_are_equal(target: str, task: str, tmp_path: Path) -> None:
    """Calibrated and judged on the same images, which lie elsewhere and were written later and in another order: with
    labels (classify), and by agreement. Of engines the graph is looked at, which goes into the builder."""
    if target == "ov-int8":
        pytest.importorskip("nncf")
    name = {"classify": "yolo12n-cls", "detect": "yolo12n"}[task]
    made = settled(name, pictures(SIZE), 1e-3, ("a", "b"))
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), SIZE[::-1]) for _ in range(24)]

    def data(folder: Path, number: int) -> None:
        for i in range(len(images))[:: 1 - 2 * number]:
            split = Path("train" if i < 16 else "val") / "ab"[i % 2] if task == "classify" else Path()
            (folder / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / split / f"{i}.png"), images[i])

    built_twice(checkpoint.save(made, tmp_path / "model.pt"), (target,), tmp_path, data)
