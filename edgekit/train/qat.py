"""Quantization-aware training: a trained network learns on while its convolutions compute as INT8 kernels will round.

    attach(net)                  # in place; parameters, their names and the state dict stay what they were

Inputs and weights of convolutions are rounded on the way forward and passed straight through on the way back, except
where values are beyond the range (B. Jacob et al., arXiv 1712.05877). Placement and grids are those of the INT8
targets (``quantize/qdq.py``): symmetric; activations eight bits a tensor; weights seven bits an output channel, so that
folding BatchNorm, which scales channels, does not change them. Attention's products and the decode tail stay float,
and so do the last convolutions of coefficients, keypoints and angles.

An activation's range is that of the batch at hand, so there is nothing to keep but the weights: the checkpoint is an
ordinary one, and `edgekit build --target ov-int8`, ``ort-int8`` or ``trt-int8`` calibrates and quantizes it like any
other, into OpenVINO's form or explicit Q/DQ.
"""

from __future__ import annotations

import torch
from torch import nn

from edgekit.nn import layers

TOP = 127
WEIGHT_TOP = 63  # as quantize/qdq.py has it: seven bits, which every processor adds exactly
SMALLEST = 1e-12  # scale of a tensor that is all zeros


class Rounded(nn.Conv2d):
    """A convolution whose input and weights are rounded to INT8's grids."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._conv_forward(round_tensor(x), round_channels(self.weight), self.bias)
        return y


def attach(net: nn.Module) -> int:
    """Make convolutions of ``net`` round, in place; how many."""
    chosen = [m for name, m in net.named_modules() if type(m) is nn.Conv2d and not _stays_float(name)]
    for module in chosen:
        module.__class__ = Rounded
    return len(chosen)


def _stays_float(name: str) -> bool:
    """Whether a module is in the decode tail, or at the end of one of a task's own branches."""
    layer = layers.parse(name)
    return layer is not None and (layer.tail or (layer.branch == layers.TASK and layer.last))


def round_tensor(x: torch.Tensor) -> torch.Tensor:
    """``x`` on a symmetric grid of 255 values that just holds it; any shape and floating dtype."""
    wide = x.float()
    scale = (wide.detach().abs().amax() / TOP).clamp(min=SMALLEST)
    zero = torch.zeros((), dtype=torch.int32, device=x.device)
    return torch.fake_quantize_per_tensor_affine(wide, scale, zero, -TOP, TOP).to(x.dtype)


def round_channels(weight: torch.Tensor) -> torch.Tensor:
    """Weights ``[O, ...]`` on a symmetric grid of 127 values for every output channel."""
    scale = (weight.detach().flatten(1).abs().amax(1) / WEIGHT_TOP).clamp(min=SMALLEST)
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHT_TOP, WEIGHT_TOP)
