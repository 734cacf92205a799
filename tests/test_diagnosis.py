"""What is wrong with a file or with a program's detections: twelve planted faults, each named, and sound files pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import shapeset
from edgekit.errors import InputError, UsageError
from edgekit.spec import Graph

torch = pytest.importorskip("torch")

SIZE = 192
CLASSES = len(shapeset.NAMES)
Pictures = Sequence[tuple[str, np.ndarray]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    from edgekit import checkpoint
    from edgekit.graph import export

    out = tmp_path_factory.mktemp("diagnosis") / "shapes.onnx"
    return export.export(checkpoint.load(shapeset.CHECKPOINT), out, imgsz=(SIZE, SIZE), head="raw", batch=1)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    scenes = [shapeset.draw_scene(np.random.default_rng((7, i)), SIZE) for i in range(3)]
    return [(f"{i}.jpg", scene.image[: SIZE * 3 // 4]) for i, scene in enumerate(scenes)]


class Theirs:
    """The exported graph in the layout of Ultralytics' exports, ``[1, 4 + C, N]``, to be tampered with."""

    def __init__(self, graph: Graph) -> None:
        self.model = onnx.load(graph.path)
        del self.model.metadata_props[:]
        self.graph = self.model.graph
        self.boxes, self.scores = (
            next(o.name for o in self.graph.output if o.name == role) for role in ("boxes", "scores")
        )
        self.name(task="detect", names=dict(enumerate(shapeset.NAMES)))

    def name(self, **metadata: object) -> None:
        helper.set_model_props(self.model, {key: str(value) for key, value in metadata.items()})

    def add(self, kind: str, *inputs: str | np.ndarray, **attributes: object) -> str:
        """A node at the end; its output's name."""
        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                name = f"extra{len(self.graph.initializer)}"
                self.graph.initializer.append(numpy_helper.from_array(value, name))
                value = name
            names.append(value)
        made = f"made{len(self.graph.node)}"
        self.graph.node.append(helper.make_node(kind, names, [made], **attributes))
        return made

    def before(self, kind: str, *constants: np.ndarray, **attributes: object) -> None:
        """A node between the input and all that reads it."""
        name = self.graph.input[0].name
        for node in self.graph.node:
            node.input[:] = ["seen" if each == name else each for each in node.input]
        made = [f"before{i}" for i in range(len(constants))]
        self.graph.initializer.extend(numpy_helper.from_array(c, n) for c, n in zip(constants, made, strict=True))
        self.graph.node.insert(0, helper.make_node(kind, [name, *made], ["seen"], **attributes))

    def centres(self) -> str:
        first, second = self.add("Split", self.boxes, axis=2, num_outputs=2), "sides"
        self.graph.node[-1].output.append(second)
        centre = self.add("Mul", self.add("Add", first, second), np.float32(0.5).reshape(1))
        return self.add("Concat", centre, self.add("Sub", second, first), axis=2)

    def save(self, path: Path, boxes: str | None = None) -> Path:
        """Written as ``[1, 4 + C, N]``, boxes as centre and size."""
        rows = self.add("Transpose", boxes or self.centres(), perm=[0, 2, 1])
        made = self.add("Concat", rows, self.scores, axis=1)
        return self.finish(path, {made: (1, 4 + CLASSES, None)})

    def finish(self, path: Path, outputs: dict[str, tuple[int | None, ...]]) -> Path:
        cells = sum((SIZE // s) ** 2 for s in (8, 16, 32))
        del self.graph.output[:]
        for name, shape in outputs.items():
            sides = [cells if side is None else side for side in shape]
            self.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))
        onnx.save(self.model, path)
        return path


def words(theirs: Path, pictures: Pictures, **how: object) -> list[str]:
    from edgekit.bundle.external.referee import diagnose

    return [finding.word for finding in diagnose(theirs, shapeset.CHECKPOINT, pictures, **how).findings]


def test_a_sound_file_passes(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    assert words(Theirs(exported).save(tmp_path / "m.onnx"), pictures) == []


@pytest.mark.slow
def test_a_sound_ir_passes_in_whatever_executes_it(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    """In bf16, by OpenVINO's own choice, on processors that have it."""
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.convert_model(Theirs(exported).save(tmp_path / "m.onnx")), tmp_path / "ir" / "m.xml")
    told = {"task": "detect", "names": list(shapeset.NAMES)}
    (tmp_path / "ir" / "metadata.yaml").write_text(json.dumps(told), encoding="utf-8")
    assert words(tmp_path / "ir", pictures) == []


def plant_order(theirs: Theirs) -> None:
    theirs.before("Gather", np.array([2, 1, 0]), axis=1)


def plant_pixels(theirs: Theirs) -> None:
    theirs.before("Mul", np.float32(1 / 255).reshape(1))


def plant_undivided(theirs: Theirs) -> None:
    theirs.before("Mul", np.float32(255).reshape(1))


def plant_imagenet(theirs: Theirs) -> None:
    deviation, mean = ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406])
    theirs.before("Mul", 1 / np.array(deviation, np.float32)[:, None, None])
    first = theirs.graph.node[0]
    theirs.graph.initializer.append(numpy_helper.from_array(np.array(mean, np.float32)[:, None, None], "mean"))
    theirs.graph.node.insert(0, helper.make_node("Sub", [first.input[0], "mean"], ["moved"]))
    theirs.graph.node[1].input[0] = "moved"


def plant_once_more(theirs: Theirs) -> None:
    theirs.scores = theirs.add("Sigmoid", theirs.scores)


def plant_never(theirs: Theirs) -> None:
    odds = theirs.add("Div", theirs.scores, theirs.add("Sub", np.float32(1).reshape(1), theirs.scores))
    theirs.scores = theirs.add("Log", theirs.add("Max", odds, np.float32(1e-30).reshape(1)))


def plant_classes(theirs: Theirs) -> None:
    theirs.scores = theirs.add("Gather", theirs.scores, np.array([1, 0, 2, 4, 3]), axis=1)


def plant_attention(theirs: Theirs) -> None:
    """One attention looks at nothing: its Softmax, or the fused operator's output, is scaled away."""
    nodes = list(theirs.graph.node)
    at = next(i for i, node in enumerate(nodes) if node.op_type == "Softmax")
    softmax = nodes[at]
    result = softmax.output[0]
    softmax.output[0] = "weights"
    theirs.graph.initializer.append(numpy_helper.from_array(np.float32(0.1).reshape(1), "tenth"))
    theirs.graph.node.insert(at + 1, helper.make_node("Mul", ["weights", "tenth"], [result]))


def plant_precision(theirs: Theirs) -> None:
    """Weights of five bits, as a careless quantizer leaves them."""
    for tensor in theirs.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            step = np.abs(values).max() / 40
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / step) * step).astype(values.dtype), tensor.name))


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (plant_order, "channel order"),
        (plant_pixels, "normalisation"),
        pytest.param(plant_undivided, "normalisation", marks=pytest.mark.slow),
        pytest.param(plant_imagenet, "normalisation", marks=pytest.mark.slow),
        (plant_once_more, "sigmoid"),
        pytest.param(plant_never, "sigmoid", marks=pytest.mark.slow),
        (plant_classes, "class order"),
        pytest.param(plant_precision, "precision", marks=pytest.mark.slow),
    ],
)
def test_a_fault_in_a_file_is_named(
    plant: Callable[[Theirs], None], word: str, exported: Graph, pictures: Pictures, tmp_path: Path
) -> None:
    theirs = Theirs(exported)
    plant(theirs)
    assert words(theirs.save(tmp_path / "m.onnx"), pictures) == [word]


@pytest.mark.parametrize("form", ["corners", "fractions"])
def test_boxes_in_another_form(form: str, exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    theirs = Theirs(exported)
    boxes = theirs.boxes if form == "corners" else theirs.add("Mul", theirs.centres(), np.float32(1 / SIZE).reshape(1))
    assert words(theirs.save(tmp_path / "m.onnx", boxes), pictures) == ["box format"]


def test_the_attention_that_is_another(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    from edgekit.bundle.external.referee import diagnose

    theirs = Theirs(exported)
    plant_attention(theirs)
    [finding] = diagnose(theirs.save(tmp_path / "m.onnx"), shapeset.CHECKPOINT, pictures).findings
    assert "attention" in finding.word and "stage 6" in finding.word
    assert finding.path is not None and finding.path.startswith("model.6.m.0.0.attn")


@pytest.mark.slow
def test_weights_of_another_network(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    theirs = Theirs(exported)
    rng = np.random.default_rng(0)
    for tensor in theirs.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            shuffled = rng.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(shuffled, tensor.name))
    assert words(theirs.save(tmp_path / "m.onnx"), pictures) == ["weights"]


@pytest.mark.slow
def test_two_faults_at_once(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    theirs = Theirs(exported)
    plant_order(theirs)
    plant_classes(theirs)
    assert words(theirs.save(tmp_path / "m.onnx"), pictures) == ["channel order", "class order"]


# ---- what a program made of it --------------------------------------------------------------------------------------


def detections(path: Path, pictures: Pictures, fit: Callable | None = None, **options: object) -> Path:
    """Detections by PyTorch in COCO's results form, as a program would write them."""
    from edgekit.bundle.loading import open_session
    from edgekit.runtime.image import letterbox, to_input
    from edgekit.runtime.options import Options
    from edgekit.runtime.postprocess import postprocess

    session, rows = open_session(shapeset.CHECKPOINT, imgsz=SIZE), []
    for name, image in pictures:
        canvas, geometry = (fit or letterbox)(image, (SIZE, SIZE))
        result = postprocess(session.run(to_input([canvas])), session.info, [geometry], Options(**options))[0]
        assert result.boxes is not None and result.scores is not None and result.labels is not None
        for (x1, y1, x2, y2), score, label in zip(
            result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": Path(name).stem, "category_id": label, "bbox": box, "score": score})
    path.write_text(json.dumps(rows))
    return path


def test_a_sound_program_passes(pictures: Pictures, tmp_path: Path) -> None:
    assert words(detections(tmp_path / "d.json", pictures), pictures, imgsz=(SIZE, SIZE)) == []


def test_a_program_that_stretches(pictures: Pictures, tmp_path: Path) -> None:
    from edgekit.runtime.image import Geometry

    def stretched(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Geometry]:
        height, width = image.shape[:2]
        return cv2.resize(image, size[::-1]), Geometry(height, width, size[1] / width, size[0] / height, 0, 0)

    made = detections(tmp_path / "d.json", pictures, stretched)
    assert words(made, pictures, imgsz=(SIZE, SIZE)) == ["letterbox"]


@pytest.mark.parametrize(
    ("options", "word"), [({"conf": 0.8}, "threshold"), ({"iou": 1.0}, "NMS"), ({"max_det": 2}, "threshold")]
)
def test_what_a_program_keeps(options: dict, word: str, pictures: Pictures, tmp_path: Path) -> None:
    made = detections(tmp_path / "d.json", pictures, **options)
    assert words(made, pictures, imgsz=(SIZE, SIZE)) == [word]


def test_labels_that_begin_at_one(pictures: Pictures, tmp_path: Path) -> None:
    made = detections(tmp_path / "d.json", pictures)
    rows = json.loads(made.read_text())
    made.write_text(json.dumps([row | {"category_id": row["category_id"] + 1} for row in rows]))
    assert words(made, pictures, imgsz=(SIZE, SIZE)) == ["class order"]


def test_corners_where_sizes_are_expected(pictures: Pictures, tmp_path: Path) -> None:
    made = detections(tmp_path / "d.json", pictures)
    rows = json.loads(made.read_text())
    for row in rows:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]
    made.write_text(json.dumps(rows))
    assert words(made, pictures, imgsz=(SIZE, SIZE)) == ["box format"]


# ---- forms, and bad input ------------------------------------------------------------------------------------------


def test_outputs_described_in_a_line(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    theirs = Theirs(exported)
    path = theirs.finish(tmp_path / "m.onnx", {theirs.boxes: (1, None, 4), theirs.scores: (1, CLASSES, None)})
    assert words(path, pictures, outputs="xyxy; scores") == []
    assert words(path, pictures, outputs="cxcywh; scores") == ["box format"]
    for text in ("xyxy", "xyxy; scores; nms", "xyxy; colours", "xyxy; xyxy; scores"):
        with pytest.raises(UsageError):
            words(path, pictures, outputs=text)
    with pytest.raises(InputError):
        words(path, pictures, outputs="xyxy, score, label")


def test_cells_decoded_one_by_one(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    """[1, N, 6]: corners, the best class's score, the class, as DeepStream's parsers take it."""
    theirs = Theirs(exported)
    axes = np.array([1])
    score = theirs.add("ReduceMax", theirs.scores, axes, keepdims=1)
    label = theirs.add("Cast", theirs.add("ArgMax", theirs.scores, axis=1, keepdims=1), to=TensorProto.FLOAT)
    rows = theirs.add("Transpose", theirs.add("Concat", score, label, axis=1), perm=[0, 2, 1])
    path = theirs.finish(tmp_path / "m.onnx", {theirs.add("Concat", theirs.boxes, rows, axis=2): (1, None, 6)})
    assert words(path, pictures) == []


def test_torchscript_answers_as_the_checkpoint_does(pictures: Pictures, tmp_path: Path) -> None:
    from edgekit import checkpoint
    from edgekit.nn.blocks import fuse

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = fuse(checkpoint.load(shapeset.CHECKPOINT).net).eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            roles = self.net(x)
            low, high = roles["boxes"].chunk(2, 2)
            return torch.cat([torch.cat([(low + high) / 2, high - low], 2).transpose(1, 2), roles["scores"]], 1)

    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(Flat(), torch.zeros(1, 3, SIZE, SIZE), check_trace=False)
    about = {"task": "detect", "names": dict(enumerate(shapeset.NAMES)), "imgsz": [SIZE, SIZE], "batch": 1}
    path = tmp_path / "m.torchscript"
    torch.jit.save(traced, str(path), _extra_files={"config.txt": json.dumps(about)})
    assert words(path, pictures) == []
    path.write_bytes(b"no TorchScript")
    with pytest.raises(InputError):
        words(path, pictures)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"image_id": 1}]', '[{"image_id": "9", "bbox": [1, 2, 3, 4], '
                                  '"score": 1, "category_id": 0}]'])  # fmt: skip
def test_no_detections_of_these_pictures(text: str, pictures: Pictures, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(InputError):
        words(path, pictures)


def test_a_checkpoint_of_other_classes(exported: Graph, pictures: Pictures, tmp_path: Path) -> None:
    theirs = Theirs(exported)
    theirs.name(task="detect", names={i: f"other {i}" for i in range(CLASSES)})
    with pytest.raises(UsageError):
        words(theirs.save(tmp_path / "m.onnx"), pictures)
