"""A network run from a published file's own words, to hold edgekit's reading of the file against.

Nothing here knows a ``ModelSpec`` or builds our networks. PyTorch's modules are made anew with exactly the attributes
the file states, the other classes are written down a second time, and every number (strides, modes, routes, areas,
sizes) comes from the file's modules. Both networks run in float64, so that what differs is the reading, not rounding.

    parting(modules, state, net)       # None, or the first place where the two part: 'model.9 (Upsample)'

Letters: B batch, C channels, N heads, D head width, A areas, T tokens of an area, H W map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.nn.yolo12 import YOLO12

SIZE = (64, 128)  # the coarsest map is 2 x 4: its tokens divide into up to 8 areas, and sides that differ tell H from W
TOLERANCE = 1e-4  # of the largest value; in float64 both agree to 1e-12, with BatchNorms put back (unfused) to 1e-5


class Stated(Protocol):
    """A module of the file: the full name of its class and its attributes as plain values."""

    @property
    def kind(self) -> str: ...
    @property
    def attributes(self) -> dict[str, Any]: ...


Tensors = dict[str, torch.Tensor]
Input = torch.Tensor | Sequence[torch.Tensor]


def parting(modules: Mapping[str, Stated], state: Mapping[str, np.ndarray], net: YOLO12) -> str | None:
    """The first layer whose output differs between the file as it states itself and ``net``; None where none does.

    Args:
        modules: the file's modules by path (``model.0.conv``).
        state: its tensors, as stored.
        net: our reading of it, in evaluation mode; left as it was.
    """
    image = torch.rand(1, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        layers = Replay(modules, state).layers(image)
        for number, own in enumerate(_ours(net, image)):
            place = f"model.{number} ({modules[f'model.{number}'].kind.rpartition('.')[2]})"
            try:
                theirs = next(layers)
            except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                return f"{place}, which cannot be run as it is described ({error})"
            if not _same(theirs, own):
                return place
    return None


def _ours(net: YOLO12, image: torch.Tensor) -> list[torch.Tensor | Tensors]:
    """What each of our layers gives; float32 weights go to float64 and back without loss."""
    found: list[torch.Tensor | Tensors] = []
    hooks = [layer.register_forward_hook(lambda m, i, output: found.append(output)) for layer in net.model]
    try:
        net.double()(image)
    finally:
        net.float()
        for hook in hooks:
            hook.remove()
    return found


def _same(one: torch.Tensor | Tensors, other: torch.Tensor | Tensors) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[role], other[role]) for role in one)
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max().clamp(min=1))


class Replay:
    """The file's network, layer by layer."""

    def __init__(self, modules: Mapping[str, Stated], state: Mapping[str, np.ndarray]) -> None:
        self.modules, self.state = modules, state
        self.children: dict[str, list[str]] = {}
        for path in modules:
            owner, _, name = path.rpartition(".")
            self.children.setdefault(owner, []).append(name)

    def layers(self, image: torch.Tensor) -> Iterator[torch.Tensor | Tensors]:
        """The output of each layer, as it is computed; the last is a dict of roles."""
        outputs: list[Any] = []
        for name in self.children["model"]:
            path = f"model.{name}"
            sources = self.stated(path, "f")
            read = [
                image if not outputs and s == -1 else outputs[s]
                for s in (sources if isinstance(sources, tuple) else (sources,))
            ]
            outputs.append(self.layer(path, read if isinstance(sources, tuple) else read[0]))
            yield outputs[-1]

    def stated(self, path: str, attribute: str) -> Any:
        return self.modules[path].attributes[attribute]

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.state[key]).double()

    def has(self, path: str) -> bool:
        return path in self.modules

    def run(self, path: str, x: Input) -> torch.Tensor:
        """The output of the module at ``path``, which is none of the network's last ones, for ``x``."""
        made = self.layer(path, x)
        if isinstance(made, dict):
            raise TypeError(f"{path} is a {self.modules[path].kind} inside of another layer")
        return made

    def layer(self, path: str, x: Input) -> torch.Tensor | Tensors:
        """The output of a layer for ``x``; the last one's by role."""
        kind = self.modules[path].kind
        if kind.startswith("torch.nn.modules.") and kind.rpartition(".")[2] not in ("Sequential", "ModuleList"):
            made: torch.Tensor = self._torch(path)(x)
            return made
        return _FORWARD[kind.rpartition(".")[2]](self, path, x)

    def each(self, path: str) -> list[str]:
        """The paths of the members of a list or sequence, in order."""
        return [f"{path}.{name}" for name in self.children.get(path, ())]

    def levels(self, path: str, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """A list of branches on a list of maps, the cells of all levels side by side: ``[B, V, cells]``."""
        return torch.cat([self.run(p, x).flatten(2) for p, x in zip(self.each(path), maps, strict=True)], 2)

    def _torch(self, path: str) -> nn.Module:
        """A module of PyTorch's, made of nothing but what the file states of it."""
        module = self.modules[path]
        cls = getattr(nn, module.kind.rpartition(".")[2])
        made: nn.Module = cls.__new__(cls)
        nn.Module.__init__(made)
        vars(made).update({name: value for name, value in module.attributes.items() if name != "forward"})
        for name in ("weight", "bias", "running_mean", "running_var"):
            key = f"{path}.{name}"
            made.register_buffer(name, self.tensor(key) if key in self.state else None)
        return made.eval()


def _conv(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    y = net.run(f"{path}.conv", x)
    return net.run(f"{path}.act", net.run(f"{path}.bn", y) if net.has(f"{path}.bn") else y)


def _sequence(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    for member in net.each(path):
        x = net.run(member, x)
    return x


def _bottleneck(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    y = net.run(f"{path}.cv2", net.run(f"{path}.cv1", x))
    return y + x if net.stated(path, "add") else y


def _c3(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    deep, flat = net.run(f"{path}.m", net.run(f"{path}.cv1", x)), net.run(f"{path}.cv2", x)
    return net.run(f"{path}.cv3", torch.cat([deep, flat], dim=1))


def _c2f(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    c = net.stated(path, "c")
    y = list(net.run(f"{path}.cv1", x).split([c, c], dim=1))
    for member in net.each(f"{path}.m"):
        y += [net.run(member, y[-1])]
    return net.run(f"{path}.cv2", torch.cat(y, dim=1))


def _a2c2f(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    y = [net.run(f"{path}.cv1", x)]
    for member in net.each(f"{path}.m"):
        y += [net.run(member, y[-1])]
    joined = net.run(f"{path}.cv2", torch.cat(y, dim=1))
    gamma = f"{path}.gamma"
    return x + net.tensor(gamma)[None, :, None, None] * joined if gamma in net.state else joined


def _ablock(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    x = x + net.run(f"{path}.attn", x)
    return x + net.run(f"{path}.mlp", x)


def _area_attention(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    A, N, D = (net.stated(path, name) for name in ("area", "num_heads", "head_dim"))
    B, _, H, W = x.shape
    if net.has(f"{path}.qkv"):  # head by head: q, k, v
        q, k, v = net.run(f"{path}.qkv", x).view(B, N, 3, D, A, -1).unbind(2)
    else:  # all of q, all of k; v apart
        q, k = net.run(f"{path}.qk", x).view(B, 2, N, D, A, -1).unbind(1)
        v = net.run(f"{path}.v", x).view(B, N, D, A, -1)
    weights = torch.einsum("bndat,bndas->bnats", q, k).div(math.sqrt(D)).softmax(-1)
    mixed = torch.einsum("bnats,bndas->bndat", weights, v).reshape(B, N * D, H, W)
    return net.run(f"{path}.proj", mixed + net.run(f"{path}.pe", v.reshape(B, N * D, H, W)))


def _concat(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(maps), dim=net.stated(path, "d"))


def _prototypes(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    for name in ("cv1", "upsample", "cv2", "cv3"):
        x = net.run(f"{path}.{name}", x)
    return x


def _expectation(net: Replay, path: str, x: torch.Tensor) -> torch.Tensor:
    """Distribution of each side's distance -> its expectation, by the file's own bin values."""
    B, _, cells = x.shape
    weights = x.view(B, 4, net.stated(path, "c1"), cells).softmax(2)
    return (weights * net.tensor(f"{path}.conv.weight").view(1, 1, -1, 1)).sum(2)


def _cells(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell centres ``[2, cells]`` in cells and the stride of each, the strides being those the file states."""
    centres, strides = [], []
    for x, stride in zip(maps, net.stated(path, "stride"), strict=True):
        rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
        centres.append(torch.stack([columns.flatten(), rows.flatten()]).double() + 0.5)
        strides.append(torch.full((x.shape[2] * x.shape[3],), float(stride), dtype=torch.float64))
    return torch.cat(centres, 1), torch.cat(strides)


def _detect(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> Tensors:
    centres, strides = _cells(net, path, maps)
    left, top, right, bottom = net.run(f"{path}.dfl", net.levels(f"{path}.cv2", maps)).unbind(1)
    x, y = centres
    corners = torch.stack([x - left, y - top, x + right, y + bottom], -1) * strides[:, None]
    scores = net.levels(f"{path}.cv3", maps).sigmoid()
    return {"boxes": corners, "scores": scores[:, : net.stated(path, "nc")]}


def _segment(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> Tensors:
    coefficients = net.levels(f"{path}.cv4", maps)[:, : net.stated(path, "nm")]
    prototypes = net.run(f"{path}.proto", maps[0])
    return _detect(net, path, maps) | {"mask_coefficients": coefficients.mT, "mask_prototypes": prototypes}


def _pose(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> Tensors:
    (points, values), (centres, strides) = net.stated(path, "kpt_shape"), _cells(net, path, maps)
    raw = net.levels(f"{path}.cv4", maps).unflatten(1, (points, values))
    xy = (raw[:, :, :2] * 2 + (centres - 0.5)) * strides
    seen = raw[:, :, 2:3].sigmoid() if values == 3 else torch.ones_like(raw[:, :, :1])
    return _detect(net, path, maps) | {"keypoints": torch.cat([xy, seen], 2).permute(0, 3, 1, 2)}


def _oriented(net: Replay, path: str, maps: Sequence[torch.Tensor]) -> Tensors:
    centres, strides = _cells(net, path, maps)
    left, top, right, bottom = net.run(f"{path}.dfl", net.levels(f"{path}.cv2", maps)).unbind(1)
    angle = (net.levels(f"{path}.cv4", maps)[:, 0].sigmoid() - 0.25) * math.pi
    across, down = (right - left) / 2, (bottom - top) / 2
    x = centres[0] + across * angle.cos() - down * angle.sin()
    y = centres[1] + across * angle.sin() + down * angle.cos()
    boxes = torch.stack([x, y, left + right, top + bottom], -1) * strides[:, None]
    scores = net.levels(f"{path}.cv3", maps).sigmoid()
    return {"rotated_boxes": torch.cat([boxes, angle[..., None]], -1), "scores": scores}


def _classify(net: Replay, path: str, x: Input) -> Tensors:
    x = x if isinstance(x, torch.Tensor) else torch.cat(list(x), 1)
    pooled = net.run(f"{path}.pool", net.run(f"{path}.conv", x)).flatten(1)
    return {"class_probabilities": F.softmax(net.run(f"{path}.linear", pooled), dim=1)}


_FORWARD: dict[str, Callable[[Replay, str, Any], torch.Tensor | Tensors]] = {
    "Conv": _conv,
    "DWConv": _conv,
    "Sequential": _sequence,
    "Bottleneck": _bottleneck,
    "C3k": _c3,
    "C3k2": _c2f,
    "A2C2f": _a2c2f,
    "ABlock": _ablock,
    "AAttn": _area_attention,
    "Concat": _concat,
    "Proto": _prototypes,
    "DFL": _expectation,
    "Detect": _detect,
    "Segment": _segment,
    "Pose": _pose,
    "OBB": _oriented,
    "Classify": _classify,
}
