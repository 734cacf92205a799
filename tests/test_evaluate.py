"""`val`: the fixtures' recorded accuracy from every runtime, and what happens on the way there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit import metrics, targets
from edgekit.bundle.loading import open_session
from edgekit.data import open_dataset
from edgekit.errors import GateError, InputError, UsageError
from edgekit.graph.document import read_document
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Graph, ModelInfo, Port, Session, sha256_file
from edgekit.verify.evaluate import evaluate
from tests.test_models import CHECKPOINTS

TASKS = ["detect", "segment", "pose", "obb", "classify"]


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict:
    return json.loads((shared / "fixtures" / "expected.json").read_text())["val"]


def _agrees(found: dict, entry: dict) -> None:
    for key, value in entry["metrics"].items():
        assert found[key] == pytest.approx(value, abs=entry["tolerance"]), key


@pytest.mark.parametrize("protocol", metrics.PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
def test_checkpoints_have_the_recorded_accuracy(task: str, protocol: str, recorded: dict, shared: Path) -> None:
    entry = recorded[task]
    session = open_session(shared / "fixtures" / entry["checkpoint"], imgsz=entry["imgsz"])
    dataset = open_dataset(shared / "data" / entry["data"], task, names=session.info.names)
    found = evaluate(Predictor(session, batch=4), dataset, metrics.Options(protocol))
    assert found.images == len(dataset) and found.skipped == []
    _agrees(found.scores.metrics, entry)


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_artifacts_have_the_recorded_accuracy(
    task: str, target: str, recorded: dict, shared: Path, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    entry = recorded[task]
    path = exported(Path(entry["checkpoint"]).stem)
    info = ModelInfo.from_dict(read_document(path)["info"])
    backend = targets.get(target)
    backend.build(Graph(path, info, sha256_file(path)), tmp_path)
    predictor = Predictor(backend.open(tmp_path, info))
    dataset = open_dataset(shared / "data" / entry["data"], task, names=info.names)
    _agrees(evaluate(predictor, dataset).scores.metrics, entry)


def test_the_peers_protocol_is_exact_for_boxes(recorded: dict, shared: Path) -> None:
    """What is left of the difference when the protocol is the peer's: nothing at four decimals."""
    session = open_session(shared / "fixtures" / "yolo12n-bccd.pt")
    dataset = open_dataset(shared / "data" / "bccd" / "data.yaml", "detect", names=session.info.names)
    found = evaluate(Predictor(session, batch=4), dataset, metrics.Options("ultralytics")).scores.metrics
    assert found["map50_95"] == pytest.approx(recorded["detect"]["metrics"]["map50_95"], abs=2e-4)
    assert found["map50"] == pytest.approx(recorded["detect"]["metrics"]["map50"], abs=2e-4)


class Oracle(Session):
    """A session that knows where the one grey square of each image is: accuracy in closed form."""

    target = "oracle"

    def __init__(self, path: Path, batch: int | None = None) -> None:
        self.path, self.calls = path, 0
        self.info = ModelInfo(
            "detect",
            (64, 64),
            "raw",
            ("square",),
            (Port("images", "images", (batch, 3, 64, 64)),),
            (Port("boxes", "boxes", (batch, 1, 4)), Port("scores", "scores", (batch, 1, 1))),
        )

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.calls += len(batch)
        boxes = np.zeros((len(batch), 1, 4), np.float32)
        for i, image in enumerate(batch):
            ys, xs = np.nonzero(image[0] > 0.9)
            if len(xs):
                boxes[i, 0] = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        return {"boxes": boxes, "scores": np.full((len(batch), 1, 1), 0.8, np.float32)}

    def precision_by_type(self) -> dict[str, int]:
        return {}


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Ten 64 px images with a white square each, labels beside them."""
    rng = np.random.default_rng(0)
    for folder in ("images/val", "labels/val"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i in range(10):
        x, y, w, h = rng.integers([2, 2, 10, 10], [30, 30, 30, 30]).tolist()
        image = np.zeros((64, 64, 3), np.uint8)
        image[y : y + h, x : x + w] = 255
        cv2.imwrite(str(tmp_path / "set" / "images/val" / f"{i}.png"), image)
        row = ((x + w / 2) / 64, (y + h / 2) / 64, w / 64, h / 64)
        (tmp_path / "set" / "labels/val" / f"{i}.txt").write_text("0 " + " ".join(map(str, row)) + "\n")
    (tmp_path / "set" / "data.yaml").write_text("val: images/val\ntrain: images/val\nnames: [square]\n")
    return tmp_path / "set" / "data.yaml"


def _session(tmp_path: Path, batch: int | None = None) -> Session:
    (tmp_path / "model.bin").write_bytes(b"x")
    return Oracle(tmp_path / "model.bin", batch)


@pytest.mark.parametrize(("fixed", "batch"), [(None, 1), (None, 3), (4, None), (None, 16)])
def test_a_perfect_model_scores_one_at_any_batch(
    fixed: int | None, batch: int | None, squares: Path, tmp_path: Path
) -> None:
    found = evaluate(Predictor(_session(tmp_path, fixed), batch=batch), open_dataset(squares, "detect"))
    assert found.scores.metrics["map50_95"] == pytest.approx(1.0)
    assert found.images == 10
    assert [p["image_id"] for p in found.predictions] == sorted(p["image_id"] for p in found.predictions)


def test_a_session_of_two_streams_answers_two_batches_at_once(squares: Path, tmp_path: Path) -> None:
    class Paired(Oracle):
        streams, concurrent, both = 2, True, threading.Barrier(2)

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            self.both.wait(60)  # for another call, which raises where there is none
            return super().run(batch)

    _session(tmp_path)
    found = evaluate(Predictor(Paired(tmp_path / "model.bin"), batch=5), open_dataset(squares, "detect"))
    assert found.scores.metrics["map50_95"] == pytest.approx(1.0)
    assert [p["image_id"] for p in found.predictions] == sorted(p["image_id"] for p in found.predictions)


def test_a_failure_of_the_network_is_raised(squares: Path, tmp_path: Path) -> None:
    class Broken(Oracle):
        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            raise GateError(f"{self.path}: broken")

    _session(tmp_path)
    with pytest.raises(GateError, match="broken"):
        evaluate(Predictor(Broken(tmp_path / "model.bin")), open_dataset(squares, "detect"))


def test_an_unreadable_image_is_named_and_not_scored(squares: Path, tmp_path: Path) -> None:
    (squares.parent / "images/val" / "3.png").write_bytes(b"no picture")
    found = evaluate(Predictor(_session(tmp_path), batch=4), open_dataset(squares, "detect"))
    assert found.images == 9 and len(found.skipped) == 1 and "3.png" in found.skipped[0]
    assert found.scores.metrics["map50_95"] == pytest.approx(1.0)


def test_no_readable_image_is_one_sentence(squares: Path, tmp_path: Path) -> None:
    for path in (squares.parent / "images/val").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of its 10 images can be read"):
        evaluate(Predictor(_session(tmp_path)), open_dataset(squares, "detect"))


def test_classes_that_do_not_match_the_model(squares: Path) -> None:
    with pytest.raises(InputError, match="'square', which the model does not know"):
        open_dataset(squares, "detect", names=("cat", "dog"))


def test_an_unknown_protocol() -> None:
    with pytest.raises(UsageError, match="`protocol` mine: choose from coco, ultralytics"):
        metrics.Options("mine")


def test_all_fixtures_with_data_are_covered(recorded: dict) -> None:
    assert {f"{name}.pt" for name in CHECKPOINTS} - {e["checkpoint"] for e in recorded.values()} == {"yolo12n-turbo.pt"}
