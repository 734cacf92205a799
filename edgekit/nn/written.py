"""How published files write our modules down, attribute by attribute, so that a file can be held against a network.

A state dict has the tensors; what else decides what a network computes (strides, modes, routes, activations, areas)
stands in the attributes of the pickled modules. A module of ours says in ``written()`` under which names; PyTorch's
own are compared as they are, every public attribute.

    expected(net)["model.9"].decides["mode"]           # 'nearest'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

ANY = ("*",)  # of ``idle``: every attribute, as the model as a whole has names, settings and the like


@dataclass(frozen=True)
class Written:
    """One module as a published file has it.

    Attributes:
        names: classes that compute the same, by their own names; PyTorch's by their full ones.
        decides: attributes that decide what it computes, with the values they must have.
        idle: attributes it may have that decide nothing of it.
        may_lack: of ``decides``, what older files do not state.
        besides: children a published module has where ours has none.
        unwritten: children of ours that a published module does not have.
    """

    names: tuple[str, ...]
    decides: Mapping[str, object] = field(default_factory=dict)
    idle: tuple[str, ...] = ()
    may_lack: tuple[str, ...] = ()
    besides: dict[str, nn.Module] = field(default_factory=dict)
    unwritten: tuple[str, ...] = ()


# Of PyTorch's modules: what decides nothing in evaluation, or is read into the spec, and what older PyTorch left out.
_IDLE = ("inplace", "momentum", "p", "process_group")
_MAY_LACK = ("padding_mode", "recompute_scale_factor", "name")


def expected(net: nn.Module, prefix: str = "") -> dict[str, Written]:
    """How a published file would write every module of ``net``, by path."""
    return dict(_walk(net, prefix))


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, Written]]:
    own: Callable[[], Written] | None = getattr(module, "written", None)
    record = _torch(module) if own is None else own()
    yield path, record
    children = {name: child for name, child in module.named_children() if name not in record.unwritten}
    for name, child in (children | record.besides).items():
        yield from _walk(child, f"{path}.{name}" if path else name)


def _torch(module: nn.Module) -> Written:
    kinds = (type(module), nn.SyncBatchNorm) if isinstance(module, nn.BatchNorm2d) else (type(module),)
    public = {k: v for k, v in vars(module).items() if not k.startswith("_") and k not in ("training", *_IDLE)}
    hidden = tuple(k for k in vars(module) if k.startswith("_"))
    names = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
    return Written(names, public, (*_IDLE, *hidden), _MAY_LACK)
