"""The loss: detection's, twice as strict about where a box lies."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgekit.nn.boxloss import BoxLoss
from edgekit.nn.yolo12 import YOLO12


def loss(net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None) -> BoxLoss:
    return BoxLoss({"box": 15.0, **(gains or {})}, class_weights)
