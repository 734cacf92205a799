"""Where the images of a COCO JSON are: its ``file_name``s are written on other machines, in other folders.

places = Places(Path("annotations/train.json"), names, ["photos", "more/*.jpg"])
places.find("images\\\\a.jpg")           # Path("photos/a.jpg"), or None
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from edgekit.data.images import find_images, is_hidden, is_image
from edgekit.errors import InputError, shorten

_LOOKED_AT = 50  # names that decide in which folder images are looked for


class Places:
    """Looks for images by the names a file has for them.

    A name is tried as it stands, with ``\\`` as ``/``, and by its last part where no other name and no other file has
    the same.
    """

    def __init__(self, path: Path, names: Sequence[str], given: Sequence[Path | str] = ()) -> None:
        """Of the JSON at ``path``: in ``given`` folders, files and patterns, else beside it and in folders around it.

        Raises:
            InputError: one of ``given`` is not there or matches nothing.
        """
        self._names = Counter(_last(name) for name in names)
        self._given = bool(given)
        self._files: list[Path] = []
        self._folders: list[Path] = []
        for entry in given:
            for place in _named(entry):
                (self._folders if place.is_dir() else self._files).append(place)
        if not given:
            self._folders = [_likely_folder(path, names[:_LOOKED_AT])]

    def __str__(self) -> str:
        return shorten(self._folders + self._files, 3)

    def find(self, name: str) -> Path | None:
        """The image called ``name``, if it is in one of the places."""
        for folder in self._folders:
            if (found := _in_folder(folder, name)) is not None:
                return found
        if self._names[_last(name)] > 1:
            return None
        if self._given:
            return self._by_last_part.get(_last(name))
        beside = self._folders[0] / _last(name)
        return beside if beside.is_file() else None

    @cached_property
    def _by_last_part(self) -> dict[str, Path | None]:
        """Last part of its name -> the file; None where there are several."""
        found: dict[str, Path | None] = {}
        every = [*self._files, *(path for folder in self._folders for path in find_images(folder))]
        for path in dict.fromkeys(every):
            found[path.name] = None if path.name in found else path
        return found


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _in_folder(folder: Path, name: str) -> Path | None:
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        if (folder / spelling).is_file():
            return folder / spelling
    return None


def _named(entry: Path | str) -> Iterator[Path]:
    """The file or folder, or what the pattern matches.

    Raises:
        InputError: there is none.
    """
    place = Path(entry)
    if place.exists():
        yield place
        return
    matches = [Path(name) for name in sorted(glob.glob(str(entry), recursive=True))]
    usable = [path for path in matches if path.is_dir() or is_image(path)]
    if not usable:
        what = "matches no images" if glob.has_magic(str(entry)) else "there is no such file or folder"
        raise InputError(f"`images` {entry}: {what}; give folders, files or patterns of images")
    yield from usable


def _likely_folder(path: Path, names: Sequence[str]) -> Path:
    """The folder that holds most of ``names``: beside the file, one up, or in a folder of either; one whose name is
    in the file's (``val2017`` in ``instances_val2017.json``) before others."""
    roots = [path.parent, Path(os.path.abspath(path)).parent.parent]
    inner = [p for root in roots for p in sorted(root.iterdir()) if p.is_dir() and not is_hidden(p.name)]
    deeper = [p for folder in inner if folder.name == "images" for p in sorted(folder.iterdir()) if p.is_dir()]
    inner = sorted(inner + deeper, key=lambda p: p.name not in path.stem)

    def held(folder: Path) -> tuple[int, int]:
        whole = sum(_in_folder(folder, name) is not None for name in names)
        return whole, sum((folder / _last(name)).is_file() for name in names)

    return max([*roots, *inner], key=held)
