"""Several processes that train one network: what they share, and how the run ends when one of them dies.

    torchrun --nproc-per-node 4 -m edgekit train DATA --device cuda --batch 64

    with joined("cuda") as world:
        world.sum(torch.tensor(2.0))           # over all processes
        world.from_main(lambda: measure())     # computed by the first, known to all

``--batch`` counts the images of all processes together, and each takes its share of every batch. So samples, number of
steps and learning rates do not depend on how many there are; losses are sums over all objects of the batch divided by
numbers that are summed too, and gradients are added up: two processes learn what one would with the same batch, but
for the order of additions and for BatchNorm. On GPUs its statistics are those of the whole batch (SyncBatchNorm); on
the CPU each process uses its own share's, and those of the first are kept.

A run may be resumed by another number of processes: weights, optimiser, samples, steps and rates go on exactly; from
there on sums are added in another order, and CPU statistics are of larger or smaller shares.

The first process (rank 0) alone validates, writes and speaks; the others wait for it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from edgekit.errors import GateError, UsageError

T = TypeVar("T")

START_S = 120.0  # for all processes to come up
WAIT_S = 4 * 3600.0  # for the first process, which validates alone; one that dies is noticed at once
GRACE_S = 5.0  # after being told to end, for a GPU that waits for a dead one
_CONNECTION = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset)|Broken pipe|Socket|TCPStore")


class _ToldToEnd(BaseException):
    """SIGTERM, as torchrun sends it to the others when one process dies."""


@dataclass(frozen=True)
class DistributedContext:
    """The processes of a run. The default is one process alone, for which everything here does nothing.

    Attributes:
        rank, size: this process's number, from 0, and how many there are.
        local, here: the same on this machine.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    here: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """This process's part of a batch.

        Raises:
            UsageError: the batch cannot be divided evenly.
        """
        if batch % self.size:
            above = (batch // self.size + 1) * self.size
            near = f"{above - self.size} or {above}" if batch > self.size else str(above)
            raise UsageError(f"`batch` {batch}: does not divide among {self.size} processes; give {near}")
        return batch // self.size

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` added up over all processes; no gradient goes through."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        return min(self.gathered(number))

    def gathered(self, value: T) -> list[T]:
        """Every process's value, by rank. Anything that pickles."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process; the others wait for it."""
        if self.size == 1:
            return make()
        values: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        result: T = values[0]
        return result

    def agree(self, told: Mapping[str, Any]) -> None:
        """Check that all processes were told the same.

        Raises:
            UsageError: they were not; the sentence names the first thing that differs.
        """
        first, *others = self.gathered(dict(told))
        for rank, other in enumerate(others, 1):
            for name, value in first.items():
                if other.get(name) != value:
                    raise UsageError(
                        f"process {rank} has {name} {other.get(name)}, process 0 has {value}; start all "
                        f"{self.size} with the same command and the same data"
                    )

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """``net`` so that its gradients are averaged over all processes; BatchNorms become synchronous on GPUs."""
        if self.size == 1:
            return net
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(net)  # in place, the tensors stay the same ones
        devices = [device.index] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".broadcast_buffers", FutureWarning)  # its other name is too new to use
            return nn.parallel.DistributedDataParallel(
                net, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def device(self, name: str) -> str:
        """``--device`` for this process: of ``cuda`` the GPU with its number.

        Raises:
            UsageError: one GPU is named for several processes, or there are fewer GPUs than processes.
        """
        if self.size == 1 or not name.startswith("cuda"):
            return name
        if name != "cuda":
            raise UsageError(f"`device` {name}: give `device` cuda, and each of {self.size} processes takes its own")
        if self.local >= torch.cuda.device_count():
            raise UsageError(
                f"`device` cuda: this machine has {torch.cuda.device_count()} GPUs for {self.here} processes; start "
                "one process a GPU"
            )
        return f"cuda:{self.local}"


@contextmanager
def joined(device: str = "cpu") -> Iterator[DistributedContext]:
    """The processes torchrun started, connected until the block ends; one alone where it did not.

    Raises:
        UsageError: they do not all come up, or the numbers they were given make no sense.
        GateError: another process died, or this one was told to end.
    """
    world = _of_environment()
    if world.size == 1:
        yield world
        return
    _connect(world, device)
    before = signal.signal(signal.SIGTERM, _end)
    if device.startswith("cuda"):
        _end_for_certain()
    try:
        yield world
        dist.destroy_process_group()
    except _ToldToEnd:
        raise GateError(f"process {world.rank} of {world.size}: told to end. {_AGAIN}") from None
    except RuntimeError as error:
        if not _CONNECTION.search(str(error)):
            raise
        raise GateError(
            f"process {world.rank} of {world.size}: lost another one, which ended or died. {_AGAIN}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)


_AGAIN = "The run is over; what was last saved is in its folder: start all processes again with `resume`"


def _of_environment() -> DistributedContext:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return DistributedContext()
    try:
        rank, size = (int(os.environ[name]) for name in names[:2])
        local, here = (int(os.environ.get(name, other)) for name, other in zip(names[2:], (rank, size), strict=True))
    except ValueError:
        rank, size, local, here = 0, 0, 0, 0
    if not 0 <= rank < size:
        said = ", ".join(f"{name}={os.environ.get(name)}" for name in names[:2])
        raise UsageError(f"the environment says {said}, which is no process of a run; start it with torchrun")
    return DistributedContext(rank, size, local, here)


def _connect(world: DistributedContext, device: str) -> None:
    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(seconds=START_S)))
        store.set_timeout(timedelta(seconds=START_S))
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=WAIT_S))
    except (RuntimeError, ValueError) as error:  # DistStoreError and DistNetworkError are RuntimeErrors
        reason = str(error).splitlines()[0][:200]
        raise UsageError(
            f"process {world.rank}: the {world.size} processes of the run did not all come up in {START_S:g} s "
            f"({reason}); start as many as WORLD_SIZE says, with torchrun"
        ) from error


def _end(*_: object) -> None:
    raise _ToldToEnd


def _end_for_certain() -> None:
    """Python handles a signal only between two instructions, and a thread that waits for its GPU, which waits for a
    dead process's, never comes to the next one: another thread ends the process then."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a data worker's signals are its own

    def wait() -> None:
        while True:
            if signal.SIGTERM in os.read(reader, 1):
                time.sleep(GRACE_S)
                os._exit(GateError.exit_code)

    threading.Thread(target=wait, daemon=True).start()
