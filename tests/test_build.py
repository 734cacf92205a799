"""From a model to a bundle: what is written, what a failed gate leaves, and what is never lost."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit import checkpoint
from edgekit.bundle import build as building
from edgekit.bundle import loading
from edgekit.bundle.options import BuildOptions
from edgekit.errors import GateError, InputError, UsageError
from edgekit.graph.export import export
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import sha256_file
from edgekit.targets import onnxruntime as ort
from edgekit.verify import parity
from tests.networks import pictures, settled
from tests.test_loader import SETS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier, the quickest network to export."""
    made = settled("yolo12n-cls", pictures(), 1e-4, ("a", "b", "c"))
    return checkpoint.save(made, tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def graph(model: Path) -> Path:
    return export(checkpoint.load(model), model.with_suffix(".onnx")).path


def _files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_checkpoint_becomes_a_bundle_that_leads_back_to_it(model: Path, tmp_path: Path) -> None:
    built = building.build(model, "ov-fp16", tmp_path / "out")
    manifest = built.manifest
    assert manifest["provenance"]["checkpoint_sha256"] == sha256_file(model)
    assert manifest["provenance"]["versions"].keys() >= {"edgekit", "torch", "onnx", "openvino"}
    counted = {row["rule"]: (row["fired"], row["expected"]) for row in manifest["rewrites"]}
    assert counted["attention_operator"] == (8, 8)
    assert manifest["parity"]["class_probabilities"]["pass"] is True
    assert set(manifest["parity"]["class_probabilities"]) == {"max_abs", "mean_abs", "tolerance", "pass"}
    every = {p.relative_to(built.path).as_posix() for p in built.path.rglob("*") if p.is_file()}
    assert _files(tmp_path) == ["out"] and every == {"manifest.json", *manifest["files"]}
    read_bundle(tmp_path / "out")


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32", "ov-fp16"])
def test_an_exported_file_becomes_a_bundle(graph: Path, target: str, tmp_path: Path) -> None:
    built = building.build(graph, target, tmp_path / "out")
    assert built.manifest["provenance"]["onnx_sha256"] == sha256_file(graph)
    assert built.info.names == ("a", "b", "c")
    assert all(row["pass"] for row in built.manifest["parity"].values())
    assert ("weights_parity" in built.manifest) == (target == "ov-fp16")


def test_an_onnxruntime_bundle_can_be_built_from(graph: Path, tmp_path: Path) -> None:
    first = building.build(graph, "ort-fp32", tmp_path / "first")
    second = building.build(first.path, "ov-fp32", tmp_path / "second")
    assert second.manifest["provenance"]["onnx_sha256"] == first.manifest["files"]["model.onnx"]
    with pytest.raises(InputError, match="holds no ONNX file to build from"):
        building.build(second.path, "ort-fp32", tmp_path / "third")


def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that is off by a hundredth."""
    honest = ort.OrtSession.run

    def run(self: ort.OrtSession, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {role: value + (self.path.name == "model.onnx") * 1e-2 for role, value in honest(self, batch).items()}

    monkeypatch.setattr(ort.OrtSession, "run", run)


def test_a_failed_parity_leaves_only_its_evidence(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch)
    with pytest.raises(GateError, match="not the same function as the checkpoint: class_probabilities differ"):
        building.build(model, "ort-fp32", tmp_path / "out")
    assert _files(tmp_path) == ["out.failed.json"]
    evidence = json.loads((tmp_path / "out.failed.json").read_text())
    assert evidence["parity"]["class_probabilities"]["pass"] is False
    monkeypatch.undo()
    building.build(model, "ort-fp32", tmp_path / "out")
    assert _files(tmp_path) == ["out"]  # success removes the old evidence


def test_a_failed_build_keeps_the_older_bundle(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older = building.build(graph, "ort-fp32", tmp_path / "out").manifest
    _broken(monkeypatch)
    monkeypatch.setattr(parity, "tolerances_for", lambda precision: {"class_probabilities": -1.0})
    with pytest.raises(GateError):
        building.build(graph, "ort-fp32", tmp_path / "out")
    assert read_bundle(tmp_path / "out").manifest == older


def test_an_interrupted_build_leaves_nothing(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        building.build(graph, "ort-fp32", tmp_path / "out")
    assert _files(tmp_path) == []


def test_a_folder_of_other_things_is_never_replaced(graph: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="a folder with other files in it"):
        building.build(graph, "ort-fp32", out)
    assert (out / "thesis.txt").read_text() == "three years"


def test_an_unknown_target_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no such target.*ort-fp32"):
        building.build(tmp_path / "any.pt", "ov-fp8", tmp_path / "out")


def test_a_target_without_its_package_says_what_to_install(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'edgekit\[openvino\]'"):
        building.build(graph, "ov-fp32", tmp_path / "out")


def test_the_same_answer_from_checkpoint_file_and_bundles(model: Path, graph: Path, tmp_path: Path) -> None:
    image = parity.generated_images(1)[0]
    expected = loading.load(model)(image)[0].probs
    assert expected is not None and expected.sum() == pytest.approx(1, abs=1e-5)
    paths = [graph, *(building.build(graph, t, tmp_path / t).path for t in ("ort-fp32", "ov-fp32"))]
    for path in paths:
        np.testing.assert_allclose(loading.load(path)(image)[0].probs, expected, atol=1e-4)


def test_an_artifact_keeps_its_size_and_a_checkpoint_does_not(model: Path, graph: Path) -> None:
    with pytest.raises(UsageError, match="was built for 64,64"):
        loading.load(graph, imgsz=96)
    assert loading.load(model, imgsz=(96, 64)).info.imgsz == (96, 64)
    with pytest.raises(InputError, match="multiples of 32"):
        loading.load(model, imgsz=100)


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32"])
def test_a_device_that_does_not_exist(graph: Path, target: str, tmp_path: Path) -> None:
    path = building.build(graph, target, tmp_path / "out").path
    with pytest.raises(UsageError, match="`device` TPU"):
        loading.load(path, device="TPU")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        loading.load(tmp_path / "none")
    with pytest.raises(InputError, match="not a bundle"):
        loading.load(tmp_path)


FIXTURES = {
    "yolo12n-bccd": SETS["detect"],
    "yolo12n-seg-balloon": SETS["segment"],
    "yolo12n-pose-person": SETS["pose"],
    "yolo12n-obb-table-tennis": SETS["obb"],
    "yolo12n-cls-flowers5": SETS["classify"],
}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32", "ov-fp16", "ov-int8", "ort-int8"])
@pytest.mark.parametrize("side", [320, 640])
@pytest.mark.parametrize("name", FIXTURES)
def test_trained_models_of_every_task_build(name: str, side: int, target: str, shared: Path, tmp_path: Path) -> None:
    """No gate cries wolf. With ``EDGEKIT_TEST_FLOAT32`` half-precision weights are executed in float32."""
    quantize = QuantizeOptions()
    if target.endswith("int8"):
        quantize = QuantizeOptions(data=shared / "data" / FIXTURES[name], max_drop=2, timing_s=0)
    options = BuildOptions(imgsz=(side, side), quantize=quantize)
    made = building.build(shared / "fixtures" / f"{name}.pt", target, tmp_path / "out", options)
    assert made.info.imgsz == (side, side)
    accuracy = made.manifest.get("accuracy")
    assert (accuracy is not None) == (quantize.data is not None)
    assert accuracy is None or accuracy["drop_points"] <= 2
