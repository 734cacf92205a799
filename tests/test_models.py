"""The networks against the published ones: parameter counts, keys and shapes, FLOPs, raw outputs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.errors import InputError, UsageError
from edgekit.nn.attention import area_attention
from edgekit.nn.blocks import fuse
from edgekit.nn.session import TorchSession
from edgekit.tasks import network


@pytest.fixture(scope="module")
def state_dicts(shared: Path) -> dict:
    with gzip.open(shared / "fixtures" / "state_dicts.json.gz", "rt") as handle:
        return json.load(handle)


@pytest.mark.parametrize("name", catalog.names())
def test_parameters_keys_and_shapes_are_the_published_ones(name: str, state_dicts: dict) -> None:
    net = network.build(catalog.spec(name), "meta")
    assert {k: list(v.shape) for k, v in net.state_dict().items()} == state_dicts[name]["state_dict"]
    assert network.parameters(net) == state_dicts[name]["parameters"] == catalog.counted(net.spec)["parameters"]


def test_there_are_thirty_models() -> None:
    assert len(catalog.names()) == len(set(catalog.names())) == 30


@pytest.mark.parametrize(
    "name", ["yolo12n", "yolo12x", "yolo12s-seg", "yolo12m-pose", "yolo12n-obb", "yolo12l-cls", "yolo12m-turbo"]
)
def test_flops_in_the_data_files_are_those_of_the_network(name: str) -> None:
    spec = catalog.spec(name)
    counted = catalog.counted(spec)
    flops = network.flops(spec, (counted["imgsz"],) * 2)
    assert (flops.convolutions, flops.attention) == (counted["convolution_flops"], counted["attention_flops"])


@pytest.mark.parametrize("scale", "nsmlx")
@pytest.mark.parametrize("family", ["v1.0", "turbo"])
def test_flops_agree_with_the_published_column(scale: str, family: str) -> None:
    spec = catalog.build_spec(scale, "detect", family)
    published = catalog.published(spec)
    assert published is not None
    assert catalog.counted(spec)["convolution_flops"] / 1e9 == pytest.approx(published["flops_g"], rel=0.01)


@pytest.mark.parametrize(("scale", "gflops"), [("n", 0.983), ("s", 1.966), ("m", 3.277)])
def test_attention_flops_in_closed_form(scale: str, gflops: float) -> None:
    assert catalog.counted(catalog.build_spec(scale, "detect"))["attention_flops"] / 1e9 == pytest.approx(
        gflops, abs=1e-3
    )


@pytest.mark.parametrize(
    ("name", "task", "sentence"),
    [
        ("yolo11n", None, "there is no model 'yolo11n'"),
        ("yolo12n-foo", None, "there is no model 'yolo12n-foo'"),
        ("yolo12n-seg", "pose", "`model` yolo12n-seg is a segment model but `task` says pose"),
        ("yolo12n-turbo", "segment", "is a detect model"),
        ("yolo12n", "track", "there is no task 'track'"),
    ],
)
def test_a_wrong_model_name_is_a_usage_error(name: str, task: str | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        catalog.spec(name, task)


def test_model_and_task_together_mean_the_task_model() -> None:
    assert catalog.spec("yolo12s", "segment") == catalog.spec("yolo12s-seg")
    assert catalog.spec("yolo12s", "cls").name == "yolo12s-cls"


def test_area_attention_against_loops() -> None:
    """Softmax attention written token by token, head by head, area by area."""
    rng = np.random.default_rng(0)
    heads, area, height, width = 2, 4, 4, 6
    maps = rng.standard_normal((3, 1, heads * 32, height, width))
    q, k, v = (m.reshape(heads, 32, height * width) for m in maps)
    tokens = height * width // area
    expected = np.zeros_like(v)
    for h in range(heads):
        for a in range(area):
            chunk = range(a * tokens, (a + 1) * tokens)
            for i in chunk:
                logits = np.array([q[h, :, i] @ k[h, :, j] / np.sqrt(32) for j in chunk])
                weights = np.exp(logits - logits.max())
                expected[h, :, i] = (weights / weights.sum()) @ np.stack([v[h, :, j] for j in chunk])
    found = area_attention(*(torch.from_numpy(m) for m in maps), area)
    np.testing.assert_allclose(found.numpy().reshape(heads, 32, -1), expected, atol=1e-12)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_area_attention_in_16_bits_learns_what_it_does_in_64(narrow: torch.dtype) -> None:
    """Answers and gradients of the form that CPUs take, within what the format rounds to."""
    maps = torch.randn(3, 2, 64, 8, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wide, short = maps.clone().requires_grad_(), maps.to(narrow).requires_grad_()
    for leaf in (wide, short):
        area_attention(*leaf, 4).square().sum().backward()
    close = {"rtol": 0, "atol": 12 * torch.finfo(narrow).eps}
    torch.testing.assert_close(area_attention(*short, 4).double(), area_attention(*wide, 4), **close)
    torch.testing.assert_close(short.grad.double(), wide.grad, **close)


def test_tokens_that_do_not_divide_are_refused_with_the_sizes() -> None:
    x = torch.zeros(1, 32, 3, 3)
    with pytest.raises(InputError, match="3x3 map has 9 tokens"):
        area_attention(x, x, x, 4)


def test_folding_batchnorm_changes_nothing_but_rounding() -> None:
    net = network.build(catalog.spec("yolo12n", classes=3)).eval()
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    net.double()  # in which rounding is nowhere near the tolerance, however the network amplifies it
    folded = fuse(net)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    x = torch.rand(1, 3, 64, 64, generator=generator).double()
    with torch.no_grad():
        expected, found = net(x), folded(x)
    for role, value in expected.items():
        torch.testing.assert_close(found[role], value, rtol=1e-6, atol=1e-6)


CHECKPOINTS = [
    "yolo12n-bccd",
    "yolo12n-seg-balloon",
    "yolo12n-pose-person",
    "yolo12n-obb-table-tennis",
    "yolo12n-cls-flowers5",
    "yolo12n-turbo",
]


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_raw_outputs_are_the_stored_ones(name: str, fold: bool, shared: Path, raw) -> None:
    loaded = checkpoint.load(shared / "fixtures" / f"{name}.pt")
    batch, expected = raw(name)
    session = TorchSession(loaded.net, loaded.info(batch.shape[2:], batch=None), fold=fold)
    raw.assert_close(session.run(batch), expected, pixels=1e-2, scores=1e-4, masks=1e-3)
    twice = session.run(np.concatenate([batch, batch]))
    raw.assert_close({k: v[1:] for k, v in twice.items()}, expected, pixels=1e-2, scores=1e-4, masks=1e-3)


def test_own_checkpoint_round_trip_keeps_every_bit(shared: Path, tmp_path: Path) -> None:
    first = checkpoint.load(shared / "fixtures" / "yolo12n-pose-person.pt")
    second = checkpoint.load(checkpoint.save(first, tmp_path / "mine.pt"))
    assert second.spec == first.spec
    assert (second.names, second.imgsz, second.license) == (first.names, first.imgsz, first.license)
    assert second.license is not None and "AGPL-3.0" in second.license
    for key, value in first.net.state_dict().items():
        assert torch.equal(value, second.net.state_dict()[key]), key


def test_own_checkpoint_holds_only_what_weights_only_reads(tmp_path: Path) -> None:
    path = checkpoint.save(checkpoint.new(catalog.spec("yolo12n-cls", classes=2), ("a", "b")), tmp_path / "c.pt")
    assert torch.load(path, weights_only=True)["edgekit"] == 2
