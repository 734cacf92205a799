"""YOLO12's building blocks. Attribute names are those of published checkpoints, so state dicts carry over.

    Conv(3, 16, 3, 2)(x_BCHW)            # convolution, BatchNorm, SiLU
    fuse(model)                          # the same function with every BatchNorm folded into its convolution

Letters: B batch, C channels, H W map.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import nn

from edgekit.nn.attention import HEAD_WIDTH, Attend
from edgekit.nn.written import Written
from edgekit.spec import parse_activation

_ACTIVATIONS = {"silu": nn.SiLU, "hardswish": nn.Hardswish, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def activation(name: str) -> nn.Module:
    """The activation module called ``name`` (``spec.parse_activation``)."""
    kind, slope = parse_activation(name)
    return _ACTIVATIONS[kind]() if slope is None else nn.LeakyReLU(slope)


def activation_name(kind: str, attributes: Mapping[str, object]) -> str | None:
    """What ``activation`` calls PyTorch's class ``kind`` with these attributes; None where it has no such."""
    name = next((n for n, cls in _ACTIVATIONS.items() if cls.__name__ == kind), None)
    slope = attributes.get("negative_slope")
    if kind != "LeakyReLU" or slope == nn.LeakyReLU().negative_slope:
        return name
    number = float(slope) if isinstance(slope, (int, float)) else math.nan
    return f"{name}:{number!r}" if math.isfinite(number) else None


class Conv(nn.Module):
    """Convolution without bias and with same padding, BatchNorm, activation (``act=None``: none)."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: str | None = "silu"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(c_out)  # eps and momentum: tasks.network.build
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW: torch.Tensor = self.act(self.bn(self.conv(x_BCHW)))
        return y_BCHW

    def written(self) -> Written:
        return Written(("Conv", "DWConv"))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions with an identity add where shapes agree."""

    def __init__(self, c_in: int, c_out: int, expansion: float, act: str) -> None:
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, hidden, 3, act=act)
        self.cv2 = Conv(hidden, c_out, 3, act=act)
        self.add = c_in == c_out

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW: torch.Tensor = self.cv2(self.cv1(x_BCHW))
        return x_BCHW + y_BCHW if self.add else y_BCHW

    def written(self) -> Written:
        return Written(("Bottleneck",), {"add": self.add})


class C3k(nn.Module):
    """Two 1x1 branches of half width, bottlenecks on one of them, joined by a 1x1 convolution."""

    def __init__(self, c_in: int, c_out: int, repeats: int, act: str) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden, act=act)
        self.cv2 = Conv(c_in, hidden, act=act)
        self.cv3 = Conv(2 * hidden, c_out, act=act)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, 1.0, act) for _ in range(repeats)))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BCHW: torch.Tensor = self.cv3(torch.cat((self.m(self.cv1(x_BCHW)), self.cv2(x_BCHW)), 1))
        return y_BCHW

    def written(self) -> Written:
        return Written(("C3k",))


class C3k2(nn.Module):
    """Split in halves; each inner block feeds on the last; everything is concatenated."""

    def __init__(self, c_in: int, c_out: int, repeats: int, nested: bool, expansion: float, act: str) -> None:
        super().__init__()
        hidden = int(c_out * expansion)
        self.cv1 = Conv(c_in, 2 * hidden, act=act)
        self.cv2 = Conv((2 + repeats) * hidden, c_out, act=act)
        self.m = nn.ModuleList(
            C3k(hidden, hidden, 2, act) if nested else Bottleneck(hidden, hidden, 0.5, act) for _ in range(repeats)
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        parts = list(self.cv1(x_BCHW).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        y_BCHW: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return y_BCHW

    def written(self) -> Written:
        return Written(("C3k2",), {"c": self.cv1.conv.out_channels // 2})


class AAttn(nn.Module):
    """Area Attention with a depthwise positional convolution on the values.

    ``family`` tells the two published layouts apart: ``v1.0`` has one ``qkv`` convolution whose channels are, head
    by head, q, k, v (32 each) and a 7x7 ``pe``; ``turbo`` has ``qk`` (all of q, then all of k), ``v`` and a 5x5 ``pe``.
    """

    def __init__(self, dim: int, area: int, family: str) -> None:
        super().__init__()
        self.core = Attend(area)
        self.heads = dim // HEAD_WIDTH
        self.family = family
        if family == "turbo":
            self.qk = Conv(dim, 2 * dim, act=None)
            self.v = Conv(dim, dim, act=None)
            self.pe = Conv(dim, dim, 5, groups=dim, act=None)
        else:
            self.qkv = Conv(dim, 3 * dim, act=None)
            self.pe = Conv(dim, dim, 7, groups=dim, act=None)
        self.proj = Conv(dim, dim, act=None)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if self.family == "turbo":
            q_BCHW, k_BCHW = self.qk(x_BCHW).chunk(2, 1)
            v_BCHW = self.v(x_BCHW)
        else:
            B, C, H, W = x_BCHW.shape
            qkv_BNEHW = self.qkv(x_BCHW).reshape(B, self.heads, 3 * HEAD_WIDTH, H, W)
            q_BCHW, k_BCHW, v_BCHW = (part.reshape(B, C, H, W) for part in qkv_BNEHW.chunk(3, 2))
        y_BCHW: torch.Tensor = self.proj(self.core(q_BCHW, k_BCHW, v_BCHW) + self.pe(v_BCHW))
        return y_BCHW

    def written(self) -> Written:
        decides = {"area": self.core.area, "num_heads": self.heads, "head_dim": HEAD_WIDTH}
        whole = {"all_head_dim": self.heads * HEAD_WIDTH}
        return Written(("AAttn",), decides | whole, may_lack=tuple(whole), unwritten=("core",))


class ABlock(nn.Module):
    """Attention and a two-layer MLP of 1x1 convolutions, each added to its input."""

    def __init__(self, dim: int, mlp_ratio: float, area: int, family: str, act: str) -> None:
        super().__init__()
        self.attn = AAttn(dim, area, family)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(Conv(dim, hidden, act=act), Conv(hidden, dim, act=None))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = x_BCHW + self.attn(x_BCHW)
        y_BCHW: torch.Tensor = x_BCHW + self.mlp(x_BCHW)
        return y_BCHW

    def written(self) -> Written:
        return Written(("ABlock",))


class A2C2f(nn.Module):
    """Residual efficient layer aggregation: repeats feed on one another and are all concatenated.

    ``area`` None makes each repeat a C3k; otherwise each is two attention blocks. ``residual`` adds
    ``x + gamma * y`` with one learned gamma per channel (starts at 0.01).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        repeats: int,
        area: int | None,
        residual: bool,
        mlp_ratio: float,
        family: str,
        act: str,
    ) -> None:
        super().__init__()
        hidden = c_out // 2
        self.cv1 = Conv(c_in, hidden, act=act)
        self.cv2 = Conv((1 + repeats) * hidden, c_out, act=act)
        self.gamma = nn.Parameter(0.01 * torch.ones(c_out)) if area and residual else None
        self.m = nn.ModuleList(
            nn.Sequential(*(ABlock(hidden, mlp_ratio, area, family, act) for _ in range(2)))
            if area
            else C3k(hidden, hidden, 2, act)
            for _ in range(repeats)
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        parts = [self.cv1(x_BCHW)]
        for block in self.m:
            parts.append(block(parts[-1]))
        y_BCHW: torch.Tensor = self.cv2(torch.cat(parts, 1))
        return y_BCHW if self.gamma is None else x_BCHW + self.gamma.view(1, -1, 1, 1) * y_BCHW

    def written(self) -> Written:
        return Written(("A2C2f",), {"gamma": None} if self.gamma is None else {}, may_lack=("gamma",))


class Concat(nn.Module):
    """Concatenation of several maps along channels."""

    def forward(self, *maps_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cat(maps_BCHW, 1)

    def written(self) -> Written:
        return Written(("Concat",), {"d": 1})


def unfused(state: Mapping[str, torch.Tensor], eps: float) -> dict[str, torch.Tensor]:
    """The state dict of a network whose BatchNorms were folded into their convolutions, with BatchNorms that change
    nothing in evaluation and add what the convolutions' biases did: mean 0, variance 1, weight √(1+ε).

    Keys that are not a folded ``Conv``'s stay as they are; a state dict that was never folded is returned as it is.
    """
    found = dict(state)
    for key in state:
        block, is_bias, _ = key.rpartition(".conv.bias")
        if not is_bias or f"{block}.bn.weight" in state or f"{block}.conv.weight" not in state:
            continue
        bias = found.pop(key).float()
        found |= {
            f"{block}.bn.weight": torch.full_like(bias, math.sqrt(1 + eps)),
            f"{block}.bn.bias": bias,
            f"{block}.bn.running_mean": torch.zeros_like(bias),
            f"{block}.bn.running_var": torch.ones_like(bias),
            f"{block}.bn.num_batches_tracked": torch.tensor(0),
        }
    return found


def fuse(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode with every ``Conv``'s BatchNorm folded into its convolution.

    w' = w · γ/√(σ²+ε), b' = β − μ·γ/√(σ²+ε); folded in double precision, stored in the weights' own.
    """
    model = copy.deepcopy(model).eval()
    for block in model.modules():
        if isinstance(block, Conv) and isinstance(block.bn, nn.BatchNorm2d):
            conv, bn = block.conv, block.bn
            assert bn.running_mean is not None and bn.running_var is not None
            gain = bn.weight.detach().double() / (bn.running_var.double() + bn.eps).sqrt()
            weight = conv.weight.detach().double() * gain.view(-1, 1, 1, 1)
            bias = bn.bias.detach().double() - bn.running_mean.double() * gain
            conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
            conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
            block.bn = nn.Identity()  # type: ignore[assignment]
    return model
