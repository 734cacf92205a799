"""Bundles: what a manifest may say, what is believed of it, and the sentence for everything else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.checkpoint import catalog
from edgekit.errors import EdgekitError, GateError, InputError, UnsafeFileError
from edgekit.runtime.manifest import manifest_of, read_bundle, write_manifest
from edgekit.spec import ModelInfo
from edgekit.tasks import ports
from tests.hostile.manifests import NO_OBJECT, WRONG, spoil


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A well-formed bundle around a file that no runtime is asked to load."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "model.onnx").write_bytes(b"weights")
    info = ports.info(catalog.spec("yolo12n", classes=2), ("cat", "dog"), (64, 96), license="MIT")
    write_manifest(path, manifest_of(info, "ort-fp32", path, parity={}, rewrites=[]))
    return path


def test_what_was_written_is_read_back(folder: Path) -> None:
    opened = read_bundle(folder)
    info = opened.info
    assert (opened.target, info.task, info.names, info.imgsz) == ("ort-fp32", "detect", ("cat", "dog"), (64, 96))
    assert info.license == "MIT" and info.spec is not None and info.spec.classes == 2
    cells = 8 * 12 + 4 * 6 + 2 * 3
    assert [(p.role, p.shape) for p in info.outputs] == [("boxes", (1, cells, 4)), ("scores", (1, 2, cells))]
    assert ModelInfo.from_dict(info.to_dict()) == info


def test_the_manifest_has_the_keys_others_rely_on(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"schema", "task", "target", "imgsz", "head", "names", "preprocess", "inputs", "outputs", "files"} <= set(
        manifest
    )
    assert set(manifest["outputs"][0]) == {"name", "role", "shape", "dtype"}
    assert list(manifest["files"]) == ["model.onnx"] and len(manifest["files"]["model.onnx"]) == 64


def test_an_altered_file_is_found_by_its_hash(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"weightz")
    with pytest.raises(GateError, match=r"'model.onnx' is not the file the bundle was built with"):
        read_bundle(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(GateError, match=r"'model.onnx' is missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "sub\\..\\..\\secret"])
def test_a_path_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    spoil(folder, lambda m: m["files"].update({name: "0" * 64}))
    with pytest.raises(UnsafeFileError, match="outside the bundle"):
        read_bundle(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    os.symlink(folder.parent / "secret", folder / "link")
    spoil(folder, lambda m: m["files"].update({"link": "0" * 64}))
    with pytest.raises(UnsafeFileError, match="outside the bundle"):
        read_bundle(folder)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_manifest_gets_one_sentence(folder: Path, case: str) -> None:
    change, sentence = WRONG[case]
    spoil(folder, change)
    with pytest.raises(EdgekitError, match=sentence) as caught:
        read_bundle(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text


@pytest.mark.parametrize("text", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_a_manifest_that_is_no_object_gets_one_sentence(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest.json: (not valid JSON|no schema number)"):
        read_bundle(folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        read_bundle(tmp_path)


def test_reading_a_bundle_loads_neither_torch_nor_onnx(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgekit.runtime.manifest import read_bundle; "
        "read_bundle(Path(sys.argv[1])); "
        "from edgekit.runtime.predictor import Predictor; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
