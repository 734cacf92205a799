"""The pose head: detection and, per cell, a fixed list of keypoints with visibility."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekit.errors import InputError
from edgekit.nn.boxhead import BoxBranches, Roles, answer, branch, decode_boxes, flatten
from edgekit.nn.written import Written
from edgekit.spec import ModelSpec


class Pose(BoxBranches):
    """Adds ``keypoints [B, N, P, 3]`` (x, y in pixels, visibility probability) to boxes and scores.

    Published decoding: x = (raw·2 + centre − 0.5)·stride with the cell's centre in cells; models trained without
    visibility (two values a point) report 1. In training: ``distances``, ``logits``, ``points [B, P·V, N]``.
    """

    def __init__(self, widths: Sequence[int], classes: int, keypoint_shape: tuple[int, int], act: str) -> None:
        super().__init__(widths, classes, act)
        self.points, self.values = keypoint_shape
        total = self.points * self.values
        self.cv4 = nn.ModuleList(branch(c, max(widths[0] // 4, total), total, act) for c in widths)

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {
            "distances": flatten(self.cv2, features),
            "logits": flatten(self.cv3, features),
            "points": flatten(self.cv4, features),
        }
        return raw if self.training else answer(raw, features, self._decode, self.best, self.one_class)

    def written(self) -> Written:
        return self.written_as("Pose", kpt_shape=(self.points, self.values), nk=self.points * self.values)

    def _decode(self, raw: Roles, centres: torch.Tensor, strides: torch.Tensor) -> Roles:
        points_BPVN = raw["points"].unflatten(1, (self.points, self.values))
        xy_BP2N = (points_BPVN[:, :, :2] * 2 + (centres - 0.5)[:, None]) * strides[:, None]
        seen_BP1N = points_BPVN[:, :, 2:].sigmoid() if self.values == 3 else torch.ones_like(xy_BP2N[:, :, :1])
        keypoints = torch.cat((xy_BP2N, seen_BP1N), 2).permute(0, 3, 1, 2)
        return decode_boxes(self.dfl, raw, centres, strides) | {"keypoints": keypoints}


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on maps of ``widths`` channels; InputError without a usable keypoint shape."""
    if spec.keypoint_shape is None or spec.keypoint_shape[0] < 1 or spec.keypoint_shape[1] not in (2, 3):
        raise InputError(f"{spec.name}: kpt_shape is {spec.keypoint_shape}; pose needs [points, 2 or 3]")
    net = Pose(widths, spec.classes, spec.keypoint_shape, spec.activation)
    net.reset_biases(spec.classes)
    return net
