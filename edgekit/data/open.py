"""Opening a labelled set, whatever its form.

    open_dataset("bccd/data.yaml", "detect")                               # labels in normalised text
    open_dataset("annotations/instances_val2017.json", images="val2017")   # COCO
    open_dataset("flowers5", split="train")                                # a folder of class folders

Only what makes a set unusable as a whole is refused here; everything smaller is in ``Dataset.problems()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit import tasks
from edgekit.data.coco import read_coco
from edgekit.data.dataset import Dataset
from edgekit.data.folders import read_folders
from edgekit.data.text import read_text
from edgekit.errors import InputError, UsageError


def open_dataset(
    path: Path | str,
    task: str | None = None,
    split: str = "val",
    images: Path | str | None = None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """One split of the set at ``path``.

    Args:
        path: a ``data.yaml`` (or a folder with one), a COCO JSON, or a folder of class folders.
        task: how to read the labels; None finds out where the labels leave no doubt.
        split: ``train``, ``val`` or ``test``; a COCO JSON is one split whatever this says.
        images: the folder of a COCO JSON's images, where it is not beside the file.
        names: put the labels in this order of classes (a model's).

    Raises:
        InputError: the set cannot be used at all: a path that is missing, a file that is not what it should be, no
            images, no usable label in the whole split, classes that ``names`` lacks.
        UsageError: the task is needed and not given, or does not go with this kind of set.
    """
    path = Path(path)
    task = tasks.get(task).name if task else None
    if images is not None and path.suffix.lower() != ".json":
        raise UsageError(f"--images goes with a COCO JSON; {path} says itself where its images are")
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; give a data.yaml, a COCO JSON or a folder")
    if path.is_dir():
        described = next((p for p in (path / "data.yaml", path / "data.yml") if p.is_file()), None)
        dataset = read_text(described, task, split) if described else read_folders(path, task, split)
    elif path.suffix.lower() in (".yaml", ".yml"):
        dataset = read_text(path, task, split)
    elif path.suffix.lower() == ".json":
        dataset = read_coco(path, task, split, Path(images) if images else None)
    else:
        raise InputError(f"{path}: is no set of labelled images; give a data.yaml, a COCO JSON or a folder")
    return dataset.with_names(names) if names is not None else dataset
