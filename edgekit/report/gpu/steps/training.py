"""Training on the GPU: the CPU's losses, AMP, torch.compile, resuming, NCCL, and images a second beside the peer's."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.train.distributed import DistributedContext
from edgekit.train.loop import Result, train
from edgekit.train.options import TrainOptions
from edgekit.train.setup import NullCallback, Run

NETWORK = "yolo12n"
SMALL = TrainOptions(epochs=1, batch=8, imgsz=(256, 256), workers=0, close_mosaic=0, amp="off")
LOSS = 0.02  # that an epoch's mean losses may differ by in float32, as a share: sums are added in another order
AMP_LOSS = 0.1  # and in half precision
RESUMED = 3.0  # times what the same run differs by from itself, for some of CUDA's sums have no fixed order
GRADIENTS = 1e-4  # that gradients may differ by through NCCL
BATCH = 16


class Stopped(Exception):
    """The run was ended on purpose."""


class Stop(NullCallback):
    """Ends the run after its first epoch."""

    def ended_epoch(self, run: Run, row: Mapping[str, float]) -> None:
        raise Stopped


class Clock(NullCallback):
    """Images a second of each epoch (``rates``) from the end of its first step to that of its last, so that validating
    and saving are left out."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._images, self._began = 0, 0.0

    def stepped(self, run: Run, count: int) -> None:
        import torch

        self._images += count
        if run.progress.step in (1, run.batches) and run.device.type == "cuda":
            torch.cuda.synchronize()
        if run.progress.step == 1:
            self._images, self._began = 0, time.perf_counter()
        elif run.progress.step == run.batches:
            self.rates.append(self._images / (time.perf_counter() - self._began))


def run(job: Job) -> None:
    """Each part alone; all but the last on a small set at 256 px."""
    device = trials.torch_device()
    data = trials.dataset(job)
    options = SMALL.replace(device=device)
    with job.part("float32 beside the CPU"):
        _beside_cpu(job, data, options)
    with job.part("AMP"):
        _changed(job, "AMP", data, options, options.replace(amp="auto"))
    with job.part("NCCL"):
        _nccl(job, device)
    with job.part("resume"):
        _resume(job, data, options)
    for network in ("yolo12n", "yolo12m"):
        with job.part(f"images a second, {network}"):
            _rate(job, network, device)
    with job.part("torch.compile"):
        _changed(job, "torch.compile", data, options, options.replace(compile=True))


def _run(job: Job, name: str, data: Path, options: TrainOptions, **more: bool) -> Result:
    return train(data, NETWORK, job.work / "runs" / name, options, **more)  # type: ignore[arg-type]


def _losses(result: Result) -> dict[str, float]:
    return {key: value for key, value in result.history[-1].items() if key.startswith("loss_")}


def _apart(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The greatest difference as a share; infinite where one is not finite."""
    gaps = [abs(ours[key] - value) / max(abs(value), 1e-6) for key, value in theirs.items()]
    return max(gaps) if np.isfinite(gaps).all() else float("inf")


def _beside_cpu(job: Job, data: Path, options: TrainOptions) -> None:
    plain = options.replace(augment={"none": 1})
    theirs = _losses(_run(job, "cpu", data, plain.replace(device="cpu")))
    ours = _losses(_run(job, "cuda", data, plain))
    gap = _apart(ours, theirs)
    says = f"an epoch's losses differ by {100 * gap:.2g} % at most; {100 * LOSS:g} are allowed"
    job.holds("float32 beside the CPU", gap <= LOSS, says, cpu=theirs, gpu=ours)


def _changed(job: Job, name: str, data: Path, plain: TrainOptions, changed: TrainOptions) -> None:
    """The same epoch with something switched on."""
    theirs = _losses(_run(job, f"{name}-without", data, plain))
    began = time.perf_counter()
    made = _run(job, name, data, changed)
    gap = _apart(_losses(made), theirs)
    says = f"an epoch's losses differ by {100 * gap:.2g} % from those without; {100 * AMP_LOSS:g} are allowed"
    figures = {"with": _losses(made), "without": theirs, "skipped steps": made.skipped_steps}
    job.holds(name, gap <= AMP_LOSS, says, **figures, seconds=time.perf_counter() - began)


def _resume(job: Job, data: Path, options: TrainOptions) -> None:
    """A run that was ended and resumed beside the whole one, and beside what the whole one is the second time."""
    two = options.replace(epochs=2)
    whole, again = (_run(job, name, data, two) for name in ("whole", "again"))
    with suppress(Stopped):
        train(data, NETWORK, job.work / "runs" / "resumed", two, watch=Stop())
    resumed = _run(job, "resumed", data, two, resume=True)
    gap, noise = _gap(resumed, whole), _gap(again, whole)
    says = f"weights differ by {gap:.2g} at most from a whole run's, and those of another whole run by {noise:.2g}"
    job.holds("resume", gap <= RESUMED * noise, says, gap=gap, noise=noise)


def _gap(ours: Result, theirs: Result) -> float:
    """The greatest difference of two runs' last weights."""
    from edgekit import checkpoint

    one, other = (checkpoint.load(each.folder / "last.pt").net.state_dict() for each in (ours, theirs))
    return max(float((one[key].float() - value.float()).abs().max()) for key, value in other.items())


def _nccl(job: Job, name: str) -> None:
    """NCCL with the one process that a GPU allows: a sum, and gradients through what several train with. That process
    is told of two, for alone it would leave both out; what two exchange takes two GPUs."""
    import torch
    import torch.distributed as dist

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    device, world = torch.device(name), DistributedContext(size=2)
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        ones = torch.ones(4, device=device)
        job.holds("NCCL: a sum", bool((world.sum(ones) == 1).all()), "of one process is what it was")
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.SiLU()).to(device)
        images = torch.rand(4, 3, 32, 32, device=device)
        net(images).square().mean().backward()
        plain = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        wrapped = world.wrap(net, device)
        wrapped(images).square().mean().backward()
        synced = [p.grad for p in wrapped.parameters() if p.grad is not None]
        gap = max(float((a - b).abs().max()) for a, b in zip(synced, plain, strict=True))
        job.holds("NCCL: gradients", gap < GRADIENTS, f"differ by {gap:.2g} at most from those without it", gap=gap)
    finally:
        dist.destroy_process_group()


def _rate(job: Job, network: str, device: str) -> None:
    """Images a second of training steps at 640 px with AMP, in the second of two epochs."""
    clock, data = Clock(), trials.dataset(job, trials.MANY)
    size = (trials.SIDE, trials.SIDE)
    options = TrainOptions(epochs=2, batch=BATCH, imgsz=size, close_mosaic=0, device=device)
    train(data, network, job.work / "runs" / f"rate-{network}", options, watch=clock)
    figures = {"edgekit images/s": clock.rates[-1]}
    if job.request.peer:
        with job.part(f"the peer's images a second, {network}"):
            figures["peer images/s"] = _peer_rate(job, data, network)
    says = ", ".join(f"{key} {value:.1f}" for key, value in figures.items())
    job.holds(f"images a second, {network}", True, says, **figures)


_PEER = """
import sys, time
import torch
from ultralytics import YOLO
steps, times = [], []
def stepped(trainer):
    steps.append(len(trainer.train_loader))
    if len(steps) % steps[-1] in (0, 1):
        torch.cuda.is_available() and torch.cuda.synchronize()
        times.append(time.perf_counter())
model, batch = YOLO(sys.argv[1]), int(sys.argv[3])
model.add_callback("on_train_batch_end", stepped)
model.train(data=sys.argv[2], epochs=2, batch=batch, imgsz=int(sys.argv[4]), device=0, close_mosaic=0, plots=False,
            verbose=False, project="runs", exist_ok=True)
print("\\nRATE", batch * (steps[-1] - 1) / (times[-1] - times[-2]))
"""


def _peer_rate(job: Job, data: Path, network: str) -> float:
    """The same of the peer, in its own environment."""
    python = trials.peer(job)
    folder = job.work / "peer"
    folder.mkdir(exist_ok=True)
    words = [str(python), "-c", _PEER, f"{network}.yaml", str(data), str(BATCH), str(trials.SIDE)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    trials.say(done.stdout[-2000:] + done.stderr[-2000:])
    told = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("RATE ")]
    if not told:
        raise Lacking(f"the peer does not train here ({trials.last_line(done.stderr)})")
    return float(told[-1])
