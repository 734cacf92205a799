"""`edgekit tune`: what it reports, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import shapeset
from edgekit import checkpoint
from edgekit.cli import main, tune
from tests.networks import noise, settled

WORDS = "--epochs 1 --batch 4 --workers 0 --target ort-fp32 --budget 1 --imgsz 64".split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A set and a checkpoint that stands for a trained one."""
    root = tmp_path_factory.mktemp("shapes")
    data = shapeset.make_set(root, train=6, val=2, size=96)
    fresh = settled("yolo12n", noise(4, 3, 64, 64), 1e-3, shapeset.NAMES, seed=1)
    return data, checkpoint.save(fresh, root / "trained.pt")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["tune", *map(str, words)])
    return int(end.value.code or 0)


@pytest.mark.slow
def test_tune_reports_accuracy_and_latency_before_and_after(
    trained: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, model = trained
    assert run(model, "--data", data, "--out", tmp_path / "run", *WORDS, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["activation"] == ["silu", "hardswish"] and report["target"] == "ort-fp32"
    tuned = checkpoint.load(Path(report["tuned"]))
    assert tuned.spec.activation == "hardswish"
    assert tuned.provenance["teacher_sha256"] == checkpoint.load(model).sha256
    accuracy, latency = report["accuracy"], report["latency"]
    difference = accuracy["after"]["map50_95"] - accuracy["before"]["map50_95"]
    assert accuracy["points"] == pytest.approx(100 * difference)
    for name in ("before", "after"):
        assert latency[name]["whole_ms"]["p50"] >= latency[name]["network_ms"]["p50"] > 0
    assert latency["whole_ratio"]["low"] <= latency["whole_ratio"]["ratio"] <= latency["whole_ratio"]["high"]
    assert isinstance(latency["reliable"], bool) and report["imgsz"] == [64, 64]

    assert run(model, "--data", data, "--out", tmp_path / "run", *WORDS) == 2
    assert "--resume" in capfd.readouterr().err
    assert run(report["tuned"], "--data", data, "--out", tmp_path / "again", *WORDS) == 2
    assert "has it already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["--activation", "gelu"], "--activation gelu"), (["--target", "ort-fp8"], "ort-fp8")],
)
def test_what_cannot_be_tuned(
    words: list[str], sentence: str, trained: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, model = trained
    assert run(model, "--data", data, "--out", tmp_path / "run", *WORDS, *words) == 2
    assert sentence in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_table_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    times = {"whole_ms": {"p50": 20.0}, "network_ms": {"p50": 15.0}}
    report: dict[str, Any] = {
        "tuned": "run/best.pt",
        "activation": ["silu", "hardswish"],
        "metric": "map50_95",
        "accuracy": {"before": {"map50_95": 0.44}, "after": {"map50_95": 0.437}, "points": -0.3},
        "epochs": 10,
        "best_epoch": 9,
        "target": "ov-fp16",
        "latency": {
            "before": times,
            "after": {"whole_ms": {"p50": 16.0}, "network_ms": {"p50": 11.0}},
            "whole_ratio": {"ratio": 0.8, "low": 0.79, "high": 0.81},
            "disturbances": ["other processes used the machine"],
        },
    }
    tune._print(report)
    said = capfd.readouterr().err
    assert "0.4400 -> 0.4370 (-0.30 points)" in said and "20.00 ms -> 16.00 ms, ratio 0.800 (0.790 to 0.810)" in said
    assert "other processes" in said


@pytest.mark.slow
def test_tuning_the_bccd_detector(shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Half a point of accuracy at most, for a faster call."""
    words = [shared / "fixtures/yolo12n-bccd.pt", "--data", shared / "data/bccd", "--out", tmp_path / "run"]
    assert run(*words, "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["accuracy"]["points"] >= -0.5
