"""Where two models part: planted faults are caught, and the right stage is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import conformance as making
from edgekit import checkpoint, targets
from edgekit.bundle import build as building
from edgekit.bundle import compare, conformance
from edgekit.checkpoint import catalog
from edgekit.errors import GateError, InputError, UsageError
from edgekit.graph.document import read_document
from edgekit.graph.export import export
from edgekit.nn import layers
from edgekit.nn.session import TorchSession
from edgekit.runtime.image import prepare
from edgekit.spec import ModelInfo, Port, Preprocess, Session
from edgekit.verify import parity, stages
from edgekit.verify.rounding import FACTORS
from tests.networks import noise, settled

SIZE = (64, 64)


class Fixed(Session):
    """Answers the same whatever it is asked."""

    target, path = "fixed", Path("x")

    def __init__(self, outputs: dict[str, np.ndarray], head: str = "raw") -> None:
        self.info = ModelInfo("detect", SIZE, head, ("a",), (), ())
        self.outputs = outputs

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs


@pytest.fixture(scope="module")
def model(batch: np.ndarray) -> checkpoint.Checkpoint:
    """A classifier whose BatchNorms have seen what it is fed here, so that its stages carry signal. The attention
    that will be wrong moves the answers by more than the thousandth that is allowed between two graphs."""

    images = prepare(parity.generated_images(2, side=80), SIZE, Preprocess(mode="centre_crop"))[0]

    def telling(net: nn.Module) -> None:
        net.get_submodule("model.9").linear.weight.data *= 4
        net.get_submodule("model.6.m.1.1.attn.proj").bn.weight.data *= 4
        with torch.no_grad():  # no class is certain, or nothing moves it
            logs = net(torch.from_numpy(images))["class_probabilities"].log()
            net.get_submodule("model.9").linear.bias -= logs.mean(0)

    return settled("yolo12n-cls", np.concatenate([batch, images]), 1e-4, ("a", "b", "c"), plant=telling)


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return noise(1, 3, *SIZE, seed=2)


def _faulty(model: checkpoint.Checkpoint, plant: Callable[[nn.Module], None], folder: Path) -> Path:
    bad = copy.deepcopy(model)
    plant(bad.net)
    return export(bad, folder / "faulty.onnx").path


def _flip_weight(net: nn.Module) -> None:
    weight = net.get_submodule("model.8.m.1.0.mlp.0").conv.weight
    weight.data.view(-1)[weight.abs().argmax()] *= -1


def _wrong_scale(net: nn.Module) -> None:
    attention = net.get_submodule("model.6.m.1.1.attn")

    class Scaled(nn.Module):
        def __init__(self, core: nn.Module) -> None:
            super().__init__()
            self.core, self.area = core, core.area

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.core(q * 20, k, v)

    attention.core = Scaled(attention.core)


def _shift_bias(net: nn.Module) -> None:
    net.get_submodule("model.3").bn.bias.data += 0.1


FAULTS = {
    "one weight flipped": (_flip_weight, "stage 8, block 3, MLP, convolution 1"),
    "one attention's scale wrong": (_wrong_scale, "stage 6, block 4, attention"),
    "a bias shifted": (_shift_bias, "stage 3"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(fault: str, model: checkpoint.Checkpoint, batch: np.ndarray, tmp_path: Path) -> None:
    plant, expected = FAULTS[fault]
    path = _faulty(model, plant, tmp_path)
    session = targets.get("ort-fp32").open(path, model.info())
    reference = TorchSession(model.net, model.info(), fold=False)
    found = stages.first_difference(reference, session, batch, read_document(path)["stages"])
    assert found is not None and found["words"] == expected
    assert found["error"] > 8 * found["error_before"]


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32", "ov-fp16"])
def test_faithful_artifacts_have_no_such_stage(
    target: str, model: checkpoint.Checkpoint, batch: np.ndarray, tmp_path: Path
) -> None:
    graph = export(model, tmp_path / "model.onnx")
    backend = targets.get(target)
    backend.build(graph, tmp_path)
    session = backend.open(tmp_path, graph.info)
    reference = TorchSession(model.net, model.info(), fold=False)
    assert stages.first_difference(reference, session, batch, graph.provenance["stages"]) is None


def test_a_failed_build_says_where(
    model: checkpoint.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule that lowers attention mistaken by a sign: the build stops and names the first attention."""
    from edgekit.nn import attention

    honest = attention.area_attention

    def mistaken(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, area: int) -> torch.Tensor:
        return honest(-q if attention.captured() else q, k, v, area)

    monkeypatch.setattr(attention, "area_attention", mistaken)
    path = checkpoint.save(model, tmp_path / "model.pt")
    with pytest.raises(GateError, match=r"first at stage 6, block 1, attention \(model.6.m.0.0.attn.core\)") as caught:
        building.build(path, "ort-fp32", tmp_path / "out")
    assert caught.value.evidence["stage"]["path"] == "model.6.m.0.0.attn.core"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("model.0", "stage 0"),
        ("model.6.m.0.1.attn.proj", "stage 6, block 2, attention, projection"),
        ("model.6.m.3.0.mlp.1", "stage 6, block 7, MLP, convolution 2"),
        ("model.6.m.1.1", "stage 6, block 4"),
        ("model.11.m.0.m.1.cv2", "stage 11, block 1, inner block 2, convolution 2"),
        ("model.21.cv3.1.2", "stage 21 (head), class branch at stride 16, convolution 3"),
        ("model.4.cv1", "stage 4, convolution 1"),
    ],
)
def test_paths_in_words(path: str, said: str) -> None:
    assert layers.words(path) == said


def test_permuted_channels_are_the_same_stage() -> None:
    class Fake(Session):
        target = "ort-fp32"

        def __init__(self, values: dict[str, np.ndarray]) -> None:
            self.values = values

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            return {}

        def intermediates(self, batch: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
            return {n: self.values[n] for n in names}

        def precision_by_type(self) -> dict[str, int]:
            return {"f32": 1}

    x = np.random.default_rng(0).standard_normal((1, 8, 4, 4))
    honest, permuted = Fake({"a.b": x, "a": x}), Fake({"a.b": x[:, ::-1], "a": x})
    order = [("a.b", "a.b"), ("a", "a")]
    assert stages.first_difference(honest, permuted, x, order) is None
    off = Fake({"a.b": x * 1.1, "a": x * 1.1})
    assert stages.first_difference(honest, off, x, order)["path"] == "a.b"
    folded = Fake({"a.b": x * 0.2, "a": x})  # a scale moved: inside differs, the whole agrees
    assert stages.first_difference(honest, folded, x, order) is None


def test_compare_finds_equal_models_equal_and_names_the_fault(model: checkpoint.Checkpoint, tmp_path: Path) -> None:
    path = checkpoint.save(model, tmp_path / "model.pt")
    graph = export(model, tmp_path / "good.onnx").path
    images = parity.generated_images(2, side=80)
    report = compare.compare(path, graph, images)
    assert report["roles"]["class_probabilities"]["pass"] and report["stage"] is None
    assert report["detections"] == {"images": 2, "same_top1": 2, "max_probability": pytest.approx(0, abs=1e-4)}
    bad = compare.compare(path, _faulty(model, _wrong_scale, tmp_path), images)
    assert bad["stage"]["words"] == "stage 6, block 4, attention"
    both = compare.compare(graph, tmp_path / "faulty.onnx", images)
    assert both["stage"]["words"] == "stage 6, block 4, attention"


def test_compare_refuses_models_that_answer_other_questions(model: checkpoint.Checkpoint, tmp_path: Path) -> None:
    first = checkpoint.save(model, tmp_path / "a.pt")
    other = checkpoint.new(catalog.spec("yolo12n-cls", classes=2), ("x", "y"), imgsz=64)
    second = checkpoint.save(other, tmp_path / "b.pt")
    with pytest.raises(UsageError, match="different classes"):
        compare.compare(first, second, parity.generated_images(1))


def _rows(scores: list[float], boxes: list[list[float]], labels: list[int]) -> dict[str, np.ndarray]:
    return {"scores": np.array(scores), "boxes": np.array(boxes, float), "labels": np.array(labels)}


def test_candidates_are_paired_by_label_and_place() -> None:
    want = _rows([0.9, 0.5, 0.5], [[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]], [0, 1, 2])
    have = _rows([0.9, 0.5, 0.5], [[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60.1]], [0, 2, 1])
    rows, partners = parity.pair_rows(want, have)
    assert dict(zip(rows.tolist(), partners.tolist(), strict=True)) == {0: 0, 1: 2, 2: 1}
    far = _rows([0.9, 0.5, 0.5], [[0, 0, 10, 10], [100, 100, 110, 110], [0, 0, 10, 10]], [0, 1, 1])
    rows, _ = parity.pair_rows(want, far)
    assert rows.tolist() == [0]
    # Seen in executed bf16: two cells of one object, whose boxes rounding had moved by more than they lay apart.
    want = _rows([0.253, 0.049], [[164, 40, 217, 77], [164, 41, 216, 77]], [0, 0])
    have = _rows([0.245, 0.044], [[166, 40, 217, 77], [165, 41, 216, 77]], [0, 0])
    assert parity.pair_rows(want, have)[1].tolist() == [0, 1]


def test_a_lost_candidate_fails_parity() -> None:
    def kept(scores: list[float], boxes: list[list[int]], labels: list[int]) -> Fixed:
        return Fixed({role: rows[None] for role, rows in _rows(scores, boxes, labels).items()}, "topk")

    good = kept([0.9, 0.4, 0.3], [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [0, 1, 2])
    lost = kept([0.9, 0.3, 0.2], [[0, 0, 10, 10], [20, 20, 30, 30], [70, 70, 80, 80]], [0, 2, 0])
    report = parity.compare(good, lost, [np.zeros((1, 3, 64, 64))])
    assert report["scores"]["max_abs"] == pytest.approx(0.4 - 0.3) and not report["scores"]["pass"]
    assert parity.compare(good, good, [np.zeros((1, 3, 64, 64))])["scores"]["pass"]


def test_extrapolated_coordinates_may_be_off_by_more_in_low_precision() -> None:
    def at(x: float) -> Fixed:
        box = np.array([[[0, 0, 10, 10]]], np.float32)
        return Fixed({"boxes": box, "scores": np.full((1, 1, 1), 0.9), "keypoints": np.full((1, 1, 1, 3), x)})

    batch = [np.zeros((1, 3, 64, 64))]
    far = parity.compare(at(640.0), at(645.0), batch, "f16")["keypoints"]
    assert far["max_abs"] == pytest.approx(0.5) and far["pass"]
    assert parity.compare(at(640.0), at(645.0), batch)["keypoints"]["max_abs"] == pytest.approx(5)
    assert not parity.compare(at(60.0), at(65.0), batch, "f16")["keypoints"]["pass"]


def test_conformance_is_made_checked_and_broken(model: checkpoint.Checkpoint, tmp_path: Path) -> None:
    import cv2

    path = export(model, tmp_path / "model.onnx").path
    built = [building.build(path, t, tmp_path / t).path for t in ("ort-fp32", "ov-fp32")]
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(parity.generated_images(2, side=90)):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), image)
    made = making.make(tmp_path / "set", built, [tmp_path / "photos"])
    assert len(made["cases"]) == 4
    assert conformance.check(tmp_path / "set") == {"cases": 4, "failed": 0, "failures": []}
    case = made["cases"][0]
    case["expected"]["probs"][0] += 2e-3
    import json

    (tmp_path / "set" / "conformance.json").write_text(json.dumps(made))
    report = conformance.check(tmp_path / "set")
    assert report["failed"] == 1 and "probs are off by 0.002" in report["failures"][0]["wrong"][0]
    with pytest.raises(InputError, match="already exists"):
        making.make(tmp_path / "set", built, [tmp_path / "photos"])
    with pytest.raises(InputError, match="no conformance set"):
        conformance.check(tmp_path)


def test_in_bf16_one_score_may_stray_but_not_all_of_them() -> None:
    def of(scores: np.ndarray) -> Fixed:
        return Fixed({"boxes": np.zeros((1, 100, 4), np.float32), "scores": scores[None, None]})

    batch, scores = [np.zeros((1, 3, 64, 64))], np.full(100, 0.5)
    one = scores.copy()
    one[7] += 0.15
    for moved, passes in ((one, True), (scores + 0.1, False)):
        assert parity.compare(of(scores), of(moved), batch, "bf16")["scores"]["pass"] == passes
        assert not parity.compare(of(scores), of(moved), batch, "f16")["scores"]["pass"]
    with pytest.raises(GateError, match=r"scores differ by 0\.1 on average, tolerance 0\.0125"):
        parity.check(parity.compare(of(scores), of(scores + 0.1), batch, "bf16"), "it")


def test_every_place_of_a_fixed_batch_holds_the_image_in_another_position() -> None:
    """Empty places would be judged by the noise found there; equal ones would hide that places are mixed up."""
    image = parity.generated_images(1, side=64)[0]
    info = ModelInfo("detect", (64, 64), "raw", ("a",), (Port("images", "image", (4, 3, 64, 64)),), ())
    batch = parity.batch_of(image, info)
    assert batch.shape == (4, 3, 64, 64)
    for place in range(4):
        np.testing.assert_array_equal(batch[place], np.roll(batch[0], 16 * place, axis=2))
    single = info.replace(inputs=(Port("images", "image", (None, 3, 64, 64)),))
    np.testing.assert_array_equal(batch[:1], parity.batch_of(image, single))


@pytest.mark.parametrize("precision", ["f32", "w16", "f16", "bf16"])
def test_bounds_follow_from_what_rounding_does_and_not_from_one_value(precision: str) -> None:
    """A thousand values, rounded with a spread of one; the artifact's differences are of the same kind or are not."""

    def of(boxes: np.ndarray) -> Fixed:
        return Fixed({"boxes": boxes, "scores": np.full((1, 1, boxes.shape[1]), 0.5, np.float32)})

    rng, batch = np.random.default_rng(0), [np.zeros((1, 3, 4096, 4096))]
    exact = np.full((1, 250, 4), 100.0)
    rounded, artifact = (exact + rng.standard_normal(exact.shape) for _ in range(2))
    stray = artifact.copy()
    stray[0, 7, 2] += 12.0  # one of a thousand, far out
    shifted = artifact + 5.0 * FACTORS[precision]  # everywhere, by more than rounding explains
    for boxes, passes in ((artifact, True), (stray, True), (shifted, False)):
        row = parity.compare(of(exact), of(boxes), batch, precision, of(rounded))["boxes"]
        assert row["pass"] is passes, row
    lost = artifact.copy()
    lost[0, 7, 2] = np.nan
    with pytest.raises(GateError, match="boxes"):
        parity.check(parity.compare(of(exact), of(lost), batch, precision, of(rounded)), "it")


@pytest.mark.parametrize(("candidates", "asked"), [(1000, 1), (100, 3)])
def test_float64_is_asked_until_it_has_told_enough_and_every_picture_is_judged(candidates: int, asked: int) -> None:
    """A fault on the last picture alone is seen, whatever bounds were taken from."""

    class Counting(Fixed):
        runs = 0

        def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
            self.runs += 1
            value = self.outputs["scores"] + (0.1 if self.late and batch[0, 0, 0, 0] == 3 else 0.0)
            return {"boxes": self.outputs["boxes"], "scores": value}

        late = False

    def of() -> Counting:
        boxes = np.full((1, candidates, 4), 100.0)
        return Counting({"boxes": boxes, "scores": np.full((1, 1, candidates), 0.5)})

    batches = [np.full((1, 3, 64, 64), float(number)) for number in (1, 2, 3)]
    reference, artifact, double = of(), of(), of()
    assert parity.compare(reference, artifact, batches, "f32", double)["scores"]["pass"]
    assert (reference.runs, artifact.runs, double.runs) == (3, 3, asked)
    artifact.late = True
    assert not parity.compare(reference, artifact, batches, "f32", double)["scores"]["pass"]
