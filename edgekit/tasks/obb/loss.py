"""The loss of oriented boxes: detection with Gaussian overlap, side distances in the box's own frame, and the angle.

    total, terms = loss(net)(net(images), targets)      # terms: box, cls, dfl, angle

Boxes have w >= h, so an angle means the same as itself plus π and nothing else. The head gives angles in
(-π/4, 3π/4), targets have [-π/2, π/2): of the angles that mean the same, the one nearest to the prediction is taken. An
untrained head says π/4 and so gets its own range; later, a prediction just across the end of the range is not told to
go all the way round, and its side distances are compared in the frame it is in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from edgekit.errors import InputError
from edgekit.nn.assigner import LEAST_SIDE, Assignment, Grid, assign
from edgekit.nn.boxloss import BoxLoss, Positives, Terms, sides_of, wide
from edgekit.nn.losses import angle_difference, distribution_focal, expectation, probiou
from edgekit.nn.targets import Targets
from edgekit.nn.yolo12 import YOLO12
from edgekit.tasks.obb.net import rotated_from_distances


class OrientedLoss(BoxLoss):
    """``box``: 1 - probiou (arXiv 2106.06072); ``dfl`` in the box's frame; ``angle``: ``angle_difference``."""

    names = ("box", "cls", "dfl", "angle")

    def assign(self, raw: Terms, targets: Targets, grid: Grid) -> Assignment:
        """Cells whose centre lies in the rotated box, by probabilistic IoU."""
        true_M5 = _rotated(targets)
        with torch.no_grad():
            centres_12N = torch.stack((grid.x, grid.y))[None] / grid.stride
            angles_B1N = wide(raw["angles"])
            boxes_B4N = rotated_from_distances(sides_of(raw["distances"]), angles_B1N, centres_12N) * grid.stride
            boxes_BN5 = torch.cat((boxes_B4N, angles_B1N), 1).transpose(1, 2)
            half_M2 = true_M5[:, 2:4].clamp(min=LEAST_SIDE) / 2
            cos_M, sin_M = true_M5[:, 4].cos(), true_M5[:, 4].sin()
            turn_M22 = torch.stack((cos_M, sin_M, -sin_M, cos_M), 1).view(-1, 2, 2)
            reach_M2 = (half_M2[:, None] @ turn_M22.abs()).squeeze(1)
            around_M4 = torch.cat((true_M5[:, :2] - reach_M2, true_M5[:, :2] + reach_M2), 1)

        def within(objects: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
            offset = torch.stack((grid.x[cell], grid.y[cell]), 1) - true_M5[objects, :2]
            x, y, cos, sin = *offset.unbind(1), cos_M[objects], sin_M[objects]
            half = half_M2[objects]
            return ((x * cos + y * sin).abs() < half[:, 0]) & ((y * cos - x * sin).abs() < half[:, 1])

        def overlap(objects: torch.Tensor, image: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
            return probiou(boxes_BN5[image, cell], true_M5[objects].to(boxes_BN5.dtype))

        return assign(around_M4, targets.image, targets.classes, raw["logits"], grid, overlap, within)

    def terms(self, raw: Terms, targets: Targets, positives: Positives) -> Terms:
        """``box``, ``dfl`` and ``angle``."""
        chosen, stride = positives.chosen, positives.stride[:, None]
        centre = positives.centre / stride  # all in cells from here on
        angle = wide(raw["angles"].transpose(1, 2)[chosen.image, chosen.cell])
        true = _rotated(targets)[chosen.object].to(angle.dtype)
        true = torch.cat((true[:, :4] / stride, nearest_angle(true[:, 4:], angle.detach())), 1)
        # The head's function wants cells as columns; every positive is an image of one cell here.
        sides = expectation(positives.logits)[:, :, None]
        boxes = torch.cat((rotated_from_distances(sides, angle[:, None], centre[:, :, None]).squeeze(2), angle), 1)
        return {
            "box": positives.mean(1 - probiou(boxes, true)),
            "dfl": positives.mean(distribution_focal(positives.logits, frame_distances(true, centre))),
            "angle": positives.mean(angle_difference(boxes, true)),
        }


def nearest_angle(true: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """The angle that means the same as ``true`` (±π) and is nearest to ``predicted``; same shapes."""
    return true + ((predicted - true) / math.pi).round() * math.pi


def frame_distances(boxes_P5: torch.Tensor, points_P2: torch.Tensor) -> torch.Tensor:
    """Signed distances from points to the sides left, top, right, bottom in the box's own frame: ``[P, 4]``.

    The inverse of ``tasks.obb.net.rotated_from_distances``.
    """
    x, y = (boxes_P5[:, :2] - points_P2).unbind(1)
    cos, sin = boxes_P5[:, 4].cos(), boxes_P5[:, 4].sin()
    offset = torch.stack((x * cos + y * sin, y * cos - x * sin), 1)
    half = boxes_P5[:, 2:4] / 2
    return torch.cat((half - offset, half + offset), 1)


def _rotated(targets: Targets) -> torch.Tensor:
    if targets.rotated is None:
        raise InputError("these targets have no rotated boxes; oriented boxes need four corners in their labels")
    return targets.rotated


def loss(
    net: YOLO12, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None
) -> OrientedLoss:
    """The loss of ``net``; ``gains`` replace single defaults, ``class_weights`` is [C]."""
    return OrientedLoss(gains, class_weights)
