"""Quantization-aware training: the grids, which convolutions round, and that an ordinary checkpoint comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import shapeset
from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.errors import UsageError
from edgekit.nn.blocks import fuse
from edgekit.quantize import qdq
from edgekit.tasks import network
from edgekit.train import loop, qat
from edgekit.train.options import TrainOptions
from tests.networks import noise, seeded, settled

SMALL = TrainOptions(
    epochs=2, batch=4, imgsz=(64, 64), workers=0, patience=0, close_mosaic=1, seed=5, val_every=2, amp="off"
)


def _off_ties(*shape: int, top: int) -> torch.Tensor:
    """Values of a grid of whole steps, ``top`` among those of every row, each moved by less than half a step: where
    one lies in the middle the last bit decides to which side it goes."""
    steps = torch.randint(-top, top + 1, shape) + 0.9 * (torch.rand(shape) - 0.5)
    steps.clamp_(-top, top).flatten(1)[:, 0] = top
    return steps


def test_weights_take_the_values_the_int8_graph_will_hold() -> None:
    sizes = torch.tensor([1.0, 0.1, 10.0, 1e-3, 0.0]).view(-1, 1, 1, 1)
    weight = _off_ties(5, 3, 3, 3, top=qat.WEIGHT_TOP) * (0.5 + torch.rand(())) * sizes
    eight, scales = qdq.int8_weights(weight.numpy())
    assert qdq.WEIGHT_TOP[7] == qat.WEIGHT_TOP and qat.TOP == qdq.TOP
    found = qat.round_channels(weight).numpy()
    np.testing.assert_allclose(found, eight * scales.reshape(-1, 1, 1, 1), rtol=1e-5, atol=1e-12)


def test_activations_take_255_values_that_just_hold_them() -> None:
    x = _off_ties(2, 4, 5, 6, top=qat.TOP) * (0.5 + torch.rand(()))
    scale = float(x.abs().max()) / 127
    found = qat.round_tensor(x)
    np.testing.assert_allclose(found.numpy(), np.rint(x.numpy() / scale) * scale, rtol=1e-4, atol=1e-6)
    assert not qat.round_tensor(torch.zeros(3)).any()
    assert qat.round_tensor(x.bfloat16()).dtype == torch.bfloat16


def test_gradients_go_straight_through() -> None:
    x, weight = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 1, 1, requires_grad=True)
    qat.round_tensor(x).sum().backward()
    qat.round_channels(weight).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x)) and torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize("name", ["yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-cls"])
def test_all_convolutions_round_but_the_tail(name: str) -> None:
    net = network.build(catalog.spec(name, classes=3))
    keys = list(net.state_dict())
    convolutions = {path for path, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    count = qat.attach(net)
    plain = {path for path, m in net.named_modules() if type(m) is nn.Conv2d}
    task = {f"model.21.cv4.{level}.2" for level in range(3)} if name[7:] in ("-seg", "-pose") else set()
    assert plain == task | (set() if name.endswith("cls") else {"model.21.dfl.conv"})
    assert count == len(convolutions) - len(plain) and list(net.state_dict()) == keys
    assert qat.attach(net) == 0


def test_folding_norms_does_not_move_the_grid() -> None:
    """Scales per channel follow the gain that folding multiplies into the weights."""
    images = torch.from_numpy(noise(2, 3, 64, 64))
    block = settled("yolo12n", images.numpy(), 1e-3, ("a", "b"), seed=3).net.model[0]
    with torch.no_grad():
        block.bn.weight.uniform_(0.2, 3.0, generator=torch.Generator().manual_seed(seeded(0)))
        qat.attach(block)
        torch.testing.assert_close(fuse(block)(images), block(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapeset.make_set(tmp_path_factory.mktemp("shapes"), train=8, val=2, size=96)


@pytest.mark.slow
def test_a_run_gives_an_ordinary_checkpoint(shapes: Path, tmp_path: Path) -> None:
    fresh = checkpoint.new(catalog.spec("yolo12n", classes=len(shapeset.NAMES)), shapeset.NAMES, 64, seed=1)
    model = checkpoint.save(fresh, tmp_path / "trained.pt")
    result = loop.train(shapes, str(model), tmp_path / "run", SMALL.replace(qat=True))
    loaded = checkpoint.load(result.best)
    assert loaded.provenance["options"]["qat"] is True
    assert not any(isinstance(m, qat.Rounded) for m in loaded.net.modules())
    plain = loop.train(shapes, str(model), tmp_path / "plain", SMALL)
    one, other = (checkpoint.load(r.best).net.state_dict() for r in (result, plain))
    assert not torch.equal(one["model.0.conv.weight"], other["model.0.conv.weight"])
    with pytest.raises(UsageError, match="`qat`: fine-tunes a trained network"):
        loop.train(shapes, "yolo12n", tmp_path / "new", SMALL.replace(qat=True))


def test_weights_that_rounding_would_drop_are_learnt_around() -> None:
    """Eight channels carry the same signal with weights under half a step each, which all round to 0. Trained with
    rounding, three of them become one step, which is what the eight came to together."""
    rows = torch.rand(64, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    x = torch.cat([rows[:, :1], *[rows[:, 1:]] * 8], 1)
    net = nn.Sequential(nn.Conv2d(9, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.cat([torch.ones(1), torch.linspace(0.0045, 0.0075, 8)]).view(1, 9, 1, 1))
        wanted = net(x)
    qat.attach(net)
    assert torch.equal(qat.round_channels(net[0].weight).flatten()[1:], torch.zeros(8))
    before = float((net(x) - wanted).detach().square().mean())
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    for _ in range(60):
        optimizer.zero_grad()
        (net(x) - wanted).square().mean().backward()
        optimizer.step()
    assert float((net(x) - wanted).detach().square().mean()) < 0.2 * before
    assert int((qat.round_channels(net[0].weight).flatten()[1:] > 0).sum()) == 3
