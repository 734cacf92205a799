"""The classification loss: cross entropy.

total, terms = loss(net)(net(images), targets)      # terms: cls
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from edgekit.errors import InputError
from edgekit.nn.targets import Targets
from edgekit.nn.yolo12 import YOLO12


class ClassifyLoss:
    """Mean cross entropy of ``logits [B, C]`` with ``targets.class_id``, times its gain (1).

    Unlike the losses of boxes the total is the mean over images, not their sum. With class weights it is the
    weighted mean. Computed in float32 whatever autocast says.

    Attributes:
        reduce: applied to the number of images (with class weights: the sum of theirs); distributed training sets the
            sum over processes. Totals and terms are then shares, which add up to those of all the images.
    """

    def __init__(
        self,
        gains: Mapping[str, float] | None = None,
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.gain = (gains or {}).get("cls", 1.0)
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing
        self.reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total

    def __call__(self, raw: dict[str, torch.Tensor], targets: Targets) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if targets.class_id is None:
            raise InputError("these targets have no class of the image; classification needs folders of classes")
        logits = raw["logits"]
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            weights = None if self.class_weights is None else self.class_weights.to(logits)
            each = F.cross_entropy(
                logits, targets.class_id, weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
            counted = logits.new_tensor(len(logits)) if weights is None else weights[targets.class_id].sum()
            total = self.gain * each / self.reduce(counted)
        return total, {"cls": total.detach()}


def loss(
    net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None
) -> ClassifyLoss:
    """The loss of ``net``; ``gains`` may hold ``cls``, ``class_weights`` is [C]."""
    return ClassifyLoss(gains, class_weights)
