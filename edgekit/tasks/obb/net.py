"""The oriented-box head: side distances in the box's own frame, and one angle per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from edgekit.nn.boxhead import BoxBranches, Roles, answer, branch, flatten
from edgekit.nn.written import Written
from edgekit.spec import ModelSpec


class Oriented(BoxBranches):
    """``rotated_boxes [B, N, 5]`` (centre, size in pixels, angle in radians, (sigmoid − 0.25)·π) and ``scores``.

    The angle is as the network gives it, in [−π/4, 3π/4); the host turns it into the reported range. In training:
    ``distances``, ``logits``, ``angles [B, 1, N]`` (already in radians).
    """

    def __init__(self, widths: Sequence[int], classes: int, act: str) -> None:
        super().__init__(widths, classes, act)
        self.cv4 = nn.ModuleList(branch(c, max(widths[0] // 4, 1), 1, act) for c in widths)

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {
            "distances": flatten(self.cv2, features),
            "logits": flatten(self.cv3, features),
            "angles": (flatten(self.cv4, features).sigmoid() - 0.25) * math.pi,
        }
        return raw if self.training else answer(raw, features, self._decode, self.best, self.one_class)

    def written(self) -> Written:
        return self.written_as("OBB", ne=1)

    def _decode(self, raw: Roles, centres: torch.Tensor, strides: torch.Tensor) -> Roles:
        boxes_B4N = rotated_from_distances(self.dfl(raw["distances"]), raw["angles"], centres) * strides
        return {"rotated_boxes": torch.cat((boxes_B4N, raw["angles"]), 1).transpose(1, 2)}


def rotated_from_distances(
    sides_B4N: torch.Tensor, angles_B1N: torch.Tensor, centres_12N: torch.Tensor
) -> torch.Tensor:
    """Distances left, top, right, bottom in the box's frame -> centre and size ``[B, 4, N]``, in cells."""
    near_B2N, far_B2N = sides_B4N.chunk(2, 1)
    cos, sin = angles_B1N.cos(), angles_B1N.sin()
    x, y = ((far_B2N - near_B2N) / 2).chunk(2, 1)
    offset_B2N = torch.cat((x * cos - y * sin, x * sin + y * cos), 1)
    return torch.cat((centres_12N + offset_B2N, near_B2N + far_B2N), 1)


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on maps of ``widths`` channels."""
    net = Oriented(widths, spec.classes, spec.activation)
    net.reset_biases(spec.classes)
    return net
