"""`edgekit bench` end to end on a tiny model: what is written, compared, gated and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import checkpoint
from edgekit.bench import run
from edgekit.bench.profile import profile
from edgekit.bundle import build as building
from edgekit.bundle.loading import load, open_streams
from edgekit.cli import _app
from edgekit.errors import UsageError
from tests.networks import pictures, settled

STAGES = ("pre_ms", "network_ms", "post_ms", "whole_ms")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random classifier as a checkpoint and two bundles, and a folder of class folders with pictures."""
    folder = tmp_path_factory.mktemp("models")
    made = settled("yolo12n-cls", pictures(), 1e-3, ("a", "b", "c"))
    found = {"pt": checkpoint.save(made, folder / "model.pt")}
    for target in ("ort-fp32", "ov-fp32"):
        found[target] = building.build(found["pt"], target, folder / target).path
    rng = np.random.default_rng(0)
    for label in "abc":
        (folder / "data" / "val" / label).mkdir(parents=True)
        for i in range(2):
            picture = rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "data" / "val" / label / f"{i}.png"), picture)
    return {**found, "data": folder / "data"}


@pytest.fixture
def edgekit(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """``edgekit bench WORDS`` → (exit code, JSON document or None, standard error)."""

    def call(*words: object) -> tuple[int, Any, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            _app.main(["bench", *map(str, words)])
        out, err = capfd.readouterr()
        return int(end.value.code or 0), json.loads(out) if out else None, " ".join(err.split())

    return call


def record(name: str, p50: float = 10.0, **changes: Any) -> dict[str, Any]:
    times = {"min": p50, "p50": p50, "p90": p50, "p99": p50, "n": 30}
    about = {"cpu": {"model": "M"}}
    same = {"ratio": None, "rounds": 30, "disturbances": [], "reliable": True, "machine": about}
    return {
        "schema": 1, "artifact": name, "target": "ort-fp32", "precision_executed": "f32",
        **dict.fromkeys(STAGES, times), **same, **changes,
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put made-up records in the place of a measurement."""

    def put(**changes: Any) -> None:
        monkeypatch.setattr(run, "bench", lambda predictors, *_: [record(name, **changes) for name in predictors])

    return put


def test_two_bundles_and_their_accuracy(models: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    words = ("--budget", 1, "--data", models["data"], "--baseline", models["ov-fp32"], "--out", out, "--json")
    code, document, _ = edgekit(models["ort-fp32"], models["ov-fp32"], models["pt"], *words)
    assert code == 0
    assert json.loads(out.read_text()) == document
    assert [r["target"] for r in document] == ["ort-fp32", "ov-fp32", "pytorch"]
    for found in document:
        assert {
            "artifact",
            "precision_executed",
            "precision_by_type",
            "reliable",
            "machine",
            "unmeasured",
        } <= found.keys()
        assert all({"min", "p50", "p90", "p99", "n"} <= found[stage].keys() for stage in STAGES)
        assert found["precision_executed"] == "f32"
        parts = sum(found[stage]["min"] for stage in STAGES[:3])  # medians part where others use the machine
        assert parts == pytest.approx(found["whole_ms"]["min"], rel=0.5)
        assert found["accuracy"]["metric"] == "top1"
        assert found["accuracy"]["images"] == 6
    assert len({found["accuracy"]["value"] for found in document}) == 1  # one function, three runtimes
    assert document[1]["ratio"] is None
    assert document[0]["ratio"]["whole_ms"]["low"] <= document[0]["ratio"]["whole_ms"]["high"]
    assert document[1]["instruction_sets_executed"]


def test_profile_and_cold_start(models: dict[str, Path]) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    for target, types in (("ort-fp32", {"Conv"}), ("ov-fp32", {"Convolution"})):
        with load(models[target]) as predictor:
            found = profile(predictor, [picture], runs=3)
        json.dumps(found)
        for rows in (found["by_type"], found["by_stage"]):
            assert sum(row["ms"] for row in rows) == pytest.approx(found["total_ms"])
            assert sum(row["share"] for row in rows) == pytest.approx(1.0)
        assert types <= {row["type"] for row in found["by_type"]}
        names = {row["stage"]: row["name"] for row in found["by_stage"]}
        assert set(names) == set(range(10))
        assert names[6] == "stage 6 (area attention, P4)"
        assert {"attention", "MLP"} <= next(r for r in found["by_stage"] if r["stage"] == 8)["parts"].keys()
        assert len(found["largest"]) == 3
    with load(models["pt"]) as predictor, pytest.raises(UsageError, match="runs on pytorch, which keeps no profile"):
        profile(predictor, [picture])
    cold = run.cold(str(models["ort-fp32"]), picture, {"foreign": True}, runs=1)
    assert {"import_ms", "load_ms", "first_call_ms", "second_call_ms", "process_ms"} <= cold.keys()
    assert cold.get("peak_mib", cold["load_ms"])["n"] == 1


def test_throughput_is_a_document_of_its_own(models: dict[str, Path], edgekit: Any) -> None:
    code, (found,), _ = edgekit(models["ov-fp32"], "--throughput", "--streams", 2, "--threads", 1, "--json")
    assert code == 0
    assert found["best"] == found["throughput"][0]
    assert found["best"]["config"] == {"streams": 2, "batch": 1, "threads": 1}
    assert found["best"]["streams"] == 2
    assert "whole_ms" not in found


def test_streams_answer_alike_at_the_same_time(models: dict[str, Path]) -> None:
    batch = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    for target in ("ort-fp32", "ov-fp32"):
        first, second = open_streams(models[target], 2, threads=1)
        expected = {role: value.copy() for role, value in first.run(batch).items()}
        second.run(1 - batch)
        assert all(np.array_equal(value, expected[role]) for role, value in first.run(batch).items())
    with pytest.raises(UsageError, match="one stream a process"):
        open_streams(models["pt"], 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"fixed_batch": 1, "cores": 2}, [(1, 1, 2), (2, 1, 1)]),
        ({"fixed_batch": None, "cores": 6, "streams": [3]}, [(3, 1, 2), (3, 4, 2)]),
        ({"fixed_batch": 4, "cores": 6}, [(1, 4, 6), (2, 4, 3), (4, 4, 1), (6, 4, 1)]),
        ({"fixed_batch": None, "cores": 8, "threads": [2, 16], "batches": [8]}, [(4, 8, 2), (1, 8, 16)]),
        ({"fixed_batch": 1, "streams": [1, 2], "threads": [1, 2]}, [(1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2)]),
    ],
)
def test_what_throughput_tries(given: dict[str, Any], expected: list[tuple[int, int, int]]) -> None:
    assert [(c["streams"], c["batch"], c["threads"]) for c in run.choices(**given)] == expected


def test_the_speed_gate(models: dict[str, Path], edgekit: Any, measured: Any, tmp_path: Path) -> None:
    old, out = tmp_path / "old.json", tmp_path / "new.json"
    name = str(models["ort-fp32"])
    old.write_text(json.dumps([record(name, 10.0)]))
    measured(p50=10.9)
    code, _, err = edgekit(name, "--against", old, "--max-slowdown", "10%", "--out", out)
    assert (code, out.exists()) == (0, True)
    assert "9.0% slower" in err
    out.unlink()
    measured(p50=11.1)
    code, document, err = edgekit(name, "--against", old, "--max-slowdown", "10%", "--out", out, "--json")
    assert code == 1
    assert "11.1 ms where it was 10 ms, 11.0% slower; 10.0% are allowed" in err
    assert not out.exists()  # a failed gate leaves its evidence only
    evidence = json.loads((tmp_path / "new.json.failed.json").read_text())
    assert evidence["records"] == document
    assert "slower" in evidence["failures"][0]


def test_a_disturbed_run_fails_where_stability_is_required(
    models: dict[str, Path], edgekit: Any, measured: Any
) -> None:
    measured(disturbances=["other processes used 0.9 of 2 cores for 50% of the run"], reliable=False)
    assert edgekit(models["ort-fp32"])[0] == 0
    code, _, err = edgekit(models["ort-fp32"], "--require-stable")
    assert code == 1
    assert "the run was disturbed: other processes used 0.9 of 2 cores" in err


def test_bad_input(models: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    name = models["ort-fp32"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.json").write_text(json.dumps([{**record("x"), "schema": 7}]))
    (tmp_path / "here.json").write_text("{}")
    for words, message in (
        ((name, name.parent / "." / name.name), "is given twice; copy it"),
        ((name, "--baseline", "other"), "--baseline other: not among the models"),
        ((name, "--images", tmp_path / "empty"), "holds no images"),
        ((name, "--against", tmp_path / "old.json"), "has schema 7, this edgekit reads 1"),
        ((name, "--against", tmp_path / "none.json"), "not readable bench results"),
        ((name, "--max-slowdown", "10"), "--max-slowdown 10: give a percentage such as 10%"),
        ((name, "--max-slowdown", "-3%"), "give a percentage"),
        ((name, "--threads", "1,2"), "go with --throughput"),
        ((name, "--threads", "two"), "--threads two: give whole numbers"),
        ((name, "--throughput", "--batches", "4"), "built for a batch of 1"),
        ((name, "--throughput", "--against", tmp_path / "old.json"), "drop --against"),
        ((name, "--out", tmp_path / "here.json"), "already exists; give --force"),
        ((name, "--out", tmp_path / "no" / "x.json"), "there is no folder"),
        ((tmp_path / "empty",), "not a bundle"),
    ):
        code, _, err = edgekit(*words)
        assert (code, message in err) == (2, True), (words, err)


def test_models_of_different_tasks_or_classes(
    models: dict[str, Path], edgekit: Any, tmp_path: Path, shared: Path
) -> None:
    detector = shared / "fixtures" / "yolo12n-bccd.pt"
    code, _, err = edgekit(models["ort-fp32"], detector)
    assert (code, "only models of one task compare" in err) == (2, True)
    other = shutil.copytree(models["data"], tmp_path / "data")
    (other / "val" / "c").rename(other / "val" / "d")
    code, _, err = edgekit(models["ort-fp32"], "--data", other)
    assert (code, "has the class 'd', which the model does not know" in err) == (2, True)


def test_one_image_is_enough(models: dict[str, Path], edgekit: Any, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((40, 30, 3), np.uint8))
    code, document, _ = edgekit(models["ort-fp32"], "--images", tmp_path, "--budget", 1, "--json")
    assert (code, len(document)) == (0, 1)
