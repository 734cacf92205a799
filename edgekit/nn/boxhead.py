"""What every head that finds boxes shares: branches, bin expectation, cell centres, and the two output forms.

A head computes raw values at every cell (``distances``, ``logits`` and its task's own); ``answer`` turns them into
roles. In the **raw** form every cell is decoded and every class scored. In the **topk** form class logits are reduced
first and only the ``best`` (cell, class) pairs are gathered and decoded, which is exact: a pair among the best K can
only sit in one of the K cells whose best logit is highest.

Letters: B batch, N cells of all levels (stride 8 first, row by row), C classes, K pairs, V values of a branch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from edgekit.nn.blocks import Conv
from edgekit.nn.written import Written
from edgekit.spec import STRIDES

BINS = 16  # bins of each side's distance distribution (DFL; Generalized Focal Loss, arXiv 2006.04388)

Roles = dict[str, torch.Tensor]
Decode = Callable[[Roles, torch.Tensor, torch.Tensor], Roles]


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
        sides_B4N: torch.Tensor = self.conv(x_BKN.reshape(B, 4, BINS, N).transpose(1, 2).softmax(1)).reshape(B, 4, N)
        return sides_B4N

    def written(self) -> Written:
        return Written(("DFL",), {"c1": BINS})


class BoxBranches(nn.Module):
    """``cv2`` (box distributions), ``cv3`` (classes) and ``dfl``, under their published names.

    ``best`` is the number of candidates of the topk form, or None for the raw form; ``one_class`` keeps a cell's
    best class only, as a graph that goes on to suppress duplicates needs it. Exporters set both.
    """

    best: int | None = None
    one_class: bool = False

    def __init__(self, widths: Sequence[int], classes: int, act: str) -> None:
        super().__init__()
        self.classes = classes
        box_width = max(16, widths[0] // 4, 4 * BINS)
        class_width = max(widths[0], min(classes, 100))
        self.cv2 = nn.ModuleList(branch(c, box_width, 4 * BINS, act) for c in widths)
        self.cv3 = nn.ModuleList(class_branch(c, class_width, classes, act) for c in widths)
        self.dfl = BinExpectation()

    def written(self) -> Written:
        return self.written_as("Detect")

    def written_as(self, name: str, **own: object) -> Written:
        """The head called ``name`` in published files, which states ``own`` besides what every such head does."""
        sizes = {
            "stride": STRIDES,
            "nc": self.classes,
            "nl": len(self.cv2),
            "reg_max": BINS,
            "no": self.classes + 4 * BINS,
        }
        one_to_one = {"end2end": False, "_end2end": False, "legacy": False}  # other heads, of the same class
        caches = ("anchors", "strides", "shape", "dynamic", "export", "format", "max_det", "agnostic_nms", "angle")
        return Written((name,), sizes | own | one_to_one, caches, tuple(one_to_one))

    def reset_biases(self, classes: int, imgsz: int = 640) -> None:
        """Starting biases: boxes of about four cells a side, classes so that about five objects per image are expected.

        With the same bias for all bins boxes start fifteen cells a side. The first overlap of a small object is then so
        low, and with it the weight of what it teaches, that a rare kind of small object may never be learnt.
        """
        box_start = 2.0 - 0.4 * torch.arange(BINS).repeat(4)  # expects 1 / (e^0.4 - 1), about two cells to each side
        for box, cls, stride in zip(self.cv2, self.cv3, STRIDES, strict=True):
            class_start = torch.tensor(math.log(5 / classes / (imgsz / stride) ** 2))
            for branch_, start in ((box, box_start), (cls, class_start)):
                last = list(branch_.children())[-1]
                assert isinstance(last, nn.Conv2d) and last.bias is not None
                last.bias.data.copy_(start)


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
        grid_x, grid_y = xs.expand(height, width), ys[:, None].expand(height, width)
        centres.append(torch.stack((grid_x.flatten(), grid_y.flatten())))
        strides.append(torch.full((1, height * width), float(stride), device=x.device, dtype=x.dtype))
    return torch.cat(centres, 1)[None], torch.cat(strides, 1)[None]


def decode_boxes(dfl: BinExpectation, raw: Roles, centres_12N: torch.Tensor, strides_11N: torch.Tensor) -> Roles:
    """Distances at cells -> ``boxes [B, N, 4]``: x1, y1, x2, y2 in pixels."""
    near_B2N, far_B2N = dfl(raw["distances"]).chunk(2, 1)
    boxes_B4N = torch.cat((centres_12N - near_B2N, centres_12N + far_B2N), 1) * strides_11N
    return {"boxes": boxes_B4N.transpose(1, 2)}


def answer(
    raw: Roles, features: Sequence[torch.Tensor], decode: Decode, best: int | None, one_class: bool = False
) -> Roles:
    """Roles from raw values.

    Args:
        raw: ``logits [B, C, N]`` and whatever ``decode`` reads, ``[B, V, N]`` each.
        features: the maps the raw values were computed on, for their sizes.
        decode: (raw, centres ``[B or 1, 2, N]`` in cells, strides ``[B or 1, 1, N]``) -> roles.
        best: number of candidates to keep, or None for all cells.
        one_class: candidates are cells with their best class, not pairs.

    Returns:
        ``decode``'s roles with ``scores [B, C, N]`` (raw), or with ``scores [B, K]``, ``labels [B, K]`` (topk).
    """
    centres_12N, strides_11N = cell_centres(features)
    if best is None:
        return {**decode(raw, centres_12N, strides_11N), "scores": raw["logits"].sigmoid()}
    logits_BK, labels_BK, cells_BK = best_pairs(raw["logits"], best, one_class)
    chosen = {name: take(value, cells_BK) for name, value in raw.items() if name != "logits"}
    grid_13N = torch.cat((centres_12N, strides_11N), 1)
    centres_B2K, strides_B1K = take(grid_13N.expand(cells_BK.shape[0], -1, -1), cells_BK).split((2, 1), 1)
    return {**decode(chosen, centres_B2K, strides_B1K), "scores": logits_BK.sigmoid(), "labels": labels_BK}


def best_pairs(
    logits_BCN: torch.Tensor, best: int, one_class: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``best`` (cell, class) pairs of every image by logit, descending: logits, labels and cells, ``[B, K]``.

    With ``one_class`` only the best class of a cell counts as a pair.
    """
    _, C, N = logits_BCN.shape
    top_BK, cells_BA = logits_BCN.amax(1).topk(min(best, N), 1)
    if C == 1:
        return top_BK, torch.zeros_like(cells_BA), cells_BA
    if one_class:
        return top_BK, take(logits_BCN, cells_BA).argmax(1), cells_BA
    candidates_BAC = take(logits_BCN, cells_BA).transpose(1, 2)
    top_BK, pairs_BK = candidates_BAC.flatten(1).topk(min(best, int(cells_BA.shape[1]) * C), 1)
    positions_BK = torch.div(pairs_BK, C, rounding_mode="trunc")  # one Div in the graph; // and % are seven operators
    return top_BK, pairs_BK - positions_BK * C, cells_BA.gather(1, positions_BK)


def take(values_BVN: torch.Tensor, cells_BK: torch.Tensor) -> torch.Tensor:
    """The columns ``cells`` of every image: ``[B, V, K]``."""
    return values_BVN.gather(2, cells_BK[:, None].expand(-1, values_BVN.shape[1], -1))
