"""What the losses of every head that finds boxes share: assignment, class and box terms, gains, the total.

``BoxLoss`` is the detection loss; the other tasks add terms or replace the box (``tasks/<task>/loss.py``).

    loss = BoxLoss(gains, class_weights)
    total, terms = loss(net(images), targets)     # net in training mode
    total.backward()

Letters: B images, M objects, N cells, C classes, P positives (cells that learn an object), K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from edgekit.errors import InputError
from edgekit.nn.assigner import Assignment, Grid, assign
from edgekit.nn.boxhead import BINS
from edgekit.nn.losses import ciou, distribution_focal, expectation
from edgekit.nn.targets import Targets

GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "mask": 7.5, "keypoint": 12.0, "visibility": 1.0, "angle": 1.0}

Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Positives:
    """The cells that learn an object, with what every box term needs of them.

    Attributes:
        chosen: the assignment.
        weight: [P] target scores.
        norm: sum of all target scores, of all processes that train together; at least 1.
        count: number of positives, P, of all processes; at least 1.
        images: number of images, of all processes.
        logits: [P, 4, K] of the distance distributions, with gradient.
        centre: [P, 2] x, y of the cell, pixels.
        stride: [P] of the cell, pixels.
    """

    chosen: Assignment
    weight: torch.Tensor
    norm: torch.Tensor
    count: torch.Tensor
    images: torch.Tensor
    logits: torch.Tensor
    centre: torch.Tensor
    stride: torch.Tensor

    def mean(self, values_P: torch.Tensor) -> torch.Tensor:
        """Sum weighted by target scores over the sum of target scores."""
        return (values_P * self.weight).sum() / self.norm


class BoxLoss:
    """Loss of a head with distances and class logits at every cell.

    ``loss(raw, targets)`` takes the head's training output and gives (total, terms): total is the sum of gain·term
    times the number of images, terms are the gained values, detached. Computed in float32 (float64 stays), whatever
    autocast says. Batches without any object have the class term only; the others are 0 but still tied to the graph.

    Attributes:
        reduce: applied to [sum of target scores, number of positives, number of images]; distributed training sets
            the sum over processes. Totals and terms are then shares, which add up to those of all the images.
    """

    names: tuple[str, ...] = ("box", "cls", "dfl")

    def __init__(self, gains: Mapping[str, float] | None = None, class_weights: torch.Tensor | None = None) -> None:
        unknown = set(gains or {}) - set(GAINS)
        if unknown:
            raise InputError(f"there is no loss term {sorted(unknown)[0]!r}; gains are for: {', '.join(GAINS)}")
        self.gains = {name: {**GAINS, **(gains or {})}[name] for name in self.names}
        self.class_weights = class_weights
        self.reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total

    def __call__(self, raw: Terms, targets: Targets) -> tuple[torch.Tensor, Terms]:
        logits = raw["logits"]
        with torch.autocast(logits.device.type, enabled=False):
            grid = Grid(targets.size, logits.device)
            chosen = self.assign(raw, targets, grid)
            positives = self._positives(raw, chosen, grid, targets.count)
            terms = {"cls": self._classes(wide(logits), targets, positives), **self.terms(raw, targets, positives)}
            gained = {name: terms[name] * self.gains[name] for name in self.names}
            total = torch.stack(list(gained.values())).sum() * positives.images
        return total, {name: value.detach() for name, value in gained.items()}

    def assign(self, raw: Terms, targets: Targets, grid: Grid) -> Assignment:
        """Which cells learn which object; upright boxes by CIoU."""
        with torch.no_grad():
            sides = sides_of(raw["distances"]) * grid.stride
            centre = torch.stack((grid.x, grid.y))
            boxes_BN4 = torch.cat((centre - sides[:, :2], centre + sides[:, 2:]), 1).transpose(1, 2)

        def overlap(objects: torch.Tensor, image: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
            return ciou(boxes_BN4[image, cell], targets.boxes[objects].to(boxes_BN4.dtype))

        return assign(targets.boxes, targets.image, targets.classes, raw["logits"], grid, overlap)

    def terms(self, raw: Terms, targets: Targets, positives: Positives) -> Terms:
        """Terms without gains, but for the class term."""
        return self.box_terms(targets, positives)

    def box_terms(self, targets: Targets, positives: Positives) -> Terms:
        """``box`` (1 - CIoU) and ``dfl``."""
        true = targets.boxes[positives.chosen.object].to(positives.logits.dtype)
        centre, stride = positives.centre, positives.stride[:, None]
        near, far = expectation(positives.logits).split(2, 1)
        boxes = torch.cat((centre - near * stride, centre + far * stride), 1)
        distances = torch.cat((centre - true[:, :2], true[:, 2:] - centre), 1) / stride
        return {
            "box": positives.mean(1 - ciou(boxes, true)),
            "dfl": positives.mean(distribution_focal(positives.logits, distances)),
        }

    def _positives(self, raw: Terms, chosen: Assignment, grid: Grid, images: int) -> Positives:
        logits = wide(raw["distances"].transpose(1, 2)[chosen.image, chosen.cell]).unflatten(1, (4, BINS))
        weight = chosen.score.to(logits.dtype)
        centre = torch.stack((grid.x[chosen.cell], grid.y[chosen.cell]), 1).to(logits.dtype)
        counts = weight.new_tensor([len(weight), images])
        norm, count, images_ = self.reduce(torch.cat((weight.sum()[None], counts))).clamp(min=1)
        stride = grid.stride[chosen.cell].to(logits.dtype)
        return Positives(chosen, weight, norm, count, images_, logits, centre, stride)

    def _classes(self, logits_BCN: torch.Tensor, targets: Targets, positives: Positives) -> torch.Tensor:
        """Binary cross entropy with soft targets.

        softplus(x) - t·x is the cross entropy of logit x with target t, and t is 0 at all but P places, so the
        targets need no array of their own.
        """
        chosen = positives.chosen
        classes = targets.classes[chosen.object]
        empty, hit = F.softplus(logits_BCN), logits_BCN[chosen.image, classes, chosen.cell] * positives.weight
        if self.class_weights is not None:
            weights = self.class_weights.to(logits_BCN)
            empty, hit = empty * weights[:, None], hit * weights[classes]
        return (empty.sum() - hit.sum()) / positives.norm


def wide(x: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


def sides_of(distances_BKN: torch.Tensor) -> torch.Tensor:
    """``[B, 4·K, N]`` logits -> expected distances left, top, right, bottom in cells, ``[B, 4, N]``."""
    p_B4KN: torch.Tensor = wide(distances_BKN).unflatten(1, (4, BINS)).softmax(2)
    bins = torch.arange(BINS, device=p_B4KN.device, dtype=p_B4KN.dtype)
    expected_B4N: torch.Tensor = bins @ p_B4KN
    return expected_B4N
