"""The head: boxes and scores at every cell, as detection has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from edgekit.nn.boxhead import BoxBranches, answer, decode_boxes, flatten
from edgekit.spec import ModelSpec


class Points(BoxBranches):
    def forward(self, features: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        raw = {"distances": flatten(self.cv2, features), "logits": flatten(self.cv3, features)}
        if self.training:
            return raw
        return answer(raw, features, partial(decode_boxes, self.dfl), self.best, self.one_class)


def head(spec: ModelSpec, widths: tuple[int, ...]) -> nn.Module:
    net = Points(widths, spec.classes, spec.activation)
    net.reset_biases(spec.classes)
    return net
