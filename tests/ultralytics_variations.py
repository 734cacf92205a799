"""Checkpoints that Ultralytics itself writes, each a variation of one network, with what Ultralytics computes of them.

Run by ``test_variations.py`` with the Python of an environment that has Ultralytics (``EDGEKIT_PEER``):

    PYTHON ultralytics_variations.py FIXTURES OUT

For every variation there are ``OUT/NAME.pt``, and ``OUT/NAME.npz`` with the raw outputs for ``OUT/input.npy``, where
Ultralytics can run it at all. ``OUT/expected.txt`` has a line for each: its name and, where edgekit must refuse it,
what the message must hold.
"""

import contextlib
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

with contextlib.suppress(ImportError):
    import cpu_torchvision  # noqa: F401  where PyTorch's CPU build has no torchvision that fits (shared/peer)
from ultralytics import YOLO

BASE = "yolo12n-bccd.pt"
TASKS = ("yolo12n-seg-balloon", "yolo12n-pose-person", "yolo12n-obb-table-tennis", "yolo12n-cls-flowers5")


def everywhere(model, kind, change):
    for module in model.modules():
        if type(module).__name__ == kind:
            change(module)


def activated(make):
    def change(model):
        for module in model.modules():
            if type(getattr(module, "act", None)) is nn.SiLU:
                module.act = make()

    return change


def at(path, **attributes):
    def change(model):
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)

    return change


def replaced(path, module):
    def change(model):
        owner, _, name = path.rpartition(".")
        old = model.get_submodule(path)
        for label in ("i", "f", "type", "np"):
            if label in vars(old):
                setattr(module, label, vars(old)[label])
        setattr(model.get_submodule(owner), name, module)

    return change


def areas(*numbers):
    def change(model):
        for layer, number in zip((6, 8), numbers, strict=True):
            everywhere(model.model[layer], "AAttn", lambda attn, number=number: setattr(attn, "area", number))

    return change


def reflected(model):
    model.model[3].conv.padding_mode = "reflect"
    model.model[3].conv._reversed_padding_repeated_twice = (1, 1, 1, 1)


def norms(**numbers):
    return lambda model: everywhere(model, "BatchNorm2d", lambda bn: [setattr(bn, k, v) for k, v in numbers.items()])


def fused(model):
    model.fuse(verbose=False)


# What edgekit must give the same numbers for.
SAME = {
    "plain": lambda model: None,
    "relu": activated(nn.ReLU),
    "hardswish": activated(nn.Hardswish),
    "leaky": activated(lambda: nn.LeakyReLU(0.1)),
    "leaky_default": activated(nn.LeakyReLU),
    "leaky_steep": activated(lambda: nn.LeakyReLU(-0.25)),
    "silu_inplace": activated(lambda: nn.SiLU(inplace=True)),
    "areas_2_1": areas(2, 1),
    "areas_1_1": areas(1, 1),
    "areas_8_2": areas(8, 2),
    "eps": norms(eps=3e-2),
    "eps_small": norms(eps=1e-5, momentum=0.1),
    "fused": fused,
    "fused_relu": lambda model: (activated(nn.ReLU)(model), fused(model)),
    "training": lambda model: model.train(),
    "synchronised": lambda model: setattr(model, "model", nn.SyncBatchNorm.convert_sync_batchnorm(model.model)),
    "end2end_off": lambda model: setattr(model, "end2end", False),
}

# What edgekit must refuse, and the words that name it.
OTHER = {
    "gelu": (activated(nn.GELU), "GELU"),
    "gelu_tanh": (activated(lambda: nn.GELU("tanh")), "GELU"),
    "mish": (activated(nn.Mish), "Mish"),
    "elu": (activated(nn.ELU), "ELU"),
    "softplus": (activated(nn.Softplus), "Softplus"),
    "prelu": (activated(nn.PReLU), "PReLU"),
    "one_relu": (replaced("model.4.cv1.act", nn.ReLU()), "model.4.cv1.act"),
    "one_slope": (
        lambda m: (activated(lambda: nn.LeakyReLU(0.1))(m), at("model.7.act", negative_slope=0.2)(m)),
        "model.7.act",
    ),
    "no_act": (replaced("model.5.act", nn.Identity()), "model.5.act"),
    "act_added": (replaced("model.6.m.0.0.attn.proj.act", nn.SiLU()), "model.6.m.0.0.attn.proj.act"),
    "stem_stride": (at("model.0.conv", stride=(1, 1)), "model.0.conv"),
    "reflect": (reflected, "padding_mode"),
    "dilation": (at("model.15.conv", dilation=(2, 2), padding=(2, 2)), "model.15.conv"),
    "padding": (at("model.21.cv2.0.0.conv", padding=(0, 0)), "padding"),
    "bilinear": (at("model.9", mode="bilinear"), "mode"),
    "bicubic": (at("model.12", mode="bicubic"), "model.12"),
    "corners": (at("model.9", mode="bilinear", align_corners=True), "model.9"),
    "concat_order": (at("model.10", f=[6, -1]), "model.10"),
    "concat_other": (at("model.19", f=[-1, 7]), "model.19"),
    "concat_axis": (at("model.13", d=2), "model.13"),
    "route": (at("model.14", f=-1, i=13), "model.14"),
    "head_order": (at("model.21", f=[14, 20, 17]), "model.21"),
    "one_eps": (at("model.8.cv1.bn", eps=0.5), "model.8.cv1.bn"),
    "batch_statistics": (at("model.2.cv1.bn", track_running_stats=False, running_mean=None, running_var=None), "track"),
    "no_shortcut": (at("model.4.m.0", add=False), "add"),
    "more_heads": (
        lambda m: everywhere(m.model[6], "AAttn", lambda a: (setattr(a, "num_heads", 4), setattr(a, "head_dim", 16))),
        "num_heads",
    ),
    "one_area": (at("model.6.m.1.0.attn", area=1), "area"),
    "head_strides": (at("model.21", stride=torch.tensor([4.0, 8.0, 16.0])), "stride"),
    "end_to_end": (at("model.21", end2end=True), "end2end"),
    "pooled": (replaced("model.9", nn.Upsample(size=(8, 16))), "size"),
    "extra_layer": (lambda m: m.model[1].add_module("after", nn.Tanh()), "model.1.after"),
    "other_forward": (lambda m: setattr(m.model[3], "forward", m.model[3].forward_fuse), "forward"),
    "anothers_forward": (lambda m: setattr(m.model[3], "forward", m.model[5].forward), "forward"),
}


def saved(path, model, ema=None):
    top = {"epoch": -1, "train_args": {"imgsz": 128}, "version": "x", "license": "MIT"}
    torch.save({**top, "model": model, "ema": ema}, path)


def flat(value):
    for member in value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, dict) else ():
        yield from flat(member)
    if isinstance(value, torch.Tensor):
        yield value


def outputs(model, image):
    """``output``: what the heads say of every cell, or the class probabilities; ``prototypes`` of masks."""
    with torch.no_grad():
        found = [t.numpy() for t in flat(copy.deepcopy(model).float().eval()(image))]
    first = next(t for t in found if t.ndim in (2, 3))
    size = tuple(side // 4 for side in image.shape[2:])
    prototypes = [t for t in found if t.ndim == 4 and t.shape[2:] == size]
    return {"output": first, **({"prototypes": prototypes[0]} if prototypes else {})}


def main(fixtures, out):
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    np.save(out / "input.npy", image.numpy())
    changes = SAME | {name: change for name, (change, _) in OTHER.items()}
    for name, change in changes.items():
        model = YOLO(fixtures / BASE).model.float().eval()
        change(model)
        saved(out / f"{name}.pt", model)
        try:
            np.savez(out / f"{name}.npz", **outputs(model, image))
        except Exception as error:
            print(f"{name}: Ultralytics cannot run it ({str(error)[:100]})")
    for fixture in TASKS:
        for name in ("relu", "leaky", "areas_2_1", "fused"):
            model = YOLO(fixtures / f"{fixture}.pt").model.float().eval()
            SAME[name](model)
            saved(out / f"{name}@{fixture}.pt", model)
            np.savez(out / f"{name}@{fixture}.npz", **outputs(model, image))
    model = YOLO(fixtures / BASE).model.float().eval()
    plain = outputs(model, image)
    half, other = copy.deepcopy(model).half(), YOLO("yolo12n.yaml").model
    saved(out / "wrapped_ema.pt", other, half)
    saved(out / "wrapped_parallel.pt", nn.DataParallel(model))
    torch.save(model, out / "wrapped_bare.pt")
    torch.save(model.state_dict(), out / "state_dict.pt")
    torch.save({"state_dict": nn.DataParallel(model).state_dict()}, out / "state_parallel.pt")
    model.fuse(verbose=False)
    torch.save(model.state_dict(), out / "state_fused.pt")
    np.savez(out / "wrapped.npz", **plain)
    words = dict.fromkeys((p.stem for p in out.glob("*.pt")), "") | {name: word for name, (_, word) in OTHER.items()}
    (out / "expected.txt").write_text("".join(f"{name} {word}".strip() + "\n" for name, word in words.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
