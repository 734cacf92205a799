"""Published YOLO12 checkpoints (``.pt``), read without running anything from the file. numpy and standard library.

A published checkpoint is a pickled *program*: a dict with the whole model object under ``ema`` or ``model``. Loading it
the usual way imports and calls whatever the file names. Here the container is opened by ``torch_archive``, the pickle
is turned into inert stand-ins by ``inert_pickle``, and this module reads from them what a model is made of: tensors,
class names, task, and the attributes that leave no trace in the tensors (strides, activations, ``area``; see
``modules.py``). Neither torch nor the package that wrote the file is needed.

    model = read_published("yolo12n.pt")
    model.task, model.classes, model.names[:2]           # ('detect', 80, ('person', 'bicycle'))
    model.state["model.0.conv.weight"].shape             # (16, 3, 3, 3), float16 as stored
    model.modules["model.6.m.0.0.attn"].attributes["area"]                    # 4
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.checkpoint.published.inert_pickle import StandIn, Storage, printable, read_inert
from edgekit.checkpoint.published.inert_values import count, json_dict, mapping, members, text
from edgekit.checkpoint.published.modules import Module, described, is_module, is_tensor, named, unwrapped, walk
from edgekit.checkpoint.published.torch_archive import Archive, open_archive
from edgekit.errors import EdgekitError, InputError, command_line

_DTYPES = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.BFloat16Storage": "<u2",  # the upper half of a float32
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "u1",
}
_TASKS = {
    "DetectionModel": "detect",
    "SegmentationModel": "segment",
    "PoseModel": "pose",
    "OBBModel": "obb",
    "ClassificationModel": "classify",
}
_REBUILT = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_STATE_DICTS = ("ema", "model", "state_dict", "model_state_dict")
_FIRST = re.compile(r"(?<![^.])0\.conv\.weight$")  # of the first layer, whose number follows what is put around
_MAX_NAMES = 1000  # buffers of one module
_MAX_DIMENSIONS = 8
_MAX_TENSORS = 20_000
_MAX_ELEMENTS = 1 << 27  # of all tensors together; yolo12x has 59 million
_AGAIN = "get the file again from where it was published"


@dataclass(frozen=True, eq=False)
class Published:
    """What a published checkpoint holds.

    Attributes:
        path: the file.
        which: where the model was: ``ema`` (preferred, as in the program that wrote it), ``model``, or ``file`` where
            the file is the model alone.
        state: tensors by state-dict key, parameters and persistent buffers in module order; dtype as stored (float16
            stays), except bfloat16, which becomes float32. Little-endian, contiguous, writable.
        modules: every module by path, ``""`` being the model itself: its class and what it says of itself.
        names: class names in label order; empty where the file has none.
        task: the task of the model's class, else the one stated in its attributes or training arguments, else None.
        classes: number of classes the head states, else the one of its configuration, else None.
        keypoint_shape: (points, values per point) where the head has keypoints.
        strides: strides of the head's levels in pixels, as stored; empty where the file has none.
        license: the license the file states, verbatim, or None.
        version: version of the package that wrote the file, or None.
        date: when it was written, as the file says, or None.
        epoch: epochs done (-1 in stripped files), or None.
        train_args: training arguments, only JSON types (None, bool, 64-bit int, finite float, str, list, dict).
    """

    path: Path
    which: str
    state: dict[str, np.ndarray]
    modules: dict[str, Module]
    names: tuple[str, ...] = ()
    task: str | None = None
    classes: int | None = None
    keypoint_shape: tuple[int, int] | None = None
    strides: tuple[float, ...] = ()
    license: str | None = None
    version: str | None = None
    date: str | None = None
    epoch: int | None = None
    train_args: dict[str, object] = field(default_factory=dict)


def read_published(path: str | Path) -> Published:
    """Read a published checkpoint; nothing in it is imported, called or written anywhere.

    Raises:
        InputError: not a published checkpoint; the sentence says what the file is instead, or what is damaged.
        UnsafeFileError: it would call something that is no part of a checkpoint; the sentence names it.
    """
    path = Path(path)
    with open_archive(path) as archive:
        whole = read_inert(archive.pickle, path)
        which, model = _find_model(whole, path)
        top = mapping(whole)
        tensors = _Tensors(archive)
        modules = dict(walk(model, path))
        attributes = {name: module.state for name, module in modules.items()}
        root = attributes[""]
        tree, head_path = described(modules, path), _head_path(modules)
        head = attributes[head_path]
        if is_tensor(head.get("stride")):
            tree[head_path].attributes["stride"] = tensors.floats(head["stride"])
        config = mapping(root.get("yaml"))
        train_args = json_dict(top.get("train_args")) or json_dict(root.get("args"))
        return Published(
            path=path,
            which=which,
            state=_state(attributes, tensors),
            modules=tree,
            names=_names(root.get("names"), path),
            task=_TASKS.get(model.name.rpartition(".")[2]) or text(root.get("task")) or text(train_args.get("task")),
            classes=count(head.get("nc")) or count(config.get("nc")),
            keypoint_shape=_keypoint_shape(head.get("kpt_shape"), config.get("kpt_shape")),
            strides=tensors.floats(head.get("stride")) or tensors.floats(root.get("stride")),
            license=text(top.get("license")) or text(top.get("licence")),
            version=text(top.get("version")),
            date=text(top.get("date")),
            epoch=count(top.get("epoch"), least=-1),
            train_args=train_args,
        )


def is_state_dict(path: str | Path) -> bool:
    """Whether ``path`` holds tensors by name and no model.

    Raises:
        InputError, UnsafeFileError: as ``read_published``, of files that are no archive or would run code.
    """
    with open_archive(path) as archive:
        top = read_inert(archive.pickle, path)
    holders = (top, *(mapping(top).get(key) for key in ("ema", "model")))
    return "edgekit" not in mapping(top) and not any(map(is_module, holders)) and bool(_tensors_of(top)[1])


def read_state_dict(path: str | Path) -> tuple[str, dict[str, np.ndarray]]:
    """The tensors of a file that holds a state dict and no model: where they were, and the tensors as published files
    name them (``model.0.conv.weight``), whatever was put around the layers (``module.``, ``_orig_mod.``).

    Raises:
        InputError: there is no state dict, or it is damaged.
        UnsafeFileError: as ``read_published``.
    """
    path = Path(path)
    with open_archive(path) as archive:
        which, found = _tensors_of(read_inert(archive.pickle, path))
        tensors = _Tensors(archive)
        state = {key: tensors.array(value, printable(key)[1:-1]) for key, value in found.items()}
    return which, as_published(path, state)


def as_published(path: Path, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under the names that published files give them.

    Raises:
        InputError: they are no YOLO12's.
    """
    first = min((key for key in state if _FIRST.search(key)), key=len, default=None)
    if first is None:
        raise InputError(
            f"{path}: holds no state dict of a YOLO12 (no tensor whose name ends in 0.conv.weight); give a checkpoint "
            "with the model or the state dict of one"
        )
    around = _FIRST.sub("", first)
    return {f"model.{key[len(around) :]}" if key.startswith(around) else key: state[key] for key in state}


def is_edgekit_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` is a checkpoint edgekit itself wrote (a zip whose top dict has the key ``edgekit``).

    Reads the pickle, not the tensors. False for everything else, including files that are missing, damaged or unsafe:
    ``read_published`` says what is wrong with those.
    """
    try:
        with open_archive(path) as archive:
            if b"edgekit" not in archive.pickle:
                return False
            top = read_inert(archive.pickle, path)
            return isinstance(top, dict) and "edgekit" in top
    except EdgekitError:
        return False


# The model


def _find_model(top: object, path: Path) -> tuple[str, StandIn]:
    """The pickled model: under ``ema`` or ``model`` of the top dict, ``ema`` first, or the whole file."""
    entries = mapping(top)
    if "edgekit" in entries:
        raise InputError(f"{path}: a checkpoint edgekit wrote, not a published one; load it as an edgekit checkpoint")
    for which, candidate in (("file", top), ("ema", entries.get("ema")), ("model", entries.get("model"))):
        if isinstance(candidate, StandIn) and is_module(candidate):
            return which, unwrapped(candidate)
    if _tensors_of(top)[1]:
        raise InputError(
            f"{path}: holds only tensors (a state dict), not what they are of; say it: "
            + command_line("import", path, model="yolo12n", out="FILE.pt")
        )
    found = ", ".join(printable(key, 30) for key in list(entries)[:5] if isinstance(key, str)) or "none"
    raise InputError(
        f"{path}: no model under 'ema' or 'model' (keys found: {found}); give a checkpoint as it was published"
    )


def _tensors_of(top: object) -> tuple[str, dict[str, object]]:
    """Where a file's state dict is, and its tensors by key; empty where there is none."""
    entries = mapping(top)
    for which, holder in (*((key, mapping(entries.get(key))) for key in _STATE_DICTS), ("file", entries)):
        found = {key: value for key, value in holder.items() if isinstance(key, str) and is_tensor(value)}
        if found:
            return which, found
    return "file", {}


def _head_path(modules: dict[str, StandIn]) -> str:
    """The last layer (``model.21``): where published models keep classes, strides and keypoints."""
    layers = [name for name in modules if re.fullmatch(r"model\.\d+", name)]
    return layers[-1] if layers else ""


def _state(attributes: dict[str, dict[str, object]], tensors: _Tensors) -> dict[str, np.ndarray]:
    """The state dict: of each module its parameters, then its persistent buffers."""
    state = {}
    for owner, module in attributes.items():
        transient = members(module.get("_non_persistent_buffers_set"))
        if len(transient) > _MAX_NAMES:
            raise InputError(f"{tensors.path}: {owner[:120] or 'the model'} lists too many buffers; {_AGAIN}")
        tensors_here = named(module, "_parameters", owner, tensors.path)
        for name, value in named(module, "_buffers", owner, tensors.path).items():
            if not any(isinstance(other, str) and other == name for other in transient):
                tensors_here[name] = value
        for name, value in tensors_here.items():
            key = f"{owner}.{name}" if owner else name
            state[key] = tensors.array(value, key)
    return state


def _names(value: object, path: Path) -> tuple[str, ...]:
    """Class names in label order, from a list or from a dict with the keys 0, 1, 2 ..."""
    by_label = value if isinstance(value, dict) else dict(enumerate(members(value)))
    if any(type(label) is not int or not 0 <= label < len(by_label) for label in by_label):
        raise InputError(
            f"{path}: its class names are not numbered 0 to {len(by_label) - 1}; save it with names for all"
        )
    names = [_name(by_label[label]) for label in range(len(by_label))]
    if None in names:
        raise InputError(
            f"{path}: the name of class {names.index(None)} is no text; save it with names for all classes"
        )
    return tuple(name for name in names if name is not None)


def _name(value: object) -> str | None:
    """One class name; YAML reads names like ``7`` as numbers."""
    if isinstance(value, str):
        return text(value) or ""
    return str(value) if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64) else None


def _keypoint_shape(*candidates: object) -> tuple[int, int] | None:
    """The first candidate that is two positive numbers."""
    for candidate in candidates:
        numbers = [count(value) for value in members(candidate)]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None:
            return numbers[0], numbers[1]
    return None


# Tensors


class _Tensors:
    """Turns a recorded ``torch._utils._rebuild_*`` call into an array, within the storage's bounds."""

    def __init__(self, archive: Archive) -> None:
        self.path = archive.path
        self._archive = archive
        self._elements = 0
        self._count = 0

    def array(self, value: object, key: str) -> np.ndarray:
        """The tensor or parameter ``value``, named ``key`` in errors."""
        if isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_parameter") and value.args:
            value = value.args[0]
        args = value.args if isinstance(value, StandIn) and value.name in _REBUILT else ()
        storage = args[0] if 4 <= len(args) <= 6 else None
        if not isinstance(storage, Storage):
            raise InputError(f"{self.path}: {key} is no plain tensor; {_AGAIN}")
        offset, shape, strides = args[1:4]
        offset, shape, strides = count(offset, 0), _sizes(shape, 1), _sizes(strides, 0)
        if offset is None or shape is None or strides is None or len(shape) != len(strides):
            raise InputError(f"{self.path}: {key} has no proper shape; {_AGAIN}")
        return self._view(storage, offset, shape, strides, key)

    def floats(self, value: object) -> tuple[float, ...]:
        """A small tensor as floats; empty where it is none."""
        array = self.array(value, "stride") if is_tensor(value) else np.zeros(0)
        return tuple(float(v) for v in array.ravel()) if array.size <= 16 else ()

    def _view(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], key: str
    ) -> np.ndarray:
        dtype = np.dtype(_DTYPES[storage.kind])
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if last >= storage.elements:
            raise InputError(f"{self.path}: {key} reaches beyond its storage; {_AGAIN}")
        self._elements += math.prod(shape)
        self._count += 1
        if self._elements > _MAX_ELEMENTS or self._count > _MAX_TENSORS:
            raise InputError(f"{self.path}: its tensors are larger than those of any YOLO12; give a YOLO12 checkpoint")
        data = self._archive.read_storage(storage.key, storage.elements * dtype.itemsize)
        steps = tuple(stride * dtype.itemsize for stride in strides)
        array: np.ndarray = np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps).copy()
        if storage.kind == "torch.BFloat16Storage":
            return (array.astype("<u4") << 16).view("<f4")
        return array.astype(bool) if storage.kind == "torch.BoolStorage" else array


def _sizes(value: object, least: int) -> tuple[int, ...] | None:
    """A shape or strides as whole numbers from ``least``; None for what is neither."""
    numbers = [n for v in members(value)[: _MAX_DIMENSIONS + 1] if (n := count(v, least)) is not None]
    return tuple(numbers) if len(numbers) == len(members(value)) <= _MAX_DIMENSIONS else None
