"""Classification sets: one folder per class, in folders ``train``, ``val``, ``test`` or directly.

    flowers/train/daisy/1.jpg   flowers/val/daisy/2.jpg        read_folders(Path("flowers"), None, "val")
    flowers/daisy/1.jpg                                        the same images whatever the split

Class names are sorted; they are those of all splits together, so that a class without images in one of them does not
shift the labels of the others.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.data.dataset import Dataset, Sample, shorten
from edgekit.data.images import find_images, is_image
from edgekit.data.labels import Issue, Labels
from edgekit.errors import InputError, UsageError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def read_folders(root: Path, task: str | None, split: str) -> Dataset:
    """The split of the set in ``root``.

    Raises:
        InputError: no class folders, no such split, or no images.
        UsageError: a task other than classification.
    """
    if task not in (None, "classify"):
        raise UsageError(f"{root}: a folder of class folders serves the task classify, not {task}; give a data.yaml")
    spellings = {spelling for names in SPLITS.values() for spelling in names}
    splits = {p.name: p for p in sorted(root.iterdir()) if p.is_dir() and p.name in spellings}
    if not splits:
        return _read(root, root, split, _class_names(root))
    chosen = next((splits[s] for s in SPLITS.get(split, (split,)) if s in splits), None)
    if chosen is None:
        raise InputError(f"{root}: has no {split} folder, only {', '.join(splits)}")
    return _read(root, chosen, split, sorted({name for folder in splits.values() for name in _class_names(folder)}))


def _class_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(root: Path, folder: Path, split: str, names: list[str]) -> Dataset:
    if not names:
        what = (
            "images but no class folders" if any(map(is_image, folder.iterdir())) else "neither data.yaml nor folders"
        )
        raise InputError(f"{folder}: holds {what}; a classification set has one folder of images per class")
    issues, samples = [], []
    for label, name in enumerate(names):
        images = find_images(folder / name) if (folder / name).is_dir() else []
        if not images:
            issues.append(Issue(folder / name, None, "scarce", f"no images of the class {name!r} here", "warning"))
        samples += [(path, label) for path in images]
    if not samples:
        raise InputError(f"{folder}: no images in its class folders ({shorten(names)})")
    return Dataset(
        task="classify",
        names=tuple(names),
        samples=tuple(Sample(path, i, Labels.of_class(label)) for i, (path, label) in enumerate(samples, 1)),
        source=root,
        split=split,
        issues=tuple(issues),
    )
