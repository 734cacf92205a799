"""The modules of a pickled model: their tree, and what each says of itself, as plain values. Standard library only.

What a network computes is decided by more than its tensors: activations, strides, padding, modes, routes, epsilons.
All of that stands in the attributes of the pickled modules, and all of it is kept here, unjudged.

    tree = described(dict(walk(model, path)))
    tree["model.0.conv"].kind                    # 'torch.nn.modules.conv.Conv2d'
    tree["model.0.conv"].attributes["stride"]    # (2, 2)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.checkpoint.published.inert_pickle import Reference, StandIn
from edgekit.checkpoint.published.inert_values import mapping, members, number
from edgekit.errors import InputError

_CHILD_NAME = re.compile(r"\w{1,64}", re.ASCII)
_MAX_MODULES = 5000  # yolo12x has 971
_MAX_NAMES = 1000  # parameters, buffers, children or attributes of one module
_MAX_DEPTH = 32
_MAX_MEMBERS = 64  # of one attribute
_AGAIN = "get the file again from where it was published"
# What training or compiling in other hands puts around a model, and where in it the model is.
_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "AveragedModel": "module"}
HOOKS = "<hooks>"  # the value of a list of hooks that is not empty
# What every torch module holds besides: children and tensors, which are read elsewhere, and hooks, read below.
_PLUMBING = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training")


@dataclass(frozen=True)
class Module:
    """One module of the tree.

    Attributes:
        kind: full name of its class, e.g. ``ultralytics.nn.modules.block.C3k2``.
        attributes: what it holds by name, as plain values: None, bool, int, float, str and tuples of those. Tensors
            are ``"<tensor>"``, other objects the name of their class in ``<>``; a ``forward`` of its own is the name
            of the method (``"forward_fuse"``). Empty hooks are left out. The head's ``stride`` has its numbers.
    """

    kind: str
    attributes: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The class's own name: ``C3k2``."""
        return self.kind.rpartition(".")[2]


def is_module(value: object) -> bool:
    return isinstance(value, StandIn) and isinstance(value.state, dict) and "_modules" in value.state


def is_tensor(value: object) -> bool:
    return isinstance(value, StandIn) and value.name.startswith("torch._utils._rebuild_")


def class_name(value: StandIn) -> str:
    return value.name.rpartition(".")[2]


def unwrapped(model: StandIn) -> StandIn:
    """The model inside the wrappers of data-parallel training and weight averaging."""
    for _ in range(_MAX_DEPTH):
        inner = mapping(model.state.get("_modules")).get(_WRAPPERS.get(class_name(model), ""))
        if not isinstance(inner, StandIn) or not is_module(inner):
            break
        model = inner
    return model


def walk(model: StandIn, path: Path) -> Iterator[tuple[str, StandIn]]:
    """Every module with its path, a parent before its children, children in order: the order of a state dict."""
    pending = [("", model, 0)]
    found = 1
    while pending:
        name, module, depth = pending.pop()
        yield name, module
        children = []
        for child_name, child in named(module.state, "_modules", name, path).items():
            full = f"{name}.{child_name}" if name else child_name
            if not isinstance(child, StandIn) or not is_module(child) or depth == _MAX_DEPTH:
                raise InputError(f"{path}: {full[:120]} in the model is no module, or nested too deep; {_AGAIN}")
            children.append((full, child, depth + 1))
        pending.extend(reversed(children))
        found += len(children)
        if found > _MAX_MODULES:
            raise InputError(
                f"{path}: the model has over {_MAX_MODULES} modules, more than any YOLO12; give a YOLO12 checkpoint"
            )


def named(attributes: dict[str, object], what: str, owner: str, path: Path) -> dict[str, object]:
    """The modules, parameters or buffers of one module by their names; entries that are None are left out."""
    found = mapping(attributes.get(what))
    if len(found) > _MAX_NAMES or not all(isinstance(name, str) and _CHILD_NAME.fullmatch(name) for name in found):
        raise InputError(
            f"{path}: {what} of {owner[:120] or 'the model'} has too many entries or improper names; {_AGAIN}"
        )
    return {str(name): value for name, value in found.items() if value is not None}


def described(modules: dict[str, StandIn], path: Path) -> dict[str, Module]:
    """Each module's class and attributes, by path."""
    for name, module in modules.items():
        if len(module.state) > _MAX_NAMES:
            raise InputError(f"{path}: {name[:120] or 'the model'} has too many attributes; {_AGAIN}")
    return {name: Module(module.name, _attributes(module)) for name, module in modules.items()}


def _attributes(module: StandIn) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in module.state.items():
        if not isinstance(name, str) or name in _PLUMBING:
            continue
        if name.endswith("_hooks") or "_hooks_" in name:
            if mapping(value):
                found[name] = HOOKS
        else:
            found[name] = _forward(value, module) if name == "forward" else _plain(value)
    return found


def _forward(value: object, owner: StandIn) -> str:
    """The name of the owner's method that takes the place of its forward pass."""
    if isinstance(value, StandIn) and value.name == "builtins.getattr" and value.args[0] is owner:
        return str(value.args[1])
    return "<another module's method>"


def _plain(value: object, depth: int = 0) -> object:
    plain = number(value)
    if value is None or plain is not None:
        return plain
    if isinstance(value, str):
        return value[:200]
    if is_tensor(value):
        return "<tensor>"
    listed = isinstance(value, (list, tuple)) or (isinstance(value, StandIn) and value.name == "torch.Size")
    if listed and depth < 2:
        return tuple(_plain(item, depth + 1) for item in members(value)[:_MAX_MEMBERS])
    if isinstance(value, (StandIn, Reference)):
        return f"<{value.name}>"
    return f"<{type(value).__name__}>"
