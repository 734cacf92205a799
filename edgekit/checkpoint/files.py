"""Checkpoints: a network with its weights, names and history, whichever of two files it came from.

edgekit's own format is ``torch.save`` of plain values and tensors, read with ``weights_only=True``, or the same as
safetensors where the file is called so; published files
go through ``published.py``, which runs no code from them. Commands take either form.

    checkpoint = load("yolo12n.pt")
    checkpoint.net(x_BCHW)["boxes"]
    save(checkpoint, "mine.pt")
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from edgekit import tasks
from edgekit.checkpoint import catalog, tensors
from edgekit.checkpoint.published import (
    Published,
    as_published,
    is_edgekit_checkpoint,
    read_published,
    read_state_dict,
    recognition,
)
from edgekit.errors import InputError, UsageError, command_line
from edgekit.nn.blocks import unfused
from edgekit.nn.replay import parting
from edgekit.nn.yolo12 import YOLO12
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json, ModelInfo, ModelSpec, sha256_file
from edgekit.tasks import network, ports

SCHEMA = 2  # 1 spelt ``licence``


@dataclass
class Checkpoint:
    """A network ready to run.

    Attributes:
        net: the network in evaluation mode, float32, on the CPU.
        names: class names in label order.
        imgsz: (height, width) it was trained at, the default of every command.
        license: what the file states about its weights, or None.
        sha256: of the file it was read from, or None for one made in memory.
        provenance: how it came to be (JSON-ready).
    """

    net: YOLO12
    names: tuple[str, ...]
    imgsz: tuple[int, int]
    license: str | None = None
    sha256: str | None = None
    path: Path | None = None
    provenance: Json = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        return self.net.spec

    def info(
        self,
        imgsz: tuple[int, int] | None = None,
        batch: int | None = 1,
        head: str = "raw",
        candidates: int | None = None,
    ) -> ModelInfo:
        """Ports and preprocessing at ``imgsz`` (default: the checkpoint's own), as ``ports.info`` has them."""
        return ports.info(self.spec, self.names, imgsz or self.imgsz, batch, self.license, head, candidates)


def new(spec: ModelSpec, names: tuple[str, ...] | None = None, imgsz: int | None = None, seed: int = 0) -> Checkpoint:
    """A randomly initialised checkpoint (PyTorch's default initialisation from ``seed``)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(spec).eval()
    side = imgsz or tasks.get(spec.task).imgsz
    names = names or tuple(f"class{i}" for i in range(spec.classes))
    return Checkpoint(net, names, (side, side), provenance={"origin": f"random initialisation, seed {seed}"})


def recalibrate(checkpoint: Checkpoint, batches: Iterable[torch.Tensor], damping: float = 1.0) -> None:
    """Set every BatchNorm's running statistics to those of ``batches`` (``[B, 3, H, W]`` in 0..1), in place.

    A randomly initialised network in evaluation mode answers nearly the same to every image; with the statistics of
    real images it behaves like a network, which is what a comparison of two runtimes needs. Untrained and undamped
    it also amplifies rounding from layer to layer until that drowns the answer: ``damping`` above 1 multiplies the
    variances, so that signal and rounding fade together.
    """
    net = checkpoint.net
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches
    net.train()
    with torch.no_grad():
        for batch in batches:
            net(batch)
    net.eval()
    for norm in norms:
        norm.momentum = checkpoint.spec.norm_momentum
        if norm.running_var is not None:
            norm.running_var *= damping


def load(path: str | Path, replayed: bool = True) -> Checkpoint:
    """Read an edgekit or published checkpoint.

    Args:
        replayed: also run a published file from its own description and compare layer by layer (``nn/replay.py``):
            proof that it is read rightly, for whatever is made of it. It takes 0.08 s for n, 1.2 s for x.

    Raises:
        InputError: not a checkpoint, damaged, or of a network edgekit does not know; the sentence says which.
        UnsafeFileError: the file would run code; nothing of it was run.
    """
    path = Path(path)
    if path.suffix == tensors.SUFFIX:
        return _load_safetensors(path)
    if is_edgekit_checkpoint(path):
        return _load_own(path)
    return from_published(read_published(path), path, replayed)


def load_state_dict(
    path: str | Path, model: str, names: tuple[str, ...] = (), activation: str | None = None
) -> Checkpoint:
    """Read a file that holds tensors alone as the model called ``model``.

    What leaves no trace in tensors is as published for that model: strides, areas, BatchNorm's epsilon, and (unless it
    is given) the activation. The provenance says so.

    Args:
        names: class names in label order; ``class0``, ``class1``, … by default.

    Raises:
        InputError: no state dict, or not that model's.
        UsageError: no such model or activation.
    """
    path = Path(path)
    wanted = catalog.spec(model)
    if path.suffix == tensors.SUFFIX:
        stored = tensors.read(path)
        which, arrays = "file", as_published(path, {k: _array(v) for k, v in stored.items()})
    else:
        which, arrays = read_state_dict(path)
    spec = recognition.spec_of(arrays, path, keypoint_shape=recognition.keypoints_of(arrays, path))
    if spec.name != wanted.name:
        raise UsageError(f"`model` {model}: {path} holds the tensors of {spec.name}")
    spec = spec.replace(activation=activation or spec.activation)
    net = network.build(spec)
    fused = _fill(net, arrays, path)
    names = names or tuple(f"class{i}" for i in range(spec.classes))
    _check_names(names, spec, path)
    assumed = {"activation": spec.activation, "areas": list(spec.areas), "norm_eps": spec.norm_eps}
    provenance = {"origin": "state dict", "weights": which, "assumed": assumed} | fused
    return Checkpoint(net, names, (tasks.get(spec.task).imgsz,) * 2, None, sha256_file(path), path, provenance)


def save(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write edgekit's own format, under a temporary name first; as safetensors where ``path`` ends in that.

    Raises:
        InputError: it could not be written whole.
    """
    path = Path(path)
    document = {
        "edgekit": SCHEMA,
        "spec": checkpoint.spec.to_dict(),
        "names": list(checkpoint.names),
        "imgsz": list(checkpoint.imgsz),
        "license": checkpoint.license,
        "provenance": checkpoint.provenance,
    }
    if path.suffix == tensors.SUFFIX:
        tensors.write(path, document, checkpoint.net.state_dict())
        return path
    with replacing(path, zipfile.is_zipfile) as partial:
        torch.save({**document, "state_dict": checkpoint.net.state_dict()}, partial)
    return path


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _load_safetensors(path: Path) -> Checkpoint:
    document = tensors.described(path)
    if document is None:
        make = command_line("import", path, model="yolo12n", out="FILE.safetensors")
        raise InputError(f"{path}: holds tensors alone, not what they are of; say it: {make}")
    return _of_document(path, {**document, "state_dict": tensors.read(path)})


def _load_own(path: Path) -> Checkpoint:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        document["edgekit"]
    except Exception as error:
        raise InputError(f"{path}: a damaged edgekit checkpoint ({str(error).splitlines()[0]}); restore it") from error
    return _of_document(path, document)


def _of_document(path: Path, document: Json) -> Checkpoint:
    """What edgekit wrote, whichever of its two formats it was in."""
    schema = document.get("edgekit")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(f"{path}: checkpoint schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    try:
        spec = ModelSpec.from_dict(document["spec"])
        net = network.build(spec)
        _take(net, document["state_dict"], path)
        names, imgsz = tuple(document["names"]), tuple(document["imgsz"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a damaged edgekit checkpoint (no {error}); restore it") from error
    except UsageError as error:
        raise InputError(f"{path}: made by a newer edgekit, or damaged ({error})") from error
    _check_names(names, spec, path)
    return Checkpoint(
        net,
        names,
        imgsz,
        document.get("license", document.get("licence")),
        sha256_file(path),
        path,
        document.get("provenance", {}),
    )


def from_published(published: Published, path: Path, replayed: bool = True) -> Checkpoint:
    """Tensors and attributes of a published file as a Checkpoint; see ``load``."""
    spec = recognition.recognise(published, path)
    net = network.build(spec)
    recognition.check(published, net, path)
    fused = _fill(net, published.state, path)
    place = parting(published.modules, published.state, net) if replayed else None
    if place is not None:
        raise InputError(
            f"{path}: edgekit does not compute what this file describes, from {place} on, though it finds nothing in "
            "it that differs; either the file is damaged or edgekit's reader at fault: please report it"
        )
    _check_names(published.names, spec, path)
    side = published.train_args.get("imgsz")
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    usable = len(sides) == 2 and all(isinstance(s, int) and s > 0 and s % 32 == 0 for s in sides)
    provenance = {
        "origin": "published checkpoint",
        "weights": published.which,
        "format_version": published.version,
        "date": published.date,
    } | fused
    return Checkpoint(
        net,
        published.names,
        (sides[0], sides[1]) if usable else (tasks.get(spec.task).imgsz,) * 2,
        published.license,
        sha256_file(path),
        path,
        provenance,
    )


def _fill(net: YOLO12, arrays: Mapping[str, np.ndarray], path: Path) -> Json:
    """Give ``net`` a file's tensors as stored, folded BatchNorms put back; what provenance has to say of that."""
    stored = {key: torch.from_numpy(array) for key, array in arrays.items()}
    state = unfused(stored, net.spec.norm_eps)
    _take(net, state, path)
    return {"fused": True} if len(state) != len(stored) else {}


def _take(net: YOLO12, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Give ``net`` these weights and put it in evaluation mode; every key and shape must agree."""
    spec, expected = net.spec, {k: tuple(v.shape) for k, v in net.state_dict().items()}
    wrong = [k for k in expected if k not in state] + [k for k in state if k not in expected]
    if wrong:
        kind = "lacks" if wrong[0] in expected else "has the unknown"
        raise InputError(f"{path}: not the {spec.name} layout ({spec.family}): it {kind} tensor {wrong[0]}")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise InputError(
                f"{path}: not the {spec.name} layout ({spec.family}): {key} has shape {list(state[key].shape)}, "
                f"expected {list(shape)}"
            )
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    for key, value in floats.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: {key} holds NaN or infinite weights; take an earlier checkpoint")
    net.load_state_dict(floats)
    net.eval()


def _check_names(names: tuple[str, ...], spec: ModelSpec, path: Path) -> None:
    if len(names) != spec.classes:
        raise InputError(f"{path}: it names {len(names)} classes but its head has {spec.classes}")
