"""Which cells learn which object: task-aligned assignment (TOOD, arXiv 2108.07755, section 3.2).

A cell is a candidate for an object when its centre lies inside the object's box. Candidates are ranked by how well the
cell already answers, ``score^0.5 · overlap^6``; the best ten of each object learn it. A cell that several objects
choose goes to the one it overlaps most. The target of the class score is soft: the metric, scaled for each object so
that its largest value is the object's largest overlap.

    grid = Grid(targets.size, device)
    chosen = assign(targets.boxes, targets.image, targets.classes, logits_BCN, grid, overlap)
    chosen.image, chosen.cell, chosen.object, chosen.score      # one row for every cell that learns an object

Only candidate pairs (object, cell) are ever scored, never all B·M·N of them: the test for "inside" is separable in
x and y on each level, so the large array is one of booleans, and it is cut where it would grow too large.

Letters: B images, M objects of all images, N cells of all levels, C classes, K candidate pairs, P positives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from edgekit.spec import STRIDES

TOPK = 10
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
LEAST_SIDE = 16.0  # pixels; smaller sides count as this when candidates are looked for, or small objects have none
EPS = 1e-9  # metrics far below it teach nothing: boxes that overlap by less than about 0.03 are chance
_CHUNK = 1 << 23  # booleans (object, cell) at a time, about

Overlap = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Within = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Grid:
    """Cells of all levels for inputs of one size: stride 8 first, row by row, as the heads lay them out.

    Attributes:
        x, y: [N] float32, centres in pixels.
        stride: [N] float32, pixels.
        axes: per level, centres of its columns and of its rows in pixels.
    """

    def __init__(self, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        height, width = size
        self.axes = [
            tuple((torch.arange(side // s, device=device, dtype=torch.float32) + 0.5) * s for side in (width, height))
            for s in STRIDES
        ]
        self.x = torch.cat([xs.repeat(len(ys)) for xs, ys in self.axes])
        self.y = torch.cat([ys.repeat_interleave(len(xs)) for xs, ys in self.axes])
        self.stride = torch.cat(
            [
                torch.full((len(xs) * len(ys),), float(s), device=device)
                for (xs, ys), s in zip(self.axes, STRIDES, strict=True)
            ]
        )

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Assignment:
    """The cells that learn an object, P of them, in the order of their objects.

    Attributes:
        image, cell, object: [P] int64; no (image, cell) occurs twice.
        score: [P] float32 in 0..1, the target of the class score and the weight of the box.
    """

    image: torch.Tensor
    cell: torch.Tensor
    object: torch.Tensor
    score: torch.Tensor


@torch.no_grad()
def assign(
    boxes_M4: torch.Tensor,
    image_M: torch.Tensor,
    classes_M: torch.Tensor,
    logits_BCN: torch.Tensor,
    grid: Grid,
    overlap: Overlap,
    within: Within | None = None,
    topk: int = TOPK,
) -> Assignment:
    """Chooses the cells that learn each object.

    Args:
        boxes_M4: [M, 4] x1, y1, x2, y2 in pixels; cells whose centre is strictly inside are candidates, sides under
            ``LEAST_SIDE`` counting as that.
        image_M, classes_M: [M] int64, images ascending.
        logits_BCN: class logits, any floating dtype.
        grid: the N cells.
        overlap: (object, image, cell), [K] each -> [K] overlap of what the cell predicts with the object; negative
            and not-a-number values count as 0.
        within: (object, cell) -> [K] bool, which candidates stay; for shapes other than upright boxes.
        topk: cells of an object at most.

    Cells without overlap are not chosen, so an object may have fewer than ``topk``, or none. Ties go to the earlier
    cell, and between objects to the earlier one.
    """

    def some(first: int, last: int) -> Assignment:
        object_K, cell_K = _inside(boxes_M4[first:last], grid)
        object_K = object_K + first
        if within is not None:
            stays = within(object_K, cell_K)
            object_K, cell_K = object_K[stays], cell_K[stays]
        image_K = image_M[object_K]
        overlap_K = overlap(object_K, image_K, cell_K).float().nan_to_num(0.0).clamp(min=0)
        score_K = logits_BCN[image_K, classes_M[object_K], cell_K].float().sigmoid().nan_to_num(0.0)
        metric_K = score_K**SCORE_POWER * overlap_K**OVERLAP_POWER
        chosen = _best(object_K, metric_K, topk) & (metric_K > 0)
        kept = _settle(image_K * len(grid) + cell_K, chosen, overlap_K, logits_BCN.shape[0] * len(grid))
        image, cell, object_, overlaps, metric = (x[kept] for x in (image_K, cell_K, object_K, overlap_K, metric_K))
        return Assignment(image, cell, object_, _soften(object_, overlaps, metric, len(boxes_M4)))

    parts = [some(first, last) for first, last in _portions(image_M, len(grid))]
    image, cell, object_, score = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("image", "cell", "object", "score")
    )
    return Assignment(image, cell, object_, score)


def _portions(image_M: torch.Tensor, cells: int) -> list[tuple[int, int]]:
    """Ranges of objects to treat at a time: all, or whole images where all would take too much memory."""
    if len(image_M) * cells <= _CHUNK:
        return [(0, len(image_M))]
    starts = [0, *((image_M[1:] != image_M[:-1]).nonzero().flatten() + 1).tolist(), len(image_M)]
    ranges, first = [], 0
    for start, end in itertools.pairwise(starts):
        if start > first and (end - first) * cells > _CHUNK:
            ranges.append((first, start))
            first = start
    return [*ranges, (first, len(image_M))]


def _inside(boxes_M4: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs (object, cell) with the cell's centre inside the object's box, in this order."""
    centre, half = (boxes_M4[:, :2] + boxes_M4[:, 2:]) / 2, (boxes_M4[:, 2:] - boxes_M4[:, :2]) / 2
    grown = half < LEAST_SIDE / 2  # untouched sides keep their exact edges
    low = torch.where(grown, centre - LEAST_SIDE / 2, boxes_M4[:, :2])
    high = torch.where(grown, centre + LEAST_SIDE / 2, boxes_M4[:, 2:])
    levels = []
    for axes in grid.axes:
        x_MW, y_MH = ((at > low[:, i, None]) & (at < high[:, i, None]) for i, at in enumerate(axes))
        levels.append((y_MH[:, :, None] & x_MW[:, None]).flatten(1))
    object_K, cell_K = torch.cat(levels, 1).nonzero(as_tuple=True)
    return object_K, cell_K


def _best(object_K: torch.Tensor, metric_K: torch.Tensor, topk: int) -> torch.Tensor:
    """[K] bool: is the pair among its object's ``topk`` largest metrics?

    One sort for all objects: the bits of a float that is not negative order as the float does, so (object, metric)
    makes one integer.
    """
    key = (object_K << 32) - metric_K.view(torch.int32).long()
    order = key.argsort(stable=True)
    ordered = object_K[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.zeros_like(object_K, dtype=torch.bool).scatter_(0, order, rank < topk)


def _settle(place_K: torch.Tensor, chosen_K: torch.Tensor, overlap_K: torch.Tensor, places: int) -> torch.Tensor:
    """[K] bool: the pairs that stay when no place (cell of an image) may have two objects.

    A place chosen by several goes to the object it overlaps most of *all* that hold it, be it among the choosers or
    not; the earliest of equals.
    """
    number = torch.arange(len(place_K), device=place_K.device)
    claims = number.new_zeros(places).scatter_add_(0, place_K, chosen_K.long())
    most = overlap_K.new_zeros(places).scatter_reduce_(0, place_K, overlap_K, "amax")
    rank = torch.where(overlap_K == most[place_K], number, len(number))
    first = number.new_full((places,), len(number)).scatter_reduce_(0, place_K, rank, "amin")
    return torch.where(claims[place_K] > 1, first[place_K] == number, chosen_K)


def _soften(object_P: torch.Tensor, overlap: torch.Tensor, metric: torch.Tensor, objects: int) -> torch.Tensor:
    """The metric scaled so that each object's largest is its largest overlap (less where it is near ``EPS``)."""
    peak, top = (x.new_zeros(objects).scatter_reduce_(0, object_P, x, "amax") for x in (metric, overlap))
    return metric / (peak + EPS)[object_P] * top[object_P]
