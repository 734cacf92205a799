"""The terms losses are made of, one function each; no assignment, no gains, no reduction over positives.

    ciou(predicted_P4, true_P4)                  # [P] 1 for equal boxes, down to -1.5
    distribution_focal(logits_P4K, distance_P4)  # [P]
    probiou(predicted_P5, true_P5)               # [P] 0..1

All work in the dtype they are given (callers pass float32, tests float64) and are finite with finite gradients for
boxes without width or height. P positives, K bins, J keypoints.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

EPS = 1e-7  # added where a box without area, or two boxes in one point, would divide by zero
LEAST_VARIANCE = 1e-2  # square units of the boxes; added to the variances of Gaussian boxes, which must not be flat


def expectation(logits: torch.Tensor) -> torch.Tensor:
    """Expected bin of a distribution: ``[..., K]`` logits -> ``[...]``."""
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return logits.softmax(-1) @ bins


def ciou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Complete IoU of boxes ``[..., 4]`` (x1, y1, x2, y2; same shape): ``[...]`` (arXiv 1911.08287, equations 8 to 11).

    IoU, less the squared distance of centres over the squared diagonal of the enclosing box, less a term for unlike
    aspect ratios whose weight is a constant to the gradient, as in the paper.
    """
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    common = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    iou = common / (size_a.prod(-1) + size_b.prod(-1) - common + EPS)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    apart = (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) / 2
    distance = apart.square().sum(-1) / (enclosing.square().sum(-1) + EPS)
    angle_a, angle_b = ((size[..., 0] / (size[..., 1] + EPS)).atan() for size in (size_a, size_b))
    aspect = 4 / math.pi**2 * (angle_b - angle_a).square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + EPS)
    return iou - distance - weight * aspect


def distribution_focal(logits_P4K: torch.Tensor, distance_P4: torch.Tensor) -> torch.Tensor:
    """Distribution focal loss, mean over sides: ``[P, 4, K]``, distances in cells ``[P, 4]`` -> ``[P]``.

    Cross entropy with the two bins around the distance, weighted by nearness (Generalized Focal Loss, arXiv
    2006.04388, equation 6). Distances are clipped to 0..K - 1.01.
    """
    distance = distance_P4.clamp(0, logits_P4K.shape[-1] - 1 - 0.01)
    below = distance.floor()
    log_p = logits_P4K.log_softmax(-1)
    pair = torch.stack((below, below + 1), -1).long()
    weight = torch.stack((below + 1 - distance, distance - below), -1)
    return -(log_p.gather(-1, pair) * weight).sum(-1).mean(-1)


def probiou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Probabilistic IoU of oriented boxes ``[..., 5]`` (cx, cy, w, h, angle; same shape): ``[...]`` in 0..1.

    One minus the Hellinger distance of the boxes' Gaussians (arXiv 2106.06072, equations 2 to 6). Boxes thinner than
    about a third of a unit count as that thick (``LEAST_VARIANCE``): a loss in cells forgives thin boxes a little.
    """
    xa, ya, pa, qa, ra, da = _gaussian(a)
    xb, yb, pb, qb, rb, db = _gaussian(b)
    p, q, r, dx, dy = pa + pb, qa + qb, ra + rb, xa - xb, ya - yb
    # det(A + B) from the two determinants and a mixed term: no cancellation for thin boxes, as p·q - r·r has.
    determinant = da + db + (pa * qb + pb * qa - 2 * ra * rb).clamp(min=0)
    apart = (p * dy * dy + q * dx * dx - 2 * r * dx * dy).clamp(min=0) / (4 * determinant)
    distance = (apart + 0.5 * (determinant / (4 * (da * db).sqrt())).log()).clamp(0, 100)
    # EPS under the root: its slope at equal boxes would be infinite.
    return 1 - (-torch.expm1(-distance) + EPS).sqrt()


def _gaussian(box: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Centre x, y, covariance xx, yy, xy and its determinant."""
    x, y, w, h, angle = box.unbind(-1)
    along, across = w * w / 12 + LEAST_VARIANCE, h * h / 12 + LEAST_VARIANCE
    cos, sin = angle.cos(), angle.sin()
    xx = along * cos * cos + across * sin * sin
    yy = along * sin * sin + across * cos * cos
    return x, y, xx, yy, (along - across) * cos * sin, along * across


def angle_difference(predicted: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """How far oriented boxes ``[..., 5]`` differ in angle: ``[...]`` in 0..1, period π.

    ``(1 - a) · sin²(2Δθ) + a · sin²(Δθ)`` with the true box's anisotropy ``a = (w² - h²) / (w² + h²)``. A square
    (a = 0) is the same after a quarter turn, a thin box (a = 1) only after half a turn. Gaussian overlap cannot see
    the angle of squares at all, which is why there is this term; between the two it fades over, and a quarter turn
    is no resting point from w = 3h on. No gradient to the sizes.
    """
    w2, h2 = true[..., 2].square(), true[..., 3].square()
    a = (w2 - h2) / (w2 + h2 + EPS)
    turn = predicted[..., 4] - true[..., 4]
    return (1 - a) * (2 * turn).sin().square() + a * turn.sin().square()


def keypoint_error(
    predicted_PJ2: torch.Tensor, true_PJ2: torch.Tensor, area_P: torch.Tensor, sigmas_J: torch.Tensor
) -> torch.Tensor:
    """One minus the object keypoint similarity of each point: ``[P, J]`` in 0..1.

    ``1 - exp(-d² / (2 · area · (2σ)²))`` as COCO defines it (cocodataset.org, keypoint evaluation), area in square
    units of the points.
    """
    squared = (predicted_PJ2 - true_PJ2).square().sum(-1)
    return -torch.expm1(-squared / (2 * (2 * sigmas_J).square() * (area_P[:, None] + EPS) + EPS))


def mask_error(
    coefficients_PK: torch.Tensor, prototypes_KHW: torch.Tensor, truth_PHW: torch.Tensor, boxes_P4: torch.Tensor
) -> torch.Tensor:
    """Binary cross entropy of each mask inside its box over the box's area: ``[P]`` (YOLACT, arXiv 1904.02689, 3).

    Args:
        coefficients_PK: [P, K].
        prototypes_KHW: [K, H, W]; a mask's logits are coefficients · prototypes.
        truth_PHW: [P, H, W] bool.
        boxes_P4: [P, 4] in pixels of the prototypes; the pixels x1 <= x < x2, y1 <= y < y2 count.

    Only pixels inside boxes go through the cross entropy, in practice a small part of P·H·W.
    """
    _, height, width = prototypes_KHW.shape
    inside = []
    for axis, side in ((1, height), (0, width)):
        at = torch.arange(side, device=boxes_P4.device, dtype=boxes_P4.dtype)
        inside.append((at >= boxes_P4[:, axis, None]) & (at < boxes_P4[:, axis + 2, None]))
    pixel = (inside[0][:, :, None] & inside[1][:, None]).flatten().nonzero().squeeze(1)
    logits = (coefficients_PK @ prototypes_KHW.flatten(1)).flatten()[pixel]
    error = F.binary_cross_entropy_with_logits(logits, truth_PHW.flatten()[pixel].to(logits.dtype), reduction="none")
    owner = pixel // (height * width)
    total = error.new_zeros(len(boxes_P4)).index_add(0, owner, error)
    return total / ((boxes_P4[:, 2:] - boxes_P4[:, :2]).prod(1) + EPS)
