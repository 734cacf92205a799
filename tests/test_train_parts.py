"""The parts of training that are closed forms: groups, rates, the average, memory, what is taken from a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.errors import InputError, UsageError
from edgekit.tasks import network
from edgekit.train import memory, optim, start
from edgekit.train.options import TrainOptions
from tests.published_files import fold, published_model, save_published

NUMBERS = optim.plan(TrainOptions(epochs=10, lr=0.01, optimizer="sgd"), False, 3, 16, 40)


def test_the_plan_of_a_short_run() -> None:
    numbers = optim.plan(TrainOptions(epochs=30), False, 3, 16, 19)
    assert numbers.kind == "adamw" and numbers.lr == pytest.approx(0.002 * 5 / 7) and numbers.momentum == 0.9
    assert numbers.accumulate == 4 and numbers.decay == pytest.approx(5e-4)
    assert numbers.warm == 100 and numbers.steps == 570


def test_the_plan_of_a_long_run() -> None:
    numbers = optim.plan(TrainOptions(epochs=600), False, 80, 256, 462)
    assert (numbers.kind, numbers.lr, numbers.momentum, numbers.accumulate) == ("sgd", 0.01, 0.937, 1)
    assert numbers.decay == pytest.approx(5e-4 * 4)
    assert numbers.warm == 3 * 462


def test_the_rate_is_a_straight_line_or_a_half_cosine() -> None:
    assert optim.rate(NUMBERS, 0) == pytest.approx(0.01)
    assert optim.rate(NUMBERS, 200) == pytest.approx(0.01 * (0.01 + 0.99 / 2))
    assert optim.rate(NUMBERS, 400) == pytest.approx(1e-4)
    cosine = optim.plan(TrainOptions(epochs=10, lr=0.01, optimizer="sgd", schedule="cosine"), False, 3, 16, 40)
    for step in (0, 100, 400):
        expected = 1e-4 + (0.01 - 1e-4) * (1 + math.cos(math.pi * step / 400)) / 2
        assert optim.rate(cosine, step) == pytest.approx(expected)


def test_warm_up_raises_weights_and_lowers_biases() -> None:
    net = network.build(catalog.spec("yolo12n"))
    optimizer = optim.make_optimizer(net, NUMBERS)
    seen = {}
    for step in (0, 60, 120, 300):
        optim.schedule(optimizer, NUMBERS, step)
        seen[step] = {g["kind"]: (g["lr"], g["momentum"]) for g in optimizer.param_groups}
    assert seen[0]["weight"][0] == 0 and seen[0]["bias"][0] == pytest.approx(0.1)
    assert seen[0]["weight"][1] == pytest.approx(0.8) and seen[120]["weight"][1] == pytest.approx(0.937)
    assert seen[60]["weight"][0] == pytest.approx(optim.rate(NUMBERS, 60) / 2)
    assert seen[300]["weight"] == pytest.approx(seen[300]["bias"])
    assert [optim.accumulation(NUMBERS, s) for s in (0, 60, 120, 399)] == [1, 2, 4, 4]


def test_only_matrices_decay_and_every_parameter_is_in_one_group() -> None:
    net = network.build(catalog.spec("yolo12l"), "meta")
    optimizer = optim.make_optimizer(net, NUMBERS)
    grouped = [p for g in optimizer.param_groups for p in g["params"]]
    assert len({id(p) for p in grouped}) == len(grouped) == sum(p.requires_grad for p in net.parameters())
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert (id(parameter) in decayed) == (parameter.ndim > 1), name


def test_the_average_is_the_average() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    average = optim.EMA(net, 0.9, 4.0)
    value = float(average.net[0].weight[0])  # type: ignore[index, arg-type]
    for step in range(1, 6):
        with torch.no_grad():
            net[0].weight += 1.0
        net[1].num_batches_tracked += 1
        average.update()
        keep = 0.9 * (1 - math.exp(-step / 4))
        value = keep * value + (1 - keep) * float(net[0].weight[0].detach())
    assert float(average.net[0].weight[0]) == pytest.approx(value, rel=1e-6)  # type: ignore[index, arg-type]
    assert int(average.net[1].num_batches_tracked) == 5  # type: ignore[index, arg-type]


@pytest.mark.parametrize("name", ["yolo12n", "yolo12n-seg", "yolo12n-cls"])
def test_memory_is_counted_as_autograd_keeps_it(name: str) -> None:
    spec = catalog.spec(name)
    net = network.build(spec).train()
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = net(torch.rand(2, 3, 96, 96))
    counted = memory.needed(spec, (96, 96)).image * 2
    assert answer and counted == pytest.approx(sum(kept.values()), rel=0.1)


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    need = memory.Needed(fixed=1000, image=300)
    for available in (0, 1300, 1700, 10_000, 123_456):
        batch = memory.largest(need, available)
        assert batch == 0 or need.bytes(batch) <= available
        assert need.bytes(batch + 1) > available - 1


def test_a_start_from_folded_norms_says_what_is_lost(tmp_path: Path) -> None:
    paths = [
        save_published(published_model("yolo12n-cls", classes=2), tmp_path / "whole.pt"),
        save_published(fold(published_model("yolo12n-cls", classes=2)), tmp_path / "folded.pt"),
    ]
    whole, folded = (start.begin(start.opened(str(path)), None, ("c0", "c1"), None, seed=2)[1] for path in paths)
    assert folded.tensors == folded.of == whole.tensors
    assert "`freeze_norms`" in str(folded) and "`freeze_norms`" not in str(whole)


def test_class_rows_go_by_name(tmp_path: Path) -> None:
    spec = catalog.spec("yolo12n", classes=3)
    older = checkpoint.new(spec, ("cat", "dog", "cow"), 64, seed=1)
    path = checkpoint.save(older, tmp_path / "older.pt")
    newer, taken = start.begin(start.opened(str(path)), None, ("Dog", "bird"), None, seed=2)
    for level in range(3):
        key = f"model.21.cv3.{level}.2.weight"
        assert torch.equal(newer.net.state_dict()[key][0], older.net.state_dict()[key][1])
        assert not torch.equal(newer.net.state_dict()[key][1], older.net.state_dict()[key][0])
    assert taken.classes == ("Dog",) and "model.21.cv3.0" in str(taken)
    same, all_of_it = start.begin(start.opened(str(path)), None, ("cat", "dog", "cow"), None, seed=2)
    assert all_of_it.tensors == all_of_it.of and not all_of_it.fresh
    assert all(torch.equal(v, older.net.state_dict()[k]) for k, v in same.net.state_dict().items())
    swapped, _ = start.begin(start.opened(str(path)), None, ("cow", "cat", "dog"), None, seed=2)
    key = "model.21.cv3.0.2.bias"
    assert torch.equal(swapped.net.state_dict()[key], older.net.state_dict()[key][[2, 0, 1]])


def test_a_detector_lends_its_trunk_to_another_task(tmp_path: Path) -> None:
    older = checkpoint.new(catalog.spec("yolo12n", classes=2), ("a", "b"), 64, seed=1)
    path = checkpoint.save(older, tmp_path / "older.pt")
    newer, taken = start.begin(start.opened(str(path)), "segment", ("a", "b"), None, seed=2)
    assert newer.spec.task == "segment"
    mine, theirs = newer.net.state_dict(), older.net.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert {k.split(".")[2] for k in taken.fresh} == {"cv4", "proto"}


def test_a_published_licence_goes_along(shared: Path) -> None:
    newer, taken = start.begin(start.opened(str(shared / "fixtures/yolo12n-bccd.pt")), None, ("RBC",), None, 0)
    assert newer.license and newer.license == taken.license and taken.sha256


@pytest.mark.parametrize(
    ("model", "task", "sentence"),
    [("yolo13n", None, "no model"), ("yolo12n-seg", "pose", "drop one"), ("no.pt", None, "no.pt")],
)
def test_starts_that_cannot_be(model: str, task: str | None, sentence: str) -> None:
    with pytest.raises((UsageError, InputError), match=sentence):
        start.begin(start.opened(model), task, ("a",), None, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "lion"},
        {"epochs": 0},
        {"lr": -1.0},
        {"momentum": 5.0},
        {"weight_decay": -1.0},
        {"schedule": "step"},
        {"cache": "cloud"},
        {"clip": float("inf")},
        {"warmup": float("nan")},
        {"workers": "many"},
    ],
)
def test_options_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(UsageError) as caught:
        TrainOptions(**wrong)
    assert caught.value.options == tuple(wrong)


def test_options_survive_json_and_a_resumed_run_keeps_them() -> None:
    options = TrainOptions(epochs=7, imgsz=(64, 96), augment={"mosaic": 0.5})
    assert TrainOptions.from_dict(options.to_dict()) == options
    assert TrainOptions(workers=3, device="cuda").resumed(options) == options.replace(workers=3, device="cuda")
    assert TrainOptions(epochs=7).resumed(options).epochs == 7
    with pytest.raises(UsageError, match="`epochs` 8: the run was started with 7"):
        TrainOptions(epochs=8).resumed(options)
