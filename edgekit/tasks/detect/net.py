"""The detection head: distances to the four sides as distributions, and one logit per class, at every cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from edgekit.nn.boxhead import BoxBranches, answer, decode_boxes, flatten
from edgekit.spec import ModelSpec


class Detect(BoxBranches):
    """Boxes and class scores.

    ``forward(features)`` takes three maps (strides 8, 16, 32). In evaluation it returns ``boxes [B, N, 4]`` (xyxy,
    pixels of the input) and ``scores`` (and ``labels`` in the topk form); in training ``distances [B, 64, N]`` and
    ``logits [B, C, N]``.
    """

    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {"distances": flatten(self.cv2, features), "logits": flatten(self.cv3, features)}
        return (
            raw if self.training else answer(raw, features, partial(decode_boxes, self.dfl), self.best, self.one_class)
        )


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    """The head of ``spec`` on maps of ``widths`` channels."""
    net = Detect(widths, spec.classes, spec.activation)
    net.reset_biases(spec.classes)
    return net
