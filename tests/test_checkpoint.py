"""Which network a published file is, and the sentence for every file that is none edgekit knows."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.checkpoint.published import Module, Published, read_published
from edgekit.checkpoint.published.recognition import recognise
from edgekit.errors import InputError
from tests.published_files import published_model, save_published

PATH = Path("some.pt")


@cache
def _written(name: str) -> Published:
    with tempfile.TemporaryDirectory() as folder:
        return read_published(save_published(published_model(name), Path(folder) / "m.pt"))


def published(name: str, **changes: object) -> Published:
    """What a published file of the model ``name`` would hold (random weights)."""
    return dataclasses.replace(_written(name), **changes)


def stating(made: Published, path: str, **attributes: object) -> Published:
    """The same file with other attributes of one module, or of all of a class."""
    modules = {
        name: Module(m.kind, m.attributes | attributes) if path in (name, m.name) else m
        for name, m in made.modules.items()
    }
    return dataclasses.replace(made, modules=modules)


@pytest.mark.parametrize(
    "name",
    ["yolo12n", "yolo12s", "yolo12m", "yolo12l-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls", "yolo12n-turbo"],
)
def test_task_scale_and_family_are_told_from_the_tensors(name: str) -> None:
    assert recognise(published(name), PATH) == catalog.spec(name)


def test_every_fixture_is_what_it_says(shared: Path) -> None:
    for path in sorted((shared / "fixtures").glob("*.pt")):
        spec = checkpoint.load(path).spec
        stated = read_published(path).task
        assert spec.task == stated, path.name
        assert spec.family == ("turbo" if "turbo" in path.name else "v1.0")


def test_attributes_without_a_trace_in_the_tensors_are_taken_from_the_file() -> None:
    odd = stating(stating(published("yolo12n-cls"), "AAttn", area=1), "BatchNorm2d", eps=1e-3, momentum=0.03)
    spec = recognise(odd, PATH)
    assert (spec.areas, spec.norm_eps, spec.norm_momentum) == ((1, 1), 1e-3, 0.03)
    net = checkpoint.from_published(odd, _file(PATH)).net
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert net.model[6].m[0][0].attn.core.area == 1


def _file(path: Path) -> Path:
    """Any file that exists: its hash is taken, its content is not looked at."""
    return Path(__file__)


def _without(made: Published, *keys: str) -> Published:
    return dataclasses.replace(made, state={k: v for k, v in made.state.items() if not k.startswith(keys)})


def _with(made: Published, **tensors: np.ndarray) -> Published:
    return dataclasses.replace(made, state={**made.state, **tensors})


def test_another_architecture_is_named() -> None:
    other = _without(published("yolo12n"), "model.6.")
    modules = other.modules | {"model.6": Module("ultralytics.nn.modules.block.C2f")}
    other = dataclasses.replace(other, modules=modules)
    with pytest.raises(InputError, match="not a YOLO12 network .its layer 6 is C2f, where YOLO12 has A2C2f"):
        recognise(other, PATH)


def test_the_authors_other_turbo_branches_are_refused_by_name() -> None:
    detect = published("yolo12n-turbo")
    segment = _with(detect, **{"model.21.proto.cv1.conv.weight": np.zeros((1, 1, 1, 1), np.float32)})
    with pytest.raises(InputError, match="a segment network of the authors' turbo family, which edgekit does not"):
        recognise(segment, PATH)


def test_a_head_that_contradicts_itself() -> None:
    with pytest.raises(InputError, match="its head states 79 classes but its weights have 80"):
        recognise(published("yolo12n", classes=79), PATH)
    with pytest.raises(InputError, match="it names 3 classes but its head has 80"):
        checkpoint.from_published(published("yolo12n", names=("a", "b", "c")), _file(PATH))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: _without(m, "model.14.cv1.conv.weight"), "lacks tensor model.14.cv1.conv.weight"),
        (lambda m: _with(m, **{"model.6.gamma": np.zeros(128, np.float32)}), "has the unknown tensor model.6.gamma"),
        (lambda m: _with(m, **{"model.14.cv1.conv.weight": np.zeros((1, 2, 3, 4), np.float32)}), "has shape"),
        (lambda m: _with(m, **{"model.0.bn.bias": np.full(16, np.nan, np.float32)}), "holds NaN or infinite weights"),
        (lambda m: _with(m, **{"model.0.conv.weight": np.zeros((24, 3, 3, 3), np.float32)}), "none of the scales"),
        (lambda m: stating(m, "model.5.bn", eps=1e-5), "eps of model.5.bn"),
        (lambda m: stating(m, "BatchNorm2d", eps=None), "eps and momentum"),
        (lambda m: stating(m, "model.6.m.1.0.attn", area=1), "area of model.6.m.1.0.attn"),
        (lambda m: stating(m, "AAttn", area="4"), "does not state its area"),
    ],
)
def test_a_layout_that_is_not_the_published_one(change, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        checkpoint.from_published(change(published("yolo12n")), _file(PATH))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d | {"edgekit": 99}, "checkpoint schema 99"),
        (lambda d: {k: v for k, v in d.items() if k != "spec"}, "a damaged edgekit checkpoint"),
        (lambda d: d | {"names": ["one"]}, "it names 1 classes but its head has 2"),
        (lambda d: d | {"spec": d["spec"] | {"activation": "snake"}}, "c.pt: made by a newer edgekit.*snake"),
        (lambda d: d | {"state_dict": {}}, "lacks tensor"),
    ],
)
def test_a_damaged_checkpoint_of_our_own(change, sentence: str, tmp_path: Path) -> None:
    path = checkpoint.save(checkpoint.new(catalog.spec("yolo12n-cls", classes=2), ("a", "b")), tmp_path / "c.pt")
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(InputError, match=sentence):
        checkpoint.load(path)


def test_an_interrupted_save_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkpoint.new(catalog.spec("yolo12n-cls", classes=2), ("a", "b"))
    path = checkpoint.save(made, tmp_path / "c.pt")
    before = path.read_bytes()

    def full(document: object, where: Path) -> None:
        Path(where).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError):
        checkpoint.save(made, path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_settling_gives_the_statistics_of_the_images() -> None:
    made = checkpoint.new(catalog.spec("yolo12n-cls", classes=2), ("a", "b"))
    batch = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    checkpoint.recalibrate(made, [batch])
    first = made.net.model[0]
    with torch.no_grad():
        x = first.conv(batch)
    torch.testing.assert_close(first.bn.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(first.bn.running_var, x.var((0, 2, 3)))
    assert not made.net.training and first.bn.momentum == made.spec.norm_momentum
