"""What a narrower model is calibrated on and judged on, settled before anything is exported.

    sets = open_sets(QuantizeOptions(data=Path("photos")), "detect", ("RBC", "WBC", "Platelets"))
    len(sets.files), sets.labelled, len(sets.unlabelled)          # 87, None, 43: agreement on 43 pictures

| ``--data`` is | calibrated on | judged on |
|---|---|---|
| a data.yaml, or class folders, with train and val | train | labels of val |
| the same with one split, class folders without splits | two thirds | labels of the rest, of at most 100 |
| a data.yaml whose images have no label files | train | agreement on val, else on a third of train |
| a folder of pictures, several, globs, a .txt list | two thirds | agreement on the rest, on at most 100 |
| a COCO JSON | ``--calibration`` | its labels |

Pictures given as ``--images`` are judged on where there are no labels to judge by. Nothing judged on is calibrated on.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit import tasks
from edgekit.data import open_dataset
from edgekit.data.account import account_of
from edgekit.data.dataset import Dataset
from edgekit.data.images import find_images
from edgekit.data.splits import has_text_labels, splits_of
from edgekit.data.text import label_path
from edgekit.data.text import pictures as listed
from edgekit.errors import InputError, UsageError, command_line
from edgekit.quantize import QuantizeOptions, calibration, pictures
from edgekit.quantize.calibration import Manifest
from edgekit.runtime.sources import is_video, open_sources, read_images

SPLITS = ("train", "val")
_LABELLED = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Sets:
    """What was found.

    Attributes:
        manifest: the images of the calibration; None where there are none, ``lacking`` says why.
        files: theirs, in its order.
        pool: the images that calibration is chosen from; None where they are not known.
        judged: what is judged on: by its labels, or where it has none by agreement with the float model.
        frames: of videos given as ``--images``, uint8 BGR, in place of ``judged``.
        notes: sentences about what was given and is not used.
    """

    manifest: Manifest | None = None
    files: tuple[Path, ...] = ()
    pool: Dataset | None = None
    judged: Dataset | None = None
    frames: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()
    lacking: str = ""

    @property
    def labelled(self) -> Dataset | None:
        """What is judged on by labels."""
        return self.judged if self.judged is not None and self.judged.names else None

    @property
    def on(self) -> str:
        """What agreement is measured on, in words."""
        judged = self.judged
        return "frames of `images`" if judged is None else f"{judged.source.name}, {judged.split}"

    @property
    def unlabelled(self) -> list[Any]:
        """Paths and frames that agreement is measured on."""
        paths = [] if self.judged is None or self.judged.names else [sample.path for sample in self.judged.samples]
        return [*paths, *self.frames]


def open_sets(wishes: QuantizeOptions, task: str, names: tuple[str, ...], calibrate: bool = True) -> Sets:
    """Everything about the images that can be known without running the model.

    Args:
        wishes: with ``data``, ``calibration`` or both.
        task, names: of the model.
        calibrate: False does not mind where nothing can be calibrated on.

    Raises:
        InputError, UsageError: the data cannot be used; the sentence says what to give.
        GateError: an image of the manifest is not the one that was chosen.
    """
    manifest = calibration.read(wishes.calibration) if wishes.calibration else None
    sources = wishes.sources or _of_manifest(wishes, manifest)
    coco = _is_coco(sources)
    train = val = None
    if sources:
        train, val = open_splits(sources, task, names if wishes.judged else None, SPLITS, wishes.others)
    files: list[Path] = []
    notes: list[str] = []
    if manifest is not None:
        manifest, files, notes = _located(manifest, wishes)
    pool, found = _parted(wishes, train, val, files, coco)
    notes += [*found.notes, *left_out(train, val, None if found.labelled else found.judged)]
    if manifest is None:
        try:
            manifest = _chosen(pool, found, wishes, sources)
        except InputError as error:
            if calibrate:
                raise
            return dataclasses.replace(found, notes=tuple(notes), lacking=str(error))
        files = calibration.located(manifest, [manifest.root or Path()])
        notes += unreadable(manifest)
    elif found.labelled is not None:
        calibration.check_disjoint(manifest, found.labelled)
    return dataclasses.replace(found, manifest=manifest, files=tuple(files), pool=pool, notes=tuple(notes))


def _chosen(pool: Dataset | None, found: Sets, wishes: QuantizeOptions, sources: Sequence[Path]) -> Manifest:
    if pool is None:
        raise InputError(
            f"{sources[0]}: a COCO file is one split, the one accuracy is judged on; choose calibration images from "
            f"another ({command_line('calibrate', 'TRAIN.json', out='FILE')}) and give `calibration` FILE"
        )
    return calibration.choose(pool, wishes.count, wishes.seed, found.judged, wishes.force, sources)


def to_choose_from(
    sources: Sequence[Path],
    task: str | None,
    split: str,
    judged: str,
    images: Sequence[str] | None,
    seed: int,
    force: bool,
) -> tuple[Dataset, Dataset | None, list[str]]:
    """For ``edgekit calibrate``: the images to choose from, those accuracy will be judged on (None: of another file),
    and sentences about what is not used.

    Raises:
        InputError, UsageError: the data cannot be used.
    """
    beside = images or ()
    if _is_coco(sources):
        return open_splits(sources, task, None, (split, split), beside)[1], None, []  # type: ignore[return-value]
    if beside:
        raise UsageError(f"`images` {beside[0]}: goes with a COCO JSON; {sources[0]} says itself where its images are")
    first, second = open_splits(sources, task, None, (split, judged))
    if first is not None and second is not None:
        return first, second, left_out(first)
    whole = first or second
    assert whole is not None
    pool, held, notes = pictures.hold_out(whole, seed, force)
    finds = command_line("build", calibration=True)
    kept = f"{whole.source}: kept for judging: {len(held)} images; `{finds}` finds them"
    return pool, held, [*notes, *left_out(whole), kept]


def unreadable(manifest: Manifest) -> list[str]:
    """A sentence about images that could not be read, if any."""
    bad = manifest.unreadable
    what = f"{manifest.set}: images that cannot be read are left out: {len(bad)}"
    return [f"{what}; the first is {bad[0]}"] if bad else []


def left_out(*datasets: Dataset | None) -> list[str]:
    """Sentences about what of pictures' lists and folders is not used; labelled sets tell it when they are opened."""
    found = {dataset.issues: dataset for dataset in datasets if dataset is not None and not dataset.names}
    return [sentence for dataset in found.values() for sentence in account_of(dataset).sentences()]


def _is_coco(sources: Sequence[Path]) -> bool:
    return len(sources) == 1 and sources[0].suffix.lower() == ".json"


# ---- the splits of what was given -------------------------------------------------------------------------------


def open_splits(
    sources: Sequence[Path],
    task: str | None,
    names: tuple[str, ...] | None,
    splits: tuple[str, str],
    images: Sequence[str | Path] = (),
) -> tuple[Dataset | None, Dataset | None]:
    """Two splits, each with labels where it has them, without (and without classes) where not; None for one the set
    does not have. Pictures and whole folders are in the first place, a COCO JSON in the second.

    Args:
        names: put labels in this order of classes.
        images: folders, files and patterns of a COCO JSON's images, where it is not beside the file.

    Raises:
        InputError, UsageError: as of ``open_dataset``.
    """
    place = sources[0]
    if _is_coco(sources):
        return None, open_dataset(place, task, splits[1], images or None, names)
    if len(sources) == 1 and not glob.has_magic(str(place)) and not place.exists():
        open_dataset(place, task)  # says what is wrong
    described = _described(place)
    labelled = next((each for each in sources if _described(each)), None)
    if len(sources) > 1 and labelled is not None:
        raise InputError(
            f"{labelled}: a labelled set stands alone; give nothing else as `data`, or its folder of images"
        )
    if len(sources) > 1 or (described is None and not place.is_dir()):
        return pictures.find(sources, task), None
    if described is not None:
        first, second = (_of_yaml(described, task, names, split) for split in splits)
    else:
        first, second = _of_folder(place, task, names, splits)
    if first is None and second is None:
        open_dataset(place, task, splits[0], None, names)
    return first, second


def _described(place: Path) -> Path | None:
    if place.is_dir():
        return next((p for p in (place / "data.yaml", place / "data.yml") if p.is_file()), None)
    return place if place.suffix.lower() in _LABELLED else None


def _of_yaml(path: Path, task: str | None, names: tuple[str, ...] | None, split: str) -> Dataset | None:
    if split not in splits_of(path):
        return None
    if (task is None or tasks.get(task).detects) and has_text_labels(path, split):  # classification says what it reads
        images, issues = listed(path, split)
        if not any(label_path(image).is_file() for image in images):
            return pictures.of(images, path, task, split, issues)
    return open_dataset(path, task, split, None, names)


def _of_folder(
    place: Path, task: str | None, names: tuple[str, ...] | None, splits: tuple[str, str]
) -> tuple[Dataset | None, Dataset | None]:
    """Class folders, if the task has such and the model knows them; else the pictures in it, which have no splits."""
    if (task is not None and tasks.get(task).detects) or not _has_classes(place):
        return pictures.find([place], task), None
    known = splits_of(place)
    found = [open_dataset(place, task or "classify", split) if split in known else None for split in splits]
    if names is not None and found[0] is None and found[1] is not None and not _split_folders(place):
        mine = {name.casefold() for name in names}
        if not any(name.casefold() in mine for name in found[1].names):
            return pictures.find([place], task), None  # folders of another meaning, as of dates
    first, second = (each and (each.with_names(names) if names is not None else each) for each in found)
    return first, second


def _split_folders(place: Path) -> list[Path]:
    from edgekit.data.folders import SPLITS as spellings

    known = {name for names in spellings.values() for name in names}
    return [p for p in place.iterdir() if p.is_dir() and p.name.lower() in known]


def _has_classes(place: Path) -> bool:
    """Whether there are folders of images in it, or in its folders of splits."""
    return any(
        find_images(folder)
        for part in _split_folders(place) or [place]
        for folder in part.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    )


# ---- which part is for what -------------------------------------------------------------------------------------


def _parted(
    wishes: QuantizeOptions, train: Dataset | None, val: Dataset | None, files: Sequence[Path], coco: bool
) -> tuple[Dataset | None, Sets]:
    """What to calibrate on, and Sets that say what is judged on.

    Args:
        files: of a calibration made before, if there is one.
    """
    if val is not None and val.names and (train is not None or coco):
        return train, Sets(judged=val)
    whole = train or val
    if wishes.others and not coco:
        return whole, _of_images(wishes, files)
    if whole is None:
        raise InputError(
            f"{wishes.calibration}: the set it was chosen from is not said or not there; give `data`, or `images` to "
            "measure agreement with the float model on"
        )
    if train is not None and val is not None:
        return train, _picked(_without(val, files), wishes)
    if not files:
        pool, held, notes = pictures.hold_out(whole, wishes.seed, wishes.force)
        return pool, Sets(judged=_held_out(held), notes=tuple(notes))
    rest = _without(whole, files)
    if not len(rest):
        raise InputError(
            f"{whole.source}: all of its {len(whole)} images are in {wishes.calibration}, and none is left to judge "
            "on; give others as `images`, or calibrate with a smaller `count`"
        )
    return whole, _picked(rest, wishes)


def _picked(dataset: Dataset, wishes: QuantizeOptions) -> Sets:
    judged, notes = pictures.some(dataset, wishes.seed, pictures.JUDGED)
    if not len(judged):
        raise InputError(f"{dataset.source}: none of its {len(dataset)} images of {dataset.split} can be read")
    return Sets(judged=_held_out(judged), notes=tuple(notes))


def _held_out(dataset: Dataset) -> Dataset:
    """Its ``split`` says that it is what was not calibrated on."""
    return dataclasses.replace(dataset, split=f"{dataset.split} not calibrated on")


def _of_images(wishes: QuantizeOptions, files: Sequence[Path]) -> Sets:
    """What ``--images`` holds but for calibration images."""
    if any(is_video(path) for path in open_sources(wishes.others).paths):
        return Sets(frames=tuple(read_images(wishes.others, pictures.JUDGED)))
    return _picked(_without(pictures.find([Path(i) for i in wishes.others], None), files), wishes)


def _without(dataset: Dataset, files: Sequence[Path]) -> Dataset:
    taken = calibration.shared(dataset.samples, files)
    return dataclasses.replace(dataset, samples=tuple(s for s in dataset.samples if s.path not in taken))


# ---- a calibration made before ----------------------------------------------------------------------------------


def _of_manifest(wishes: QuantizeOptions, manifest: Manifest | None) -> tuple[Path, ...]:
    """What the manifest was chosen from, if all of it is there."""
    data = manifest.data if manifest else ()
    return data if all(place.exists() or glob.glob(str(place)) for place in data) else ()


def _located(manifest: Manifest, wishes: QuantizeOptions) -> tuple[Manifest, list[Path], list[str]]:
    """The manifest without images that cannot be read, their files, and a sentence about the others."""
    assert wishes.calibration is not None
    given = [place if place.is_dir() else place.parent for place in wishes.sources]
    above = [Path(os.path.commonpath([place.absolute() for place in given]))] if given else []
    beside, root = wishes.calibration.parent, manifest.root
    own = [] if root is None else [root, beside / root.name]
    files = calibration.located(manifest, [*given, *above, *own, beside])
    samples = pictures.of(files, beside, None, "").samples
    good, bad = calibration.readable(samples)
    readable = {sample.path for sample in good}
    kept = tuple(entry for entry, path in zip(manifest.images, files, strict=True) if path in readable)
    manifest = dataclasses.replace(manifest, images=kept, unreadable=(*manifest.unreadable, *bad))
    if len(kept) < calibration.LEAST and not wishes.force:
        raise InputError(
            f"{wishes.calibration}: {len(kept)} images; fewer than {calibration.LEAST} say nothing about ranges "
            "(`force` takes them)"
        )
    return manifest, [path for path in files if path in readable], unreadable(manifest)
