"""Distillation and activations: terms against closed forms, what a teacher must be, and that it teaches."""

from __future__ import annotations

import collections
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import shapeset
from edgekit import checkpoint
from edgekit.errors import InputError, UsageError
from edgekit.nn.blocks import activation
from edgekit.spec import ACTIVATIONS
from edgekit.train import distill, loop
from edgekit.train.distill import Teacher
from edgekit.train.options import TrainOptions
from tests.networks import noise, settled
from tests.watchers import Interrupted, Watching

NAMES = ("a", "b", "c")
SMALL = TrainOptions(
    epochs=2, batch=4, imgsz=(64, 64), workers=0, patience=0, close_mosaic=1, seed=5, val_every=2, amp="off"
)


def saved(folder: Path, name: str = "yolo12n", names: tuple[str, ...] = NAMES, **spec: object) -> Path:
    fresh = settled(name, noise(4, 3, 64, 64), 4e-3, names, seed=1, **spec)
    return checkpoint.save(fresh, folder / f"{name}-{len(list(folder.iterdir()))}.pt")


def taught(path: Path, student: Path | None = None, task_names: tuple[str, ...] = NAMES) -> Teacher:
    spec = checkpoint.load(student or path).spec
    return Teacher(path, spec, task_names)


# ---- terms --------------------------------------------------------------------------------------------------------


def test_score_divergence_is_the_divergence_of_two_coins() -> None:
    mine, theirs = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    expected = 0.0
    for m, t in zip(mine.flatten().tolist(), theirs.flatten().tolist(), strict=True):
        p, q = 1 / (1 + math.exp(-t)), 1 / (1 + math.exp(-m))
        expected += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(distill.score_divergence(mine, theirs)) == pytest.approx(expected)
    assert float(distill.score_divergence(theirs, theirs)) == pytest.approx(0, abs=1e-12)


def test_divergences_of_sides_and_softened_classes() -> None:
    rng = np.random.default_rng(0)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    mine, theirs = rng.normal(size=(2, 64, 3)), rng.normal(size=(2, 64, 3))
    p, q = (softmax(x.reshape(2, 4, 16, 3).transpose(0, 3, 1, 2)) for x in (theirs, mine))
    expected = (p * np.log(p / q)).sum(-1).mean(-1)
    found = distill.side_divergence(torch.tensor(mine), torch.tensor(theirs))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    mine, theirs = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    p, q = softmax(theirs / 2), softmax(mine / 2)
    found = distill.softened(torch.tensor(mine), torch.tensor(theirs), 2.0)
    assert float(found) == pytest.approx(4 * (p * np.log(p / q)).sum())


def test_features_of_equal_width_compare_by_correlation_and_others_by_where_they_are_strong() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    expected = [1 - np.mean([np.corrcoef(a[i, c].ravel(), b[i, c].ravel())[0, 1] for c in range(3)]) for i in range(2)]
    found = distill.feature_difference(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    wider = np.concatenate([a, a], 1) * 3  # the same map twice, louder: strong in the same places
    assert distill.feature_difference(torch.tensor(a), torch.tensor(wider)).max() < 1e-9
    assert distill.feature_difference(torch.tensor(b), torch.tensor(wider)).min() > 1e-3


@pytest.mark.parametrize("name", ["yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls"])
def test_a_network_has_nothing_to_learn_from_itself(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path, name)
    teacher, student = taught(path), checkpoint.load(path).net
    teacher.watch(student)
    student.head.training = True
    images = torch.from_numpy(noise(2, 3, 64, 64))
    teacher.look(images)
    terms, count = teacher.terms(student(images))
    assert int(count) == 2
    assert all(abs(float(value.detach())) < 1e-5 for value in terms.values()), terms
    extra = {"distill_task"} if name in ("yolo12n-seg", "yolo12n-pose", "yolo12n-obb") else set()
    boxes = set() if name.endswith("cls") else {"distill_box"}
    assert set(terms) == {"distill_cls", "distill_feature"} | boxes | extra


def test_a_larger_teacher_and_classes_in_another_order(tmp_path: Path) -> None:
    path, mine = saved(tmp_path, "yolo12s", ("c", "A", "b")), saved(tmp_path)
    teacher, student = taught(path, mine), checkpoint.load(mine).net.train()
    teacher.watch(student)
    images = torch.from_numpy(noise(2, 3, 64, 64))
    teacher.look(images)
    raw = student(images)
    terms, _ = teacher.terms(raw)
    theirs = teacher._answer["logits"][:, [1, 2, 0]]
    seen = theirs.amax(1).sigmoid().sum()
    expected = distill.score_divergence(raw["logits"], theirs) / seen.clamp(min=1)
    torch.testing.assert_close(terms["distill_cls"], expected)
    total, named = teacher.joined(lambda raw, targets: (raw["logits"].sum() * 0, {"cls": torch.zeros(())}))(raw, None)
    gained = sum(distill.GAINS[name] * float(value) for name, value in terms.items())
    assert float(total) == pytest.approx(2 * gained, rel=1e-5)
    assert set(named) == {"cls", *terms}
    total.backward()
    assert all(p.grad is not None for n, p in student.named_parameters() if p.requires_grad and "cv" in n)
    assert all(p.grad is None for p in teacher.net.parameters())


def test_parts_of_a_batch_add_up(tmp_path: Path) -> None:
    """What two processes compute with common sums is what one would."""
    path, other = saved(tmp_path), saved(tmp_path, activation="relu")
    images = torch.from_numpy(noise(3, 3, 64, 64))

    def terms(part: slice, reduce: object = None) -> dict[str, torch.Tensor]:
        teacher, student = taught(path), checkpoint.load(other).net
        if reduce:
            teacher.reduce = reduce
        teacher.watch(student)
        student.head.training = True
        teacher.look(images[part])
        with torch.no_grad():
            return teacher.terms(student(images[part]))[0]

    sums: list[torch.Tensor] = []
    for part in (slice(0, 2), slice(2, 3)):
        terms(part, lambda values: sums.append(values) or values)
    together = [terms(part, lambda values: sums[0] + sums[1]) for part in (slice(0, 2), slice(2, 3))]
    for name, value in terms(slice(0, 3)).items():
        torch.testing.assert_close(together[0][name] + together[1][name], value, rtol=1e-4, atol=1e-5)


# ---- who may teach ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names", "sentence"),
    [
        ("yolo12n-seg", NAMES, "is a segment network, and what learns is a detect network"),
        ("yolo12n", ("a", "b", "d"), "knows no 'c'; its 3 classes are a, b, d, those to learn are a, b, c"),
        ("yolo12n", ("a", "b", "c", "d"), "knows others besides"),
    ],
)
def test_teachers_that_cannot_teach(name: str, names: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"`teacher` .*: {sentence}"):
        taught(saved(tmp_path, name, names), saved(tmp_path))


def test_a_teacher_of_other_keypoints_and_wrong_gains(tmp_path: Path) -> None:
    pose, other = saved(tmp_path, "yolo12n-pose"), saved(tmp_path, "yolo12n-pose", keypoint_shape=(5, 3))
    with pytest.raises(UsageError, match=r"has keypoints \[5, 3\], what learns has \[17, 3\]"):
        taught(other, pose)
    with pytest.raises(UsageError, match="`gains` distill_box2"):
        Teacher(pose, checkpoint.load(pose).spec, NAMES, {"distill_box2": 1.0})
    with pytest.raises(UsageError, match="give `teacher`"):
        TrainOptions(gains={"distill_cls": 1.0})
    with pytest.raises(UsageError, match="`compile`"):
        TrainOptions(teacher="a.pt", compile=True)
    with pytest.raises(InputError, match="nowhere.pt"):
        Teacher(tmp_path / "nowhere.pt", checkpoint.load(pose).spec, NAMES)


# ---- training with one, and activations ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapeset.make_set(tmp_path_factory.mktemp("shapes"), train=8, val=2, size=96)


@pytest.mark.slow
def test_a_distilled_run_resumes_exactly_and_keeps_its_activation(shapes: Path, tmp_path: Path) -> None:
    teacher = saved(tmp_path, names=shapeset.NAMES)
    wanted = SMALL.replace(activation="hardswish", teacher=str(teacher), gains={"distill_feature": 0.5})
    whole = loop.train(shapes, str(teacher), tmp_path / "whole", wanted)
    assert {"loss_distill_cls", "loss_distill_box", "loss_distill_feature"} <= set(whole.history[0])
    loaded = checkpoint.load(whole.best)
    assert loaded.spec.activation == "hardswish"
    assert any(isinstance(m, torch.nn.Hardswish) for m in loaded.net.modules())
    assert not any(isinstance(m, torch.nn.SiLU) for m in loaded.net.modules())
    assert loaded.provenance["teacher_sha256"] == checkpoint.load(teacher).sha256
    with pytest.raises(Interrupted):
        loop.train(shapes, str(teacher), tmp_path / "cut", wanted.replace(save_minutes=0), watch=Watching(3))
    loop.train(shapes, None, tmp_path / "cut", wanted, resume=True)
    one, other = (checkpoint.load(tmp_path / name / "last.pt").net.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    checkpoint.save(checkpoint.load(saved(tmp_path, names=shapeset.NAMES, activation="relu")), teacher)
    with pytest.raises(InputError, match="is not the file the run began with"):
        loop.train(shapes, None, tmp_path / "cut", wanted, resume=True)


def test_a_teachers_licence_goes_along(shapes: Path, tmp_path: Path) -> None:
    teacher = saved(tmp_path, names=shapeset.NAMES)
    licensed = checkpoint.load(teacher)
    licensed.license = "AGPL-3.0"
    checkpoint.save(licensed, teacher)
    result = loop.train(shapes, "yolo12n", tmp_path / "run", SMALL.replace(epochs=1, teacher=str(teacher)))
    assert checkpoint.load(result.best).license == "AGPL-3.0"


def test_a_student_comes_nearer_to_its_teacher(tmp_path: Path) -> None:
    """A few steps on the teacher's answers alone, no labels."""
    teacher, student = taught(saved(tmp_path)), checkpoint.load(saved(tmp_path, activation="hardswish")).net
    teacher.watch(student)
    student.head.training = True
    images = torch.from_numpy(noise(4, 3, 64, 64, seed=3))
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 1e-4)
    totals = []
    for _ in range(8):
        teacher.look(images)
        total = sum(teacher.terms(student(images))[0].values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.7 * totals[0]


def test_the_options_know_the_networks_activations() -> None:
    for name in ACTIVATIONS:
        assert type(activation(TrainOptions(activation=name).activation)).__name__.lower() == name.replace("_", "")
    with pytest.raises(UsageError, match="`activation` gelu: choose silu, hardswish, relu"):
        TrainOptions(activation="gelu")


@pytest.mark.parametrize(
    ("activation", "operator"),
    [
        ("hardswish", "HardSwish"),
        ("leaky_relu:0.1", "LeakyRelu"),
        pytest.param("relu", "Relu", marks=pytest.mark.slow),
    ],
)
def test_an_activation_is_one_operator_in_the_graph(activation: str, operator: str, tmp_path: Path) -> None:
    import onnx

    from edgekit.graph.export import export

    path = saved(tmp_path, activation=activation)
    counts = [
        collections.Counter(
            n.op_type for n in onnx.load(export(checkpoint.load(p), tmp_path / f"{i}.onnx").path).graph.node
        )
        for i, p in enumerate((path, saved(tmp_path)))
    ]
    # As many as there were sigmoids; what is left of those are the scores.
    assert counts[0][operator] == counts[1]["Sigmoid"] - counts[0]["Sigmoid"] > 60
    assert counts[0]["Sigmoid"] == 1
    assert not any(counts[0][name] for name in ("HardSigmoid", "Clip"))
