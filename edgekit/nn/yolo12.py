"""YOLO12: twenty-one layers of trunk and the head of a task.

The layer table is the published one (module docstrings in ``blocks.py`` describe the blocks); layer numbers are the
ones in state-dict keys (``model.6.m.0.0.attn.qkv.conv.weight`` is layer 6). Detection-like tasks read the maps of
layers 14, 17 and 20 (strides 8, 16, 32); classification stops after layer 8.

    net = YOLO12(spec, head_factory, neck=True)      # tasks.network.build(spec) picks the factory
    net(x_BCHW)                           # eval: {role: tensor}; train: the head's raw maps
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from edgekit.nn.blocks import A2C2f, C3k2, Concat, Conv
from edgekit.nn.written import ANY, Written
from edgekit.spec import ModelSpec

Source = int | tuple[int, ...]
HeadFactory = Callable[[ModelSpec, tuple[int, ...]], nn.Module]


def channels(spec: ModelSpec, base: int) -> int:
    """``base`` channels scaled to the spec's width, a multiple of 8."""
    return -int(-min(base, spec.max_channels) * spec.width // 8) * 8


def repeats(spec: ModelSpec, base: int) -> int:
    """``base`` repeats scaled to the spec's depth, at least one."""
    return max(round(base * spec.depth), 1) if base > 1 else base


def _backbone(spec: ModelSpec) -> list[nn.Module]:
    c = [channels(spec, base) for base in (64, 128, 256, 512, 1024)]
    nested = spec.scale in "mlx"  # the larger scales nest C3k inside every C3k2
    act, groups = spec.activation, spec.stem_groups

    def attention(width: int, area: int) -> nn.Module:
        return A2C2f(width, width, repeats(spec, 4), area, spec.residual, spec.mlp_ratio, spec.family, act)

    return [
        Conv(3, c[0], 3, 2, act=act),
        Conv(c[0], c[1], 3, 2, groups[0], act),
        C3k2(c[1], c[2], repeats(spec, 2), nested, 0.25, act),
        Conv(c[2], c[2], 3, 2, groups[1], act),
        C3k2(c[2], c[3], repeats(spec, 2), nested, 0.25, act),
        Conv(c[3], c[3], 3, 2, act=act),
        attention(c[3], spec.areas[0]),
        Conv(c[3], c[4], 3, 2, act=act),
        attention(c[4], spec.areas[1]),
    ]


def _neck(spec: ModelSpec) -> list[nn.Module]:
    c2, c3, c4 = (channels(spec, base) for base in (256, 512, 1024))
    act = spec.activation

    def plain(c_in: int, c_out: int) -> nn.Module:
        return A2C2f(c_in, c_out, repeats(spec, 2), None, spec.residual, spec.mlp_ratio, spec.family, act)

    return [
        nn.Upsample(scale_factor=2, mode="nearest"),
        Concat(),
        plain(c4 + c3, c3),
        nn.Upsample(scale_factor=2, mode="nearest"),
        Concat(),
        plain(c3 + c3, c2),
        Conv(c2, c2, 3, 2, act=act),
        Concat(),
        plain(c2 + c3, c3),
        Conv(c3, c3, 3, 2, act=act),
        Concat(),
        C3k2(c3 + c4, c4, repeats(spec, 2), True, 0.5, act),
    ]


# Where each layer's input comes from; -1 is the layer before.
_SOURCES: tuple[Source, ...] = (-1,) * 10 + ((-1, 6), -1, -1, (-1, 4), -1, -1, (-1, 11), -1, -1, (-1, 8), -1)
_HEAD_SOURCES = (14, 17, 20)


class YOLO12(nn.Module):
    """The whole network of one spec; ``self.model`` holds the layers under their published numbers.

    Without ``neck``, as for classification, the head reads the backbone's last map alone.
    """

    def __init__(self, spec: ModelSpec, head: HeadFactory, neck: bool) -> None:
        super().__init__()
        self.spec = spec
        trunk, bases = _backbone(spec), [1024]
        self.head_sources: tuple[int, ...] = ()
        if neck:
            trunk, bases = trunk + _neck(spec), [256, 512, 1024]
            self.head_sources = _HEAD_SOURCES
        widths = tuple(channels(spec, base) for base in bases)
        self.model = nn.ModuleList([*trunk, head(spec, widths)])

    @property
    def head(self) -> nn.Module:
        return self.model[-1]

    @property
    def routes(self) -> tuple[tuple[int, ...], ...]:
        """The layers each layer reads, in order, by number; -1 is the image."""
        sources = (*_SOURCES[: len(self.model) - 1], self.head_sources or -1)
        listed = ((s,) if isinstance(s, int) else s for s in sources)
        return tuple(tuple(i - 1 if s == -1 else s for s in ss) for i, ss in enumerate(listed))

    def written(self) -> Written:
        names = ("DetectionModel", "SegmentationModel", "PoseModel", "OBBModel", "ClassificationModel")
        one_to_one = {"end2end": False}
        layers = nn.Sequential(*self.model)
        return Written(names, one_to_one, ANY, tuple(one_to_one), {"model": layers}, ("model",))

    def features(self, x_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """The maps the head reads: strides 8, 16, 32, or the last map alone for classification."""
        outputs: list[torch.Tensor] = []
        for layer, source in zip(self.model[:-1], _SOURCES, strict=False):
            x_BCHW = layer(*_pick(x_BCHW, outputs, source))
            outputs.append(x_BCHW)
        return [outputs[i] for i in self.head_sources] or [x_BCHW]

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs: dict[str, torch.Tensor] = self.head(self.features(x_BCHW))
        return outputs


def _pick(x: torch.Tensor, outputs: Sequence[torch.Tensor], source: Source) -> list[torch.Tensor]:
    return [x if i == -1 else outputs[i] for i in ((source,) if isinstance(source, int) else source)]
