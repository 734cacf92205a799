"""Which parameters learn how fast: groups, the optimiser, the schedule, and the running average of the weights.

optimizer = make_optimizer(net, plan)
schedule(optimizer, plan, step)            # rates and momenta for this batch
average.update(net)
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from edgekit.train.options import TrainOptions

FEW = 10_000  # batches up to which `auto` takes AdamW


@dataclass(frozen=True)
class Plan:
    """The numbers of one run, all choices made.

    Attributes:
        kind: ``sgd`` or ``adamw``.
        lr, lr_final, momentum: as in the options.
        decay: weight decay at this batch and accumulation.
        bias_lr: rate of biases at the first warm-up batch.
        steps: batches of the whole run; ``warm`` of them are warm-up.
        accumulate: batches per optimiser step after warm-up.
        cosine: the schedule's form.
    """

    kind: str
    lr: float
    lr_final: float
    momentum: float
    decay: float
    bias_lr: float
    steps: int
    warm: int
    accumulate: int
    cosine: bool


def plan(options: TrainOptions, classify: bool, classes: int, images: int, per_epoch: int) -> Plan:
    """Options with their automatic values filled in (published recipe; for short runs the usual AdamW rule)."""
    steps = options.epochs * per_epoch
    kind = options.optimizer
    automatic = kind == "auto"
    if automatic:
        kind = "sgd" if steps > FEW else "adamw"
    lr = options.lr
    if lr is None and kind == "adamw":
        lr = 0.002 * 5 / (4 + classes)
    elif lr is None:
        lr = 0.2 * images / 256 if classify and not automatic else 0.01
    accumulate = max(round(options.nominal_batch / images), 1)
    decay = options.weight_decay
    if decay is None:
        decay = 1e-4 if classify and kind == "sgd" else 5e-4
    return Plan(
        kind=kind,
        lr=lr,
        lr_final=options.lr_final,
        momentum=options.momentum or (0.937 if kind == "sgd" else 0.9),
        decay=decay * images * accumulate / options.nominal_batch,
        bias_lr=0.1 if kind == "sgd" and not classify else 0.0,
        steps=steps,
        warm=min(max(round(options.warmup * per_epoch), 100), steps // 2) if options.warmup else 0,
        accumulate=accumulate,
        cosine=(options.schedule or ("cosine" if classify else "linear")) == "cosine",
    )


def make_optimizer(net: nn.Module, numbers: Plan) -> torch.optim.Optimizer:
    """Three groups: weights (decayed), scales of norms and other vectors, biases."""
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "vector": [], "bias": []}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            kind = "bias" if name.endswith(".bias") else "weight" if parameter.ndim > 1 else "vector"
            groups[kind].append(parameter)
    settings = [
        {"params": parameters, "kind": kind, "weight_decay": numbers.decay if kind == "weight" else 0.0}
        for kind, parameters in groups.items()
        if parameters
    ]
    if numbers.kind == "adamw":
        return torch.optim.AdamW(settings, lr=numbers.lr, betas=(numbers.momentum, 0.999), fused=True)
    return torch.optim.SGD(settings, lr=numbers.lr, momentum=numbers.momentum, nesterov=True, fused=True)


def rate(numbers: Plan, step: int) -> float:
    """The learning rate at batch ``step`` (from 0), warm-up aside."""
    done = min(step / max(numbers.steps, 1), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if numbers.cosine else 1 - done
    return numbers.lr * (numbers.lr_final + (1 - numbers.lr_final) * left)


def schedule(optimizer: torch.optim.Optimizer, numbers: Plan, step: int) -> None:
    """Sets every group's rate and momentum for batch ``step``. Biases start high, the others at zero."""
    warm = min(step / numbers.warm, 1.0) if numbers.warm else 1.0
    for group in optimizer.param_groups:
        start = numbers.bias_lr if group["kind"] == "bias" else 0.0
        group["lr"] = start + warm * (rate(numbers, step) - start)
        momentum = 0.8 + warm * (numbers.momentum - 0.8)
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


def accumulation(numbers: Plan, step: int) -> int:
    """Batches per optimiser step around batch ``step``: one at first, rising through warm-up."""
    if step >= numbers.warm:
        return numbers.accumulate
    return max(1, round(1 + (numbers.accumulate - 1) * step / numbers.warm))


class EMA:
    """Exponential moving average of weights and BatchNorm statistics, in a network of its own.

    The decay rises with the number of updates, ``decay · (1 − exp(−updates / tau))``, so that the random start is
    soon forgotten.
    """

    def __init__(self, net: nn.Module, decay: float, tau: float) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, 0
        mine, theirs = self.net.state_dict(), net.state_dict()  # views: they follow what happens to the networks
        floats = [k for k, v in mine.items() if v.is_floating_point()]
        self._mine, self._theirs = [mine[k] for k in floats], [theirs[k] for k in floats]
        self._counts = [(v, theirs[k]) for k, v in mine.items() if not v.is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the network as it is now."""
        self.updates += 1
        keep = self.decay * (1 - math.exp(-self.updates / self.tau))
        torch._foreach_lerp_(self._mine, self._theirs, 1 - keep)
        for mine, theirs in self._counts:
            mine.copy_(theirs)
