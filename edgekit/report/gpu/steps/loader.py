"""Whether batches come faster than the GPU eats them, from our workers and from PyTorch's DataLoader."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from edgekit.data import open_dataset
from edgekit.data.dataset import Dataset
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job
from edgekit.train.augment import Augment
from edgekit.train.loader import Loader, Loading
from edgekit.train.loop import train
from edgekit.train.options import TrainOptions
from edgekit.train.samples import Part, SampleBuilder

NETWORK = "yolo12n"
BATCH = 16
EPOCHS = 4  # timed, after one that is not
TURNS = 2  # of each, so that what slows the machine slows both
SLOWER = 0.9  # of PyTorch's images a second: with fewer, ours does not hold


def run(job: Job) -> None:
    """Images a second of each, and of training steps on batches that are there already."""
    device, data = trials.torch_device(), trials.dataset(job, trials.MANY)
    dataset, workers = open_dataset(str(data), "detect", "train"), min(os.cpu_count() or 1, 16)
    size = (trials.SIDE, trials.SIDE)
    turns = [(_ours(dataset, size, workers), _torch(dataset, size, workers)) for _ in range(TURNS)]
    ours, theirs = (statistics.median(rates) for rates in zip(*turns, strict=True))
    eaten = _eaten(job, data, device)
    says = (
        f"{workers} workers make {ours:.0f} images/s, PyTorch's {theirs:.0f}; the GPU eats {eaten:.0f} of {NETWORK} "
        f"at {size[0]} px: {verdict(ours, theirs, eaten)}"
    )
    figures = {
        "ours images/s": ours,
        "torch images/s": theirs,
        "eaten images/s": eaten,
        "ours over torch": ours / theirs,
    }
    job.holds("loader beside the GPU", ours >= SLOWER * theirs, says, **figures, turns=turns, workers=workers)


def verdict(ours: float, theirs: float, eaten: float) -> str:
    """Whether a pool of our own is worth its lines, by the images a second that it, PyTorch's and a GPU handle."""
    if theirs >= eaten:
        return "PyTorch's would do" if ours >= eaten else "PyTorch's feeds it and ours does not"
    if ours >= eaten:
        return "ours feeds it and PyTorch's does not"
    return f"it waits for either; with ours it does {ours / theirs:.2f} of the steps that it does with PyTorch's"


def _rate(epochs: Iterable[int]) -> float:
    """Images a second, the first epoch aside, which starts the workers and fills caches."""
    counts = iter(epochs)
    next(counts)
    began = time.perf_counter()
    return sum(counts) / (time.perf_counter() - began)


def _ours(dataset: Dataset, size: tuple[int, int], workers: int) -> float:
    loader = Loader(dataset, size, BATCH, Augment.recipe("n"), Loading(workers=workers, cache="ram"))
    rate = _rate(sum(len(batch.images) for batch in loader.epoch(epoch)) for epoch in range(EPOCHS + 1))
    loader.close()
    return rate


def _torch(dataset: Dataset, size: tuple[int, int], workers: int) -> float:
    """The same samples, made by the same code in PyTorch's workers."""
    import torch
    from torch.utils.data import DataLoader, Sampler

    source = Loader(dataset, size, BATCH, Augment.recipe("n"), Loading(workers=0, cache="ram"))
    maker = SampleBuilder(dataset, size, Augment.recipe("n"), 0, source.images)

    class Places(Sampler[tuple[int, int]]):  # of every epoch others
        epoch = 0

        def __iter__(self) -> Iterator[tuple[int, int]]:
            self.epoch += 1
            return iter([(self.epoch, place) for place in range(len(dataset))])

        def __len__(self) -> int:
            return len(dataset)

    class Samples(torch.utils.data.Dataset[tuple[torch.Tensor, Part]]):
        def __getitem__(self, which: tuple[int, int]) -> tuple[torch.Tensor, Part]:  # type: ignore[override]
            planes = np.empty((1, 3, *size), np.uint8)
            return torch.from_numpy(planes), maker.part(which[0], [which[1]], True, planes, None)

    def joined(rows: list[tuple[torch.Tensor, Part]]) -> tuple[torch.Tensor, list[Part]]:
        return torch.cat([planes for planes, _ in rows]), [part for _, part in rows]

    batches: DataLoader[tuple[torch.Tensor, list[Part]]] = DataLoader(
        Samples(),  # type: ignore[arg-type]
        BATCH,
        sampler=Places(),
        num_workers=workers,
        collate_fn=joined,
        persistent_workers=workers > 0,
    )
    rate = _rate(sum(len(images) for images, _ in batches) for _ in range(EPOCHS + 1))
    source.close()
    return rate


def _eaten(job: Job, data: Path, device: str) -> float:
    """Images a second of training where making batches costs nothing to speak of: no augmentation, all in memory."""
    from edgekit.report.gpu.steps.training import Clock

    clock, size = Clock(), (trials.SIDE, trials.SIDE)
    options = TrainOptions(
        epochs=3, batch=BATCH, imgsz=size, augment={"none": 1}, cache="ram", val_every=3, device=device
    )
    train(data, NETWORK, job.work / "runs" / "eaten", options, watch=clock)
    return clock.rates[-1]
