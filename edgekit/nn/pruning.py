"""Attention and MLPs that a trained network can do without: which they are, what they cost, and taking them out.

    parts = parts_of(net)                       # {'model.6.m.0.0.attn': 'model.6.m.0.0.attn.proj', ...}
    with left_out(net, {parts[name]: mean}):    # answers as if that branch said its mean over everything it saw
        ...
    take_out(net, {parts[name]: mean})          # for good, in its weights

A branch of a residual block adds something to its input. Where that something hardly matters its mean over images, a
number for each channel, does in its place. Taken out is the branch's last convolution: weights of zero, the mean as
its bias. That is a checkpoint like any other; whoever exports it leaves out what makes the zeros
(``graph/rules/constant_branch.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import nn

from edgekit.nn.blocks import ABlock, Conv

Means = Mapping[str, torch.Tensor]  # last convolution of a branch -> [C]


def parts_of(net: nn.Module) -> dict[str, str]:
    """Branches that can be left out and their last convolutions, by path; none that are out already."""
    found: dict[str, str] = {}
    for path, block in net.named_modules():
        if isinstance(block, ABlock):
            found |= {f"{path}.attn": f"{path}.attn.proj", f"{path}.mlp": f"{path}.mlp.1"}
    return {branch: last for branch, last in found.items() if _conv(net, last).conv.weight.any()}


def _conv(net: nn.Module, path: str) -> Conv:
    module = net.get_submodule(path)
    assert isinstance(module, Conv)
    return module


@contextmanager
def left_out(net: nn.Module, means: Means) -> Iterator[None]:
    """Let ``net`` answer as if the branches that end in these convolutions said their means."""

    def constant(mean: torch.Tensor) -> Any:
        return lambda module, inputs, output: mean.view(1, -1, 1, 1).expand_as(output)

    with ExitStack() as hooks:
        for last, mean in means.items():
            hooks.callback(net.get_submodule(last).register_forward_hook(constant(mean)).remove)
        yield


def take_out(net: nn.Module, means: Means) -> None:
    """Put the means in the place of the branches that end in these convolutions, whose BatchNorms are not folded."""
    with torch.no_grad():
        for last, mean in means.items():
            block = _conv(net, last)
            block.conv.weight.zero_()
            block.bn.weight.zero_()
            block.bn.bias.copy_(mean)


@dataclass
class Watched:
    """What ``watching`` saw: seconds in each branch, and the mean by channel of what its last convolution said."""

    seconds: dict[str, float] = field(default_factory=dict)
    means: dict[str, torch.Tensor] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)

    def said(self, last: str, output: torch.Tensor) -> None:
        calls = self._calls[last] = self._calls.get(last, 0) + 1
        mean = output.mean((0, 2, 3))
        self.means[last] = mean if calls == 1 else self.means[last] + (mean - self.means[last]) / calls


@contextmanager
def watching(net: nn.Module, parts: Mapping[str, str]) -> Iterator[Watched]:
    """See how long the branches take while ``net`` runs, one call at a time, and what they say on average."""
    found, began = Watched(dict.fromkeys(parts, 0.0)), 0.0

    def start(module: nn.Module, inputs: object) -> None:
        nonlocal began
        began = perf_counter()

    def stopped(branch: str) -> Any:
        def stop(module: nn.Module, inputs: object, output: object) -> None:
            found.seconds[branch] += perf_counter() - began

        return stop

    def heard(last: str) -> Any:
        return lambda module, inputs, output: found.said(last, output)

    with ExitStack() as hooks:
        for branch, last in parts.items():
            module = net.get_submodule(branch)
            hooks.callback(module.register_forward_pre_hook(start).remove)
            hooks.callback(net.get_submodule(last).register_forward_hook(heard(last)).remove)
            hooks.callback(module.register_forward_hook(stopped(branch)).remove)
        yield found
