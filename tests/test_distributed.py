"""Several processes: that they learn what one would, and how a run ends when one of them dies.

Two processes that talk through gloo on this machine, with BatchNorms frozen, because on the CPU each process has its
own batch statistics.
"""

from __future__ import annotations

import copy
import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from benchmarks import shapeset
from edgekit import checkpoint
from edgekit.checkpoint import catalog
from edgekit.errors import GateError, UsageError
from edgekit.nn.targets import Targets
from edgekit.runtime.image import prepare
from edgekit.spec import Preprocess
from edgekit.tasks import network
from edgekit.tasks.classify.loss import ClassifyLoss
from edgekit.tasks.detect.loss import loss as detect_loss
from edgekit.train import distributed, loop
from edgekit.train.distributed import DistributedContext, joined
from edgekit.train.options import TrainOptions
from tests.conftest import REPO
from tests.networks import settled
from tests.watchers import Watching

EPOCHS = 10
OPTIONS = (
    f"--epochs {EPOCHS} --batch 4 --imgsz 64 --workers 0 --seed 3 --optimizer sgd --lr 0.002 --warmup 0 --amp off "
    f"--freeze-norms --val-every {EPOCHS} --patience 0 --close-mosaic 2 --json"
).split()
SAME = TrainOptions(
    epochs=EPOCHS,
    batch=4,
    imgsz=(64, 64),
    workers=0,
    seed=3,
    optimizer="sgd",
    lr=0.002,
    warmup=0.0,
    amp="off",
    freeze_norms=True,
    val_every=EPOCHS,
    patience=0,
    close_mosaic=2,
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Seven drawn images, so that the last batch is three (two for one process, one for the other), and a checkpoint
    whose BatchNorms know such images."""
    root = tmp_path_factory.mktemp("set")
    data = shapeset.make_set(root, train=7, val=2, size=64)
    drawn = [cv2.imread(str(path)) for path in sorted((root / "images" / "train").iterdir())]
    fresh = settled("yolo12n", prepare(drawn, (64, 64), Preprocess())[0], 1e-3, shapeset.NAMES, seed=1)
    return data, checkpoint.save(fresh, root / "start.pt")


def start_two(data: Path, model: Path, out: Path) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    words = ["-m", "edgekit", "train", str(data), "--model", str(model), "--out", str(out), *OPTIONS]
    command = [sys.executable, *launcher, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPO)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def rows(out: Path) -> list[dict[str, str]]:
    path = out / "results.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def process_of_rank(rank: int, out: Path) -> int:
    """The process id of a rank of the run that writes to ``out``."""
    for folder in Path("/proc").iterdir():
        try:
            mine = str(out) in (folder / "cmdline").read_text().split("\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mine and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.long
@linux
def test_two_processes_learn_what_one_does_and_a_killed_one_ends_the_run(
    begin: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two processes until one is killed after three epochs or more, then one to the end: the curve of one alone."""
    data, model = begin
    out = tmp_path / "two"
    two = start_two(data, model, out)
    while len(rows(out)) < 3:
        assert two.poll() is None, two.communicate()[1]
        time.sleep(0.02)
    os.kill(process_of_rank(1, out), signal.SIGKILL)
    document, said = two.communicate(timeout=120)
    assert two.returncode != 0 and not document
    assert "process 0 of 2" in said and "--resume" in said
    assert "This is a bug" not in said
    done = len(rows(out))
    assert 3 <= done < EPOCHS

    watcher = Watching()
    loop.train(data, None, out, SAME, resume=True, watch=watcher)
    assert any("last saved by 2 processes, going on with 1" in note for note in watcher.notes)
    loop.train(data, str(model), tmp_path / "one", SAME)
    one, both = rows(tmp_path / "one"), rows(out)
    assert len(one) == len(both) == EPOCHS
    for mine, theirs in zip(both, one, strict=True):
        for name in ("loss_box", "loss_cls", "loss_dfl", "lr"):
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-4), (mine["epoch"], name)
    weights = [checkpoint.load(folder / "last.pt").net.state_dict() for folder in (tmp_path / "one", out)]
    fresh = checkpoint.load(begin[1]).net.state_dict()
    moved = max(float((weights[0][k] - v).abs().max()) for k, v in fresh.items() if v.is_floating_point())
    apart = max(float((weights[0][k] - v).abs().max()) for k, v in weights[1].items() if v.is_floating_point())
    assert apart < 0.02 * moved


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """The detection and classification losses of 3 images, and of 2 and 1 whose sums are added up."""
    net = network.build(catalog.spec("yolo12n", classes=3)).train()
    torch.manual_seed(0)
    raw = {"distances": torch.randn(3, 64, 84), "logits": torch.randn(3, 3, 84)}
    boxes = torch.tensor([[4.0, 6, 40, 50], [20, 20, 60, 60], [1, 30, 34, 62]])
    image, classes = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    whole = detect_loss(net)(raw, Targets((64, 64), 3, image, classes, boxes))
    parts = [slice(0, 2), slice(2, 3)]

    def part(number: int, loss: Callable) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        at = parts[number]
        mine = (image >= at.start) & (image < at.stop)
        count = at.stop - at.start
        targets = Targets((64, 64), count, image[mine] - at.start, classes[mine], boxes[mine])
        return loss({k: v[at] for k, v in raw.items()}, targets)

    check_parts(lambda: detect_loss(net), part, whole)
    logits, truth = torch.randn(3, 4), torch.tensor([1, 0, 3])
    empty = torch.zeros(0, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])

    def some(at: slice, loss: Callable) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        chosen = truth[at]
        return loss(
            {"logits": logits[at]}, Targets((64, 64), len(chosen), chosen[:0], chosen[:0], empty, class_id=chosen)
        )

    for given in (None, weights):
        make = lambda: ClassifyLoss(class_weights=given)  # noqa: E731, B023
        check_parts(make, lambda number, loss: some(parts[number], loss), some(slice(0, 3), make()))


def check_parts(make: Callable, part: Callable, whole: tuple) -> None:
    sums: list[torch.Tensor] = []
    for number in range(2):
        loss = make()
        loss.reduce = lambda values: sums.append(values.detach().clone()) or values
        part(number, loss)
    together = sums[0] + sums[1]
    found = []
    for number in range(2):
        loss = make()
        loss.reduce = lambda values: together
        found.append(part(number, loss))
    torch.testing.assert_close(found[0][0] + found[1][0], whole[0])
    for name, value in whole[1].items():
        torch.testing.assert_close(found[0][1][name] + found[1][1][name], value)


def test_one_process_alone_needs_nothing() -> None:
    with joined() as world:
        assert world == DistributedContext() and world.is_main and world.share(7) == 7
        assert world.from_main(lambda: 5) == 5 and world.gathered("a") == ["a"] and world.least(3) == 3
        values, net = torch.ones(2), torch.nn.Linear(1, 1)
        assert world.sum(values) is values and world.wrap(net, torch.device("cpu")) is net
        world.agree({"`epochs`": 3})
        assert world.device("cuda:3") == "cuda:3"


@pytest.mark.parametrize(("batch", "near"), [(15, "14 or 16"), (1, "2")])
def test_a_batch_that_does_not_divide_is_refused(batch: int, near: str) -> None:
    with pytest.raises(UsageError, match=f"`batch` {batch}: does not divide among 2 processes; give {near}"):
        DistributedContext(0, 2, 0, 2).share(batch)


def test_processes_that_were_told_different_things(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [{"`epochs`": 3, "`lr`": None}, {"`epochs`": 3, "`lr`": None}, {"`epochs`": 4, "`lr`": None}]
    monkeypatch.setattr(DistributedContext, "gathered", lambda self, value: told)
    with pytest.raises(UsageError, match="process 2 has `epochs` 4, process 0 has 3"):
        DistributedContext(0, 3, 0, 3).agree(told[0])


def test_devices_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert DistributedContext(3, 4, 1, 2).device("cuda") == "cuda:1"
    assert DistributedContext(3, 4, 1, 2).device("cpu") == "cpu"
    with pytest.raises(UsageError, match="2 GPUs for 3 processes"):
        DistributedContext(2, 3, 2, 3).device("cuda")
    with pytest.raises(UsageError, match="`device` cuda:1: give `device` cuda"):
        DistributedContext(0, 2, 0, 2).device("cuda:1")


def test_a_world_that_does_not_come_up_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "START_S", 1.0)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", str(free_port()))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="the 2 processes of the run did not all come up"), joined():
        pass
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="RANK=2, WORLD_SIZE=2"), joined():
        pass


ENDED = """
import os, signal, time
from edgekit.errors import GateError
from edgekit.train import distributed

distributed._connect = lambda world, device: None
before = signal.getsignal(signal.SIGTERM)
try:
    with distributed.joined():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
except GateError as error:
    print(error)
assert signal.getsignal(signal.SIGTERM) == before
"""


def test_what_ends_a_process_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1"), ("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    # In a process of its own: a signal that goes astray must not end the tests.
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert re.search("process 0 of 2: told to end.*`resume`", done.stdout)
    monkeypatch.setattr(distributed, "_connect", lambda world, device: None)
    with pytest.raises(GateError, match="lost another one.*`resume`"), joined():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3")
    with pytest.raises(RuntimeError, match="something else"), joined():
        raise RuntimeError("something else")


def test_synchronous_norms_keep_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the optimiser and the average hold must still be what learns."""
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda net, **options: net)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    held = copy.copy(net.state_dict(keep_vars=True))
    wrapped = DistributedContext(0, 2, 0, 2).wrap(net, torch.device("cuda:0"))
    assert isinstance(wrapped[1], torch.nn.SyncBatchNorm)
    assert all(value is held[name] for name, value in wrapped.state_dict(keep_vars=True).items())
