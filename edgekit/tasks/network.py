"""From a spec to a network, and what the network costs.

net = build(catalog.spec("yolo12n-seg"))
flops(spec, (640, 640)).convolutions / 1e9
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from edgekit import tasks
from edgekit.nn.blocks import AAttn
from edgekit.nn.yolo12 import YOLO12
from edgekit.spec import ModelSpec


def build(spec: ModelSpec, device: str | torch.device = "cpu") -> YOLO12:
    """The network of ``spec`` with PyTorch's default initialisation, in training mode."""
    task = tasks.get(spec.task)
    with torch.device(device):
        net = YOLO12(spec, task.part("net").head, neck=task.detects)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = spec.norm_eps, spec.norm_momentum
    return net


def parameters(net: nn.Module) -> int:
    """Number of parameters (weights of the fixed bin expectation included, as the published counts have it)."""
    return sum(p.numel() for p in net.parameters())


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one image, two per multiply-add.

    ``convolutions`` is the published convention (convolutions and the linear layer); ``attention`` is the two
    products q·k and softmax·v, which that convention leaves out.
    """

    convolutions: int
    attention: int

    @property
    def total(self) -> int:
        return self.convolutions + self.attention


def flops(spec: ModelSpec, imgsz: tuple[int, int]) -> Flops:
    """Counted from the shapes of one pass on the meta device; nothing is computed."""
    net = build(spec, "meta").eval()
    counts = {"convolutions": 0, "attention": 0}

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, AAttn):
            B, C, H, W = output.shape
            counts["attention"] += 4 * B * C * H * W * (H * W // module.core.area)
        elif isinstance(module, nn.ConvTranspose2d):
            counts["convolutions"] += 2 * args[0].numel() * module.weight[0].numel()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            counts["convolutions"] += 2 * output.numel() * module.weight[0].numel()

    for module in net.modules():
        if isinstance(module, (AAttn, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            module.register_forward_hook(count)
    net(torch.empty(1, 3, *imgsz, device="meta"))
    return Flops(**counts)
