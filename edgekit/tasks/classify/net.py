"""The classification head: 1x1 convolution to 1280 channels, global average, dropout, linear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekit.nn.blocks import Conv
from edgekit.nn.written import Written
from edgekit.spec import ModelSpec

FEATURES = 1280


class Classify(nn.Module):
    """``class_probabilities [B, C]`` in evaluation, ``logits [B, C]`` in training, from the last map."""

    def __init__(self, c_in: int, classes: int, act: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = Conv(c_in, FEATURES, act=act)
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(FEATURES, classes)

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = self.linear(self.drop(self.conv(features[-1]).mean((2, 3))))
        return {"logits": logits} if self.training else {"class_probabilities": logits.softmax(1)}

    def written(self) -> Written:
        return Written(("Classify",), besides={"pool": nn.AdaptiveAvgPool2d(1)})


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on a map of ``widths[-1]`` channels."""
    return Classify(widths[-1], spec.classes, spec.activation)
