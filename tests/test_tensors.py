"""Checkpoints as safetensors: nothing is lost, in either direction."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import load_file, save_file

from edgekit import checkpoint
from edgekit.bundle import source
from edgekit.checkpoint import Checkpoint, catalog
from edgekit.cli import main
from edgekit.errors import InputError


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    net = checkpoint.new(catalog.spec("yolo12n-seg", classes=2), ("cat", "dog"), 96, seed=3)
    net.license, net.provenance = "AGPL-3.0", {"origin": "a test", "epoch": 4}
    return net


def same(one: Checkpoint, other: Checkpoint) -> bool:
    first, second = one.net.state_dict(), other.net.state_dict()
    told = all(getattr(one, k) == getattr(other, k) for k in ("names", "imgsz", "license", "provenance", "spec"))
    return told and list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def test_there_and_back(made: Checkpoint, tmp_path: Path) -> None:
    path = checkpoint.save(made, tmp_path / "m.safetensors")
    assert same(checkpoint.load(path), made)
    theirs = load_file(path)  # the package itself
    assert all(torch.equal(theirs[k], v) for k, v in made.net.state_dict().items())
    assert source.describe(path).names == made.names and source.describe(path).task == "segment"
    again = checkpoint.save(made, tmp_path / "n.safetensors")
    assert path.read_bytes() == again.read_bytes()


def test_import_takes_and_writes_it(made: Checkpoint, tmp_path: Path) -> None:
    first = checkpoint.save(made, tmp_path / "m.pt")
    for given, out in ((first, "n.safetensors"), (tmp_path / "n.safetensors", "o.pt")):
        with pytest.raises(SystemExit) as left:
            main(["import", str(given), "--out", str(tmp_path / out)])
        assert left.value.code == 0 and same(checkpoint.load(tmp_path / out), made)


def test_tensors_alone(made: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "alone.safetensors"
    save_file({f"module.{k}": v for k, v in made.net.state_dict().items()}, path)
    for read in (checkpoint.load, source.describe):
        with pytest.raises(InputError, match="--model"):
            read(path)
    found = checkpoint.load_state_dict(path, "yolo12n-seg", made.names)
    assert all(torch.equal(v, made.net.state_dict()[k]) for k, v in found.net.state_dict().items())


@pytest.mark.parametrize("cut", [0, 4, 100, -10])
def test_damaged(made: Checkpoint, tmp_path: Path, cut: int) -> None:
    path = checkpoint.save(made, tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="m.safetensors"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="gone"):
        checkpoint.load(tmp_path / "gone.safetensors")
