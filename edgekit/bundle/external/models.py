"""Models edgekit did not make, put behind the same interface: plain ONNX files and OpenVINO folders.

Understood is the layout that exporters of this detector family document: one image input ``[B, 3, H, W]`` (RGB, 0..1)
and, N being the cells of strides 8, 16 and 32,

| task | output | rows of the second dimension |
|---|---|---|
| detect | ``[B, 4+C, N]`` | centre x, centre y, width, height in pixels; a probability per class |
| obb | ``[B, 5+C, N]`` | the same, then the angle in radians |
| pose | ``[B, 4+C+P*V, N]`` | the same, then x, y (and visibility) per keypoint |
| segment | ``[B, 4+C+M, N]`` and ``[B, M, H/4, W/4]`` | the same, then mask coefficients; and the prototypes |
| classify | ``[B, C]`` | probabilities |

or, where suppression is part of the file (Ultralytics' ``nms=True``, end-to-end heads), K finished detections:

| task | output | values of a detection |
|---|---|---|
| detect | ``[B, K, 6]`` | x1, y1, x2, y2 in pixels, score, class |
| obb | ``[B, K, 7]`` | centre x, centre y, width, height, score, class, angle |
| pose | ``[B, K, 6+P*V]`` | as detect, then the keypoints |
| segment | ``[B, K, 6+M]`` and ``[B, M, H/4, W/4]`` | as detect, then mask coefficients; and the prototypes |

or every cell decoded and no suppression, as DeepStream's parsers read it:

| task | output | values of a cell |
|---|---|---|
| detect | ``[B, N, 6]`` | x1, y1, x2, y2 in pixels, score, class |

Outputs laid out otherwise are described in a line (``edgekit/bundle/external/outputs.py``): ``xyxy; scores``.

Task, class names and keypoints come from the metadata such files carry (ONNX ``metadata_props``, ``metadata.yaml``
beside an IR, or ``config.txt`` inside a TorchScript file); where there is none, the task is asked for. Anything else is
refused in a sentence.

    model = read(Path("yolo11n.onnx"))
    model.info.task, model.info.names
    session = model.wrap(model.target.open(model.path, model.inner))
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import yaml

from edgekit import targets, tasks
from edgekit.bundle.external.outputs import Layout
from edgekit.errors import InputError, UsageError, optional
from edgekit.runtime.around import Around
from edgekit.runtime.boxes import FORMS
from edgekit.spec import ModelInfo, Port, Session
from edgekit.targets import Target

_STRIDES = (8, 16, 32)
_MOST_BYTES = 1 << 20  # of metadata
_FLOATS = ("float32", "float16")
_SLACK = 0.01  # what half precision may add to a probability


@dataclass(frozen=True)
class ForeignModel:
    """A model from elsewhere that was understood.

    Attributes:
        path: the ONNX file or the IR's ``.xml``.
        target: whose runtime runs it; it is called by that runtime's name, since nothing is known of how it was built.
        info: what host code must know, in roles.
        inner: the file's own ports, for the backend.
        named: whether the class names are the model's own; else they are numbers.
        keypoint_values: values per keypoint in the file, 2 or 3; 0 without keypoints.
        layout: how its outputs were said to be laid out, if they were.
    """

    path: Path
    target: Target
    info: ModelInfo
    inner: ModelInfo
    named: bool
    keypoint_values: int
    layout: Layout | None = None

    def unchecked(self, session: Session) -> ForeignSession:
        """``wrap`` for those who want to know what it answers, whatever that is."""
        return ForeignSession(session, self)

    def wrap(self, session: Session) -> ForeignSession:
        """The session that a backend opened on ``inner``, answering in roles.

        Raises:
            InputError: its scores are no probabilities.
        """
        wrapped = ForeignSession(session, self)
        wrapped.check()
        return wrapped


class ForeignSession(Around):
    """A runtime's session of a foreign model, answering in roles."""

    def __init__(self, session: Session, model: ForeignModel) -> None:
        super().__init__(session)
        self._model = model
        self.info, self.target, self.path, self.named = model.info, model.target.name, model.path, model.named
        self.weights = Session.weights  # the target is a stand-in, which says nothing of them
        self._dtype = np.dtype(model.inner.inputs[0].dtype)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` float32 in 0..1 -> one array per role."""
        outputs = self._session.run(batch.astype(self._dtype, copy=False))
        arrays = [outputs[port.role] for port in self._model.inner.outputs]
        if self._model.layout is not None:
            return self._model.layout.roles(arrays, self.info)
        roles = [port.role for port in self.info.outputs]
        if roles == ["class_probabilities"]:
            return {"class_probabilities": arrays[0]}
        if self.info.head != "raw":
            places, extra = arrays[0][..., :4], arrays[0][..., 6:]
            found = {"scores": arrays[0][..., 4], "labels": arrays[0][..., 5]}
        else:
            values, classes = arrays[0].transpose(0, 2, 1), len(self.info.names)
            found = {"scores": arrays[0][:, 4 : 4 + classes]}
            places, extra = values[..., :4], values[..., 4 + classes :]
        if "rotated_boxes" in roles:
            found["rotated_boxes"] = np.concatenate([places, extra], 2)
            return found
        if self.info.head == "raw":
            places = FORMS["cxcywh"].read(places)
        found["boxes"] = places
        if "mask_coefficients" in roles:
            found |= {"mask_coefficients": extra, "mask_prototypes": arrays[1]}
        if "keypoints" in roles:
            points = extra.reshape(*extra.shape[:2], -1, self._model.keypoint_values)
            if self._model.keypoint_values == 2:
                points = np.concatenate([points, np.ones_like(points[..., :1])], 3)
            found["keypoints"] = points
        return found

    def check(self) -> None:
        """Raise InputError unless the scores of a grey image are probabilities; logits look the same from outside."""
        grey = np.full([d or 1 for d in self.info.inputs[0].shape], 0.5, np.float32)
        outputs = self.run(grey)
        scores = np.asarray(outputs.get("scores", outputs.get("class_probabilities")), np.float32)
        low, high = float(scores.min()), float(scores.max())
        if self.info.head == "nms":
            warnings.warn(
                f"{self.path}: suppresses by itself, with the confidence, IoU and number of detections it was exported "
                "with; options can only leave out more",
                RuntimeWarning,
                stacklevel=2,
            )
        sums_to_one = "scores" in outputs or np.allclose(scores.sum(1), 1.0, atol=_SLACK)
        if not (-_SLACK <= low <= high <= 1 + _SLACK and sums_to_one):
            raise InputError(f"{self.path}: its scores ({low:.3g} to {high:.3g}) are no probabilities; {_SAY}")


_SAY = (
    "edgekit understands exports that end in [batch, 4 + classes (+ extra), cells] or in finished detections "
    "[batch, detections, 6 (+ extra)], see edgekit/bundle/external/models.py"
)


def is_foreign(path: Path) -> bool:
    """Whether ``path`` is an IR, a folder with one, a TorchScript file, or an ONNX file without edgekit's metadata."""
    if path.is_dir():
        return not (path / "manifest.json").is_file() and any(path.glob("*.xml"))
    return path.suffix in (".xml", ".torchscript") or (
        path.suffix == ".onnx" and _document().METADATA_KEY not in _described(path)[2]
    )


def read(
    path: Path, imgsz: tuple[int, int] | None = None, task: str | None = None, layout: str | None = None
) -> ForeignModel:
    """Understand a foreign model.

    Args:
        path: an ONNX file, a TorchScript file, an IR's ``.xml`` or a folder with one.
        imgsz: (height, width) for a model that takes any.
        task: for a model that does not say.
        layout: what its outputs are, for a detector that lays them out in its own way (``Layout``).

    Raises:
        InputError: it is not laid out as the module's table says.
        UsageError: the task is needed, or another than the model's was given.
    """
    if path.suffix == ".onnx":
        inputs, outputs, metadata = _described(path)
        place, target = path, replace(targets.reference(), name="onnxruntime")
        said = _Said({key: _literal(text) for key, text in metadata.items()}, path)
    elif path.suffix == ".torchscript":
        with optional("running a TorchScript file", "train"):
            from edgekit.nn import scripted
        place, target = path, replace(targets.reference(), name="torchscript", opener=scripted.opener)
        inputs, outputs, found = scripted.describe(path, imgsz)
        said = _Said(found, path)
    else:
        place = _xml(path)
        target = replace(targets.get("ov-fp16"), name="openvino")
        assert target.describe is not None
        inputs, outputs = target.describe(place)
        said = _Said(_yaml(place.with_name("metadata.yaml")), place)
    image = _image(inputs, place, imgsz or said.imgsz())
    if layout is not None:
        return _laid_out(Layout.parse(layout, place), said, image, outputs, place, target)
    known = _task(said, task, outputs, place)
    outputs.sort(key=lambda port: len(port.shape))
    info = _info(known, said, image, outputs, place)
    inner = info.replace(outputs=tuple(Port(p.name, str(i), p.shape, p.dtype) for i, p in enumerate(outputs)))
    return ForeignModel(place, target, info, inner, bool(said.names()), said.keypoint_shape(known)[1])


def _laid_out(
    layout: Layout, said: _Said, image: Port, outputs: list[Port], path: Path, target: Target
) -> ForeignModel:
    """A detector whose outputs were described."""
    _, _, height, width = image.shape
    assert height and width
    names = said.names()
    classes = layout.classes([port.shape for port in outputs], len(names) if names else None)
    info = ModelInfo(
        task="detect",
        imgsz=(height, width),
        head=layout.head,
        names=names or tuple(str(i) for i in range(classes)),
        inputs=(image,),
        outputs=layout.ports(image.shape[0]),
        preprocess=tasks.get("detect").preprocess,
        license=said.license(),
    )
    inner = info.replace(outputs=tuple(Port(p.name, str(i), p.shape, p.dtype) for i, p in enumerate(outputs)))
    return ForeignModel(path, target, info, inner, bool(names), 0, layout)


class _Said:
    """What a model's metadata says, as far as it makes sense."""

    def __init__(self, metadata: Mapping[str, object], path: Path) -> None:
        self.metadata, self.path = metadata, path

    def task(self) -> str | None:
        text = self.metadata.get("task")
        return text if isinstance(text, str) and text else None

    def names(self) -> tuple[str, ...] | None:
        names = self.metadata.get("names")
        if isinstance(names, Mapping) and set(names) == set(range(len(names))):
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, (list, tuple)) or not names:
            return None
        return tuple(str(name) for name in names)

    def imgsz(self) -> tuple[int, int] | None:
        return self._pair("imgsz")

    def keypoint_shape(self, task: tasks.Task) -> tuple[int, int]:
        """(points, values each); (0, 0) for a task without."""
        return (self._pair("kpt_shape") or task.keypoint_shape or (0, 0)) if "keypoints" in task.roles else (0, 0)

    def license(self) -> str | None:
        text = self.metadata.get("license")
        return text if isinstance(text, str) else None

    def _pair(self, key: str) -> tuple[int, int] | None:
        value = self.metadata.get(key)
        if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(type(v) is int and v > 0 for v in value):
            return None
        return value[0], value[1]


def _literal(text: str) -> object:
    """A Python literal, as metadata writes names and sizes; other text stays text. Nothing is evaluated."""
    if len(text) > _MOST_BYTES:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text


def _yaml(path: Path) -> Mapping[str, object]:
    """The metadata beside an IR; empty where there is none."""
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path}: too big for metadata; export the model again")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as YAML; export the model again") from error
    return found if isinstance(found, Mapping) else {}


def _xml(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.xml"))
    if len(found) != 1:
        raise InputError(f"{path}: a folder with {len(found)} .xml files; give the one to run")
    return found[0]


def _document() -> ModuleType:
    with optional("reading an ONNX file", "onnx"):
        from edgekit.graph import document
    return document


def _described(path: Path) -> tuple[list[Port], list[Port], dict[str, str]]:
    found: tuple[list[Port], list[Port], dict[str, str]] = _document().describe(path)
    return found


def _image(inputs: list[Port], path: Path, imgsz: tuple[int, int] | None) -> Port:
    """The input, its size filled in where the model takes any."""
    port = inputs[0] if len(inputs) == 1 else None
    if port is None or len(port.shape) != 4 or port.shape[1] not in (3, None) or port.dtype not in _FLOATS:
        shapes = ", ".join(f"{p.name} {list(p.shape)} {p.dtype}" for p in inputs)
        raise InputError(f"{path}: takes {shapes or 'nothing'}, not one image [batch, 3, height, width] in float")
    batch, _, *own = port.shape
    if None in own and imgsz is None:
        raise UsageError(f"{path}: takes images of any size; say which with `imgsz`")
    height, width = (side or given for side, given in zip(own, imgsz or own, strict=True))
    return Port(port.name, "images", (batch, 3, height, width), port.dtype)


def _task(said: _Said, given: str | None, outputs: list[Port], path: Path) -> tasks.Task:
    own = said.task()
    if own is None and given is None:
        ranks = [len(port.shape) for port in outputs]
        own = {(2,): "classify", (3, 4): "segment", (4, 3): "segment"}.get(tuple(ranks))
        if own is None:
            raise UsageError(f"{path}: does not say what it does; say so with `task` ({', '.join(tasks.names())})")
    wanted = tasks.get(given or own or "")
    if own is not None and own not in (wanted.name, *wanted.aliases):
        raise UsageError(f"`task` {given}: {path} says that it is a {own} model")
    return wanted


def _info(task: tasks.Task, said: _Said, image: Port, outputs: list[Port], path: Path) -> ModelInfo:
    """The model in roles. ``outputs`` in order of their rank."""
    batch, _, height, width = image.shape
    assert height and width
    names = said.names()
    per_cell = _values_per_cell(task, said, outputs)
    cells = sum(math.ceil(height / s) * math.ceil(width / s) for s in _STRIDES) if task.detects else None
    decoded = bool(names) and task.roles == ("boxes", "scores") and outputs[0].shape[1:] == (cells, 6)
    finished = decoded or (task.detects and _is_finished(outputs, per_cell, cells))
    if finished and not names:
        raise InputError(f"{path}: gives finished detections, and no names that tell how many classes there are; "
                         "export it with its metadata")  # fmt: skip
    _check_outputs(task, names, outputs, per_cell, finished, cells, (height, width), path)
    count = outputs[0].shape[1] if finished else cells
    classes = len(names or ()) if finished else (outputs[0].shape[1] or 0) - per_cell
    shapes = {
        "boxes": (batch, count, 4),
        "rotated_boxes": (batch, count, 5),
        "scores": (batch, count) if finished else (batch, classes, count),
        "labels": (batch, count),
        "mask_coefficients": (batch, count, per_cell - 4),
        "mask_prototypes": outputs[-1].shape,
        "keypoints": (batch, count, said.keypoint_shape(task)[0], 3),
        "class_probabilities": (batch, classes),
    }
    roles = [*task.roles, "labels"] if finished else task.roles
    return ModelInfo(
        task=task.name,
        imgsz=(height, width),
        head="topk" if decoded else "nms" if finished else "raw",
        candidates=cells if decoded else None,
        names=names or tuple(str(i) for i in range(classes)),
        inputs=(image,),
        outputs=tuple(Port(role, role, shapes[role]) for role in roles),
        preprocess=task.preprocess,
        license=said.license(),
    )


def _is_finished(outputs: list[Port], per_cell: int, cells: int | None) -> bool:
    """Whether the first output is finished detections: score and class beside what a cell gives of them."""
    shape = outputs[0].shape
    return len(shape) == 3 and shape[2] == per_cell + 2 and cells not in shape[1:]


def _check_outputs(
    task: tasks.Task,
    names: tuple[str, ...] | None,
    outputs: list[Port],
    per_cell: int,
    finished: bool,
    cells: int | None,
    size: tuple[int, int],
    path: Path,
) -> None:
    """Raise InputError unless the outputs are as the module's table says."""
    wanted = f"[batch, values, {cells}]" if task.detects else "[batch, classes]"
    ranks = [3 if task.detects else 2] + [4] * ("mask_prototypes" in task.roles)
    values = outputs[0].shape[1] if [len(p.shape) for p in outputs] == ranks else None
    classes = (values or 0) - per_cell
    problem = None
    if any(p.dtype not in _FLOATS for p in outputs) or not values:
        problem = f"gives {wanted}{' and prototypes' * (len(ranks) - 1)}"
    elif finished:
        return
    elif cells and outputs[0].shape[2] not in (cells, None):
        problem = f"of {size[0]}x{size[1]} pixels gives {wanted}"
    elif classes < 1 or (names and len(names) != classes):
        problem = f"of {len(names or '1')} classes has {per_cell + len(names or '1')} values"
    if problem:
        given = " and ".join(str([d or "any" for d in p.shape]) for p in outputs)
        raise InputError(f"{path}: gives {given} where a {task.name} model {problem}; {_SAY}")


def _values_per_cell(task: tasks.Task, said: _Said, outputs: list[Port]) -> int:
    """Values of a candidate beside its classes."""
    if not task.detects:
        return 0
    if "mask_coefficients" in task.roles:
        return 4 + (outputs[-1].shape[1] or 0)
    return (5 if "rotated_boxes" in task.roles else 4) + math.prod(said.keypoint_shape(task))
