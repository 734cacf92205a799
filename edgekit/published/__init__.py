"""Published YOLO12 checkpoints (``.pt``), read without running anything from the file. numpy and standard library.

A published checkpoint is a pickled *program*: a dict with the whole model object under ``ema`` or ``model``. Loading it
the usual way imports and calls whatever the file names. Here the container is opened by ``torch_archive``, the pickle
is turned into inert stand-ins by ``inert_pickle``, and this module reads from them what a model is made of: tensors,
class names, task, and the attributes that leave no trace in the tensors (``area``). Neither torch nor the package that
wrote the file is needed.

    model = read_published("yolo12n.pt")
    model.task, model.classes, model.names[:2]           # ('detect', 80, ('person', 'bicycle'))
    model.state["model.0.conv.weight"].shape             # (16, 3, 3, 3), float16 as stored
    model.areas["model.6.m.0.0.attn"]                    # 4
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, InputError
from edgekit.published.inert_pickle import StandIn, Storage, printable, read_inert
from edgekit.published.inert_values import count, json_dict, mapping, members, text
from edgekit.published.torch_archive import Archive, open_archive

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
_CHILD_NAME = re.compile(r"\w{1,64}", re.ASCII)
_MAX_MODULES = 5000  # yolo12x has 971
_MAX_NAMES = 1000  # parameters, buffers or children of one module
_MAX_DEPTH = 32
_MAX_DIMENSIONS = 8
_MAX_TENSORS = 20_000
_MAX_ELEMENTS = 1 << 27  # of all tensors together; yolo12x has 59 million
_AGAIN = "get the file again from where it was published"


@dataclass(frozen=True, eq=False)
class Published:
    """What a published checkpoint holds.

    Attributes:
        path: the file.
        which: where the model was: ``ema`` (preferred) or ``model``.
        state: tensors by state-dict key, parameters and persistent buffers in module order; dtype as stored (float16
            stays), except bfloat16, which becomes float32. Little-endian, contiguous, writable.
        module_types: class name of every module by path; ``""`` is the model itself.
        names: class names in label order; empty where the file has none.
        task: the task of the model's class, else the one stated in its attributes or training arguments, else None.
        classes: number of classes the head states, else the one of its configuration, else None.
        keypoint_shape: (points, values per point) where the head has keypoints.
        strides: strides of the head's levels in pixels, as stored; empty where the file has none.
        areas: number of areas of each area attention, by module path.
        num_heads: number of heads of each area attention, by module path.
        norms: (eps, momentum) of each kind of BatchNorm found, sorted; published models have one kind.
        licence: the licence the file states, verbatim, or None.
        version: version of the package that wrote the file, or None.
        date: when it was written, as the file says, or None.
        epoch: epochs done (-1 in stripped files), or None.
        train_args: training arguments, only JSON types (None, bool, 64-bit int, finite float, str, list, dict).
    """

    path: Path
    which: str
    state: dict[str, np.ndarray]
    module_types: dict[str, str]
    names: tuple[str, ...] = ()
    task: str | None = None
    classes: int | None = None
    keypoint_shape: tuple[int, int] | None = None
    strides: tuple[float, ...] = ()
    areas: dict[str, int] = field(default_factory=dict)
    num_heads: dict[str, int] = field(default_factory=dict)
    norms: tuple[tuple[float, float], ...] = ()
    licence: str | None = None
    version: str | None = None
    date: str | None = None
    epoch: int | None = None
    train_args: dict[str, Any] = field(default_factory=dict)


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
        modules = dict(_walk(model, path))
        attributes = {name: module.state for name, module in modules.items()}
        root = attributes[""]
        head = attributes[_head_path(modules)]
        config = mapping(root.get("yaml"))
        train_args = json_dict(top.get("train_args")) or json_dict(root.get("args"))
        return Published(
            path=path,
            which=which,
            state=_state(attributes, tensors),
            module_types={name: module.name.rpartition(".")[2] for name, module in modules.items()},
            names=_names(root.get("names"), path),
            task=_TASKS.get(model.name.rpartition(".")[2]) or text(root.get("task")) or text(train_args.get("task")),
            classes=count(head.get("nc")) or count(config.get("nc")),
            keypoint_shape=_keypoint_shape(head.get("kpt_shape"), config.get("kpt_shape")),
            strides=tensors.floats(head.get("stride")) or tensors.floats(root.get("stride")),
            areas=_attention_numbers(modules, attributes, "area", path),
            num_heads=_attention_numbers(modules, attributes, "num_heads", path),
            norms=_norms(modules),
            licence=text(top.get("license")) or text(top.get("licence")),
            version=text(top.get("version")),
            date=text(top.get("date")),
            epoch=count(top.get("epoch"), least=-1),
            train_args=train_args,
        )


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


def _find_model(top: Any, path: Path) -> tuple[str, StandIn]:
    """``ema`` or ``model`` of the top dict, whichever holds a pickled module; ``ema`` first."""
    if isinstance(top, StandIn) and _is_module(top):
        raise InputError(
            f"{path}: a bare pickled {_class_name(top)} without the dict published checkpoints have around it; "
            f"save it as {{'model': model}} with torch.save"
        )
    entries = mapping(top)
    if "edgekit" in entries:
        raise InputError(f"{path}: a checkpoint edgekit wrote, not a published one; load it as an edgekit checkpoint")
    for which in ("ema", "model"):
        candidate = entries.get(which)
        if isinstance(candidate, StandIn) and _is_module(candidate):
            return which, candidate
    inner = [entries, *(mapping(entries.get(key)) for key in ("ema", "model", "state_dict"))]
    if any(_is_tensor(value) for mapping in inner for value in mapping.values()):
        raise InputError(
            f"{path}: holds only tensors (a state dict); the task, class names and attention areas are missing, "
            f"so give the checkpoint with the whole model as it was published"
        )
    found = ", ".join(printable(key, 30) for key in list(entries)[:5] if isinstance(key, str)) or "none"
    raise InputError(
        f"{path}: no model under 'ema' or 'model' (keys found: {found}); give a checkpoint as it was published"
    )


def _is_module(value: StandIn) -> bool:
    return isinstance(value.state, dict) and "_modules" in value.state


def _is_tensor(value: Any) -> bool:
    return isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_")


def _class_name(value: StandIn) -> str:
    return value.name.rpartition(".")[2]


def _walk(model: StandIn, path: Path) -> Iterator[tuple[str, StandIn]]:
    """Every module with its path, a parent before its children, children in order: the order of a state dict."""
    pending = [("", model, 0)]
    found = 1
    while pending:
        name, module, depth = pending.pop()
        yield name, module
        children = []
        for child_name, child in _named(module.state, "_modules", name, path).items():
            full = f"{name}.{child_name}" if name else child_name
            if not isinstance(child, StandIn) or not _is_module(child) or depth == _MAX_DEPTH:
                raise InputError(f"{path}: {full[:120]} in the model is no module, or nested too deep; {_AGAIN}")
            children.append((full, child, depth + 1))
        pending.extend(reversed(children))
        found += len(children)
        if found > _MAX_MODULES:
            raise InputError(
                f"{path}: the model has over {_MAX_MODULES} modules, more than any YOLO12; give a YOLO12 checkpoint"
            )


def _named(attributes: dict[str, Any], what: str, owner: str, path: Path) -> dict[str, Any]:
    """The modules, parameters or buffers of one module by their names; entries that are None are left out."""
    found = mapping(attributes.get(what))
    if len(found) > _MAX_NAMES or not all(isinstance(name, str) and _CHILD_NAME.fullmatch(name) for name in found):
        raise InputError(
            f"{path}: {what} of {owner[:120] or 'the model'} has too many entries or improper names; {_AGAIN}"
        )
    return {name: value for name, value in found.items() if value is not None}


def _head_path(modules: dict[str, StandIn]) -> str:
    """The last layer (``model.21``): where published models keep classes, strides and keypoints."""
    layers = [name for name in modules if re.fullmatch(r"model\.\d+", name)]
    return layers[-1] if layers else ""


def _state(attributes: dict[str, dict[str, Any]], tensors: _Tensors) -> dict[str, np.ndarray]:
    """The state dict: of each module its parameters, then its persistent buffers."""
    state = {}
    for owner, module in attributes.items():
        transient = members(module.get("_non_persistent_buffers_set"))
        if len(transient) > _MAX_NAMES:
            raise InputError(f"{tensors.path}: {owner[:120] or 'the model'} lists too many buffers; {_AGAIN}")
        tensors_here = _named(module, "_parameters", owner, tensors.path)
        for name, value in _named(module, "_buffers", owner, tensors.path).items():
            if not any(isinstance(other, str) and other == name for other in transient):
                tensors_here[name] = value
        for name, value in tensors_here.items():
            key = f"{owner}.{name}" if owner else name
            state[key] = tensors.array(value, key)
    return state


def _names(value: Any, path: Path) -> tuple[str, ...]:
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


def _name(value: Any) -> str | None:
    """One class name; YAML reads names like ``7`` as numbers."""
    if isinstance(value, str):
        return text(value) or ""
    return str(value) if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64) else None


def _keypoint_shape(*candidates: Any) -> tuple[int, int] | None:
    """The first candidate that is two positive numbers."""
    for candidate in candidates:
        numbers = [count(value) for value in members(candidate)]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None:
            return numbers[0], numbers[1]
    return None


def _norms(modules: dict[str, StandIn]) -> tuple[tuple[float, float], ...]:
    """The (eps, momentum) pairs of the model's BatchNorms that are plain numbers."""
    norms = [m.state for m in modules.values() if _class_name(m) == "BatchNorm2d"]
    pairs = {(n.get("eps"), n.get("momentum")) for n in norms if type(n.get("eps")) is type(n.get("momentum")) is float}
    return tuple(sorted(pairs))


def _attention_numbers(
    modules: dict[str, StandIn], attributes: dict[str, dict[str, Any]], what: str, path: Path
) -> dict[str, int]:
    """``what`` of every area attention module, by path."""
    numbers = {}
    for name, module in modules.items():
        if _class_name(module) == "AAttn":
            value = count(attributes[name].get(what))
            if value is None:
                raise InputError(f"{path}: {name} (AAttn) does not state its {what}; {_AGAIN}")
            numbers[name] = value
    return numbers


# Tensors


class _Tensors:
    """Turns a recorded ``torch._utils._rebuild_*`` call into an array, within the storage's bounds."""

    def __init__(self, archive: Archive) -> None:
        self.path = archive.path
        self._archive = archive
        self._elements = 0
        self._count = 0

    def array(self, value: Any, key: str) -> np.ndarray:
        """The tensor or parameter ``value``, named ``key`` in errors."""
        if isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_parameter") and value.args:
            value = value.args[0]
        rebuilt = isinstance(value, StandIn) and value.name in (
            "torch._utils._rebuild_tensor",
            "torch._utils._rebuild_tensor_v2",
        )
        if not rebuilt or len(value.args) < 4 or len(value.args) > 6 or not isinstance(value.args[0], Storage):
            raise InputError(f"{self.path}: {key} is no plain tensor; {_AGAIN}")
        storage, offset, shape, strides = value.args[:4]
        offset, shape, strides = count(offset, 0), _sizes(shape, 1), _sizes(strides, 0)
        if offset is None or shape is None or strides is None or len(shape) != len(strides):
            raise InputError(f"{self.path}: {key} has no proper shape; {_AGAIN}")
        return self._view(storage, offset, shape, strides, key)

    def floats(self, value: Any) -> tuple[float, ...]:
        """A small tensor as floats; empty where it is none."""
        array = self.array(value, "stride") if _is_tensor(value) else np.zeros(0)
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


def _sizes(value: Any, least: int) -> tuple[int, ...] | None:
    """A shape or strides as whole numbers from ``least``; None for what is neither."""
    numbers = [n for v in members(value)[: _MAX_DIMENSIONS + 1] if (n := count(v, least)) is not None]
    return tuple(numbers) if len(numbers) == len(members(value)) <= _MAX_DIMENSIONS else None
