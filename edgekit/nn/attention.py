"""Area Attention as one function, and as one operator that survives export.

The feature map's tokens, in row-major order, are cut into ``area`` consecutive chunks; multi-head attention with
heads of 32 channels runs inside each chunk (YOLO12, arXiv 2502.12524, section 3.2). In training and inference it is
ordinary PyTorch. While a graph is captured it is the single operator ``edgekit::AreaAttention``, so that the
exporter never decides how attention is spelled: the rules in ``graph/rules`` do.

    out_BCHW = area_attention(q_BCHW, k_BCHW, v_BCHW, area=4)

Letters: B batch, C channels = N·D, N heads, D head width (32), A areas, T tokens of an area, H W map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import nn

from edgekit.errors import InputError

HEAD_WIDTH = 32
WRITTEN_OUT = 600  # tokens of an area
OPERATOR = "edgekit::AreaAttention"  # (q, k, v) maps -> map, attribute area; lowered by graph/rules


Operator = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
_operator: ContextVar[Operator | None] = ContextVar("operator", default=None)
_whole = ContextVar("whole", default=False)


@contextmanager
def as_operator(operator: Operator) -> Iterator[None]:
    """Attention is whatever ``operator`` makes of (q, k, v, area)."""
    token = _operator.set(operator)
    try:
        yield
    finally:
        _operator.reset(token)


@contextmanager
def whole() -> Iterator[None]:
    """Attention is PyTorch's one operator wherever it has one, for those who look at what each operator puts out."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def captured() -> bool:
    """Whether a graph is being captured, so that attention is one operator."""
    return _operator.get() is not None or torch.compiler.is_exporting()


def check_area(height: int, width: int, area: int) -> None:
    """Raise InputError unless a ``height`` x ``width`` map's tokens divide into ``area`` equal chunks."""
    if height * width % area:
        raise InputError(
            f"a {height}x{width} map has {height * width} tokens, which do not divide into {area} areas; "
            "image sides that are multiples of 32 always do"
        )


def area_attention(q_BCHW: torch.Tensor, k_BCHW: torch.Tensor, v_BCHW: torch.Tensor, area: int) -> torch.Tensor:
    """Multi-head attention inside each of ``area`` chunks of the map's tokens.

    Args:
        q_BCHW, k_BCHW, v_BCHW: ``[B, C, H, W]`` floating point, C a multiple of 32; channel order is head by head.
        area: number of chunks.

    Returns:
        ``[B, C, H, W]``: softmax(q·k / sqrt(32))·v, laid back as a map.
    """
    B, C, H, W = q_BCHW.shape
    check_area(H, W, area)
    if (operator := _operator.get()) is not None:
        return operator(q_BCHW, k_BCHW, v_BCHW, area)
    if captured():
        return torch.onnx.ops.symbolic(
            OPERATOR, (q_BCHW, k_BCHW, v_BCHW), {"area": area}, dtype=q_BCHW.dtype, shape=q_BCHW.shape, version=1
        )
    heads, tokens = C // HEAD_WIDTH, H * W // area

    # Areas join the batch: fused kernels take four dimensions, and PyTorch 2.13 compiles five to something else.
    def split(x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.reshape(B, heads, HEAD_WIDTH, area, tokens).permute(0, 3, 1, 4, 2).flatten(0, 1)

    q_BA_NTD, k_BA_NTD, v_BA_NTD = split(q_BCHW), split(k_BCHW), split(v_BCHW)
    alone = not torch.is_grad_enabled() and not _whole.get()
    if q_BCHW.device.type == "cpu" and tokens <= WRITTEN_OUT and (q_BCHW.dtype.itemsize == 2 or alone):
        # There PyTorch's fused kernel takes 3.7 (100 tokens) to 1.4 (576) times as long, there and back; 0.7 of 1024.
        # So it is in float32, there alone.
        out_BA_NTD = (q_BA_NTD * HEAD_WIDTH**-0.5 @ k_BA_NTD.mT).softmax(-1) @ v_BA_NTD
    else:
        out_BA_NTD = F.scaled_dot_product_attention(q_BA_NTD, k_BA_NTD, v_BA_NTD)
    out_BCHW: torch.Tensor = out_BA_NTD.unflatten(0, (B, area)).permute(0, 2, 4, 1, 3).reshape(B, C, H, W)
    return out_BCHW


class Attend(nn.Module):
    """``area_attention`` as a module without weights, so that it can be found by name: ``model.6.m.0.0.attn.core``."""

    def __init__(self, area: int) -> None:
        super().__init__()
        self.area = area

    def forward(self, q_BCHW: torch.Tensor, k_BCHW: torch.Tensor, v_BCHW: torch.Tensor) -> torch.Tensor:
        return area_attention(q_BCHW, k_BCHW, v_BCHW, self.area)
