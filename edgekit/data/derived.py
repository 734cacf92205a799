"""A part of another set, as `edgekit train` writes it down in ``RUN/sets.yaml``: what the run learnt and measured.

    source: /data/cells/annotations.json     # any set
    val_source: /data/cells/val.json         # --val
    images: [/data/photos]                   # --images
    names: [RBC, WBC, Platelets]             # the source's, in the order of the labels
    train: sets.train.txt                    # --val-fraction: the images of either split, one a line
    val: sets.val.txt
    classes: [RBC, WBC]                      # --classes
    single_class: object                     # --single-class
    label_options: {crowd: objects}          # --label-options

``train``, ``val``, ``calibrate`` and ``build --data`` take that file like any other ``data.yaml``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.data.dataset import Dataset
from edgekit.data.encoding import read_lines
from edgekit.data.issues import Issue
from edgekit.data.options import LabelOptions
from edgekit.data.settings import Settings, whole
from edgekit.data.splits import place_of
from edgekit.errors import InputError, UsageError, shorten
from edgekit.metrics.labels import Labels

NAME = "sets.yaml"  # in a run's folder
OBJECT = "object"  # what --single-class calls everything


@dataclass(frozen=True)
class Derived:
    """What is taken of which set.

    Attributes:
        source: the set; its train split where ``lists`` divide it.
        val_source: the set that the val split is of, if another.
        images: folders, files and patterns of a COCO JSON's images.
        names: the source's classes in label order.
        lists: split -> absolute paths of its images; None: the splits are the source's.
        classes: the classes kept; None: all.
        single_class: the one class that all become.
        options: how labels are read.
    """

    source: Path
    val_source: Path | None = None
    images: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    lists: Mapping[str, Sequence[Path]] | None = None
    classes: tuple[str, ...] | None = None
    single_class: str | None = None
    options: LabelOptions = field(default_factory=LabelOptions)

    @classmethod
    def read(cls, path: Path, settings: Settings) -> Derived:
        """From the file at ``path``, whose keys are ``settings``.

        Raises:
            InputError: it is not as ``files`` writes it.
        """
        images, names, classes = (_words(path, settings, key) for key in ("images", "names", "classes"))
        single = settings.get("single_class")
        lists = None
        if "train" in settings or "val" in settings:
            lists = {split: _listed(path, settings, split) for split in ("train", "val")}
        return cls(
            source=place_of(path, str(settings["source"])),
            val_source=place_of(path, str(settings["val_source"])) if "val_source" in settings else None,
            images=tuple(str(place_of(path, entry)) for entry in images),
            names=names,
            lists=lists,
            classes=classes if "classes" in settings else None,
            single_class=str(single) if single is not None else None,
        )

    def files(self) -> dict[str, bytes]:
        """File name -> content, of what stands in a run's folder."""
        rows: dict[str, object] = {"source": os.path.abspath(self.source)}
        if self.val_source:
            rows["val_source"] = os.path.abspath(self.val_source)
        if self.images:
            rows["images"] = [os.path.abspath(entry) for entry in self.images]
        rows["names"] = list(self.names)
        rows |= {split: f"sets.{split}.txt" for split in self.lists or ()}
        if self.classes is not None:
            rows["classes"] = list(self.classes)
        if self.single_class is not None:
            rows["single_class"] = self.single_class
        if self.options.changes():
            rows["label_options"] = self.options.changes()
        lines = ["# Written by edgekit train: what the run beside it learnt from and was measured on."]
        lines += [f"{key}: {_quoted(value)}" for key, value in rows.items()]
        lists = {
            f"sets.{split}.txt": b"".join(os.fsencode(os.path.abspath(path)) + b"\n" for path in paths)
            for split, paths in (self.lists or {}).items()
        }
        return {**lists, NAME: ("\n".join(lines) + "\n").encode()}

    def source_of(self, split: str) -> tuple[Path, str]:
        """The set that a split is of, and which of its splits to open."""
        if split == "val" and self.val_source is not None:
            return self.val_source, "val"
        return self.source, "train" if self.lists is not None else split

    def images_of(self, split: str) -> tuple[str, ...]:
        """Where the images of the split are, if it is a COCO JSON's."""
        other = split == "val" and self.val_source is not None and self.val_source.suffix.lower() != ".json"
        return () if other else self.images

    def apply(self, dataset: Dataset, split: str) -> Dataset:
        """The split, of what was opened as ``source_of`` says."""
        dataset = dataset.with_names(self.names) if self.names else dataset
        if self.lists is not None and not (split == "val" and self.val_source):
            dataset = _selected(dataset, split, self.lists)
        return narrowed(dataset, self.classes, self.single_class)


def _words(path: Path, settings: Settings, key: str) -> tuple[str, ...]:
    found = settings.get(key, [])
    if not isinstance(found, list):
        raise InputError(f"{path}: {key} must be a list")
    return tuple(map(str, found))


def _listed(path: Path, settings: Settings, split: str) -> tuple[Path, ...]:
    """The images that a split's list names.

    Raises:
        InputError: there is no list, or it cannot be read.
    """
    try:
        listing = place_of(path, str(settings[split]))
        lines = read_lines(listing, "surrogateescape")
    except (KeyError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: has no readable list of {split} images ({error}); train again") from None
    return tuple(place_of(listing, line) for line in lines if line)


def _selected(dataset: Dataset, split: str, lists: Mapping[str, Sequence[Path]]) -> Dataset:
    """The samples that the split's list names."""
    places = [os.path.abspath(sample.path) for sample in dataset.samples]
    wanted = [os.path.abspath(path) for path in lists[split]]
    known = {os.path.abspath(path) for paths in lists.values() for path in paths}
    gone = sorted(set(wanted) - set(places))
    lost = [Issue(Path(path), None, "no image", "listed and not in the set; left out") for path in gone]
    if new := [path for path in places if path not in known]:
        sentence = f"{len(new)} images are in none of the lists, the first is {new[0]}; left out"
        lost.append(Issue(dataset.source, None, "split", sentence, count=len(new)))
    chosen = set(wanted)
    samples = tuple(sample for path, sample in zip(places, dataset.samples, strict=True) if path in chosen)
    if not samples:
        raise InputError(f"{dataset.source}: none of the {len(wanted)} listed {split} images is in it")
    return dataclasses.replace(dataset, samples=samples, split=split, issues=(*dataset.issues, *lost))


def classes_named(words: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The classes that names or label numbers mean, in the order of ``names``.

    Raises:
        UsageError: one means no class.
    """
    chosen = set()
    for word in words:
        number = whole(word)
        if word in names:
            chosen.add(word)
        elif number is not None and 0 <= number < len(names):
            chosen.add(names[number])
        else:
            raise UsageError(f"`classes` {word}: the set has no such class; its {len(names)} are {shorten(names, 20)}")
    return tuple(name for name in names if name in chosen)


def narrowed(dataset: Dataset, classes: Sequence[str] | None, single: str | None) -> Dataset:
    """The set with fewer classes: objects of others go, images without an object left stay as background; of a
    classification set, images of other classes go.

    Args:
        classes: the names kept; None: all.
        single: what all that are kept become.

    Raises:
        UsageError: one class is asked for of a classification set.
        InputError: a class that the set does not have, or nothing left to learn.
    """
    if classes is None and single is None:
        return dataset
    if dataset.classifies and single is not None:
        raise UsageError("`single_class`: a classification set with one class leaves nothing to tell apart")
    if unknown := [name for name in classes or () if name not in dataset.names]:
        raise InputError(f"{dataset.source}: has no class {unknown[0]!r}; its classes are {shorten(dataset.names, 20)}")
    kept = [i for i, name in enumerate(dataset.names) if classes is None or name in classes]
    new = np.full(len(dataset.names), -1, np.int64)
    new[kept] = 0 if single is not None else np.arange(len(kept))
    names = tuple(dataset.names[i] for i in kept) if single is None else (single,)
    samples = []
    gone = 0
    for sample in dataset.samples:
        labels, lost = _narrowed(sample.labels, new)
        gone += lost
        if labels is not None:
            samples.append(dataclasses.replace(sample, labels=labels))
    if not any(len(sample.labels) or sample.labels.class_id is not None for sample in samples):
        raise InputError(f"{dataset.source}: no object of {shorten(names)} in {dataset.split}")
    issues = list(dataset.issues)
    if gone:
        what = "images" if dataset.classifies else "objects"
        sentence = f"{gone} {what} are of classes that were not asked for"
        issues.append(Issue(dataset.source, None, "subset", sentence, "note", gone))
    categories = tuple(dataset.category_ids[i] for i in kept)[: len(names)]
    return dataclasses.replace(
        dataset, names=names, samples=tuple(samples), category_ids=categories, issues=tuple(issues)
    )


def _narrowed(labels: Labels, new: np.ndarray) -> tuple[Labels | None, int]:
    """Labels with new numbers, and how many objects or images are gone; None for an image that goes."""
    if labels.class_id is not None:
        number = int(new[labels.class_id])
        return (None, 1) if number < 0 else (dataclasses.replace(labels, class_id=number), 0)
    keep = new[labels.classes] >= 0
    left = labels.select(keep)
    return dataclasses.replace(left, classes=new[left.classes]), int((~keep & ~labels.crowd).sum())


def _quoted(value: object) -> str:
    """As YAML and JSON both have it; names that are no UTF-8 by their surrogates' numbers."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
