"""One training sample from its place in an epoch, and several of them as part of a batch. Numpy, no processes.

    maker = Maker(dataset, (640, 640), augment, seed=0, images=Images(dataset, (640, 640), exact=False))
    part = maker.part(epoch=3, positions=[0, 1, 2], mosaic=True, planes=planes, masks=None)

A sample is a function of (seed, epoch, position) and of the files, of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.data.dataset import Dataset
from edgekit.errors import InputError
from edgekit.train import augment as augmentation
from edgekit.train.augment import Augment
from edgekit.train.cache import Images
from edgekit.train.geometry import Array, Objects

WINDOW = 256  # places before a sample that a mosaic's partners come from: lately read, so seldom decoded again


@dataclass(frozen=True)
class Part:
    """The labels of some consecutive samples of a batch; objects stand one after the other.

    Attributes:
        index: [n] the samples' places in the set.
        counts: [n] objects of each.
        classes [M], boxes [M, 4], rotated [M, 5] or None, keypoints [M, P, 3] or None.
        class_id: [n] for classification, or None.
        unread: place in the set and sentence of images found unreadable meanwhile.
    """

    index: Array
    counts: Array
    classes: Array
    boxes: Array
    rotated: Array | None
    keypoints: Array | None
    class_id: Array | None
    unread: tuple[tuple[int, str], ...]


class SampleBuilder:
    """Makes samples of a set."""

    def __init__(self, dataset: Dataset, size: tuple[int, int], augment: Augment, seed: int, images: Images) -> None:
        self._dataset, self._size, self._augment, self._seed, self._images = dataset, size, augment, seed, images
        self._orders: dict[int, Array] = {}
        self._unread: dict[int, str] = {}
        self._told: set[int] = set()

    def order(self, epoch: int) -> Array:
        """The set's images in that epoch's order: int64 [n]."""
        order = self._orders.get(epoch)
        if order is None:
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._dataset))
            if len(self._orders) > 2:
                self._orders.clear()
            self._orders[epoch] = order
        return order

    def part(
        self,
        epoch: int,
        positions: Sequence[int],
        mosaic: bool,
        planes: Array,
        masks: Array | None,
    ) -> Part:
        """The samples at ``positions`` of an epoch, drawn into ``planes`` uint8 [n, 3, H, W] and ``masks`` int16
        [n, H / 4, W / 4].

        Raises:
            InputError: no image of the set can be read.
        """
        index = np.zeros(len(positions), np.int64)
        found: list[Objects] = []
        for i, position in enumerate(positions):
            index[i], objects = self._sample(epoch, position, mosaic, planes[i])
            found.append(objects)
            if masks is not None:
                masks[i] = objects.index_map(self._size)
        unread = tuple((k, v) for k, v in self._unread.items() if k not in self._told)
        self._told.update(self._unread)
        return self._joined(index, found, unread)

    def _joined(self, index: Array, found: Sequence[Objects], unread: tuple[tuple[int, str], ...]) -> Part:
        dataset, every = self._dataset, Objects.joined(found)
        class_id = None
        if dataset.classifies:
            class_id = np.array([dataset.samples[i].labels.class_id for i in index], np.int64)
        keypoints = every.keypoints
        if "keypoints" in dataset.roles and keypoints is None:
            keypoints = np.zeros((0, (dataset.keypoint_shape or (17, 3))[0], 3))
        return Part(
            index=index,
            counts=np.array([len(objects) for objects in found], np.int64),
            classes=every.classes.astype(np.int64),
            boxes=every.boxes.astype(np.float32),
            rotated=every.rotated().astype(np.float32) if "rotated_boxes" in dataset.roles else None,
            keypoints=None if keypoints is None else keypoints.astype(np.float32),
            class_id=class_id,
            unread=unread,
        )

    def _sample(self, epoch: int, position: int, mosaic: bool, planes: Array) -> tuple[int, Objects]:
        """Draws one sample; the place in the set of the image it is about, and its objects."""
        rng = np.random.default_rng([self._seed, epoch, position])
        order, augment = self.order(epoch), self._augment
        index, image = self._readable(order, position)
        if self._dataset.classifies:
            if not augment.is_none:
                image = augmentation.classification_sample(rng, augment, image, self._size)
            augmentation.finish(rng, augment, image, planes, classify=True)
            return index, Objects.empty()

        def fetch(place: int) -> augmentation.Fetched:
            chosen, pixels = (index, image) if place == position else self._readable(order, place)
            labels = self._dataset.samples[chosen].labels
            return pixels, Objects.from_labels(labels), labels.size

        def partner() -> int:
            return (position - 1 - int(rng.integers(max(min(WINDOW, len(order) - 1), 1)))) % len(order)

        canvas, objects = augmentation.detection_sample(
            rng, augment, fetch, position, partner, self._size, mosaic, self._dataset.flip_idx
        )
        augmentation.finish(rng, augment, canvas, planes)
        return index, objects

    def _readable(self, order: Array, position: int) -> tuple[int, Array]:
        """The image at a place of the order, or at the next place whose image can be read.

        Raises:
            InputError: there is none.
        """
        for index in _from(order, position):
            if index in self._unread:
                continue
            try:
                return index, self._images[index]
            except InputError as error:
                self._unread[index] = str(error)
        first = next(iter(self._unread.values()), "it has no images")
        raise InputError(f"{self._dataset.source}: none of the {len(order)} {self._dataset.split} images can be read; "
                         f"the first problem is {first}")  # fmt: skip


def _from(order: Array, position: int) -> Iterable[int]:
    for step in range(len(order)):
        yield int(order[(position + step) % len(order)])
