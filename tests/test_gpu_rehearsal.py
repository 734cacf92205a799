"""`edgekit gpu-check` rehearsed on a CPU: every step's own code, on a GPU that is pretended (``gpu_rehearsal.py``)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgekit.report.gpu import plan
from tests.gpu_rehearsal import rehearse, results

pytestmark = pytest.mark.slow  # minutes


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Every step once, but for the comparison with Ultralytics."""
    if shutil.which("g++") is None or shutil.which("gcc") is None:
        pytest.skip("needs gcc and g++")
    folder = tmp_path_factory.mktemp("rehearsal")
    names = ",".join(step.name for step in plan.STEPS if step.name != "peer")
    done = rehearse(folder, ["--only", names, "--minutes", "120"], EDGEKIT_PEER="")
    assert done.returncode == 0, done.stdout
    return results(folder)


def test_every_step_holds(whole: Mapping[str, Any]) -> None:
    """Nothing but what this machine lacks is left out: a DLA, another TensorRT, CUDA's headers, TensorRT-RTX."""
    wrong = {name: step for name, step in whole.items() if step["state"] not in ("works", "works in part", "lacking")}
    assert not wrong
    for name in ("basics", "engine", "int8", "tasks", "scales", "training", "loader", "failures"):
        assert whole[name]["state"] == "works", whole[name]
    assert whole["experimental"]["state"] == "works in part"


def test_the_refusals_are_those_that_were_planned(whole: Mapping[str, Any]) -> None:
    says = {row["name"]: row["says"] for row in whole["failures"]["findings"]}
    assert "SM 86" in says["engine of another SM"] and "CUDA 99" in says["driver too old"]
    assert "cudaErrorMemoryAllocation" in says["too little memory"]
    assert "cudaErrorIllegalAddress" in says["context lost: the next run"]


@pytest.mark.parametrize(
    ("fault", "step", "state", "datum"),
    [
        ("numbers", "engine", "fails", "scores"),
        ("numbers", "int8", "fails", "its graph"),
        ("unfused", "engine", "fails", "0 of 8"),
        ("crash", "tasks", "crashed", "SIGSEGV"),
        ("hang", "engine", "hung", "not done in"),
        ("memory", "engine", "memory", "cudaErrorMemoryAllocation"),
        ("missing", "engine", "fails", "libnvinfer.so.10"),
    ],
)
def test_what_goes_wrong_is_reported(fault: str, step: str, state: str, datum: str, tmp_path: Path) -> None:
    minutes = "1.5" if fault == "hang" else "30"
    rehearse(tmp_path, ["--only", step, "--minutes", minutes], EDGEKIT_REHEARSAL_FAULT=fault)
    row = results(tmp_path)[step]
    assert row["state"] == state and datum in row["says"], row
