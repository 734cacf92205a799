"""Bundles: a folder an application can load, described and sealed by its ``manifest.json``.

| key | what it holds |
|---|---|
| ``schema`` | 3; newer code reads older schemas, older code refuses newer ones. 1 and 2 spelt ``licence``, ``colour`` |
| ``task target imgsz head names preprocess inputs outputs license spec candidates`` | the ``ModelInfo`` |
| ``files`` | relative path -> sha256 of every file but the manifest |
| ``rewrites parity provenance`` | what was done to the graph, how far it is from PyTorch, where it came from |
| ``graph_parity weights_parity`` | the same of the exported graph and of the stored weights, executed in float32 |
| ``rounding`` | by role, root mean square and 99th percentile of ``parity``'s differences, found and allowed |
| ``detections`` | what it finds on those images, and the source as ``predict`` runs it |
| ``selftest`` | what the bundle's self-test is made of (``edgekit/verify/selftest.py``); its files are ``selftest/…`` |
| ``stages lineage`` | where the network's modules are in the graph, for ``edgekit compare`` |
| ``accuracy speed calibration quantization engines plan`` | when they apply; ``plan.load``: ``runtime/setting.py`` |
| ``source`` | the shape of pictures it was built for, and what the square model scores beside it |
| ``shapes`` | further input sizes, [{``file imgsz inputs outputs candidates``}]: images go where they are largest |

Nothing in a bundle is believed before it is checked: paths must stay inside the folder, hashes must match, shapes
and counts must be sane.

    bundle = read_bundle(Path("bundle"))            # raises one sentence on anything wrong
    bundle.info.names
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.errors import GateError, InputError, UnsafeFileError, command_line
from edgekit.runtime.atomic import replacing
from edgekit.spec import HEADS, ROLES, Json, ModelInfo, sha256_file

SCHEMA = 3
_RESPELT = 3  # the first schema with ``license`` and ``color``
MANIFEST = "manifest.json"
_INFO_KEYS = ("task", "imgsz", "head", "names", "inputs", "outputs", "preprocess", "license", "spec", "candidates")
SHAPE_KEYS = ("imgsz", "inputs", "outputs", "candidates")  # what a further input size has of its own
_MOST_SHAPES = 16
_MOST_BYTES = 32 << 20  # of a manifest
_MOST_ELEMENTS = 1 << 31  # of one tensor
_DTYPES = ("float32", "float16", "int64", "int32", "uint8", "int8")


@dataclass(frozen=True)
class Shape:
    """A further input size of a bundle: the runtime's ``file`` and the ``info`` of what it takes and gives."""

    file: str
    info: ModelInfo


@dataclass(frozen=True)
class Bundle:
    """A bundle folder whose manifest and files were checked: ``path``, ``manifest`` (as read), its ``info``, and
    further input sizes (``shapes``)."""

    path: Path
    manifest: Json
    info: ModelInfo
    shapes: tuple[Shape, ...] = ()

    @property
    def target(self) -> str:
        target: str = self.manifest["target"]
        return target


def manifest_of(info: ModelInfo, target: str, folder: Path, **parts: object) -> Json:
    """The manifest of the files now in ``folder``. ``parts`` are further top-level keys; None leaves one out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        "schema": SCHEMA,
        "target": target,
        **info.to_dict(),
        "files": {p.relative_to(folder).as_posix(): sha256_file(p) for p in files},
        **{key: value for key, value in parts.items() if value is not None},
    }


def write_manifest(folder: Path, manifest: Json) -> None:
    """Write ``manifest`` into ``folder``, whole or not at all."""
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a folder with a manifest."""
    return (path / MANIFEST).is_file()


def read_bundle(path: Path, verify: bool = True) -> Bundle:
    """Read and check a bundle.

    Args:
        path: the bundle's folder.
        verify: compare every file's hash (reading it once); False checks the manifest and paths only.

    Raises:
        InputError: no bundle, a manifest that is not valid, or one of a newer schema.
        UnsafeFileError: a file outside the folder.
        GateError: a file is missing or was altered.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    where = path / MANIFEST
    try:
        info = ModelInfo.from_dict({k: manifest.get(k) for k in _INFO_KEYS})
        _check_info(info, where)
        shapes = tuple(_shape(entry, info, manifest["files"], where) for entry in _listed(manifest, where))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(where)) else f"{where}: {text}; rebuild the bundle") from error
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{where}: not a valid manifest ({error}); rebuild the bundle") from error
    _check_files(path, manifest["files"], verify)
    return Bundle(path, manifest, info, shapes)


def _listed(manifest: Json, where: Path) -> list[Json]:
    found = manifest.get("shapes")
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > _MOST_SHAPES or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{where}: shapes is not a list of at most {_MOST_SHAPES} input sizes; rebuild the bundle")
    return found


def _shape(entry: Json, info: ModelInfo, files: Json, where: Path) -> Shape:
    """A further input size: the same model as ``info`` but for its ports and their sizes."""
    own = ModelInfo.from_dict({**info.to_dict(), "candidates": None, **{k: entry[k] for k in SHAPE_KEYS if k in entry}})
    _check_info(own, where)
    mine, theirs = own.inputs[0], info.inputs[0]
    if (mine.dtype, own.batch) != (theirs.dtype, info.batch):
        raise InputError(f"{where}: the shape {list(own.imgsz)} takes another type or batch; rebuild the bundle")
    if not isinstance(entry.get("file"), str) or entry["file"] not in files:
        raise InputError(f"{where}: the shape {list(own.imgsz)} names no file of the bundle; rebuild the bundle")
    return Shape(entry["file"], own)


def _read_manifest(path: Path) -> Json:
    where = path / MANIFEST
    if not where.is_file():
        make = command_line("build", "MODEL", target="T", out="DIR")
        raise InputError(f"{path}: not a bundle (no {MANIFEST}); make one with: {make}")
    if where.stat().st_size > _MOST_BYTES:
        raise InputError(f"{where}: {where.stat().st_size} bytes is more than a manifest can be; rebuild the bundle")
    try:
        manifest = json.loads(where.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON; rebuild the bundle") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError(f"{where}: no schema number, so not an edgekit manifest; rebuild the bundle")
    if schema > SCHEMA:
        raise InputError(f"{where}: bundle schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    if not isinstance(manifest.get("target"), str) or not isinstance(manifest.get("files"), dict):
        raise InputError(f"{where}: it lacks 'target' or 'files'; rebuild the bundle")
    return dict(manifest) if schema >= _RESPELT else _respelt(manifest)


def _respelt(manifest: Json) -> Json:
    """A manifest of schema 1 or 2 with the keys of schema 3."""
    modern = {"license" if key == "licence" else key: value for key, value in manifest.items()}
    given = modern.get("preprocess")
    if isinstance(given, dict):
        modern["preprocess"] = {"color" if key == "colour" else key: value for key, value in given.items()}
    return modern


def _check_info(info: ModelInfo, where: Path) -> None:
    """Types and ranges an application relies on; the JSON may say anything."""

    def fail(what: str) -> None:
        raise InputError(f"{where}: {what}; rebuild the bundle")

    sides = info.imgsz
    if not (isinstance(sides, tuple) and len(sides) == 2 and all(_whole(s, 1, 1 << 14) for s in sides)):
        fail(f"imgsz {sides!r} is not [height, width] in pixels")
    if info.head not in HEADS:
        fail(f"head {info.head!r} is none of {', '.join(HEADS)}")
    if not isinstance(info.task, str):
        fail("task is not a name")
    if not (isinstance(info.names, tuple) and 0 < len(info.names) <= 1 << 16) or not all(
        isinstance(n, str) for n in info.names
    ):
        fail("names is not a list of class names")
    if len(info.inputs) != 1 or not 0 < len(info.outputs) <= len(ROLES):
        fail(f"{len(info.inputs)} inputs and {len(info.outputs)} outputs; one input and one output a role are needed")
    roles = [port.role for port in info.outputs]
    if len(set(roles)) != len(roles):
        fail(f"the role {max(roles, key=roles.count)!r} is given twice")
    for port in (*info.inputs, *info.outputs):
        dims = port.shape
        if not isinstance(port.name, str) or port.dtype not in _DTYPES or not isinstance(dims, tuple):
            fail(f"the port {port.name!r} is not described as name, role, shape and dtype")
        if not 1 <= len(dims) <= 5 or not all(d is None or _whole(d, 1, 1 << 24) for d in dims):
            fail(f"the port {port.name!r} has the shape {list(dims)}")
        if math.prod(d or 1 for d in dims) > _MOST_ELEMENTS:
            fail(f"the port {port.name!r} has an absurd shape, {list(dims)}")
    shape, pixels = info.inputs[0].shape, info.takes_uint8
    if len(shape) != 4 or (shape[1:] != (*sides, 3) if pixels else shape[2:] != sides):
        fail(f"the input's shape {list(shape)} does not agree with imgsz {list(sides)}")
    prep, color = info.preprocess, "BGR" if pixels else "RGB"
    if prep.mode not in ("letterbox", "centre_crop") or not _whole(prep.fill, 0, 255) or prep.color != color:
        fail(f"preprocess {prep.mode!r}, fill {prep.fill!r}, color {prep.color!r} is not something edgekit does")
    if not isinstance(prep.scale, (int, float)) or not math.isfinite(prep.scale) or prep.scale <= 0:
        fail(f"preprocess scale {prep.scale!r} is not a positive number")
    if pixels and prep.scale != 1:
        fail(f"preprocess scale {prep.scale!r} is not 1, as it must be for pixels")
    if info.candidates is not None and not _whole(info.candidates, 1, 1 << 24):
        fail(f"candidates {info.candidates!r} is no number of candidates")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _check_files(folder: Path, files: Json, verify: bool) -> None:
    root = folder.resolve()
    for name, digest in files.items():
        pure = PurePosixPath(name)
        try:
            inside = (root / pure).resolve()
            there, within = inside.is_file(), inside.is_relative_to(root)
        except (OSError, ValueError, RuntimeError):  # a name too long, one with a zero byte, links in a circle
            there = within = False
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or not within:
            raise UnsafeFileError(f"{folder / MANIFEST}: it lists {name!r}, which is outside the bundle; rebuild it")
        if not there:
            raise GateError(f"{folder}: the bundle's file {name!r} is missing; rebuild or copy the bundle again")
        if verify and sha256_file(inside) != digest:
            raise GateError(
                f"{folder}: {name!r} is not the file the bundle was built with (its hash differs); "
                "rebuild or copy the bundle again"
            )
