"""The nouns: small frozen records that say what a model is and what an artifact holds. Standard library only.

``ModelSpec`` says how to build a network; ``ModelInfo`` says how to *use* one (what goes in, what comes out, in
which role), and is all that the host code ever looks at, whether the model behind it is a PyTorch checkpoint, an
ONNX file or an OpenVINO folder. Both turn into plain JSON with ``to_dict`` and back with ``from_dict``.

    info = ModelInfo.from_dict(json.loads(text))
    [o.role for o in info.outputs]            # ['boxes', 'scores']
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from edgekit.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

_T = TypeVar("_T")
Json: TypeAlias = dict[str, Any]  # a JSON object, as the json module reads and writes it
JsonView: TypeAlias = Mapping[str, Any]  # the same, only read

SCALES = ("n", "s", "m", "l", "x")
FAMILIES = ("v1.0", "turbo")
HEADS = ("raw", "topk", "nms")
MAX_DET = 300  # most objects an image where nobody says otherwise: the published protocol's
NMS_IOU = 0.7  # of the suppression inside the graph of an nms head
OPSETS = 17, 24  # of ONNX: the oldest and the newest that are exported
Images = str | Path | Sequence[str | Path] | None  # files, folders, globs; None: generated ones
PIXELS = 256 / 255  # bytes come in as n/256, exact in every precision, where they mean n/255
STRIDES = (8, 16, 32)  # of the network's three levels
STRIDE = STRIDES[-1]  # image sides are multiples of it

# Of every convolution block. What an activation can be given stands behind a colon: leaky_relu:0.1.
ACTIVATIONS = ("silu", "hardswish", "relu", "leaky_relu")

# What an output can mean. B batch, N candidates (every anchor in `raw`, K in `topk`), C classes, M mask
# coefficients, P keypoints. Pixels are those of the network's input image.
ROLES = {
    "boxes": "[B, N, 4] x1, y1, x2, y2 in pixels",
    "rotated_boxes": "[B, N, 5] centre x, centre y, width, height in pixels, angle in radians (clockwise positive)",
    "scores": "[B, C, N] probabilities of every class (raw) or [B, N] of one class each (topk, nms)",
    "labels": "[B, N] class index of each candidate (topk, nms)",
    "mask_coefficients": "[B, N, M] weights of the mask prototypes",
    "mask_prototypes": "[B, M, H/4, W/4] mask bases",
    "keypoints": "[B, N, P, 3] x, y in pixels and visibility probability",
    "class_probabilities": "[B, C] probabilities, summing to one",
}


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build one network. Numbers come from ``models/*.toml``, never from code.

    Attributes:
        name: published name, e.g. ``yolo12n-seg``.
        task: the name of a folder in ``tasks/``: ``detect``, ``segment``, ``pose``, ``obb``, ``classify``.
        scale: one of ``n s m l x``.
        family: ``v1.0`` (the published table's layout) or ``turbo``.
        depth, width, max_channels: compound scaling of repeats and channels.
        mlp_ratio: hidden width of an attention block's MLP over its width.
        residual: learned per-channel residual around each attention stage.
        areas: number of areas of the attention stages at P4 and P5.
        stem_groups: groups of the convolutions at layers 1 and 3 (turbo: 2 and 4).
        classes: number of classes.
        keypoint_shape: (points, values per point) for pose, else None.
        activation: name of the activation used by every convolution block, see ``parse_activation``.
        norm_eps, norm_momentum: of every BatchNorm. They leave no trace in a state dict, and published
            classification models differ from the others.
    """

    name: str
    task: str
    scale: str
    family: str
    depth: float
    width: float
    max_channels: int
    mlp_ratio: float
    residual: bool
    areas: tuple[int, int]
    stem_groups: tuple[int, int]
    classes: int
    keypoint_shape: tuple[int, int] | None = None
    activation: str = "silu"
    norm_eps: float = 1e-3
    norm_momentum: float = 0.03

    def replace(self, **changes: Any) -> ModelSpec:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> Json:
        plain: Json = _plain(self)
        return plain

    @classmethod
    def from_dict(cls, data: Json) -> ModelSpec:
        return _build(cls, data)


@dataclass(frozen=True)
class Port:
    """One input or output of an artifact: its name there, its role, shape (None where dynamic) and dtype."""

    name: str
    role: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the input tensor.

    Attributes:
        mode: ``letterbox`` (aspect kept, centred, padded with ``fill``) or ``centre_crop`` (short side resized,
            centre cut out).
        fill: grey level of the padding, 0 to 255.
        color: channel order of the tensor: ``RGB``, or ``BGR`` where the input takes pixels.
        scale: factor on 8-bit values; 1 where the input takes pixels.
    """

    mode: str = "letterbox"
    fill: int = 114
    color: str = "RGB"
    scale: float = 1 / 255


@dataclass(frozen=True)
class ModelInfo:
    """What host code must know to run a model; the part of a bundle's manifest an application reads.

    Attributes:
        task: the task's name.
        imgsz: (height, width) of the input in pixels.
        head: ``raw``, ``topk`` or ``nms``.
        names: class names in label order.
        inputs, outputs: the artifact's ports; batch is the first dimension of each (None: dynamic).
        preprocess: image to tensor.
        license: the license the weights state, or None.
        spec: the network (None for models edgekit did not make).
        candidates: (anchor, class) pairs an image that a ``topk`` head keeps before suppression, of an ``nms`` head
            anchors; None for ``raw``, which keeps all, and for files of older versions that do not say.
    """

    task: str
    imgsz: tuple[int, int]
    head: str
    names: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocess: Preprocess = field(default_factory=Preprocess)
    license: str | None = None
    spec: ModelSpec | None = None
    candidates: int | None = None

    @property
    def batch(self) -> int | None:
        """The artifact's fixed batch, or None where any batch goes."""
        return self.inputs[0].shape[0]

    @property
    def takes_uint8(self) -> bool:
        """Whether the input takes canvases as they are, uint8 ``[B, H, W, 3]`` BGR; else float32 ``[B, 3, H, W]``."""
        return self.inputs[0].dtype == "uint8"

    @property
    def cuts(self) -> bool:
        """Whether the head keeps fewer candidates than the network has, so that a crowded image may lose objects."""
        if self.head == "raw":
            return False
        classes = 1 if self.head == "nms" else len(self.names)
        return self.candidates is None or self.candidates < anchors(self.imgsz) * classes

    def replace(self, **changes: Any) -> ModelInfo:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> Json:
        """JSON-ready; ``candidates`` only where there is a number of them."""
        plain: Json = _plain(self)
        if self.candidates is None:
            del plain["candidates"]
        return plain

    @classmethod
    def from_dict(cls, data: Json) -> ModelInfo:
        data = dict(data)
        data["inputs"] = tuple(_build(Port, p) for p in data["inputs"])
        data["outputs"] = tuple(_build(Port, p) for p in data["outputs"])
        data["preprocess"] = _build(Preprocess, data["preprocess"])
        if data.get("spec"):
            data["spec"] = ModelSpec.from_dict(data["spec"])
        info = _build(cls, data)
        for port in info.outputs:
            if port.role not in ROLES:
                raise InputError(f"output {port.name!r} has the unknown role {port.role!r}; known: {', '.join(ROLES)}")
        if info.head == "topk" and info.candidates is None:  # written before the number was
            rows = next((p.shape[1:] for p in info.outputs if p.role == "scores" and isinstance(p.shape, tuple)), ())
            info = info.replace(candidates=rows[0] if len(rows) == 1 and isinstance(rows[0], int) else None)
        return info


class Session(abc.ABC):
    """A loaded model: what targets, the PyTorch session and models of other tools are used through.

    ``run`` takes float32 ``[B, 3, H, W]`` (values 0..1, RGB; B equal to ``info.batch`` where that is fixed) and
    returns one array per role. Arrays may be reused by the next call unless copied. Where ``info.takes_uint8``, it
    also takes uint8 ``[B, H, W, 3]`` BGR, and rounds floats to those.

    Attributes:
        info: what goes in and comes out.
        target: the target's name; ``pytorch`` of a checkpoint.
        path: what was loaded.
        concurrent: whether threads may call ``run`` at once.
        streams: images it works on at once.
        forkable: whether processes forked after it was opened may use it.
        gpu: whether it computes on an NVIDIA GPU.
        weights: what its weights are stored in, ``f32`` or ``f16``, whatever computes with them.
        sums: what its kernels add products up in.
        named: whether the model says its classes' names.
        moves: whether the runtime may take it to another device while it is open (OpenVINO's AUTO).
        predicts: the same network as ``predict`` runs it, where this one's head is another.
    """

    info: ModelInfo
    target: str
    path: Path
    concurrent: bool = False
    streams: int = 1
    forkable: bool = False
    gpu: bool = False
    weights: str = "f32"
    sums: str = "f32"
    named: bool = True
    moves: bool = False
    predicts: Session | None = None

    @abc.abstractmethod
    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Answer one batch: an array per role."""

    def fitting(self, height: int, width: int) -> Session:
        """Who answers for an image of so many pixels: the session itself, unless it has several input sizes
        (``runtime.shaped``)."""
        return self

    def memory(self) -> np.ndarray | None:
        """Where this thread's next ``run`` reads its input, to be filled and given to it: uint8 ``[B, H, W, 3]``; None
        where the session has none."""
        return None

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Values inside the model for one batch: by module path in PyTorch, by the value's name in artifacts.

        Names that are not there (a fusion may have swallowed them) are left out.
        """
        return {}

    def profile(self, batch: np.ndarray, runs: int) -> list[tuple[str, str, float]] | None:
        """(name, operator type, milliseconds) of every operator executed, in order, medians of ``runs``; None where
        the runtime cannot say."""
        return None

    def precision_by_type(self) -> dict[str, int]:
        """How many operators run in each precision, by what the runtime says it executes: ``{"f32": 312}``; empty
        where it cannot say."""
        return {}

    def kernels(self) -> list[str]:
        """Names of the kernels that compute, which tell the instruction set; empty where the runtime does not say."""
        return []

    def devices(self) -> tuple[str, ...]:
        """The devices that compute now, as the runtime names them. Cheap: asked before every run of a session that
        ``moves``."""
        return ("CPU",)

    def drivers(self) -> dict[str, str]:
        """What the runtime says of those devices, their drivers and itself: whatever answers may depend on."""
        return {}

    def rounded(self, weights: str | None, values: str | None = None, first: float = 1.0) -> Session | None:
        """The same function as a narrower precision computes it (``nn.session.TorchSession.rounded`` says how); None
        where the session cannot."""
        return None

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what the runtime holds; the session cannot be used afterwards."""


@dataclass(frozen=True)
class Graph:
    """An exported ONNX file and what it is: ``path``, its ``info`` and the ``sha256`` of the weights it came from."""

    path: Path
    info: ModelInfo
    sha256: str
    provenance: Json = field(default_factory=dict)


def anchors(imgsz: tuple[int, int]) -> int:
    """Cells of the network's three levels at an input of (height, width) pixels: 8400 at 640 x 640."""
    height, width = imgsz
    return sum((height // stride) * (width // stride) for stride in STRIDES)


def sha256_file(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes."""
    import hashlib  # OpenSSL, for which `edgekit --help` need not wait

    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_opset(opset: int) -> None:
    """Refuse an ONNX opset that edgekit does not export.

    Raises:
        InputError: it is none of 17 to 24.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise InputError(f"`opset` {opset}: edgekit exports opsets {OPSETS[0]} to {OPSETS[1]}")


def parse_imgsz(text: str | int | tuple[int, int]) -> tuple[int, int]:
    """``640`` or ``"640"`` -> (640, 640); ``"384,640"`` -> (384, 640). Height first; multiples of 32.

    Raises:
        InputError: not one or two positive multiples of 32 of at most 4096.
    """
    parts = (text, text) if isinstance(text, int) else tuple(text) if isinstance(text, tuple) else None
    if parts is None:
        fields = str(text).replace("x", ",").split(",")
        if len(fields) not in (1, 2) or not all(f.strip().isdigit() for f in fields):
            raise InputError(f"`imgsz` {text}: not an image size; give N or H,W in pixels, e.g. 640 or 384,640")
        parts = (int(fields[0]), int(fields[-1]))
    height, width = int(parts[0]), int(parts[1])
    for side in (height, width):
        if not STRIDE <= side <= 4096 or side % STRIDE:
            nearest = min(max(round(side / STRIDE), 1), 128) * STRIDE
            raise InputError(
                f"`imgsz` {height},{width}: sides are multiples of {STRIDE} between {STRIDE} and 4096; "
                f"the nearest to {side} is {nearest}"
            )
    return height, width


def parse_activation(text: str) -> tuple[str, float | None]:
    """``"relu"`` -> ("relu", None); ``"leaky_relu:0.1"`` -> ("leaky_relu", 0.1), the slope below zero.

    Raises:
        UsageError: no such activation, or it does not take what stands behind the colon.
    """
    name, colon, number = text.partition(":")
    if name not in ACTIVATIONS or (colon and name != "leaky_relu"):
        raise UsageError(f"`activation` {text}: choose {', '.join(ACTIVATIONS)} or leaky_relu:SLOPE")
    try:
        slope = float(number) if colon else None
    except ValueError:
        slope = math.nan
    if slope is not None and not math.isfinite(slope):
        raise UsageError(f"`activation` {text}: {number!r} is no slope; give one such as leaky_relu:0.1")
    return name, slope


def _plain(value: object) -> Any:
    """Dataclasses, tuples and mappings as JSON-ready dicts and lists; None-valued fields are kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _build(cls: type[_T], data: Json) -> _T:
    """The inverse of ``_plain`` for one flat record: lists become tuples, unknown keys are refused."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = set(data) - set(fields)
    if unknown:
        raise InputError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}; was it written by a newer edgekit?")
    missing = [
        n
        for n, f in fields.items()
        if n not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{cls.__name__} lacks the field {missing[0]!r}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})
