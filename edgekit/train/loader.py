"""Batches for training: augmented, in a reproducible order, made by workers ahead of time.

    loader = Loader(open_dataset("bccd/data.yaml", "detect", "train"), (640, 640), 16, Augment.recipe("n"), workers=4)
    for batch in loader.epoch(0):
        batch.images, batch.targets          # uint8 [16, 3, 640, 640] RGB, Targets
    loader.close()

A sample is a function of (seed, epoch, position in the epoch), so that a run may stop anywhere and go on with
``loader.epoch(number, start)`` as if nothing had been. Workers draw straight into shared memory; the next batches,
also those of the next epoch, are under way while one is being used.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from edgekit.data.dataset import Dataset
from edgekit.errors import InputError, UsageError
from edgekit.nn.targets import Targets
from edgekit.train import workers as working
from edgekit.train.augment import Augment
from edgekit.train.cache import Images
from edgekit.train.geometry import Array
from edgekit.train.samples import Maker, Part

AHEAD = 3  # batches under way
MASK_STRIDE = 4


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

    ticket: int
    slot: int
    first: int
    plan: _Plan
    positions: tuple[int, ...]


@dataclass
class _Pending:
    """A batch under way."""

    plan: _Plan
    ticket: int
    slot: int
    count: int
    parts: dict[int, Part | None] = field(default_factory=dict)
    left: int = 0


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
        *,
        seed: int = 0,
        workers: int = 2,
        cache: str = "auto",
        rank: int = 0,
        world: int = 1,
        cache_dir: Path | None = None,
    ) -> None:
        """
        Args:
            dataset: of any task.
            imgsz: (height, width) of the images; multiples of 32.
            batch: images a batch, of this rank.
            augment: what is done to them.
            seed: of order and augmentation.
            workers: processes that make batches (threads where there is no safe fork); 0 makes them in this one.
            cache: where decoded images are kept: see ``cache.Images``.
            rank, world: this process's number among those that train together. All of them take what one process
                would with a batch ``world`` times as large: samples rank, rank + world, … of it.
            cache_dir: folder of the disk cache.

        Raises:
            InputError: the set has no images.
            UsageError: the cache cannot be had.
        """
        if not len(dataset):
            raise InputError(f"{dataset.source}: the {dataset.split} split has no images")
        if batch < 1 or not 0 <= rank < world:
            raise UsageError(f"a batch of {batch} for rank {rank} of {world}: both must be positive")
        self.dataset, self.size, self.batch, self.workers = dataset, imgsz, batch, workers
        self.rank, self.world = rank, world
        self.skipped: list[str] = []
        self.images = Images(dataset, imgsz, augment.is_none, cache, cache_dir)
        self._maker = Maker(dataset, imgsz, augment, seed, self.images)
        self._seen: set[int] = set()
        self._masks = "mask_coefficients" in dataset.roles
        self._turn = 0
        self._ring: _Ring | None = None
        self._pool: working.Processes | working.Threads | None = None
        self._pending: deque[_Pending] = deque()
        self._tickets = 0

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
        if self._pool is not None:
            self._finalizer()
            self.images.renew_locks()
        self._pool = self._ring = None

    # -- in this process

    def _here(self, plan: _Plan) -> Batch:
        positions = self.positions(plan.number)
        planes, masks = _room(len(positions), self.size, self._masks)
        part = self._maker.part(plan.epoch, positions, plan.mosaic, planes, masks)
        assert part is not None
        self._note(part)
        return self._assembled([part], torch.from_numpy(planes), None if masks is None else torch.from_numpy(masks))

    # -- with workers

    def _next(self, plan: _Plan) -> Batch:
        """The batch ``plan`` asks for, and others put under way."""
        try:
            if self._pool is None:
                self._ring = ring = _Ring(self.batch, self.size, self._masks)
                self._pool = working.start(self.workers, _Work(self._maker, ring))
                self._finalizer = weakref.finalize(self, self._pool.close)
            if self._pending and self._pending[0].plan != plan:
                self._drop()
            self._fill(plan)
            first = self._pending[0]
            while first.left:
                self._receive()
        except BaseException:
            self.close()  # an error or Ctrl-C: what is under way cannot be relied on
            raise
        assert self._ring is not None
        planes, masks = self._ring.views(first.slot, 0, first.count)
        parts = [part for _, part in sorted(first.parts.items()) if part is not None]
        # Copied, so that a batch stays what it is while its place is filled again; by numpy, because torch would copy
        # with all its threads and wait for each to get a core that a worker is using.
        batch = self._assembled(
            parts, torch.from_numpy(planes.copy()), None if masks is None else torch.from_numpy(masks.copy())
        )
        self._pending.popleft()
        self._fill(plan)
        return batch

    def _fill(self, plan: _Plan) -> None:
        """Puts batches under way until there are ``AHEAD``, in the order they will be asked for."""
        while len(self._pending) < AHEAD:
            if self._pending:
                last = self._pending[-1].plan
                more = last.number + 1 < len(self)
                plan = last._replace(number=last.number + 1) if more else _Plan(last.epoch + 1, 0, last.mosaic)
            self._submit(plan)

    def _submit(self, plan: _Plan) -> None:
        assert self._pool is not None
        positions = self.positions(plan.number)
        slot = next(s for s in range(AHEAD) if all(p.slot != s for p in self._pending))
        pending = _Pending(plan, self._tickets, slot, len(positions))
        self._tickets += 1
        self._pending.append(pending)
        share = -(-len(positions) // self.workers)
        for first in range(0, len(positions), share):
            job = _Job(pending.ticket, slot, first, plan, positions[first : first + share])
            pending.left += 1
            self._pool.submit((pending.ticket, first), job)

    def _receive(self) -> None:
        assert self._pool is not None
        (ticket, first), part = self._pool.wait()
        pending = next(p for p in self._pending if p.ticket == ticket)
        pending.parts[first] = part
        pending.left -= 1
        if part is not None:
            self._note(part)

    def _drop(self) -> None:
        """Something else is wanted than what is under way: workers leave it unfinished."""
        assert self._ring is not None
        self._ring.oldest[0] = self._tickets
        while any(p.left for p in self._pending):
            self._receive()
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
    """Memory for ``AHEAD`` batches that forked processes share; not under /dev/shm, which containers keep small.

    ``oldest`` [1] is the first ticket that is still wanted.
    """

    def __init__(self, batch: int, size: tuple[int, int], with_masks: bool) -> None:
        def shared(shape: tuple[int, ...], kind: type) -> Array:
            count = int(np.prod(shape))
            memory = mmap.mmap(-1, max(count * np.dtype(kind).itemsize, 1))
            return np.frombuffer(memory, kind, count).reshape(shape)

        self.planes = shared((AHEAD, batch, 3, *size), np.uint8)
        cells = (size[0] // MASK_STRIDE, size[1] // MASK_STRIDE)
        self.masks = shared((AHEAD, batch, *cells), np.int16) if with_masks else None
        self.oldest = shared((1,), np.int64)

    def views(self, slot: int, first: int, count: int) -> tuple[Array, Array | None]:
        """Places ``first`` and on of a slot."""
        masks = None if self.masks is None else self.masks[slot, first : first + count]
        return self.planes[slot, first : first + count], masks


@dataclass(frozen=True)
class _Work:
    """What a worker does."""

    maker: Maker
    ring: _Ring

    def __call__(self, job: _Job) -> Part | None:
        planes, masks = self.ring.views(job.slot, job.first, len(job.positions))
        return self.maker.part(
            job.plan.epoch, job.positions, job.plan.mosaic, planes, masks, lambda: self.ring.oldest[0] > job.ticket
        )
