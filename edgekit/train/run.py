"""A training run on disk: what is written when, and what a resumed run is put together from.

    RUN/resume.pt      everything needed to go on exactly where the run was (written last, so it vouches for the rest)
    RUN/best.pt        the checkpoint with the best main metric; RUN/last.pt the newest: what other commands take
    RUN/results.csv    a line an epoch; RUN/options.json, RUN/*.png; RUN/sets.yaml: what it learns from, see ``sets.py``

Every file is replaced whole. A full disk costs the files that did not fit, never the ones that were there.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from edgekit.data.dataset import Dataset
from edgekit.errors import InputError
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json, JsonView

SCHEMA = 1


def fingerprint(*datasets: Dataset) -> str:
    """SHA-256 over classes, image names and labels: two sets that teach the same have the same."""
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(json.dumps([dataset.task, dataset.split, dataset.names, dataset.flip_idx]).encode())
        for sample in dataset.samples:
            labels = sample.labels
            digest.update(f"{sample.path.name} {labels.class_id} {labels.size}".encode(errors="surrogateescape"))
            digest.update(labels.classes.tobytes() + labels.boxes.tobytes())
            for array in (labels.keypoints, labels.corners, *(p for parts in labels.polygons or () for p in parts)):
                if array is not None:
                    digest.update(array.tobytes())
    return digest.hexdigest()


class Folder:
    """The run's folder. Saving never raises for want of space: it says so through ``note`` and the run goes on.

    ``writes`` is False in all but one of several processes that train together: nothing is written then.
    """

    def __init__(self, path: Path, note: Callable[[str], None], writes: bool = True) -> None:
        self.path, self._note, self._writes = path, note, writes
        path.mkdir(parents=True, exist_ok=True)
        self.failed: str | None = None  # why the newest save did not succeed

    def keep(self, name: str, write: Callable[[Path], object]) -> bool:
        """Lets ``write`` replace the file ``name`` (whole, at the path it is given); False if the disk refused."""
        if not self._writes:
            return True
        try:
            write(self.path / name)
        except (OSError, RuntimeError, InputError) as error:  # the last where a library did not write all
            self.failed = f"{self.path / name}: could not be written ({str(error).splitlines()[0]})"
            self._note(f"{self.failed}; the older one is kept and training goes on")
            return False
        return True

    def keep_json(self, name: str, document: JsonView) -> None:
        def write(path: Path) -> None:
            with replacing(path) as partial:
                partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

        self.keep(name, write)

    def keep_state(self, state: JsonView) -> None:
        """Writes ``resume.pt``, the file that makes a save complete."""

        def write(path: Path) -> None:
            with replacing(path, zipfile.is_zipfile) as partial:
                torch.save({"edgekit_run": SCHEMA, **state}, partial)

        self.keep("resume.pt", write)


def read_state(folder: Path) -> Json:
    """The state in ``folder``, ready to be put back.

    Raises:
        InputError: no run there, or one that cannot be read.
    """
    path = folder / "resume.pt"
    if not path.is_file():
        raise InputError(f"`resume`: {folder} holds no run to go on with (no resume.pt); start it without `resume`")
    try:
        state: Json = torch.load(path, map_location="cpu", weights_only=True)
        schema = state["edgekit_run"]
    except Exception as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0]}); start the run anew") from error
    if schema != SCHEMA:
        raise InputError(f"{path}: of schema {schema}, this edgekit goes on from {SCHEMA}; use the edgekit it is from")
    return state


def check_same(state: JsonView, prints: str, folder: Path, data: Path) -> None:
    """Whether a stored run is of this data.

    Raises:
        InputError: the run was trained on something else.
    """
    if state["data"] != prints:
        raise InputError(
            f"`resume`: {folder} was trained on {state['source']}, and what {data} holds now is not the same "
            "(classes, images or labels differ); give the data it began with, or start a new run"
        )
