"""The detection head: distances to the four sides as distributions, and one logit per class, at every cell.

What the other box tasks share is here as functions (``branch``, ``flatten``, ``side_distances``, ``cell_centres``);
there is no inheritance between tasks. Training reads ``head(features)`` in train mode (raw maps, flattened over
levels); evaluation and export read roles.

Letters: B batch, N cells of all levels (stride 8 first, row by row), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from edgekit.nn.blocks import Conv
from edgekit.nn.yolo12 import STRIDES
from edgekit.spec import ModelSpec

BINS = 16  # bins of each side's distance distribution (DFL; Generalized Focal Loss, arXiv 2006.04388)


def branch(c_in: int, hidden: int, c_out: int, act: str) -> nn.Sequential:
    """Two 3x3 convolutions and a plain 1x1: the shape of every dense branch."""
    return nn.Sequential(Conv(c_in, hidden, 3, act=act), Conv(hidden, hidden, 3, act=act), nn.Conv2d(hidden, c_out, 1))


def class_branch(c_in: int, hidden: int, classes: int, act: str) -> nn.Sequential:
    """Two depthwise-separable 3x3 convolutions and a plain 1x1 to class logits."""

    def separable(c: int) -> nn.Sequential:
        return nn.Sequential(Conv(c, c, 3, groups=c, act=act), Conv(c, hidden, act=act))

    return nn.Sequential(separable(c_in), separable(hidden), nn.Conv2d(hidden, classes, 1))


class BinExpectation(nn.Module):
    """Expected bin of each side's distribution; a fixed 1x1 convolution with weights 0…15, as published."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(BINS, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(BINS, dtype=torch.float32).view(1, BINS, 1, 1)

    def forward(self, x_BKN: torch.Tensor) -> torch.Tensor:
        """``[B, 4·16, N]`` logits -> ``[B, 4, N]`` distances in cells."""
        B, _, N = x_BKN.shape
        return self.conv(x_BKN.reshape(B, 4, BINS, N).transpose(1, 2).softmax(1)).reshape(B, 4, N)


class BoxBranches(nn.Module):
    """``cv2`` (box distributions), ``cv3`` (classes) and ``dfl``, under their published names."""

    def __init__(self, widths: Sequence[int], classes: int, act: str) -> None:
        super().__init__()
        box_width = max(16, widths[0] // 4, 4 * BINS)
        class_width = max(widths[0], min(classes, 100))
        self.cv2 = nn.ModuleList(branch(c, box_width, 4 * BINS, act) for c in widths)
        self.cv3 = nn.ModuleList(class_branch(c, class_width, classes, act) for c in widths)
        self.dfl = BinExpectation()

    def reset_biases(self, classes: int, imgsz: int = 640) -> None:
        """Starting biases: boxes 2.0; classes so that about five objects per image are expected."""
        for box, cls, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
            box[-1].bias.data.fill_(2.0)
            cls[-1].bias.data.fill_(math.log(5 / classes / (imgsz / stride) ** 2))


def flatten(branches: nn.ModuleList, features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each level's map through its branch, concatenated over cells: ``[B, K, N]``."""
    return torch.cat([b(x).flatten(2) for b, x in zip(branches, features, strict=True)], 2)


def cell_centres(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell centres in cells ``[1, 2, N]`` (x, y) and each cell's stride in pixels ``[1, 1, N]``."""
    centres, strides = [], []
    for x, stride in zip(features, STRIDES, strict=True):
        height, width = int(x.shape[2]), int(x.shape[3])
        xs = torch.arange(width, device=x.device, dtype=x.dtype) + 0.5
        ys = torch.arange(height, device=x.device, dtype=x.dtype) + 0.5
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        centres.append(torch.stack((grid_x.flatten(), grid_y.flatten())))
        strides.append(torch.full((1, height * width), float(stride), device=x.device, dtype=x.dtype))
    return torch.cat(centres, 1)[None], torch.cat(strides, 1)[None]


class Detect(BoxBranches):
    """Boxes and class scores.

    ``forward(features)`` takes three maps (strides 8, 16, 32). In evaluation it returns ``boxes [B, N, 4]`` (xyxy,
    pixels of the input) and ``scores [B, C, N]``; in training ``distances [B, 64, N]`` and ``logits [B, C, N]``.
    """

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {"distances": flatten(self.cv2, features), "logits": flatten(self.cv3, features)}
        return raw if self.training else decode_boxes(raw, features, self.dfl)


def decode_boxes(
    raw: dict[str, torch.Tensor], features: Sequence[torch.Tensor], dfl: BinExpectation
) -> dict[str, torch.Tensor]:
    """Raw distances and logits -> ``boxes [B, N, 4]`` and ``scores [B, C, N]``."""
    centres_12N, strides_11N = cell_centres(features)
    near_B2N, far_B2N = dfl(raw["distances"]).chunk(2, 1)
    boxes_B4N = torch.cat((centres_12N - near_B2N, centres_12N + far_B2N), 1) * strides_11N
    return {"boxes": boxes_B4N.transpose(1, 2), "scores": raw["logits"].sigmoid()}


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on maps of ``widths`` channels."""
    net = Detect(widths, spec.classes, spec.activation)
    net.reset_biases(spec.classes)
    return net
