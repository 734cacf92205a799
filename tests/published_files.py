"""Checkpoints in the published format without Ultralytics: real pickles of modules whose classes are empty stand-ins.

    model = published_model("yolo12n", classes=2)            # an nn.Module tree with published names and attributes
    model.get_submodule("model.9").mode = "bilinear"
    save_published(model, tmp_path / "m.pt")

The tree is written down here once more, from the published layer table (FACTS), so that what the reader expects is
held against something that is not the reader.
"""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from edgekit.checkpoint import catalog
from edgekit.nn import attention, blocks, boxhead
from edgekit.tasks import network

_FILES = {
    "conv": "Conv DWConv Concat",
    "block": "Bottleneck C3k C3k2 A2C2f ABlock AAttn DFL Proto",
    "head": "Detect Segment Pose OBB Classify",
}
_MODELS = {
    "detect": ("DetectionModel", "Detect"),
    "segment": ("SegmentationModel", "Segment"),
    "pose": ("PoseModel", "Pose"),
    "obb": ("OBBModel", "OBB"),
    "classify": ("ClassificationModel", "Classify"),
}
FROM = {10: [-1, 6], 13: [-1, 4], 16: [-1, 11], 19: [-1, 8], 21: [14, 17, 20]}


def forward_fuse(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The method that a fused module is told to run: only its name is written."""
    raise NotImplementedError


def _stand_ins() -> tuple[dict[str, types.ModuleType], dict[str, type[nn.Module]]]:
    classes: dict[str, type[nn.Module]] = {}
    modules = {name: types.ModuleType(name) for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.modules")}
    homes = {f"ultralytics.nn.modules.{file}": names.split() for file, names in _FILES.items()}
    homes["ultralytics.nn.tasks"] = [model for model, _ in _MODELS.values()]
    for home, names in homes.items():
        modules[home] = types.ModuleType(home)
        for name in names:
            classes[name] = type(name, (nn.Module,), {"__module__": home, "forward_fuse": forward_fuse})
            setattr(modules[home], name, classes[name])
    return modules, classes


MODULES, CLASSES = _stand_ins()


def published_model(name: str, classes: int | None = None, seed: int = 0, activation: str = "silu") -> nn.Module:
    """A randomly initialised model as its published checkpoint would hold it, in evaluation mode."""
    spec = catalog.spec(name, classes=classes).replace(activation=activation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(spec)
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):  # whatever: only not the usual ones
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    model_class, head_class = _MODELS[spec.task]
    layers = nn.Sequential(*(_written(layer, head_class) for layer in net.model))
    for number, layer in enumerate(layers):
        layer.i, layer.f, layer.type, layer.np = number, FROM.get(number, -1), type(layer).__name__, 0
    if spec.task != "classify":
        layers[-1].__dict__ |= {"nc": spec.classes, "nl": 3, "reg_max": 16, "no": spec.classes + 64, "_end2end": False}
        layers[-1].stride = torch.tensor([8.0, 16.0, 32.0])
    own = {"segment": {"nm": 32, "npr": 64}, "pose": {"kpt_shape": [17, 3], "nk": 51}, "obb": {"ne": 1}}
    layers[-1].__dict__ |= own.get(spec.task, {})
    model = CLASSES[model_class]()
    model.model = layers
    model.names = {i: f"c{i}" for i in range(spec.classes)}
    model.yaml = {"nc": spec.classes}
    return model.eval()


def _written(module: nn.Module, head: str) -> nn.Module:
    """Our module under its published name, with the published attributes."""
    kinds = {"BinExpectation": "DFL", "Prototypes": "Proto", "Oriented": head}
    name = kinds.get(type(module).__name__, type(module).__name__)
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        members = [_written(member, head) for member in module]
        return nn.ModuleList(members) if isinstance(module, nn.ModuleList) else nn.Sequential(*members)
    if name not in CLASSES:
        return copy.deepcopy(module)
    made = CLASSES["DWConv" if name == "Conv" and module.conv.groups > 1 else name]()
    for key, parameter in module.named_parameters(recurse=False):
        made.register_parameter(key, parameter)
    made.__dict__ |= _attributes(module)
    for key, child in module.named_children():
        if not isinstance(child, attention.Attend):
            setattr(made, key, _written(child, head))
    if name == "Classify":
        made.pool = nn.AdaptiveAvgPool2d(1)
    return made


def _attributes(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, blocks.Bottleneck):
        return {"add": module.cv1.conv.in_channels == module.cv2.conv.out_channels}
    if isinstance(module, blocks.C3k2):
        return {"c": module.cv1.conv.out_channels // 2}
    if isinstance(module, blocks.A2C2f):
        return {"gamma": None} if module.gamma is None else {}
    if isinstance(module, blocks.AAttn):
        dim = module.proj.conv.out_channels
        return {"area": module.core.area, "num_heads": dim // 32, "head_dim": 32, "all_head_dim": dim}
    if isinstance(module, blocks.Concat):
        return {"d": 1}
    return {"c1": 16} if isinstance(module, boxhead.BinExpectation) else {}


def fold(model: nn.Module) -> nn.Module:
    """As Ultralytics fuses a model: BatchNorms folded into biases and removed, ``forward`` set to ``forward_fuse``."""
    for module in model.modules():
        if type(module).__name__ in ("Conv", "DWConv") and hasattr(module, "bn"):
            bn, conv = module.bn, module.conv
            gain = bn.weight.data.double() / (bn.running_var.double() + bn.eps).sqrt()
            conv.bias = nn.Parameter((bn.bias.data.double() - bn.running_mean.double() * gain).float())
            conv.weight = nn.Parameter((conv.weight.data.double() * gain.view(-1, 1, 1, 1)).float())
            del module.bn
            module.forward = module.forward_fuse
    return model


def save_published(model: Any, path: Path, **top: Any) -> Path:
    """Write ``{"model": model, ...}`` as ``torch.save`` does (``model`` None: ``top`` alone)."""
    document = {"train_args": {"imgsz": 64}, "version": "8.4", "model": model, **top}
    return save(document, path)


def save(document: Any, path: Path) -> Path:
    with mock.patch.dict(sys.modules, MODULES):
        torch.save(document, path)
    return path
