"""Checkpoints: a network with its weights, names and history, whichever of two files it came from.

edgekit's own format is ``torch.save`` of plain values and tensors, read with ``weights_only=True``; published files
go through ``published.py``, which runs no code from them. Commands take either form.

    checkpoint = load("yolo12n.pt")
    checkpoint.net(x_BCHW)["boxes"]
    save(checkpoint, "mine.pt")
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgekit import catalog, tasks
from edgekit.atomic import replacing
from edgekit.errors import InputError
from edgekit.nn.yolo12 import YOLO12
from edgekit.published import Published, is_edgekit_checkpoint, read_published
from edgekit.spec import SCALES, ModelInfo, ModelSpec, sha256_file
from edgekit.tasks import network, ports

SCHEMA = 1


@dataclass
class Checkpoint:
    """A network ready to run.

    Attributes:
        net: the network in evaluation mode, float32, on the CPU.
        names: class names in label order.
        imgsz: (height, width) it was trained at, the default of every command.
        licence: what the file states about its weights, or None.
        sha256: of the file it was read from, or None for one made in memory.
        provenance: how it came to be (JSON-ready).
    """

    net: YOLO12
    names: tuple[str, ...]
    imgsz: tuple[int, int]
    licence: str | None = None
    sha256: str | None = None
    path: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

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
        return ports.info(self.spec, self.names, imgsz or self.imgsz, batch, self.licence, head, candidates)


def new(spec: ModelSpec, names: tuple[str, ...] | None = None, imgsz: int | None = None, seed: int = 0) -> Checkpoint:
    """A randomly initialised checkpoint (PyTorch's default initialisation from ``seed``)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(spec).eval()
    side = imgsz or tasks.get(spec.task).imgsz
    names = names or tuple(f"class{i}" for i in range(spec.classes))
    return Checkpoint(net, names, (side, side), provenance={"origin": f"random initialisation, seed {seed}"})


def settle(checkpoint: Checkpoint, batches: Iterable[torch.Tensor], calm: float = 1.0) -> None:
    """Set every BatchNorm's running statistics to those of ``batches`` (``[B, 3, H, W]`` in 0..1), in place.

    A randomly initialised network in evaluation mode answers nearly the same to every image; with the statistics of
    real images it behaves like a network, which is what a comparison of two runtimes needs. Untrained and undamped
    it also amplifies rounding from layer to layer until that drowns the answer: ``calm`` above 1 multiplies the
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
            norm.running_var *= calm


def load(path: str | Path) -> Checkpoint:
    """Read an edgekit or published checkpoint.

    Raises:
        InputError: not a checkpoint, damaged, or of a network edgekit does not know; the sentence says which.
        UnsafeFileError: the file would run code; nothing of it was run.
    """
    path = Path(path)
    if is_edgekit_checkpoint(path):
        return _load_own(path)
    return from_published(read_published(path), path)


def save(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write edgekit's own format, under a temporary name first."""
    path = Path(path)
    document = {
        "edgekit": SCHEMA,
        "spec": checkpoint.spec.to_dict(),
        "names": list(checkpoint.names),
        "imgsz": list(checkpoint.imgsz),
        "licence": checkpoint.licence,
        "provenance": checkpoint.provenance,
        "state_dict": checkpoint.net.state_dict(),
    }
    with replacing(path) as partial:
        torch.save(document, partial)
    return path


def _load_own(path: Path) -> Checkpoint:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
        schema = document["edgekit"]
    except Exception as error:
        raise InputError(f"{path}: a damaged edgekit checkpoint ({str(error).splitlines()[0]}); restore it") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(f"{path}: checkpoint schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    try:
        spec = ModelSpec.from_dict(document["spec"])
        net = _fill(spec, document["state_dict"], path)
        names, imgsz = tuple(document["names"]), tuple(document["imgsz"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: a damaged edgekit checkpoint (no {error}); restore it") from error
    _check_names(names, spec, path)
    return Checkpoint(
        net, names, imgsz, document.get("licence"), sha256_file(path), path, document.get("provenance", {})
    )


def from_published(published: Published, path: Path) -> Checkpoint:
    """Tensors and attributes of a published file as a Checkpoint."""
    spec = recognise(published, path)
    net = _fill(spec, {k: torch.from_numpy(v.copy()) for k, v in published.state.items()}, path)
    _check_names(published.names, spec, path)
    side = published.train_args.get("imgsz")
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    usable = len(sides) == 2 and all(isinstance(s, int) and s > 0 and s % 32 == 0 for s in sides)
    provenance = {"origin": "published checkpoint", "format_version": published.version, "date": published.date}
    return Checkpoint(
        net,
        published.names,
        (sides[0], sides[1]) if usable else (tasks.get(spec.task).imgsz,) * 2,
        published.licence,
        sha256_file(path),
        path,
        provenance,
    )


def recognise(published: Published, path: Path) -> ModelSpec:
    """Which of the known networks these tensors are: family, task and scale from keys and shapes.

    Raises:
        InputError: another architecture, an unsupported variant, or contradictory class counts.
    """
    state, types = published.state, published.module_types
    qkv, qk = "model.6.m.0.0.attn.qkv.conv.weight" in state, "model.6.m.0.0.attn.qk.conv.weight" in state
    if not (qkv or qk):
        layer = types.get("model.6")
        what = f"its layer 6 is {layer}" if layer else "its layer 6 has no Area Attention"
        raise InputError(f"{path}: not a YOLO12 network ({what}, where YOLO12 has A2C2f); edgekit takes YOLO12 only")
    family = "turbo" if qk else "v1.0"
    head = "model.9" if "model.9.linear.weight" in state else "model.21"
    task = _task_of(state, head, published)
    if family == "turbo" and task != "detect":
        raise InputError(
            f"{path}: a {task} network of the authors' turbo family, which edgekit does not support "
            "(turbo is supported for detect; v1.0 for all five tasks)"
        )
    last = f"{head}.linear.weight" if task == "classify" else f"{head}.cv3.0.2.weight"
    if last not in state:
        raise InputError(f"{path}: its head lacks {last}; not a head edgekit knows")
    classes = int(state[last].shape[0])
    if published.classes is not None and published.classes != classes:
        raise InputError(f"{path}: its head states {published.classes} classes but its weights have {classes}")
    scale = _scale_of(state, path)
    spec = catalog.build_spec(scale, task, family, classes, published.keypoint_shape)
    return spec.replace(**_unseen_in_tensors(published, spec, path))


def _unseen_in_tensors(published: Published, spec: ModelSpec, path: Path) -> dict[str, Any]:
    """What leaves no trace in a state dict and is read from the pickled modules: areas, BatchNorm's numbers."""
    areas = []
    for layer, usual in zip((6, 8), spec.areas, strict=True):
        here = {a for name, a in published.areas.items() if name.startswith(f"model.{layer}.")} or {usual}
        if len(here) > 1:
            raise InputError(f"{path}: layer {layer} mixes areas {sorted(here)}; edgekit knows one per layer")
        areas.append(here.pop())
    norms = published.norms or ((spec.norm_eps, spec.norm_momentum),)
    if len(norms) > 1:
        raise InputError(f"{path}: its BatchNorms differ (eps, momentum: {norms}); edgekit knows one kind per model")
    return {"areas": tuple(areas), "norm_eps": norms[0][0], "norm_momentum": norms[0][1]}


def _task_of(state: dict[str, Any], head: str, published: Published) -> str:
    if head == "model.9":
        task = "classify"
    elif f"{head}.proto.cv1.conv.weight" in state:
        task = "segment"
    elif f"{head}.cv4.0.2.weight" in state:
        task = "obb" if state[f"{head}.cv4.0.2.weight"].shape[0] == 1 else "pose"
    else:
        task = "detect"
    return task


def _scale_of(state: dict[str, Any], path: Path) -> str:
    stem = int(state["model.0.conv.weight"].shape[0])
    repeats = sum(f"model.6.m.{i}.0.attn.proj.conv.weight" in state for i in range(8))
    by_size = {(16, 2): "n", (32, 2): "s", (64, 2): "m", (64, 4): "l", (96, 4): "x"}
    if (stem, repeats) not in by_size:
        raise InputError(
            f"{path}: a YOLO12 of {stem} stem channels and {repeats} attention repeats, which is none of the "
            f"scales {', '.join(SCALES)}"
        )
    return by_size[stem, repeats]


def _fill(spec: ModelSpec, state: dict[str, torch.Tensor], path: Path) -> YOLO12:
    """The spec's network with these weights; every key and shape must agree."""
    expected = {k: tuple(v.shape) for k, v in network.build(spec, "meta").state_dict().items()}
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
    net = network.build(spec)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    for key, value in floats.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: {key} holds NaN or infinite weights; take an earlier checkpoint")
    net.load_state_dict(floats)
    return net.eval()


def _check_names(names: tuple[str, ...], spec: ModelSpec, path: Path) -> None:
    if len(names) != spec.classes:
        raise InputError(f"{path}: it names {len(names)} classes but its head has {spec.classes}")
