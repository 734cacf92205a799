"""The detection loss: task-aligned targets, CIoU, distribution focal loss (``nn/boxloss.py``).

total, terms = loss(net)(net(images), targets)      # terms: box, cls, dfl
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgekit.nn.boxloss import BoxLoss
from edgekit.nn.yolo12 import YOLO12


def loss(net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None) -> BoxLoss:
    """The loss of ``net``; ``gains`` replace single defaults, ``class_weights`` is [C]."""
    return BoxLoss(gains, class_weights)
