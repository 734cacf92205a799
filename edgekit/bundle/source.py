"""What a model to build from is, told in a fraction of a second: no torch is imported and no network is made.

    source = describe(Path("yolo12n.pt"))
    source.task, source.names           # 'detect', ('person', 'bicycle', …)

For checks that come before the work; whoever does the work reads the file again, in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit import tasks
from edgekit.checkpoint.published import is_edgekit_checkpoint, read_published
from edgekit.checkpoint.published.inert_pickle import read_inert
from edgekit.checkpoint.published.inert_values import mapping, members
from edgekit.checkpoint.published.torch_archive import open_archive
from edgekit.errors import InputError, command_line, require
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.spec import ModelInfo

EXPORTING = {"torch": "train", "onnx": "onnx", "onnx_ir": "onnx", "onnxscript": "onnx"}  # package → its extra


@dataclass(frozen=True)
class Source:
    """A checkpoint, or a graph that edgekit exported (``info``), on its own or in a bundle.

    Attributes:
        task, names: of the model; None where the file does not say it plainly.
        info: of a graph.
    """

    path: Path
    task: str | None = None
    names: tuple[str, ...] | None = None
    info: ModelInfo | None = None


def describe(path: Path, purpose: str = "building from") -> Source:
    """What is at ``path``.

    Raises:
        InputError, UnsafeFileError: nothing to build from; the sentence says what it is instead.
        MissingPackageError: what exporting it needs is not installed.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a checkpoint, an exported ONNX file or a bundle")
    if is_bundle(path):
        info = read_bundle(path, verify=False).info
        if not (path / "model.onnx").is_file():
            raise InputError(f"{path}: this bundle holds no ONNX file to build from; give its checkpoint")
        _installed(path, purpose, "onnx", "onnx_ir", "onnxscript")
        return Source(path, info.task, info.names, info)
    if path.is_dir():
        raise InputError(f"{path}: a folder, but no bundle; give a checkpoint or an exported ONNX file")
    if path.suffix == ".onnx":
        _installed(path, purpose, "onnx", "onnx_ir", "onnxscript")
        from edgekit.graph.document import read_document

        info = ModelInfo.from_dict(read_document(path)["info"])
        return Source(path, info.task, info.names, info)
    _installed(path, purpose, *EXPORTING)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    return _own(path) if is_edgekit_checkpoint(path) else _published(path)


def _installed(path: Path, purpose: str, *packages: str) -> None:
    for name in packages:
        require(name, f"{purpose} {path}", EXPORTING[name])


def _own(path: Path) -> Source:
    with open_archive(path) as archive:
        top = mapping(read_inert(archive.pickle, path))
    return Source(path, _task(mapping(top.get("spec")).get("task")), _names(members(top.get("names"))))


def _safetensors(path: Path) -> Source:
    from edgekit.checkpoint import tensors

    told = tensors.described(path)
    if told is None:
        make = command_line("import", path, model="yolo12n", out="FILE.pt")
        raise InputError(f"{path}: holds tensors alone, not what they are of; say it: {make}")
    return Source(path, _task(mapping(told.get("spec")).get("task")), _names(members(told.get("names"))))


def _published(path: Path) -> Source:
    found = read_published(path)
    return Source(path, _task(found.task), _names(found.names))


def _task(name: object) -> str | None:
    return next((t for t in tasks.names() if name == t or name in tasks.get(t).aliases), None)


def _names(names: object) -> tuple[str, ...] | None:
    listed = names if isinstance(names, (list, tuple)) else ()
    return tuple(listed) if listed and all(isinstance(name, str) for name in listed) else None
