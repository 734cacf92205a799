"""A labelled set as every part of edgekit sees it: one split, its classes, and one record per image.

    dataset = open_dataset(Path("bccd/data.yaml"), "detect", "val")
    len(dataset), dataset.names                     # 72, ('RBC', 'WBC', 'Platelets')
    sample = dataset.samples[0]
    sample.labels.scaled(*sample.size()).boxes      # [N, 4] pixels of the original image
    [str(issue) for issue in dataset.problems()]    # everything that was found wrong while reading

Problems of single images or rows are collected, never raised: whoever asked decides how strict to be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit import tasks
from edgekit.data.images import image_size
from edgekit.data.issues import Issue
from edgekit.errors import InputError, shorten
from edgekit.metrics.labels import Labels


@dataclass(frozen=True)
class Sample:
    """One image and what is on it.

    Attributes:
        path: the image file.
        image_id: COCO's id; of other formats the image's place in the sorted list, from 1.
        labels: its objects or its class.
        width, height: pixels, where the labels' file states them; else None (ask ``size``).
        issues: what was found wrong with its labels.
    """

    path: Path
    image_id: int
    labels: Labels
    width: int | None = None
    height: int | None = None
    issues: tuple[Issue, ...] = ()

    def size(self) -> tuple[int, int]:
        """Width and height of the image in pixels, from its header where they are not stated.

        Raises:
            InputError: the image cannot be read.
        """
        return (self.width, self.height) if self.width and self.height else image_size(self.path)


@dataclass(frozen=True)
class Dataset:
    """One split of a set.

    Attributes:
        task: how the labels were read.
        names: class names in label order.
        samples: the images whose file exists, in a fixed order.
        source: the ``data.yaml``, JSON or folder it was read from.
        split: ``train``, ``val`` or ``test``.
        keypoint_shape: (points, values per point in the file) for pose, else None; labels always hold three.
        flip_idx: for each keypoint the one it becomes when the image is mirrored; empty if unknown.
        category_ids: the COCO category of each class; the label itself for other formats.
        issues: what is wrong with the set as a whole.
        license: of the images, as the ``data.yaml`` states it; None where it does not.
    """

    task: str
    names: tuple[str, ...]
    samples: tuple[Sample, ...]
    source: Path
    split: str
    keypoint_shape: tuple[int, int] | None = None
    flip_idx: tuple[int, ...] = ()
    category_ids: tuple[int, ...] = ()
    issues: tuple[Issue, ...] = ()
    license: str | None = None

    def __post_init__(self) -> None:
        if not self.category_ids:
            object.__setattr__(self, "category_ids", tuple(range(len(self.names))))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def roles(self) -> tuple[str, ...]:
        """Of the outputs that the task has: what labels of it hold, see ``spec.ROLES``; none of mere pictures."""
        return tasks.get(self.task).roles if self.task else ()

    @property
    def classifies(self) -> bool:
        """Whether an image has one class and no objects."""
        return "class_probabilities" in self.roles

    def spread(self, most: int) -> tuple[Sample, ...]:
        """At most so many of its samples, from all over it."""
        return self.samples[:: max(len(self) // most, 1)][:most]

    def problems(self) -> list[Issue]:
        """The set's issues and then every image's, in order."""
        return [*self.issues, *(issue for sample in self.samples for issue in sample.issues)]

    def left_out(self) -> str | None:
        """What to know before believing a figure: what is not used, and what is used after a change, if anything."""
        from edgekit.data.account import account_of

        return "; ".join(account_of(self).sentences()) or None

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Per class the number of images with it and the number of objects, crowd regions not counted: [C], [C]."""
        images = np.zeros(len(self.names), np.int64)
        objects = np.zeros(len(self.names), np.int64)
        for sample in self.samples:
            labels = sample.labels
            classes = labels.classes[~labels.crowd] if labels.class_id is None else np.array([labels.class_id])
            objects += np.bincount(classes, minlength=len(objects))
            images[np.unique(classes)] += 1
        return images, objects

    def with_names(self, names: Sequence[str]) -> Dataset:
        """The same set with its labels in another order of classes, e.g. a model's; classes go by name, letter case
        aside. Classes the set lacks get category ids that it does not use.

        Raises:
            InputError: the set has a class that ``names`` lacks.
        """
        if tuple(names) == self.names:
            return self
        place = {name.casefold(): i for i, name in reversed(list(enumerate(names)))}
        unknown = [name for name in self.names if name.casefold() not in place]
        if unknown:
            raise InputError(
                f"{self.source} has the class {unknown[0]!r}, which the model does not know; the model's "
                f"{len(names)} classes are {shorten(names)}, the set's {len(self.names)} are {shorten(self.names)}"
            )
        moved = np.array([place[name.casefold()] for name in self.names], np.int64)
        fresh = max(self.category_ids) + 1
        categories = list(range(fresh, fresh + len(names)))
        for label, category in zip(moved, self.category_ids, strict=True):
            categories[label] = category
        samples = tuple(dataclasses.replace(s, labels=_relabelled(s.labels, moved)) for s in self.samples)
        return dataclasses.replace(self, names=tuple(names), samples=samples, category_ids=tuple(categories))


def _relabelled(labels: Labels, moved: np.ndarray) -> Labels:
    class_id = None if labels.class_id is None else int(moved[labels.class_id])
    return dataclasses.replace(labels, classes=moved[labels.classes], class_id=class_id)
