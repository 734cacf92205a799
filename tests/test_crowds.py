"""More objects in an image than limits let through: nothing is lost without a word, and what to do is in it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import checkpoint, metrics, targets
from edgekit.bundle import build as building
from edgekit.bundle import crowding, loading
from edgekit.bundle.options import BuildOptions
from edgekit.checkpoint import catalog
from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError, TruncatedWarning, UsageError
from edgekit.graph.export import export
from edgekit.metrics.labels import Labels
from edgekit.metrics.limits import crowded
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.predictor import Predictor
from edgekit.spec import ModelInfo, Port, Session, anchors
from edgekit.tasks import ports
from edgekit.verify import parity
from edgekit.verify.evaluate import evaluate, score
from edgekit.verify.parity import generated_images
from tests.conftest import Run
from tests.networks import pictures, settled
from tests.test_postprocess import CLASSES, decoded, geometry, info, outputs
from tests.tiny import CANDIDATES, NAMES, SIZE, crowded_bundle

# ---- results ----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 1000), st.floats(0.02, 0.95), st.booleans(), st.integers(0, 5))
def test_enough_candidates_are_all_of_them(kept: int, conf: float, rotated: bool, seed: int) -> None:
    """With as many candidates as lie above the confidence, a topk head finds what the raw head does; with fewer it says
    so, and only then."""
    raw, options = outputs(200, seed, rotated), Options(conf)
    above = int((raw["scores"] > options.conf).sum())
    found = postprocess(decoded(raw, kept), info("topk"), [geometry()], options)[0]
    assert ("candidates" in found.truncated) == (kept <= above)
    if kept > above:
        assert found.to_dict() == postprocess(raw, info(), [geometry()], options)[0].to_dict()


def test_a_head_that_keeps_everything_cuts_nothing() -> None:
    everything = anchors((96, 128)) * CLASSES
    for kept, truncated in ((everything, ()), (everything - 1, ("candidates",))):
        found = postprocess(
            decoded(outputs(200), 1000), info("topk").replace(candidates=kept), [geometry()], Options(0.0)
        )
        assert found[0].truncated == truncated


def test_finished_detections_are_cut_where_none_is_below_the_confidence() -> None:
    arrays = decoded(outputs(20), 20)
    low = float(arrays["scores"].min())
    cut = [postprocess(arrays, info("nms"), [geometry()], Options(c))[0].truncated for c in (low - 1e-3, low + 1e-3)]
    assert cut == [("candidates",), ()]
    none = {role: array[:, :0] for role, array in arrays.items()}
    assert postprocess(none, info("nms"), [geometry()], Options(0.0))[0].truncated == ()


@pytest.mark.parametrize("head", ["raw", "topk"])
def test_more_objects_than_max_det(head: str) -> None:
    raw, g = outputs(200), geometry(96, 128)  # without padding, where boxes would lie that are not shown
    arrays = raw if head == "raw" else decoded(raw, 1000)
    every = postprocess(arrays, info(head), [g], Options(0.5, iou=0.4))[0]
    assert every.truncated == () and len(every) > 3
    for max_det in (len(every), len(every) - 1):
        found = postprocess(arrays, info(head), [g], Options(0.5, iou=0.4, max_det=max_det))[0]
        assert len(found) == max_det and found.truncated == (() if max_det == len(every) else ("max_det",))
        assert found.scores.tolist() == every.scores[:max_det].tolist()


# ---- predictors and the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crowded_bundle(tmp_path_factory.mktemp("crowd") / "bundle", "ov-fp32")


def test_a_predictor_warns_once_and_says_what_to_build(crowd: Path) -> None:
    image = np.zeros(SIZE, np.uint8)
    with loading.load(crowd) as model:
        with pytest.warns(TruncatedWarning, match=rf"{CANDIDATES} candidates .*--candidates {4 * CANDIDATES}"):
            assert model(image)[0].truncated == ("candidates",)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(model(image)[0]) == CANDIDATES
            assert model(image, conf=0.5)[0].truncated == ()
            assert model(image, max_det=5)[0].truncated == ("candidates", "max_det")  # as was asked for


def test_more_objects_than_the_head_can_give_are_refused(crowd: Path) -> None:
    for max_det in (CANDIDATES + 1, 1000):
        with pytest.raises(UsageError, match=rf"`max_det` {max_det}: .* {CANDIDATES} .*--candidates {5 * max_det} "):
            loading.load(crowd, max_det=max_det)
    loading.load(crowd, max_det=CANDIDATES).close()
    with loading.load(crowd) as model, pytest.raises(UsageError, match="`max_det` 41"):
        model(np.zeros(SIZE, np.uint8), max_det=41)


@pytest.mark.parametrize("change", [{"iou": 0.5}, {"agnostic": True}])
def test_suppression_inside_the_graph_cannot_be_changed(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"`{next(iter(change))}`.*`head` topk"):
        Options(**change).check(info("nms"))
    Options(**change).check(info("topk"))


def test_predict_counts_the_images_it_may_have_cut(crowd: Path, tmp_path: Path, run: Run) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((40, 60, 3), 80 * i, np.uint8))
    code, out, err = run("predict", crowd, tmp_path, "--json")
    assert code == 0 and [row["truncated"] for row in json.loads(out)] == [["candidates"]] * 3
    assert f"3 images: all {CANDIDATES} candidates" in err and err.count("note:") == 1
    code, out, err = run("predict", crowd, tmp_path, "--json", "--conf", "0.5")
    assert code == 0 and "truncated" not in out and "note" not in err
    code, _, err = run("predict", crowd, tmp_path, "--json", "--max-det", "1000")
    assert code == 2 and "--max-det 1000" in err and "--candidates 5000" in err


# ---- how many a head keeps --------------------------------------------------------------------------------------


def test_the_default_grows_with_the_size() -> None:
    assert [ports.default_candidates((side, side)) for side in (320, 640, 1280)] == [500, 1000, 2000]
    sides = range(32, 4097, 32)
    defaults = [ports.default_candidates((side, side)) for side in sides]
    assert defaults == sorted(defaults) and defaults[0] == 300 and defaults[-1] == 3840


@pytest.mark.parametrize(
    ("head", "given", "kept"),
    [("topk", 7, 7), ("topk", None, 300), ("topk", 10**6, 3 * 252), ("nms", 10**6, 252), ("raw", None, None)],
)
def test_a_head_keeps_what_is_asked_for_and_never_more_than_there_is(
    head: str, given: int | None, kept: int | None
) -> None:
    made = ports.info(catalog.spec("yolo12n", classes=3), ("a", "b", "c"), (96, 128), 1, None, head, given)
    assert made.candidates == kept and made.cuts == (kept in (7, 300))
    rows = {p.role: p.shape[1] for p in made.outputs}["boxes"]
    assert rows == {"topk": kept, "nms": None, "raw": 252}[head]
    assert ModelInfo.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert ("candidates" in made.to_dict()) == (head != "raw")


def test_an_older_bundle_says_by_its_shapes_how_many_it_keeps(crowd: Path) -> None:
    document = read_bundle(crowd).info.to_dict()
    del document["candidates"]
    assert ModelInfo.from_dict(document).candidates == CANDIDATES


@pytest.mark.parametrize(("head", "task"), [("raw", "yolo12n"), ("topk", "yolo12n-cls")])
def test_candidates_of_what_has_none_are_refused(head: str, task: str) -> None:
    with pytest.raises(UsageError, match="`candidates` 500"):
        ports.info(catalog.spec(task, classes=1), ("a",), (64, 64), head=head, candidates=500)


@pytest.mark.parametrize(
    ("head", "candidates", "says"), [("nms", None, "`head` nms"), ("topk", 4000, "`candidates` 4000: .* 3840")]
)
def test_what_tensorrt_cannot_do_is_refused_before_the_export(
    head: str, candidates: int | None, says: str, tmp_path: Path
) -> None:
    if targets.get("trt-rtx-fp16").missing():
        pytest.skip("needs tensorrt-rtx")
    with pytest.raises(UsageError, match=says):
        building.build(
            tmp_path / "absent.pt", "trt-rtx-fp16", tmp_path / "out", BuildOptions(head=head, candidates=candidates)
        )


def random_network(name: str, folder: Path) -> Path:
    """A network of three classes whose answers depend on the image."""
    made = settled(name, pictures((96, 96)), {"scores": 1e-3}, names=("a", "b", "c"))
    return checkpoint.save(made, folder / f"{name}.pt")


def test_a_bundle_of_few_candidates_and_the_file_it_came_from(tmp_path: Path) -> None:
    model = random_network("yolo12n", tmp_path)
    path = export(checkpoint.load(model), tmp_path / "m.onnx", head="topk", candidates=25).path
    with pytest.raises(InputError, match="exported with 25 candidates; .* `candidates` 60"):
        building.build(path, "ort-fp32", tmp_path / "out", BuildOptions(candidates=60))
    built = building.build(path, "ov-fp32", tmp_path / "out", BuildOptions(candidates=25))
    assert built.info.candidates == 25 == built.manifest["candidates"]
    image = generated_images(1, side=96)[0]
    want, have = (loading.load(p, conf=0.0)(image)[0] for p in (model, built.path))
    assert have.truncated == ("candidates",) and want.truncated == ()
    # Every cell of the network sees something at confidence 0; the best of them are there.
    np.testing.assert_allclose(have.scores[:5], want.scores[:5], atol=1e-3)


@pytest.mark.parametrize(
    "name", ["yolo12n", *(pytest.param(n, marks=pytest.mark.slow) for n in ("yolo12n-seg", "yolo12n-pose"))]
)
def test_finished_detections_build_and_answer_as_the_checkpoint(name: str, tmp_path: Path) -> None:
    """``--head nms``; that oriented boxes have none is in test_heads.py, and a classifier is what it is."""
    model = random_network(name, tmp_path)
    built = building.build(model, "ov-fp32", tmp_path / "out", BuildOptions(head="nms"))
    assert built.info.head == "nms" and all(row["pass"] for row in built.manifest["parity"].values())
    image = generated_images(1, side=96)[0]
    want, have = (loading.load(p, conf=0.0)(image)[0] for p in (model, built.path))
    assert len(want) > 0 and abs(len(want) - len(have)) <= 2
    few = min(len(want), len(have), 5)
    np.testing.assert_allclose(have.scores[:few], want.scores[:few], atol=1e-3)


def sides(rows: list[list[float]], scores: list[float]) -> Any:
    """A session of finished detections that does not look at its input."""
    arrays = {
        "boxes": np.array([rows], np.float32).reshape(1, -1, 4),
        "scores": np.array([scores], np.float32),
        "labels": np.zeros((1, len(scores)), np.int64),
    }
    return SimpleNamespace(info=info("nms"), path=Path("x"), run=lambda batch: {k: v.copy() for k, v in arrays.items()})


@pytest.mark.parametrize(
    ("shift", "score", "passes"),
    [(17.7, 0.5, True), (2.0, 0.5, False), (500.0, 0.5, False), (500.0, 0.2001, True)],
    ids=["overlaps as much as is allowed", "a duplicate", "another object", "the last of the candidates"],
)
def test_what_rounding_decides_in_suppression_is_no_fault(shift: float, score: float, passes: bool) -> None:
    one, low = [0.0, 0.0, 100.0, 100.0], [800.0, 800.0, 900.0, 900.0]
    more = [shift, 0.0, 100.0 + shift, 100.0]
    few, many = sides([one, low], [0.9, 0.2]), sides([one, more, low], [0.9, score, 0.2])
    for a, b in ((few, many), (many, few)):
        report = parity.compare(a, b, [np.zeros((1, 3, 96, 128), np.float32)])
        assert all(row["pass"] for row in report.values()) == passes


# ---- sets -------------------------------------------------------------------------------------------------------


def dataset(counts: list[int], folder: Path, task: str = "detect") -> Dataset:
    """Images with so many objects of one class each, on a grid."""
    samples = []
    for number, count in enumerate(counts, 1):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.zeros((200, 300, 3), np.uint8))
        places = np.stack(np.meshgrid(np.arange(20), np.arange(20)), -1).reshape(-1, 2)[:count] * 10.0
        labels = Labels(
            classes=np.zeros(count, np.int64),
            boxes=np.concatenate([places, places + 8], 1),
            crowd=np.zeros(count, bool),
            area=np.full(count, 64.0),
            size=(300.0, 200.0),
        )
        samples.append(Sample(path, number, labels, 300, 200))
    return Dataset(task, ("cell",), tuple(samples), folder / "data.yaml", "val")


def found_in(data: Dataset) -> list[dict[str, Any]]:
    """Every object, found exactly."""
    return [
        {"image_id": s.image_id, "category_id": 0, "bbox": [x, y, x2 - x, y2 - y], "score": 0.9 - i / 1000}
        for s in data.samples
        for i, (x, y, x2, y2) in enumerate(s.labels.boxes.tolist())
    ]


def test_objects_beyond_cocos_hundred_count_where_they_are_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    data = dataset([150, 10], tmp_path)
    usual, all_of_them = (score(data, found_in(data), metrics.Options(max_det=n)) for n in (None, 150))
    assert usual.metrics["map50"] < 0.75 and "at most 100 detections" in usual.protocol
    assert all_of_them.metrics["map50"] == pytest.approx(1, abs=1e-6) and "at most 150" in all_of_them.protocol


@pytest.mark.parametrize(
    ("options", "max_det", "says"),
    [
        (metrics.Options(), 300, ["2 images hold more than 100 .*the most: 350", "1 image holds more than 300"]),
        (metrics.Options("ultralytics"), 300, ["1 image holds more than 300 .*--max-det 350"]),
        (metrics.Options(max_det=350), 350, []),
    ],
)
def test_limits_that_labelled_objects_exceed_are_said(
    options: metrics.Options, max_det: int, says: list[str], tmp_path: Path
) -> None:
    import re

    sentences = crowded(dataset([350, 120, 3], tmp_path), max_det, options)
    assert len(sentences) == len(says)
    assert all(any(re.search(pattern, sentence) for sentence in sentences) for pattern in says)


def test_an_evaluation_says_what_the_head_cut_off(crowd: Path, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    data = dataset([30, 2], tmp_path).with_names(("cell",))
    data = Dataset("detect", NAMES, data.samples, data.source, "val")
    with loading.load(crowd) as model:
        found = evaluate(model, data)
    assert len(found.notes) == 1 and f"in 2 of 2 images all {CANDIDATES} candidates" in found.notes[0]
    assert found.to_dict()["notes"] == found.notes
    with loading.load(crowd) as model, pytest.raises(UsageError, match="`max_det` 500"):
        evaluate(model, data, metrics.Options(max_det=500))


class Heaps(Session):
    """A session with a raw head that answers every object of a grid from four cells, two of them above 0.25."""

    target, path = "fake", Path("x")

    def __init__(self, objects: int) -> None:
        places = np.stack(np.meshgrid(np.arange(8), np.arange(5)), -1).reshape(-1, 2)[:objects] * 12.0
        boxes = (
            np.repeat(np.concatenate([places, places + 10], 1), 4, 0) + np.tile([0, 0.1, 0.2, 0.3], objects)[:, None]
        )
        self.arrays = {
            "boxes": boxes[None].astype(np.float32),
            "scores": np.tile(np.float32([0.8, 0.5, 0.2, 0.1]), objects)[None, None],
        }
        shapes = tuple(Port(role, role, v.shape) for role, v in self.arrays.items())
        self.info = ModelInfo("detect", SIZE, "raw", ("cell",), (Port("images", "images", (1, 3, *SIZE)),), shapes)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {role: v.copy() for role, v in self.arrays.items()}


def test_a_sets_crowding_is_its_fullest_image_times_what_an_object_answers_with(tmp_path: Path) -> None:
    found = crowding.measure(Heaps(20), [dataset([3, 260, *[1] * 20], tmp_path), dataset([40], tmp_path)])  # type: ignore[arg-type]
    assert found is not None
    assert (found.objects, found.an_object, found.images) == (260, 2.0, crowding.IMAGES)
    assert found.candidates == 1100 == found.to_dict()["candidates"]  # 2 · 260 · 2.0, up to a hundred
    unlabelled = crowding.measure(Heaps(20), [dataset([0] * 30, tmp_path)])  # type: ignore[arg-type]
    assert unlabelled is not None and (unlabelled.objects, unlabelled.an_object) == (20, 2.0)
    assert crowding.measure(Heaps(0), [dataset([0], tmp_path)]) is None  # type: ignore[arg-type]


def test_a_predictor_of_the_raw_head_loses_nothing() -> None:
    with Predictor(Heaps(40), Options(max_det=1000)) as model:  # type: ignore[arg-type]
        assert len(model(np.zeros(SIZE, np.uint8))[0]) == 40
