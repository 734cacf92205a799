"""Which splits a set has, and where a ``data.yaml`` says they are.

splits_of(Path("bccd/data.yaml"))                    # ["train", "val"]
splits_of(Path("instances_train2017.json"))          # ["train"]
entries(path, read_settings(path), "val")            # ("val", ["images/val"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.data.folders import SPLITS, split_folders
from edgekit.data.settings import Settings, read_settings
from edgekit.errors import InputError

YAML = (".yaml", ".yml")


class MissingSplitError(InputError):
    """A split that a set names is not there, or it names none."""


def described_by(folder: Path) -> Path | None:
    """The ``data.yaml`` in ``folder``, if there is one."""
    return next((path for path in (folder / "data.yaml", folder / "data.yml") if path.is_file()), None)


def splits_of(path: Path) -> list[str]:
    """``train``, ``val`` and ``test`` as far as the set has them. What cannot be told (and what is no set at all) is
    ``val``, so that opening it says what is wrong.

    A ``data.yaml`` has those it names, a folder those it has a folder for; a COCO JSON is the one in its own name.
    """
    if path.is_dir():
        described = described_by(path)
        if described is None:
            return list(split_folders(path)[0]) or ["val"]
        path = described
    if path.suffix.lower() == ".json":
        return [next((split for split in SPLITS if split in path.stem.lower()), "val")]
    named = _settings(path)
    if "source" in named and "train" not in named:
        source = place_of(path, str(named["source"]))
        found = splits_of(source) if "source" not in _settings(source) else ["train", "val"]
        return [split for split in SPLITS if split in found or (split == "val" and "val_source" in named)]
    return [split for split, names in SPLITS.items() if any(name in named for name in names)] or ["val"]


def _settings(path: Path) -> Settings:
    """What a yaml says; nothing where it cannot be read."""
    try:
        return read_settings(path) if path.suffix.lower() in YAML else {}
    except InputError:
        return {}


def is_one_split(path: Path) -> bool:
    """Whether the set gives the same images whatever split is asked for: a COCO JSON, class folders without splits."""
    if path.is_dir():
        described = described_by(path)
        return is_one_split(described) if described else not split_folders(path)[0]
    settings = _settings(path)
    if "source" in settings and not {"train", "val_source"} & set(settings):
        source = place_of(path, str(settings["source"]))
        return source.suffix.lower() not in YAML and is_one_split(source)
    return path.suffix.lower() == ".json"


def place_of(path: Path, entry: str) -> Path:
    """A path written in the yaml at ``path``, relative to it."""
    return Path(os.path.normpath(path.parent / entry))


def entries(path: Path, settings: Settings, split: str) -> tuple[str, list[str]]:
    """The key of the split in a yaml, and what stands there.

    Raises:
        MissingSplitError: it names no such split.
    """
    named = [key for key in SPLITS.get(split, (split,)) if key in settings]
    if not named:
        known = [key for keys in SPLITS.values() for key in keys if key in settings]
        has = f"it has {', '.join(known)}" if known else "it has neither train nor val"
        raise MissingSplitError(f"{path}: has no {split} split; {has}")
    if len(named) > 1:
        raise InputError(f"{path}: has {' and '.join(named)}, which both mean the {split} split; keep one")
    value = settings[named[0]]
    if isinstance(value, Mapping):
        raise InputError(f"{path}: {named[0]} is a mapping; give a folder, a list of folders or a .txt list of images")
    return named[0], [str(entry) for entry in (value if isinstance(value, list) else [value])]


def has_text_labels(path: Path, split: str) -> bool:
    """Whether the yaml at ``path`` names folders or lists of images for the split, and no COCO JSON or other set.

    Raises:
        InputError: it cannot be read, or names no such split.
    """
    settings = read_settings(path)
    return "source" not in settings and not _names_json(entries(path, settings, split)[1])


def coco_file(path: Path, settings: Settings, split: str) -> Path | None:
    """The COCO JSON that a yaml names for the split, if that is what it names.

    Raises:
        InputError: it names several, or one that is not there.
    """
    key, named = entries(path, settings, split)
    if not _names_json(named):
        return None
    if len(named) > 1:
        raise InputError(f"{path}: {key} names {len(named)} files; a COCO JSON is a whole split, name one")
    return resolve(path, settings, named[0], key)


def _names_json(named: Sequence[str]) -> bool:
    return any(entry.lower().endswith(".json") for entry in named)


def resolve(path: Path, settings: Settings, entry: str, key: str) -> Path:
    """An entry relative to ``path:``, or to the yaml itself. Some exporters write ``../train/images`` for a folder
    beside the yaml, others ``\\`` for ``/``.

    Raises:
        MissingSplitError: there is no such place.
    """
    here = path.parent
    root = here / str(settings.get("path") or "")
    tried = [place / spelt for spelt in (entry, entry.replace("\\", "/")) for place in (root, here)]
    tried += [here / spelt.removeprefix("../") for spelt in (entry, entry.replace("\\", "/"))]
    for place in tried:
        if place.exists():
            return Path(os.path.normpath(place))
    places = dict.fromkeys(os.path.normpath(place) for place in tried)
    raise MissingSplitError(
        f"{path}: {key} is {entry!r}, and there is no {' nor '.join(places)}; correct the path in the yaml"
    )
