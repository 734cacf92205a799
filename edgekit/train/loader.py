"""Batches for training: augmented, in a reproducible order, made by workers ahead of time.

    dataset = open_dataset("bccd/data.yaml", "detect", "train")
    loader = Loader(dataset, (640, 640), 16, Augment.recipe("n"), Loading(workers=4))
    for batch in loader.epoch(0):
        batch.images, batch.targets          # uint8 [16, 3, 640, 640] RGB, Targets
    loader.close()

A sample is a function of (seed, epoch, position in the epoch), so that a run may stop anywhere and go on with
``loader.epoch(number, start)`` as if nothing had been. Workers draw straight into shared memory; the next batches,
also those of the next epoch, are under way while one is being used.

On Linux workers are forked processes: augmentation holds Python's lock for a tenth of its time, and a training loop
that launches thousands of GPU kernels a second waits at each for threads that do. Elsewhere, where forking is not safe,
they are threads. When a process dies all are replaced and what was under way is done again; when the parent goes, they
end. torch's DataLoader makes 0.92 of the images a second (the same samples of bccd at 320 px, 2 workers, medians of 20
interleaved epochs on a busy 2-core machine), and a worker's death ends the run.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from edgekit.data.dataset import Dataset
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.nn.targets import Targets
from edgekit.train.augment import Augment
from edgekit.train.cache import Images
from edgekit.train.geometry import Array
from edgekit.train.samples import Part, SampleBuilder

AHEAD = 3  # batches under way
MOST_DEATHS = 3  # of workers over one batch, before it is given up
LOOK_S = 1.0  # after so long a worker looks whether its parent is still there
MASK_STRIDE = 4


@dataclass(frozen=True)
class Loading:
    """How batches are made, and by whom.

    Attributes:
        seed: of order and augmentation.
        workers: processes that make batches (threads where there is no safe fork); 0 makes them in this one.
        cache: where decoded images are kept: see ``cache.Images``.
        rank, world: this process's number among those that train together. All of them take what one process would
            with a batch ``world`` times as large: samples rank, rank + world, … of it.
        cache_dir: folder of the disk cache.
    """

    seed: int = 0
    workers: int = 2
    cache: str = "auto"
    rank: int = 0
    world: int = 1
    cache_dir: Path | None = None


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        images: uint8 [B, 3, H, W], RGB.
        targets: their ground truth, on the CPU.
        paths: of each the image (of a mosaic its first).
    """

    images: torch.Tensor
    targets: Targets
    paths: tuple[Path, ...]


class _Plan(NamedTuple):
    """Which batch."""

    epoch: int
    number: int
    mosaic: bool


class _Job(NamedTuple):
    """Some samples of a batch, for a worker: those at ``positions`` go to places ``first`` and on of ``slot``."""

    slot: int
    first: int
    plan: _Plan
    positions: tuple[int, ...]


@dataclass
class _Pending:
    """A batch under way: its jobs in order, and what becomes of each."""

    plan: _Plan
    slot: int
    jobs: list[_Job]
    parts: list[Future[Part]] = field(default_factory=list)


class Loader:
    """Batches of a set; see the module.

    Attributes:
        skipped: sentences about images that could not be read, each once. Their places are taken by the next image
            in the epoch's order.
        images: where decoded images come from; ``images.mode`` says which cache it came to.
    """

    def __init__(
        self,
        dataset: Dataset,
        imgsz: tuple[int, int],
        batch: int,
        augment: Augment,
        loading: Loading | None = None,
    ) -> None:
        """
        Args:
            dataset: of any task.
            imgsz: (height, width) of the images; multiples of 32.
            batch: images a batch, of this rank.
            augment: what is done to them.
            loading: how and by whom the batches are made.

        Raises:
            InputError: the set has no images.
            UsageError: the cache cannot be had.
        """
        loading = loading or Loading()
        if not len(dataset):
            raise InputError(f"{dataset.source}: the {dataset.split} split has no images")
        self.rank, self.world = loading.rank, loading.world
        if batch < 1 or not 0 <= self.rank < self.world:
            raise UsageError(f"a batch of {batch} for rank {self.rank} of {self.world}: both must be positive")
        self.dataset, self.size, self.batch, self.workers = dataset, imgsz, batch, loading.workers
        self.skipped: list[str] = []
        self.images = Images(dataset, imgsz, augment.is_none, loading.cache, loading.cache_dir)
        self._maker = SampleBuilder(dataset, imgsz, augment, loading.seed, self.images)
        self._seen: set[int] = set()
        self._masks = "mask_coefficients" in dataset.roles
        self._turn = 0
        self._ring: _Ring | None = None
        self._pool: Workers | None = None
        self._pending: deque[_Pending] = deque()

    def __len__(self) -> int:
        """Batches an epoch; the last may be short. Every rank has as many."""
        return -(-len(self.dataset) // (self.batch * self.world))

    def positions(self, number: int) -> tuple[int, ...]:
        """The places in the epoch's order that this rank takes for a batch. Where the last batch has fewer samples
        than there are ranks, those without one begin the order anew."""
        everyone = self.batch * self.world
        first = number * everyone
        last = min(first + everyone, max(len(self.dataset), first + self.world))
        return tuple(p % len(self.dataset) for p in range(first + self.rank, last, self.world))

    def epoch(self, number: int, start: int = 0, mosaic: bool = True) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, … of an epoch. One such iterator is in use at a time.

        Args:
            number: of the epoch, from 0.
            start: first batch.
            mosaic: False for the last epochs: no mosaic, mixup or copy-paste.

        Raises:
            InputError: no image of the set can be read.
        """
        self._turn += 1
        turn = self._turn
        for batch in range(start, len(self)):
            if turn != self._turn:
                raise RuntimeError("this epoch ended when another one was begun")
            plan = _Plan(number, batch, mosaic)
            yield self._here(plan) if self.workers == 0 else self._next(plan)

    def close(self) -> None:
        """Ends the workers. The loader can be used again; they start anew."""
        self._pending.clear()
        self._end_workers()
        self._ring = None

    def _end_workers(self) -> None:
        if self._pool is not None:
            self._finalizer()
            self.images.renew_locks()
        self._pool = None

    # -- in this process

    def _here(self, plan: _Plan) -> Batch:
        positions = self.positions(plan.number)
        planes, masks = _room(len(positions), self.size, self._masks)
        part = self._maker.part(plan.epoch, positions, plan.mosaic, planes, masks)
        self._note(part)
        return self._assembled([part], torch.from_numpy(planes), None if masks is None else torch.from_numpy(masks))

    # -- with workers

    def _next(self, plan: _Plan) -> Batch:
        """The batch ``plan`` asks for, and others put under way."""
        try:
            if self._pending and self._pending[0].plan != plan:
                self._drop()
            self._fill(plan)
            parts = self._received()
        except BaseException:
            self.close()  # an error or Ctrl-C: what is under way cannot be relied on
            raise
        first = self._pending.popleft()
        assert self._ring is not None
        planes, masks = self._ring.views(first.slot, 0, sum(len(job.positions) for job in first.jobs))
        # Copied, so that a batch stays what it is while its place is filled again; by numpy, because torch would copy
        # with all its threads and wait for each to get a core that a worker is using.
        batch = self._assembled(
            parts, torch.from_numpy(planes.copy()), None if masks is None else torch.from_numpy(masks.copy())
        )
        self._fill(plan)
        return batch

    def _started(self) -> Workers:
        if self._pool is None:
            self._ring = ring = self._ring or _Ring(self.batch, self.size, self._masks)
            self._pool = Workers(self.workers, _Work(self._maker, ring))
            self._finalizer = weakref.finalize(self, self._pool.close)
        return self._pool

    def _fill(self, plan: _Plan) -> None:
        """Puts batches under way until there are ``AHEAD``, in the order they will be asked for."""
        while len(self._pending) < AHEAD:
            if self._pending:
                last = self._pending[-1].plan
                more = last.number + 1 < len(self)
                plan = last._replace(number=last.number + 1) if more else _Plan(last.epoch + 1, 0, last.mosaic)
            positions = self.positions(plan.number)
            slot = next(s for s in range(AHEAD) if all(p.slot != s for p in self._pending))
            share = -(-len(positions) // self.workers)
            jobs = [_Job(slot, i, plan, positions[i : i + share]) for i in range(0, len(positions), share)]
            self._pending.append(_Pending(plan, slot, jobs))
            self._submit(self._pending[-1])

    def _submit(self, *every: _Pending) -> None:
        pool = self._started()
        for pending in every:
            try:
                pending.parts = [pool.submit(job) for job in pending.jobs]
            except BrokenProcessPool as error:
                pending.parts = [Future()]
                pending.parts[0].set_exception(error)  # found where its parts are waited for

    def _received(self) -> list[Part]:
        """The parts of the first batch under way; where a worker died, by others.

        Raises:
            EdgekitError: workers die over it again and again.
        """
        for _ in range(MOST_DEATHS):
            try:
                parts = [part.result() for part in self._pending[0].parts]
            except BrokenProcessPool:
                self._replace_workers()
                continue
            for part in parts:
                self._note(part)
            return parts
        raise EdgekitError(
            f"data workers died {MOST_DEATHS} times over the same images, which mostly means that memory ran out: use "
            "fewer `workers` or `cache` none"
        )

    def _replace_workers(self) -> None:
        """New workers for those of which one died, with what was under way."""
        self._end_workers()
        self._submit(*self._pending)

    def _drop(self) -> None:
        """Something else is wanted than what is under way: what has begun is waited for, as it draws into the ring."""
        parts = [part for pending in self._pending for part in pending.parts if not part.cancel()]
        for part in parts:
            part.exception()
        self._pending.clear()

    # -- both

    def _note(self, part: Part) -> None:
        for index, sentence in part.unread:
            if index not in self._seen:
                self._seen.add(index)
                self.skipped.append(sentence)

    def _assembled(self, parts: Sequence[Part], images: torch.Tensor, masks: torch.Tensor | None) -> Batch:
        def joined(name: str) -> torch.Tensor | None:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else torch.from_numpy(np.concatenate(arrays))

        counts = np.concatenate([part.counts for part in parts])
        classes, boxes = joined("classes"), joined("boxes")
        assert classes is not None and boxes is not None
        targets = Targets(
            size=self.size,
            count=len(images),
            # Not torch.repeat_interleave, for the same reason as the copies above.
            image=torch.from_numpy(np.repeat(np.arange(len(counts)), counts)),
            classes=classes,
            boxes=boxes,
            rotated=joined("rotated"),
            keypoints=joined("keypoints"),
            masks=masks,
            class_id=joined("class_id"),
        )
        paths = tuple(self.dataset.samples[i].path for part in parts for i in part.index.tolist())
        return Batch(images, targets, paths)


def _room(count: int, size: tuple[int, int], with_masks: bool) -> tuple[Array, Array | None]:
    planes = np.empty((count, 3, *size), np.uint8)
    masks = np.empty((count, size[0] // MASK_STRIDE, size[1] // MASK_STRIDE), np.int16) if with_masks else None
    return planes, masks


class _Ring:
    """Memory for ``AHEAD`` batches that forked processes share; not under /dev/shm, which containers keep small."""

    def __init__(self, batch: int, size: tuple[int, int], with_masks: bool) -> None:
        def shared(shape: tuple[int, ...], kind: type) -> Array:
            count = int(np.prod(shape))
            memory = mmap.mmap(-1, max(count * np.dtype(kind).itemsize, 1))
            return np.frombuffer(memory, kind, count).reshape(shape)

        self.planes = shared((AHEAD, batch, 3, *size), np.uint8)
        cells = (size[0] // MASK_STRIDE, size[1] // MASK_STRIDE)
        self.masks = shared((AHEAD, batch, *cells), np.int16) if with_masks else None

    def views(self, slot: int, first: int, count: int) -> tuple[Array, Array | None]:
        """Places ``first`` and on of a slot."""
        masks = None if self.masks is None else self.masks[slot, first : first + count]
        return self.planes[slot, first : first + count], masks


@dataclass(frozen=True)
class _Work:
    """What a worker does."""

    maker: SampleBuilder
    ring: _Ring

    def __call__(self, job: _Job) -> Part:
        planes, masks = self.ring.views(job.slot, job.first, len(job.positions))
        return self.maker.part(job.plan.epoch, job.positions, job.plan.mosaic, planes, masks)


class Workers:
    """``count`` workers that do ``work``: forked processes where ``forked``, else threads.

    A future of theirs raises BrokenProcessPool when any of the processes died; then nothing more can be submitted.
    """

    def __init__(self, count: int, work: Callable[[_Job], Part], forked: bool = sys.platform == "linux") -> None:
        self._work, self._forked, self._owner = work, forked, os.getpid()
        self._pool: Executor
        if forked:
            context = multiprocessing.get_context("fork")  # what is handed over is there, not copied
            self._pool = ProcessPoolExecutor(count, context, _begin_worker, (work, os.getpid()))
        else:
            self._pool = ThreadPoolExecutor(count)

    def submit(self, job: _Job) -> Future[Part]:
        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads: nothing here takes a lock that one of them could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._pool.submit(_in_worker if self._forked else self._work, job)

    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return list(getattr(self._pool, "_processes", None) or ())

    def close(self) -> None:
        """Ends the workers once they have done what they are at."""
        if os.getpid() == self._owner:  # else a forked copy of this object: the workers are not its children
            self._pool.shutdown(cancel_futures=True)


_WORK: Callable[[_Job], Part]  # of a worker process


def _begin_worker(work: Callable[[_Job], Part], parent: int) -> None:
    global _WORK
    _WORK = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


def _in_worker(job: _Job) -> Part:
    return _WORK(job)
