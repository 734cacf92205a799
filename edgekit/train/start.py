"""The network a run begins with: random, or whatever of a checkpoint fits, and a list of what that was.

net, taken = begin("yolo12n", "detect", names=("RBC", "WBC", "Platelets"), keypoints=None, seed=0)
net, taken = begin(opened("yolo12n.pt"), None, names, None, 0)  # other classes: class rows of the head go by name
str(taken)                                                   # 'yolo12n.pt: 691 of 697 tensors, class rows of …'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from edgekit import checkpoint
from edgekit.checkpoint import Checkpoint, catalog
from edgekit.errors import UsageError
from edgekit.nn import layers
from edgekit.tasks import network


@dataclass(frozen=True)
class TransferReport:
    """What a new network has from an older one.

    Attributes:
        source: the file, or None for a random start.
        sha256, license: of that file.
        tensors: how many of ``of`` tensors were taken over whole.
        classes: classes whose rows were taken over by name.
        fresh: tensors that start at random.
        fused: the file was saved after its BatchNorms were folded into the convolutions.
    """

    source: Path | None = None
    sha256: str | None = None
    license: str | None = None
    tensors: int = 0
    of: int = 0
    classes: tuple[str, ...] = ()
    fresh: tuple[str, ...] = field(default=())
    fused: bool = False

    def __str__(self) -> str:
        if self.source is None:
            return "random initialisation"
        rows = f"; class rows by name: {', '.join(self.classes)}" if self.classes else ""
        layers = sorted({".".join(name.split(".")[:4]) for name in self.fresh})
        new = f"; starting at random: {', '.join(layers[:6])}{' …' if len(layers) > 6 else ''}" if layers else ""
        lost = (
            "; its BatchNorms had been folded and their statistics are lost, so that training begins by changing what "
            "it computes: start from the file before it was fused, or keep them out of it with `freeze_norms`"
        )
        taken = f"{self.source}: {self.tensors} of {self.of} tensors taken over{rows}{new}"
        return taken + lost if self.fused else taken


def opened(model: str) -> str | Checkpoint:
    """A published name as it is, a path as the checkpoint there.

    Raises:
        InputError, UnsafeFileError: no usable checkpoint is there.
    """
    path = Path(model)
    return checkpoint.load(path) if path.suffix == ".pt" or path.exists() else model


def begin(
    model: str | Checkpoint,
    task: str | None,
    names: Sequence[str],
    keypoints: tuple[int, int] | None,
    seed: int,
    imgsz: tuple[int, int] | None = None,
    activation: str | None = None,
) -> tuple[Checkpoint, TransferReport]:
    """A checkpoint to train from: ``model`` is a published name, or a checkpoint that was read (see ``opened``).

    Args:
        task: wanted task; None: the model's. A checkpoint of another task gives its trunk.
        names: the set's classes, in label order.
        keypoints: the set's (points, values), for pose.
        activation: of every convolution block; None: the checkpoint's own, SiLU for a published name.

    Raises:
        UsageError, InputError: no such model or file, or it cannot be used.
    """
    if isinstance(model, str):
        spec = catalog.spec(model, task, len(names), keypoints)
        spec = spec.replace(activation=activation or spec.activation)
        return checkpoint.new(spec, tuple(names), (imgsz or (0,))[0] or None, seed), TransferReport()
    older = model
    if older.spec.family == "turbo" and task not in (None, "detect"):
        raise UsageError(f"`task` {task}: {older.path} is of the turbo family, which is supported for detect only")
    kind = task or older.spec.task
    points = keypoints or (older.spec.keypoint_shape if kind == older.spec.task else None)
    spec = catalog.build_spec(older.spec.scale, kind, older.spec.family, len(names), points)
    spec = spec.replace(areas=older.spec.areas, activation=activation or older.spec.activation)
    if kind == older.spec.task:
        spec = spec.replace(norm_eps=older.spec.norm_eps, norm_momentum=older.spec.norm_momentum)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(spec).eval()
    taken = _take(net, older, names)
    started = Checkpoint(net, tuple(names), imgsz or older.imgsz, older.license)
    return started, taken


def _take(net: torch.nn.Module, older: Checkpoint, names: Sequence[str]) -> TransferReport:
    """Copies every tensor that agrees in name and shape, and class rows by name where only their number differs."""
    mine, theirs = net.state_dict(), older.net.state_dict()
    pairs = [
        (new, [n.casefold() for n in older.names].index(name.casefold()))
        for new, name in enumerate(names)
        if name.casefold() in [n.casefold() for n in older.names]
    ]
    same_classes = tuple(names) == older.names
    whole, fresh, by_name = 0, [], False
    for key, value in mine.items():
        other = theirs.get(key)
        place = layers.parse(key)
        rows = place is not None and place.row_per_class
        if other is not None and other.shape == value.shape and (same_classes or not rows):
            value.copy_(other)
            whole += 1
            continue
        if rows and other is not None and other.shape[1:] == value.shape[1:] and pairs:
            for new, old in pairs:
                value[new].copy_(other[old])
            by_name = True
            if len(pairs) == len(names):
                continue
        fresh.append(key)
    shared = tuple(names[new] for new, _ in pairs) if by_name else ()
    fused = bool(older.provenance.get("fused"))
    return TransferReport(older.path, older.sha256, older.license, whole, len(mine), shared, tuple(fresh), fused)
