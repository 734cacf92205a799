"""Two builds from the same inputs give the same bytes, wherever and whenever they are made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")

from edgekit import checkpoint, targets
from tests.networks import pictures, settled

BUILD = """
import sys
from pathlib import Path
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
for target in sys.argv[3:]:
    build(Path(sys.argv[1]), target, Path(sys.argv[2]) / target, BuildOptions(imgsz=(64, 96)))
"""
SETTINGS = (
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Asia/Tokyo", "LC_ALL": "de_DE.UTF-8", "PYTHONHASHSEED": "77"},
)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_two_builds_are_equal(tmp_path: Path) -> None:
    model = checkpoint.save(settled("yolo12n", pictures(), 1e-2, ("a", "b", "c")), tmp_path / "model.pt")
    wanted = [targets.get(name) for name in ("ort-fp32", "ov-fp32", "ov-fp16", "ncnn-fp16")]
    names = [t.name for t in wanted if t.missing() is None and t.missing_to_build() is None]
    made = []
    for number, setting in enumerate(SETTINGS):
        out = tmp_path / ("é" * number) / f"made {number}"
        out.mkdir(parents=True)
        source = out.parent / f"model{number}.pt"  # neither its name nor its place may matter
        source.write_bytes(model.read_bytes())
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **setting}
        command = [sys.executable, "-c", BUILD, str(source), str(out), *names]
        subprocess.run(command, cwd=out, env=environment, check=True, capture_output=True)
        made.append(contents(out))
    assert set(made[0]) == set(made[1])
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
