"""The ground truth of a batch as tensors: what a loader hands to a loss.

    targets = Targets(size=(320, 320), count=16, image=..., classes=..., boxes=...)
    targets.to("cuda")

Objects of all images stand one after the other; ``image`` says whose each is. Lengths are pixels of the network's
input. M objects, B images, P keypoints.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Targets:
    """Ground truth of ``count`` images.

    Attributes:
        size: (height, width) of the input.
        count: number of images B; some may have no object.
        image: [M] int64, the image each object is on, ascending.
        classes: [M] int64.
        boxes: [M, 4] float32, x1, y1, x2, y2; of an oriented box the one around it.
        rotated: [M, 5] float32, centre x, centre y, width, height, angle (w >= h, radians in [-π/2, π/2)), or None.
        keypoints: [M, P, 3] float32, x, y and visibility (0 not labelled, 1 hidden, 2 visible), or None.
        masks: [B, H/4, W/4] int16: 0 background, k the image's k-th object (from 1, in the order of ``image``), the
            smaller object on top where two overlap; or None.
        class_id: [B] int64 for classification, or None.
    """

    size: tuple[int, int]
    count: int
    image: torch.Tensor
    classes: torch.Tensor
    boxes: torch.Tensor
    rotated: torch.Tensor | None = None
    keypoints: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    class_id: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Targets:
        """The same on another device (asynchronously from pinned memory)."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)
