"""Classification sets: one folder per class, in folders ``train``, ``val``, ``test`` or directly.

    flowers/train/daisy/1.jpg   flowers/val/daisy/2.jpg        read_folders(Path("flowers"), None, "val")
    flowers/daisy/1.jpg                                        the same images whatever the split

Class names are sorted; they are those of all splits together, so that a class without images in one of them does not
shift the labels of the others.
"""

from __future__ import annotations

from pathlib import Path

from edgekit import tasks
from edgekit.data.dataset import Dataset, Sample
from edgekit.data.encoding import printable
from edgekit.data.images import find_images, hidden_folder, is_hidden, is_image, look_through
from edgekit.data.issues import Issue
from edgekit.errors import InputError, UsageError, shorten
from edgekit.metrics.labels import Labels

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
SPELLINGS = {spelling for spellings in SPLITS.values() for spelling in spellings}


def read_folders(root: Path, task: str | None, split: str) -> Dataset:
    """The split of the set in ``root``.

    Raises:
        InputError: no class folders, no such split, or no images.
        UsageError: a task other than classification.
    """
    if task is not None and tasks.get(task).detects:
        raise UsageError(f"{root}: a folder of class folders serves the task classify, not {task}; give a data.yaml")
    splits, issues = split_folders(root)
    if not splits:
        return _read(root, task, root, split, _class_names(root), issues)
    if split not in splits:
        raise InputError(f"{root}: has no {split} folder, only {', '.join(p.name for p in splits.values())}")
    issues += _beside(root)
    names = sorted({name for folder in splits.values() for name in _class_names(folder)})
    return _read(root, task, splits[split], split, names, issues)


def split_folders(root: Path) -> tuple[dict[str, Path], list[Issue]]:
    """Split name -> its folder in ``root``, letter case aside, and what stands beside them and is not used."""
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not is_hidden(p.name))
    splits: dict[str, Path] = {}
    issues = []
    for split, spellings in SPLITS.items():
        found = [path for spelling in spellings for path in folders if path.name.lower() == spelling]
        if found:
            splits[split] = found[0]
        for path in found[1:]:
            sentence = f"a second folder of {split} images beside {found[0].name}; left out"
            issues.append(Issue(path, None, "split", sentence, count=len(find_images(path))))
    if splits:
        for path in folders:
            if path.name.lower() not in SPELLINGS and (count := len(find_images(path))):
                sentence = f"beside {', '.join(p.name for p in splits.values())}, and none of them; left out"
                issues.append(Issue(path, None, "split", sentence, count=count))
    return splits, issues


def _class_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _read(root: Path, task: str | None, folder: Path, split: str, names: list[str], issues: list[Issue]) -> Dataset:
    if not names:
        what = (
            "images but no class folders" if any(map(is_image, folder.iterdir())) else "neither data.yaml nor folders"
        )
        raise InputError(f"{folder}: holds {what}; a classification set has one folder of images per class")
    samples = []
    issues = [*issues, *_beside(folder)]
    for label, name in enumerate(names):
        images, found = look_through(folder / name) if (folder / name).is_dir() else ([], [])
        issues += found
        if not images:
            issues.append(Issue(folder / name, None, "scarce", f"no images of the class {name!r} here", "warning"))
        samples += [(path, label) for path in images]
    if not samples:
        raise InputError(f"{folder}: no images in its class folders ({shorten(names)})")
    return Dataset(
        task=task or "classify",
        names=tuple(map(printable, names)),
        samples=tuple(Sample(path, i, Labels.empty(label)) for i, (path, label) in enumerate(samples, 1)),
        source=root,
        split=split,
        issues=tuple(issues),
    )


def _beside(folder: Path) -> list[Issue]:
    """Images in ``folder`` that are in no class's folder."""
    loose = sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())
    hidden = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_hidden(path.name)]
    issues = [Issue(path, None, "class", "an image in no class's folder; left out") for path in loose]
    return [*issues, *(issue for path in hidden for issue in hidden_folder(path))]
