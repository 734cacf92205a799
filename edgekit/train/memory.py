"""How many images fit: what a forward pass keeps for the backward pass, counted without computing anything.

    needed(spec, (640, 640)).bytes(batch=16)
    largest(spec, (640, 640), free(torch.device("cpu")))

Counted on PyTorch's meta device from the tensors autograd saves, so it knows every layer but not the allocator:
``SLACK`` stands for workspaces and fragmentation, measured on the five scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgekit.spec import ModelSpec
from edgekit.tasks import network
from edgekit.train.cache import available_memory

SLACK = 1.25
COPIES = 5  # weights, their gradients, two moments, the running average


@dataclass(frozen=True)
class Needed:
    """Bytes: ``fixed`` for weights and what goes with them, ``image`` for every image of a batch."""

    fixed: int
    image: int

    def bytes(self, batch: int) -> int:
        return int((self.fixed + batch * self.image) * SLACK)


def needed(spec: ModelSpec, imgsz: tuple[int, int], half: bool = False) -> Needed:
    """What training ``spec`` takes; ``half``: with 16-bit activations."""
    net = network.build(spec, "meta").train()
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []  # ids are only unique among the living
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(torch.empty(2, 3, *imgsz, device="meta"))
    parameters = sum(p.numel() for p in net.parameters()) * 4
    return Needed(COPIES * parameters, sum(saved.values()) // 2 // (2 if half else 1))


def free(device: torch.device) -> int:
    """Bytes that are free on ``device``: of the GPU, or of this machine within its container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_memory()


def largest(need: Needed, available: int, share: float = 1.0) -> int:
    """The largest batch that fits into ``share`` of the free memory; 0 if not even one image does."""
    return max(int((available * share / SLACK - need.fixed) // need.image), 0)
