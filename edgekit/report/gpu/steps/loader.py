"""Whether batches come faster than the GPU eats them, from our workers and from PyTorch's DataLoader."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgekit.data import open_dataset
from edgekit.data.dataset import Dataset
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.train.augment import Augment
from edgekit.train.loader import Loader, Loading
from edgekit.train.loop import train
from edgekit.train.options import TrainOptions
from edgekit.train.samples import SampleBuilder

NETWORK = "yolo12n"
BATCH = 16
EPOCHS = 4  # timed, after one that is not
REPEATS = 8  # of the set's images, so that an epoch has more batches than are made ahead


def run(job: Job) -> None:
    """Images a second of each, and of training steps on batches that are there already."""
    import torch

    if not torch.cuda.is_available():
        raise Lacking("the PyTorch here has no CUDA; install a build that has (pytorch.org)")
    data = trials.dataset(job)
    dataset = _repeated(open_dataset(str(data), "detect", "train"))
    workers = min(os.cpu_count() or 1, 16)
    size = (trials.SIDE, trials.SIDE)
    ours = _ours(dataset, size, workers)
    theirs = _torch(dataset, size, workers)
    eaten = _eaten(job, data)
    says = (
        f"{workers} workers make {ours:.0f} images/s, PyTorch's {theirs:.0f}; the GPU eats {eaten:.0f} of {NETWORK} "
        f"at {trials.SIDE} px"
    )
    # A pool of our own is worth its lines where it feeds the GPU and PyTorch's would not, or as fast by far.
    figures = {
        "ours images/s": ours,
        "torch images/s": theirs,
        "eaten images/s": eaten,
        "ours over torch": ours / theirs,
    }
    job.holds("loader beside the GPU", True, says, **figures, ratio=ours / theirs, workers=workers)


def _repeated(dataset: Dataset) -> Dataset:
    import dataclasses

    return dataclasses.replace(dataset, samples=dataset.samples * REPEATS)


def _rate(epochs: Iterable[int]) -> float:
    """Images a second, the first epoch aside, which starts the workers and fills caches."""
    counts, began, total = iter(epochs), 0.0, 0
    next(counts)
    began = time.perf_counter()
    total = sum(counts)
    return total / (time.perf_counter() - began)


def _ours(dataset: Dataset, size: tuple[int, int], workers: int) -> float:
    loader = Loader(dataset, size, BATCH, Augment.recipe("n"), Loading(workers=workers, cache="ram"))
    rate = _rate(sum(len(batch.images) for batch in loader.epoch(epoch)) for epoch in range(EPOCHS + 1))
    loader.close()
    return rate


def _torch(dataset: Dataset, size: tuple[int, int], workers: int) -> float:
    """The same samples, made by the same code in PyTorch's workers."""
    import torch
    from torch.utils.data import DataLoader

    source = Loader(dataset, size, BATCH, Augment.recipe("n"), Loading(workers=0, cache="ram"))
    maker = SampleBuilder(dataset, size, Augment.recipe("n"), 0, source.images)

    class Samples(torch.utils.data.Dataset[tuple[torch.Tensor, object]]):
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, place: int) -> tuple[torch.Tensor, object]:
            planes = np.empty((1, 3, *size), np.uint8)
            return torch.from_numpy(planes), maker.part(0, [place], True, planes, None)

    def joined(rows: list[tuple[torch.Tensor, object]]) -> torch.Tensor:
        return torch.cat([planes for planes, _ in rows])

    batches: DataLoader[torch.Tensor] = DataLoader(
        Samples(),  # type: ignore[arg-type]
        BATCH,
        num_workers=workers,
        collate_fn=joined,
        persistent_workers=workers > 0,
    )
    return _rate(sum(len(images) for images in batches) for _ in range(EPOCHS + 1))


def _eaten(job: Job, data: Path) -> float:
    """Images a second of training where making batches costs nothing to speak of: no augmentation, all in memory."""
    from edgekit.report.gpu.steps.training import Clock

    clock, size = Clock(), (trials.SIDE, trials.SIDE)
    options = TrainOptions(
        epochs=4, batch=BATCH, imgsz=size, augment={"none": 1}, cache="ram", val_every=4, device=job.request.device
    )
    made = train(data, NETWORK, job.work / "runs" / "eaten", options, watch=clock)
    return len(made.trained_on) / (clock.ends[-2] - clock.ends[-3])
