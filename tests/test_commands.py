"""The commands as a user types them: what they print, write and answer with."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from edgekit import checkpoint
from edgekit.verify.parity import generated_images
from tests.conftest import Run
from tests.networks import pictures, settled
from tests.published_files import published_model, save, save_published


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small random classifier, a set of two classes and four photographs."""
    folder = tmp_path_factory.mktemp("commands")
    made = settled("yolo12n-cls", pictures(), 1e-3, ("cat", "dog"))
    checkpoint.save(made, folder / "model.pt")
    for i, image in enumerate(generated_images(4, side=70)):
        for path in (folder / "set" / "val" / ("cat", "dog")[i % 2] / f"{i}.png", folder / "photos" / f"{i}.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image)
    return folder


@pytest.fixture(scope="module")
def bundle(place: Path) -> Path:
    from edgekit.bundle.build import build

    return build(place / "model.pt", "ov-fp32", place / "bundle").path


def test_models_lists_thirty_with_both_flops(run: Run) -> None:
    code, out, _ = run("models", "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == 30
    row = next(r for r in rows if r["name"] == "yolo12n")
    assert row["parameters"] == 2602288 and row["flops_g"] == pytest.approx(6.488, abs=1e-3)
    assert row["flops_with_attention_g"] == pytest.approx(6.488 + 0.983, abs=1e-3)
    assert row["published"]["map50_95"] == 0.406
    assert {"name", "task", "scale", "family"} <= set(row)
    assert run("models", "--family", "v9")[0] == 2


def test_import_writes_our_own_format(run: Run, shared: Path, tmp_path: Path) -> None:
    source, out = shared / "fixtures" / "yolo12n-bccd.pt", tmp_path / "mine.pt"
    code, printed, _ = run("import", source, "--out", out, "--json")
    document = json.loads(printed)
    assert code == 0 and document["names"] == ["RBC", "WBC", "Platelets"] and "AGPL-3.0" in document["license"]
    assert checkpoint.load(out).spec == checkpoint.load(source).spec
    code, _, error = run("import", source, "--out", out)
    assert code == 2 and "already exists; give --force" in error
    assert run("import", source, "--out", out, "--force")[0] == 0


def test_import_of_a_state_dict_needs_the_models_name(run: Run, tmp_path: Path) -> None:
    state = published_model("yolo12n-cls", classes=2).state_dict()
    source, out = save({"state_dict": state}, tmp_path / "sd.pt"), tmp_path / "mine.pt"
    given = ("import", source, "--out", out)
    for words, says in (
        ((), "--model yolo12n"),
        (("--model", "yolo12n"), "yolo12n-cls"),
        (("--model", "yolo12n-cls", "--names", "a,b,c"), "3 classes"),
        (("--model", "yolo12n-cls", "--activation", "gelu"), "--activation gelu"),
        (("--model", "yolo13n"), "yolo13n"),
    ):
        code, _, error = run(*given, *words)
        assert code == 2 and says in error and not out.exists()
    code, printed, noted = run(*given, "--model", "yolo12n-cls", "--names", "a,b", "--activation", "relu", "--json")
    assert code == 0 and "activation (relu)" in noted
    assert json.loads(printed)["provenance"]["assumed"]["activation"] == "relu"
    loaded = checkpoint.load(out)
    assert loaded.names == ("a", "b") and loaded.spec.activation == "relu"
    assert all(torch.equal(value, state[key]) for key, value in loaded.net.state_dict().items())
    for command in (("export", source, "--out", tmp_path / "m.onnx"), ("inspect", source)):
        code, _, error = run(*command)
        assert code == 2 and f"edgekit import {source} --model" in error and "has no" not in error
    whole = save_published(published_model("yolo12n-cls", classes=2), tmp_path / "whole.pt")
    for words, says in ((("--model", "yolo12s-cls"), "--model yolo12s-cls"), (("--names", "a,b"), "--names a,b")):
        code, _, error = run("import", whole, "--out", tmp_path / "other.pt", *words)
        assert code == 2 and says in error
    assert run("import", whole, "--out", tmp_path / "other.pt", "--model", "yolo12n-cls")[0] == 0


def test_export_and_inspect(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    code, printed, _ = run("export", place / "model.pt", "--out", out, "--json")
    assert code == 0 and json.loads(printed)["outputs"][0]["role"] == "class_probabilities"
    code, printed, _ = run("inspect", out, "--json")
    facts = json.loads(printed)
    assert code == 0 and sum(facts["attention_forms"].values()) == 8
    assert facts["names"] == ["cat", "dog"] and sum(facts["operators"].values()) > 100
    assert run("export", place / "model.pt", "--out", tmp_path / "model.txt")[0] == 2
    assert run("export", place / "model.pt", "--out", tmp_path / "b.onnx", "--imgsz", 100)[0] == 2
    assert run("export", place / "model.pt", "--out", tmp_path / "b.onnx", "--head", "best")[0] == 2


def test_files_from_elsewhere_are_inspected_and_compared(run: Run, place: Path, tmp_path: Path) -> None:
    """The same graph without our metadata: what is left to say of it, and the same function all the same."""
    ours, theirs = tmp_path / "ours.onnx", tmp_path / "theirs.onnx"
    assert run("export", place / "model.pt", "--out", ours)[0] == 0
    model = onnx.load(ours)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}", "license": "MIT"})
    onnx.save(model, theirs)
    facts = json.loads(run("inspect", theirs, "--json")[1])
    assert facts["kind"] == "ONNX file from elsewhere" and facts["metadata"]["license"] == "MIT"
    assert facts["inputs"] == [{"name": "images", "shape": [1, 3, 64, 64], "dtype": "float32"}]
    known = json.loads(run("inspect", ours, "--json")[1])
    assert sum(facts["attention_forms"].values()) == 8
    assert all(facts[key] == known[key] for key in ("attention_forms", "operators", "opset"))
    code, printed, _ = run("compare", ours, theirs, "--images", place / "photos", "--json")
    report = json.loads(printed)
    assert code == 0 and report["second"]["target"] == "onnxruntime" and report["stage"] is None
    assert report["roles"]["class_probabilities"]["max_abs"] == 0 and report["detections"]["same_top1"] == 4
    code, _, error = run("compare", ours, theirs, "--task", "detect")
    assert code == 2 and "theirs.onnx" in error


def test_build_then_inspect_shows_where_it_came_from(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code, printed, _ = run("build", place / "model.pt", "--target", "ort-fp32", "--out", out, "--json")
    assert code == 0 and json.loads(printed)["target"] == "ort-fp32"
    code, printed, _ = run("inspect", out, "--json")
    facts = json.loads(printed)
    assert (
        facts["kind"] == "bundle"
        and facts["provenance"]["checkpoint_sha256"] == checkpoint.load(place / "model.pt").sha256
    )
    (out / "model.onnx").write_bytes(b"altered")
    code, _, error = run("inspect", out)
    assert code == 1 and "its hash differs" in error


def test_predict_prints_one_document_and_nothing_else(run: Run, place: Path, bundle: Path, tmp_path: Path) -> None:
    code, out, _ = run("predict", bundle, place / "photos", "--json", "--out", tmp_path / "seen")
    rows = json.loads(out)
    assert code == 0 and [Path(r["image"]).name for r in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert all(np.isclose(sum(r["probs"]), 1, atol=1e-4) for r in rows)
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["0.png", "1.png", "2.png", "3.png"]
    checkpoint_rows = json.loads(run("predict", place / "model.pt", place / "photos", "--json", "--batch", 3)[1])
    for a, b in zip(rows, checkpoint_rows, strict=True):
        np.testing.assert_allclose(a["probs"], b["probs"], atol=1e-4)


def test_predict_goes_on_past_a_bad_picture_and_says_so(run: Run, place: Path, bundle: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes((place / "photos" / "0.png").read_bytes())
    (tmp_path / "b.png").write_bytes(b"no picture")
    code, out, error = run("predict", bundle, tmp_path, "--json")
    assert code == 2 and len(json.loads(out)) == 2 and "b.png" in error
    (tmp_path / "d.png").write_bytes(b"neither")
    code, _, error = run("predict", bundle, tmp_path, "--json")
    assert code == 2 and "b.png" in error and "d.png" in error and "2 of 4 sources" in error


def test_predict_with_nothing_to_do_or_nothing_there(run: Run, place: Path, bundle: Path, tmp_path: Path) -> None:
    assert run("predict", bundle, place / "photos")[0] == 2
    assert run("predict", bundle, tmp_path, "--json")[0] == 2
    assert run("predict", bundle, place / "photos", "--json", "--classes", "cow")[0] == 2
    assert run("predict", bundle, place / "photos", "--json", "--imgsz", 96)[0] == 2
    assert run("predict", bundle, place / "photos", "--json", "--device", "TPU")[0] == 2


def test_val_of_checkpoint_and_bundle(run: Run, place: Path, bundle: Path, tmp_path: Path) -> None:
    code, out, _ = run("val", bundle, place / "set", "--json", "--save-json", tmp_path / "p.json")
    document = json.loads(out)
    assert code == 0 and document["images"] == 4 and {"metrics", "seconds", "protocol"} <= set(document)
    assert set(document["metrics"]) == {"top1", "top5", "per_class"} and document["metrics"]["top5"] == 1.0
    assert len(json.loads((tmp_path / "p.json").read_text())) == 4
    again = json.loads(run("val", place / "model.pt", place / "set", "--json", "--batch", 2)[1])
    assert again["metrics"] == document["metrics"]
    assert run("val", bundle, place / "set", "--save-json", tmp_path / "p.json")[0] == 2
    assert run("val", bundle, tmp_path / "none", "--json")[0] == 2


def test_compare_exits_by_the_verdict(run: Run, place: Path, bundle: Path, tmp_path: Path) -> None:
    code, out, _ = run("compare", place / "model.pt", bundle, "--images", place / "photos", "--json")
    assert code == 0 and json.loads(out)["detections"]["same_top1"] == 4
    other = checkpoint.load(place / "model.pt")
    other.net.model[-1].linear.bias.data[0] += 1
    code, _, error = run("compare", checkpoint.save(other, tmp_path / "other.pt"), bundle)
    assert code == 1 and "class_probabilities differ" in error
