"""The pose loss: detection, keypoint similarity, and visibility where the head gives it.

total, terms = loss(net)(net(images), targets)      # terms: box, cls, dfl, keypoint, visibility
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from edgekit.errors import InputError
from edgekit.metrics.overlap import keypoint_sigmas
from edgekit.nn.boxloss import BoxLoss, Positives, Terms, wide
from edgekit.nn.losses import keypoint_error
from edgekit.nn.targets import Targets
from edgekit.nn.yolo12 import YOLO12


class PoseLoss(BoxLoss):
    """``keypoint``: mean over positives of the error averaged over labelled points; ``visibility``: binary cross
    entropy of "is labelled", mean over positives and points (heads of three values a point only)."""

    def __init__(
        self,
        keypoint_shape: tuple[int, int],
        gains: Mapping[str, float] | None = None,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.points, self.values = keypoint_shape
        self.names = ("box", "cls", "dfl", "keypoint", "visibility")[: 3 + self.values - 1]
        super().__init__(gains, class_weights)

    def terms(self, raw: Terms, targets: Targets, positives: Positives) -> Terms:
        return {**super().terms(raw, targets, positives), **self._points(raw, targets, positives)}

    def _points(self, raw: Terms, targets: Targets, positives: Positives) -> Terms:
        if targets.keypoints is None:
            raise InputError("these targets have no keypoints; pose needs them in its labels")
        chosen = positives.chosen
        points = wide(raw["points"].transpose(1, 2)[chosen.image, chosen.cell]).unflatten(1, (self.points, self.values))
        stride, centre = positives.stride[:, None, None], positives.centre[:, None]
        predicted = points[..., :2] * 2 * stride + centre - 0.5 * stride  # as the head decodes
        true = targets.keypoints[chosen.object].to(points.dtype)
        boxes = targets.boxes[chosen.object].to(points.dtype)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        sigmas = torch.as_tensor(keypoint_sigmas(self.points), dtype=points.dtype, device=points.device)
        labelled = (true[..., 2] > 0).to(points.dtype)
        error = keypoint_error(predicted, true[..., :2], area, sigmas) * labelled
        terms = {"keypoint": (error.sum(1) / labelled.sum(1).clamp(min=1)).sum() / positives.count}
        if self.values == 3:
            seen = F.binary_cross_entropy_with_logits(points[..., 2], labelled, reduction="sum")
            terms["visibility"] = seen / (positives.count * self.points)
        return terms


def loss(net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None) -> PoseLoss:
    """The loss of ``net``; ``gains`` replace single defaults, ``class_weights`` is [C]."""
    assert net.spec.keypoint_shape is not None  # the head was built with it
    return PoseLoss(net.spec.keypoint_shape, gains, class_weights)
