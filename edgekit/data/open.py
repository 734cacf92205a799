"""Opening a labelled set, whatever its form.

    open_dataset("bccd/data.yaml", "detect")                               # labels in normalised text
    open_dataset("annotations/instances_val2017.json", images="val2017")   # COCO
    open_dataset("flowers5", split="train")                                # a folder of class folders

A ``data.yaml`` may also name COCO files (``train: train.json``, ``val: val.json``, ``images: photos``), or be what
`edgekit train` wrote of a part of another set (``derived.py``).

Only what makes a set unusable as a whole is refused here; everything smaller is in ``Dataset.problems()``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgekit import tasks
from edgekit.data.account import say
from edgekit.data.coco import read_coco
from edgekit.data.dataset import Dataset
from edgekit.data.derived import Derived
from edgekit.data.folders import read_folders
from edgekit.data.options import LabelOptions
from edgekit.data.scan import Scan
from edgekit.data.settings import Settings, read_settings
from edgekit.data.splits import YAML, coco_file, described_by, resolve
from edgekit.data.text import class_names, read_text
from edgekit.errors import InputError, UsageError


def open_dataset(
    path: Path | str,
    task: str | None = None,
    split: str = "val",
    images: Path | str | Sequence[Path | str] | None = None,
    names: Sequence[str] | None = None,
    options: LabelOptions | None = None,
    quiet: bool = False,
    scan: Scan | None = None,
) -> Dataset:
    """One split of the set at ``path``.

    Args:
        path: a ``data.yaml`` (or a folder with one), a COCO JSON, or a folder of class folders.
        task: how to read the labels; None finds out where the labels leave no doubt.
        split: ``train``, ``val`` or ``test``; a COCO JSON is one split whatever this says.
        images: folders, files and patterns of a COCO JSON's images, where they are not beside the file.
        names: put the labels in this order of classes (a model's).
        options: what label files leave open; a ``data.yaml``'s own stand where these are as by default.
        quiet: do not tell ``account.LOGGER`` what is left out; the caller says it.
        scan: what is known of the images, for those whose size is asked for.

    Raises:
        InputError: the set cannot be used at all: a path that is missing, a file that is not what it should be, no
            images, no usable label in the whole split, classes that ``names`` lacks.
        UsageError: the task is needed and not given, or does not go with this kind of set.
    """
    path = Path(path)
    task = tasks.get(task).name if task else None
    places = (images,) if isinstance(images, (str, Path)) else tuple(images or ())
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; give a data.yaml, a COCO JSON or a folder")
    dataset = _read(path, task, split, _Reading(places, options or LabelOptions(), scan or Scan()))
    dataset = dataset.with_names(names) if names is not None else dataset
    if not quiet:
        say(dataset)
    return dataset


def open_split(
    path: Path,
    task: str | None,
    split: str,
    images: Path | str | Sequence[Path | str] | None,
    names: Sequence[str] | None = None,
) -> Dataset:
    """``open_dataset`` where ``images`` are a COCO JSON's; beside any other set they are the caller's, to time on, say.

    Raises:
        InputError, UsageError: as of ``open_dataset``.
    """
    return open_dataset(path, task, split, images if path.suffix.lower() == ".json" else None, names)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """What goes along from set to set: places of a COCO JSON's images, what labels leave open, what is known of
    images, and the yamls whose source this is."""

    images: tuple[Path | str, ...]
    options: LabelOptions
    scan: Scan
    above: tuple[Path, ...] = ()


def _read(path: Path, task: str | None, split: str, how: _Reading) -> Dataset:
    described = described_by(path) if path.is_dir() else path if path.suffix.lower() in YAML else None
    if described is not None:
        settings = read_settings(described)
        dataset = _read_yaml(described, settings, task, split, how)
        return dataclasses.replace(dataset, license=_license(settings) or dataset.license)
    if path.suffix.lower() == ".json":
        return read_coco(path, task, split, how.images, how.options, how.scan)
    if how.images:
        raise UsageError(f"`images` goes with a COCO JSON; {path} says itself where its images are")
    if path.is_dir():
        return read_folders(path, task, split)
    raise InputError(f"{path}: is no set of labelled images; give a data.yaml, a COCO JSON or a folder")


def _license(settings: Settings) -> str | None:
    """Of the images, as ``license`` says it, or Roboflow's exports do."""
    theirs = settings.get("roboflow")
    told = settings.get("license") or (theirs.get("license") if isinstance(theirs, dict) else None)
    return told if isinstance(told, str) else None


def _read_yaml(path: Path, settings: Settings, task: str | None, split: str, how: _Reading) -> Dataset:
    """Text labels, COCO files that a yaml names, or a part of another set."""
    options = how.options.over(LabelOptions.parse(_mapping(path, settings, "label_options"), f"{path}: label_options"))
    images = how.images
    if "source" in settings:
        part = Derived.read(path, settings)
        source, within = part.source_of(split)
        above = (*how.above, path.resolve())
        if source.resolve() in above:
            raise InputError(f"{path}: its source {source} leads back to itself")
        if not source.exists():
            raise InputError(f"{path}: its source {source} is not there any more; put it back, or train again")
        beneath = _Reading(images or part.images_of(split), options, how.scan, above)
        dataset = part.apply(_read(source, task, within, beneath), split)
        return dataclasses.replace(dataset, source=path)
    file = coco_file(path, settings, split)
    if file is None:
        if images:
            raise UsageError(f"`images` goes with a COCO JSON; {path} says itself where its images are")
        return read_text(path, settings, task, split, options)
    listed = settings.get("images", [])
    listed = listed if isinstance(listed, list) else [listed]
    images = images or tuple(resolve(path, settings, str(entry), "images") for entry in listed)
    dataset = read_coco(file, task, split, images, options, how.scan)
    names = class_names(path, settings)
    return dataclasses.replace(dataset.with_names(names) if names else dataset, source=path)


def _mapping(path: Path, settings: Settings, key: str) -> Settings:
    value = settings.get(key, {})
    if not isinstance(value, dict):
        raise InputError(f"{path}: {key} must be a mapping of names to values")
    return value
