"""Which of the networks edgekit knows a published file holds, and whether it is that network in everything.

Tensors tell family, task and scale. What leaves no trace in them (activations, strides, modes, routes, areas, epsilons)
is read from the file's modules: what a ``ModelSpec`` can say is honoured, everything else must be as YOLO12 has it,
and the first thing that is not is named.

    spec = recognise(published, path)
    check(published, network.build(spec), path)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.checkpoint import catalog
from edgekit.checkpoint.published import Published
from edgekit.checkpoint.published.modules import HOOKS, Module
from edgekit.errors import InputError
from edgekit.nn.blocks import activation_name
from edgekit.nn.written import ANY, Written, expected
from edgekit.nn.yolo12 import YOLO12
from edgekit.spec import ACTIVATIONS, SCALES, ModelSpec

# What a module may state besides: its number and inputs (checked apart), what it was made of, PyTorch's own notes.
_LABELS = ("i", "f", "np", "type", "inplace", "forward", "_is_full_backward_hook")
_ALIKE = {"forward_split": ("C3k2",)}  # other forward passes that compute the same, of what


def recognise(published: Published, path: Path) -> ModelSpec:
    """Which of the known networks these tensors are: family, task and scale from keys and shapes.

    Raises:
        InputError: another architecture, an unsupported variant, or contradictory class counts.
    """
    layer = published.modules.get("model.6")
    spec = spec_of(published.state, path, layer.name if layer else None, published.keypoint_shape)
    if published.classes is not None and published.classes != spec.classes:
        raise InputError(f"{path}: its head states {published.classes} classes but its weights have {spec.classes}")
    return spec.replace(**_unseen_in_tensors(published.modules, spec, path))


def spec_of(
    state: Mapping[str, np.ndarray],
    path: Path,
    layer: str | None = None,
    keypoint_shape: tuple[int, int] | None = None,
) -> ModelSpec:
    """The network of a state dict, as published: ``recognise`` without what only modules say. ``layer``: the class of
    layer 6, for the message where it is none of YOLO12's."""
    qkv, qk = "model.6.m.0.0.attn.qkv.conv.weight" in state, "model.6.m.0.0.attn.qk.conv.weight" in state
    if not (qkv or qk):
        what = f"its layer 6 is {layer}" if layer else "its layer 6 has no Area Attention"
        raise InputError(f"{path}: not a YOLO12 network ({what}, where YOLO12 has A2C2f); edgekit takes YOLO12 only")
    family = "turbo" if qk else "v1.0"
    head = "model.9" if "model.9.linear.weight" in state else "model.21"
    task = _task_of(state, head)
    if family == "turbo" and task != "detect":
        raise InputError(
            f"{path}: a {task} network of the authors' turbo family, which edgekit does not support "
            "(turbo is supported for detect; v1.0 for all five tasks)"
        )
    last = f"{head}.linear.weight" if task == "classify" else f"{head}.cv3.0.2.weight"
    if last not in state:
        raise InputError(f"{path}: its head lacks {last}; not a head edgekit knows")
    return catalog.build_spec(_scale_of(state, path), task, family, int(state[last].shape[0]), keypoint_shape)


def keypoints_of(state: Mapping[str, np.ndarray], path: Path) -> tuple[int, int] | None:
    """(points, values of each) of a pose network's state dict, None of another's.

    Raises:
        InputError: the number of values fits points of two as well as of three.
    """
    last = state.get("model.21.cv4.0.2.weight")
    if last is None or _task_of(state, "model.21") != "pose":
        return None
    total = int(last.shape[0])
    fitting = [(total // values, values) for values in (3, 2) if total % values == 0]
    if len(fitting) != 1:
        raise InputError(
            f"{path}: its {total} keypoint values a cell may be points of two or of three values; give the checkpoint "
            "with the whole model, which says"
        )
    return fitting[0]


def check(published: Published, net: YOLO12, path: Path) -> None:
    """Hold every module of the file against ``net``: its class, its attributes, what it reads.

    Raises:
        InputError: something differs; the first is named with its module, what it is, and what edgekit would compute.
    """
    found = next(_differences(published, net), None)
    if found:
        raise InputError(
            f"{path}: its {net.spec.name} is not the one edgekit computes: {found}; results would differ, so it is not "
            "taken"
        )


def _differences(published: Published, net: YOLO12) -> Iterator[str]:
    modules, wanted = published.modules, expected(net)
    for name, module in modules.items():
        if name not in wanted:
            yield f"it has the module {name} ({module.name}), which {net.spec.name} has not"
            return
        yield from _differing(name or "the model", module, wanted[name], f"{name}.bn" in modules)
    for name, record in wanted.items():
        block = modules.get(name.removesuffix(".bn"))
        folded = block is not None and block.attributes.get("forward") == "forward_fuse"
        if name not in modules and not (name.endswith(".bn") and folded):
            yield f"it lacks the module {name} ({record.names[0].rpartition('.')[2]})"
    yield from _differing_order(modules)
    yield from _differing_routes(modules, net)


def _differing(name: str, module: Module, record: Written, normed: bool) -> Iterator[str]:
    own = module.name if module.kind.startswith("ultralytics.") else module.kind
    if own not in record.names:
        yield f"{name} is {shown(module)}, not {record.names[0].rpartition('.')[2]}"
        return
    stated = module.attributes
    for attribute, value in record.decides.items():
        if attribute not in stated and attribute not in record.may_lack:
            yield f"{name} ({module.name}) does not state its {attribute}"
        elif stated.get(attribute, value) != value:
            yield f"{attribute} of {name} ({module.name}) is {stated[attribute]!r}, not {value!r}"
    forward = str(stated.get("forward", "forward"))
    fused = "Conv" in record.names and forward == "forward_fuse" and not normed
    if forward != "forward" and module.name not in _ALIKE.get(forward, ()) and not fused:
        yield f"{name} ({module.name}) runs its {forward} in place of its forward pass"
    known = {*record.decides, *record.idle, *_LABELS}
    for attribute in stated:
        hooked = stated[attribute] == HOOKS
        if hooked or (attribute not in known and record.idle != ANY):
            yield f"{name} ({module.name}) has {attribute} = {stated[attribute]!r:.60}, which edgekit does not know"


def _differing_order(modules: Mapping[str, Module]) -> Iterator[str]:
    """Members run in the order they are stored in, whatever their numbers."""
    last: dict[str, int] = {}
    for name in modules:
        owner, _, member = name.rpartition(".")
        if member.isdigit():
            if int(member) != last.get(owner, -1) + 1:
                yield f"{owner} runs its member {member} after {last.get(owner, 'nothing')}"
            last[owner] = int(member)


def _differing_routes(modules: Mapping[str, Module], net: YOLO12) -> Iterator[str]:
    for number, wanted in enumerate(net.routes):
        layer = modules.get(f"model.{number}")
        if layer is None:
            continue
        i, f = layer.attributes.get("i"), layer.attributes.get("f")
        sources = f if isinstance(f, tuple) else (f,)
        read = tuple(number + s if isinstance(s, int) and s < 0 else s for s in sources)
        if i != number:
            yield f"model.{number} ({layer.name}) is numbered {i}"
        if read != wanted:
            yield f"model.{number} ({layer.name}) reads layers {read}, not {wanted}"


def shown(module: Module) -> str:
    """A module's class with what it was made with: ``LeakyReLU(negative_slope=0.1, inplace=False)``."""
    stated = ", ".join(f"{k}={v!r:.40}" for k, v in module.attributes.items() if not k.startswith("_") and k != "type")
    return f"{module.name}({stated:.120})"


def _unseen_in_tensors(modules: Mapping[str, Module], spec: ModelSpec, path: Path) -> dict[str, Any]:
    """What leaves no trace in a state dict and a ``ModelSpec`` can say: areas, BatchNorm's numbers, the activation.

    Of each the first that is found; ``check`` holds the others against it."""
    areas = []
    for layer, usual in zip((6, 8), spec.areas, strict=True):
        name = f"model.{layer}.m.0.0.attn"
        area = modules[name].attributes.get("area") if name in modules else usual
        if type(area) is not int or area < 1:
            raise InputError(f"{path}: {name} ({modules[name].name}) does not state its area")
        areas.append(area)
    found: dict[str, Any] = {"areas": tuple(areas)}
    norm = next((m.attributes for m in modules.values() if m.name in ("BatchNorm2d", "SyncBatchNorm")), None)
    if norm is not None:
        numbers = norm.get("eps"), norm.get("momentum")
        if not all(type(number) is float and 0 <= number < math.inf for number in numbers):
            raise InputError(f"{path}: its BatchNorms state no eps and momentum that are numbers, but {numbers}")
        found |= {"norm_eps": numbers[0], "norm_momentum": numbers[1]}
    act = modules.get("model.0.act")
    if act is not None:
        found["activation"] = activation_name(act.name, act.attributes) if act.kind.startswith("torch.") else None
        if found["activation"] is None:
            raise InputError(
                f"{path}: its activation is {shown(act)}, which edgekit does not compute; it knows "
                f"{', '.join(ACTIVATIONS)}"
            )
    return found


def _task_of(state: Mapping[str, np.ndarray], head: str) -> str:
    if head == "model.9":
        task = "classify"
    elif f"{head}.proto.cv1.conv.weight" in state:
        task = "segment"
    elif f"{head}.cv4.0.2.weight" in state:
        task = "obb" if state[f"{head}.cv4.0.2.weight"].shape[0] == 1 else "pose"
    else:
        task = "detect"
    return task


def _scale_of(state: Mapping[str, np.ndarray], path: Path) -> str:
    first = state.get("model.0.conv.weight")
    stem = int(first.shape[0]) if first is not None else 0
    repeats = sum(f"model.6.m.{i}.0.attn.proj.conv.weight" in state for i in range(8))
    by_size = {(16, 2): "n", (32, 2): "s", (64, 2): "m", (64, 4): "l", (96, 4): "x"}
    if (stem, repeats) not in by_size:
        raise InputError(
            f"{path}: a YOLO12 of {stem} stem channels and {repeats} attention repeats, which is none of the "
            f"scales {', '.join(SCALES)}"
        )
    return by_size[stem, repeats]
