"""The segmentation head: detection, mask coefficients per cell, and prototypes from the finest map.

An object's mask is sigmoid(coefficients · prototypes), cropped to its box (YOLACT, arXiv 1904.02689).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgekit.nn.blocks import Conv
from edgekit.nn.boxhead import BoxBranches, Roles, answer, branch, decode_boxes, flatten
from edgekit.nn.written import Written
from edgekit.nn.yolo12 import channels
from edgekit.spec import ModelSpec

COEFFICIENTS = 32


class Prototypes(nn.Module):
    """Mask bases at a quarter of the input size: ``[B, c, H/8, W/8]`` -> ``[B, 32, H/4, W/4]``."""

    def __init__(self, c_in: int, hidden: int, act: str) -> None:
        super().__init__()
        self.cv1 = Conv(c_in, hidden, 3, act=act)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, 2)
        self.cv2 = Conv(hidden, hidden, 3, act=act)
        self.cv3 = Conv(hidden, COEFFICIENTS, act=act)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        masks_BMHW: torch.Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x_BCHW))))
        return masks_BMHW

    def written(self) -> Written:
        return Written(("Proto",))


class Segment(BoxBranches):
    """Adds ``mask_coefficients [B, N, 32]`` and ``mask_prototypes [B, 32, H/4, W/4]`` to boxes and scores.

    In training: ``distances``, ``logits``, ``coefficients [B, 32, N]`` and ``prototypes``.
    """

    def __init__(self, widths: Sequence[int], classes: int, prototype_width: int, act: str) -> None:
        super().__init__(widths, classes, act)
        hidden = max(widths[0] // 4, COEFFICIENTS)
        self.proto = Prototypes(widths[0], prototype_width, act)
        self.cv4 = nn.ModuleList(branch(c, hidden, COEFFICIENTS, act) for c in widths)

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {
            "distances": flatten(self.cv2, features),
            "logits": flatten(self.cv3, features),
            "coefficients": flatten(self.cv4, features),
        }
        prototypes = self.proto(features[0])
        if self.training:
            return raw | {"prototypes": prototypes}
        return answer(raw, features, self._decode, self.best, self.one_class) | {"mask_prototypes": prototypes}

    def written(self) -> Written:
        return self.written_as("Segment", nm=COEFFICIENTS, npr=self.proto.cv1.conv.out_channels)

    def _decode(self, raw: Roles, centres: torch.Tensor, strides: torch.Tensor) -> Roles:
        boxes = decode_boxes(self.dfl, raw, centres, strides)
        return boxes | {"mask_coefficients": raw["coefficients"].transpose(1, 2)}


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on maps of ``widths`` channels."""
    net = Segment(widths, spec.classes, channels(spec, 256), spec.activation)
    net.reset_biases(spec.classes)
    return net
