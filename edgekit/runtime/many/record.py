"""What results are of: model, settings and sources, kept with every shard's parts so that no two runs are mixed.
Standard library only.

    record = Record.of(predictor, options, ManyOptions(format="jsonl"), ["photos/"])
    record.write(folder)
    record.check(Record.read(folder), folder)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import InputError, UsageError
from edgekit.runtime.atomic import replacing
from edgekit.runtime.manifest import MANIFEST
from edgekit.runtime.options import Options
from edgekit.spec import Json, ModelInfo, sha256_file

if TYPE_CHECKING:
    from edgekit.runtime.many.options import ManyOptions

NAME = "run.json"
SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One run's model and settings.

    Attributes:
        model: the model's SHA-256 (of a bundle its manifest's), which says what every file of it is.
        path: where it was.
        target, task, imgsz, names: the model's.
        options: what was kept of what it found.
        settings: of ``ManyOptions`` and videos' ``stride``, what results depend on.
        sources: what was read, as it was named.
        format: what is written.
    """

    model: str
    path: str
    target: str
    task: str
    imgsz: tuple[int, int]
    names: tuple[str, ...]
    options: Json
    settings: Json
    sources: tuple[str, ...]
    format: str

    @classmethod
    def of(
        cls,
        model: Path,
        target: str,
        info: ModelInfo,
        kept: Options,
        asked: ManyOptions,
        sources: Sequence[str],
        stride: int = 1,
    ) -> Record:
        """The record of a run that is to begin."""
        options = json.loads(json.dumps(dataclasses.asdict(kept)))
        settings = {
            "tile": asked.tile,
            "overlap": asked.overlap if asked.tile else None,
            "track": asked.track,
            "stride": stride,
        }
        sha = fingerprint(model)
        return cls(sha, str(model), target, info.task, info.imgsz, info.names, options, settings, tuple(sources),
                   str(asked.format))  # fmt: skip

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record in a shard's folder.

        Raises:
            InputError: there is none that can be used.
        """
        path = folder / NAME
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            if read["schema"] > SCHEMA:
                raise InputError(f"{path}: was written by a newer edgekit; update this one")
            fields: Json = {field.name: read[field.name] for field in dataclasses.fields(cls)}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is not the record of a run ({error}); was the folder copied whole?") from None
        plain: Json = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        return cls(**plain)

    def write(self, folder: Path) -> None:
        """Keep it in a shard's folder."""
        document = {"schema": SCHEMA, **dataclasses.asdict(self)}
        with replacing(folder / NAME) as partial:
            partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def check(self, there: Record, folder: Path) -> None:
        """Whether the results in ``folder``, whose record is ``there``, are of the same run.

        Raises:
            UsageError: they are of another; the first difference is named.
        """
        mine, other = _flat(self), _flat(there)
        for name in mine:
            if mine[name] != other.get(name):
                raise UsageError(f"{folder}: belongs to another run: {name} is {_short(other.get(name))} there and "
                                 f"{_short(mine[name])} here; choose another folder")  # fmt: skip


def fingerprint(model: Path) -> str:
    """SHA-256 of a model: of a bundle's manifest, which has all files'; of a file; of all files in another folder."""
    if model.is_file():
        return sha256_file(model)
    if (model / MANIFEST).is_file():
        return sha256_file(model / MANIFEST)
    digest = sha256()
    for path in sorted(p for p in model.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(model).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _flat(record: Record) -> Json:
    """What must be the same."""
    plain: Json = json.loads(json.dumps(dataclasses.asdict(record)))
    del plain["path"]
    return {**{k: v for k, v in plain.items() if not isinstance(v, dict)}, **plain["options"], **plain["settings"]}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
