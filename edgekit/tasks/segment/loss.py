"""The segmentation loss: detection, and the cross entropy of every positive's mask inside its box.

total, terms = loss(net)(net(images), targets)      # terms: box, cls, dfl, mask
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgekit.errors import InputError
from edgekit.nn.boxloss import BoxLoss, Positives, Terms, wide
from edgekit.nn.losses import mask_error
from edgekit.nn.targets import Targets
from edgekit.nn.yolo12 import YOLO12


class SegmentLoss(BoxLoss):
    """``mask``: mean over positives, each counting as much as any other (YOLACT, arXiv 1904.02689)."""

    names = ("box", "cls", "dfl", "mask")

    def terms(self, raw: Terms, targets: Targets, positives: Positives) -> Terms:
        return {**super().terms(raw, targets, positives), "mask": self._masks(raw, targets, positives)}

    def _masks(self, raw: Terms, targets: Targets, positives: Positives) -> torch.Tensor:
        if targets.masks is None:
            raise InputError("these targets have no masks; segmentation needs polygons in its labels")
        chosen, prototypes = positives.chosen, wide(raw["prototypes"])
        scale = prototypes.shape[3] / targets.size[1]
        coefficients_PK = wide(raw["coefficients"].transpose(1, 2)[chosen.image, chosen.cell])
        boxes_P4 = targets.boxes[chosen.object].to(coefficients_PK.dtype) * scale
        # Masks number the objects of an image from 1.
        number_P = chosen.object - torch.searchsorted(targets.image, chosen.image) + 1
        images = torch.arange(targets.count + 1, device=chosen.image.device)
        bounds = torch.searchsorted(chosen.image, images).tolist()
        total = prototypes[:0].sum() + coefficients_PK[:0].sum()  # tied to the graph though there be no positives
        for image in range(targets.count):
            part = slice(bounds[image], bounds[image + 1])
            if part.start < part.stop:
                truth = targets.masks[image] == number_P[part, None, None]
                total = total + mask_error(coefficients_PK[part], prototypes[image], truth, boxes_P4[part]).sum()
        return total / positives.count


def loss(
    net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None
) -> SegmentLoss:
    """The loss of ``net``; ``gains`` replace single defaults, ``class_weights`` is [C]."""
    return SegmentLoss(gains, class_weights)
