"""Losses against slow references, gradients in double precision, and the cases in which losses like to break."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from edgekit.errors import InputError
from edgekit.nn import losses
from edgekit.nn.boxloss import BoxLoss
from edgekit.nn.targets import Targets
from edgekit.runtime.boxes import probiou as host_probiou
from edgekit.tasks.classify.loss import ClassifyLoss
from edgekit.tasks.obb.loss import OrientedLoss, frame_distances, nearest_angle
from edgekit.tasks.obb.net import rotated_from_distances
from edgekit.tasks.pose.loss import PoseLoss
from edgekit.tasks.segment.loss import SegmentLoss
from tests import loss_reference as slow

SIZE, B, C, J = (64, 64), 2, 3, 5
CELLS = 64 + 16 + 4
GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "mask": 7.5, "keypoint": 12.0, "visibility": 1.0, "angle": 1.0}


def make(seed: int, objects: int, images: int = B) -> tuple[dict[str, torch.Tensor], Targets]:
    """Raw values of every task's head and targets of every task; objects large enough to be learnt."""
    rng = np.random.default_rng(seed)
    side = np.sort(rng.uniform(14, 60, (objects, 2)), 1)[:, ::-1]
    centre = rng.uniform(16, 48, (objects, 2))
    rotated = np.concatenate([centre, side, rng.uniform(-math.pi / 2, math.pi / 2, (objects, 1))], 1)
    image = np.sort(rng.integers(0, images, objects))
    keypoints = np.concatenate(
        [rng.uniform(0, 64, (objects, J, 2)), rng.integers(0, 3, (objects, J, 1)).astype(float)], 2
    )
    if objects:
        keypoints[0, :, 2] = 0  # a person without a single labelled point
    targets = Targets(
        SIZE,
        images,
        torch.tensor(image),
        torch.tensor(rng.integers(0, C, objects)),
        torch.tensor(np.concatenate([centre - side / 2, centre + side / 2], 1), dtype=torch.float32),
        torch.tensor(rotated, dtype=torch.float32),
        torch.tensor(keypoints, dtype=torch.float32),
        torch.tensor(rng.integers(0, 5, (images, 16, 16)), dtype=torch.int16),
    )

    def normal(*shape: int, mean: float = 0.0, sd: float = 1.0) -> torch.Tensor:
        return torch.tensor(rng.normal(mean, sd, shape), dtype=torch.float32)

    raw = {
        "distances": normal(images, 64, CELLS),
        "logits": normal(images, C, CELLS, mean=-2),
        "coefficients": normal(images, 32, CELLS),
        "prototypes": normal(images, 32, 16, 16, sd=0.3),
        "points": normal(images, J * 3, CELLS),
        "angles": torch.tensor(rng.uniform(-math.pi / 4, 3 * math.pi / 4, (images, 1, CELLS)), dtype=torch.float32),
    }
    return {name: value.requires_grad_() for name, value in raw.items()}, targets


def numbers(raw: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in raw.items()}


def reference_chosen(raw: dict[str, np.ndarray], targets: Targets, oriented: bool = False):
    objects = (targets.rotated if oriented else targets.boxes).double().numpy()
    predicted = (
        slow.rotated(raw["distances"], raw["angles"], SIZE) if oriented else slow.upright(raw["distances"], SIZE)
    )
    inside, overlap = (slow.in_rotated, slow.probiou) if oriented else (slow.in_upright, slow.ciou)
    image, classes = targets.image.numpy(), targets.classes.numpy()
    return slow.assign(objects, image, classes, raw["logits"], predicted, SIZE, inside, overlap), predicted, objects


def reference_classes(raw, targets: Targets, chosen, weights=None) -> float:
    total = 0.0
    for b in range(targets.count):
        for n in range(CELLS):
            m, score = chosen.get((b, n), (None, 0.0))
            for c in range(C):
                target = score if m is not None and int(targets.classes[m]) == c else 0.0
                weight = 1.0 if weights is None else float(weights[c])
                total += weight * slow.cross_entropy(raw["logits"][b, c, n], target)
    return total


def reference_boxes(raw, targets: Targets, chosen, predicted, objects) -> dict[str, float]:
    box = dfl = 0.0
    centres = slow.cells(SIZE)
    for (b, n), (m, score) in chosen.items():
        (x, y, s), true = centres[n], objects[m]
        box += score * (1 - slow.ciou(predicted[b, n], true))
        distances = np.array([x - true[0], y - true[1], true[2] - x, true[3] - y]) / s
        dfl += score * slow.focal(raw["distances"][b, :, n].reshape(4, 16), distances)
    return {"box": box, "dfl": dfl}


def expect(found: tuple[torch.Tensor, dict[str, torch.Tensor]], terms: dict[str, float], images: int) -> None:
    total, gained = found
    assert set(gained) == set(terms)
    for name, value in terms.items():
        assert float(gained[name]) == pytest.approx(GAINS[name] * value, rel=1e-4, abs=1e-6), name
    assert float(total.detach()) == pytest.approx(images * sum(GAINS[n] * v for n, v in terms.items()), rel=1e-4)
    assert not any(value.requires_grad for value in gained.values())


@pytest.mark.parametrize(("seed", "objects"), [(0, 1), (1, 6), (2, 14)])
def test_detection_agrees_with_loops(seed: int, objects: int) -> None:
    raw, targets = make(seed, objects)
    plain = numbers(raw)
    chosen, predicted, true = reference_chosen(plain, targets)
    norm = max(sum(score for _, score in chosen.values()), 1)
    weights = torch.tensor([0.5, 1.0, 3.0])
    terms = {name: value / norm for name, value in reference_boxes(plain, targets, chosen, predicted, true).items()}
    expect(BoxLoss()(raw, targets), {**terms, "cls": reference_classes(plain, targets, chosen) / norm}, B)
    weighted = {**terms, "cls": reference_classes(plain, targets, chosen, weights) / norm}
    expect(BoxLoss(class_weights=weights)(raw, targets), weighted, B)


def test_segmentation_agrees_with_loops() -> None:
    raw, targets = make(3, 6)
    plain = numbers(raw)
    chosen, predicted, true = reference_chosen(plain, targets)
    norm = max(sum(score for _, score in chosen.values()), 1)
    terms = {name: value / norm for name, value in reference_boxes(plain, targets, chosen, predicted, true).items()}
    images = targets.image.tolist()
    mask = 0.0
    for (b, n), (m, _) in chosen.items():
        number = images[:m].count(b) + 1
        x1, y1, x2, y2 = true[m] / 4
        one = 0.0
        for row in range(16):
            for column in range(16):
                if x1 <= column < x2 and y1 <= row < y2:
                    logit = plain["coefficients"][b, :, n] @ plain["prototypes"][b, :, row, column]
                    one += slow.cross_entropy(logit, float(targets.masks[b, row, column] == number))
        mask += one / ((x2 - x1) * (y2 - y1))
    terms |= {"cls": reference_classes(plain, targets, chosen) / norm, "mask": mask / len(chosen)}
    expect(SegmentLoss()(raw, targets), terms, B)


@pytest.mark.parametrize("values", [2, 3])
def test_pose_agrees_with_loops(values: int) -> None:
    raw, targets = make(4, 6)
    raw["points"] = raw["points"].detach()[:, : J * values].clone().requires_grad_()
    plain = numbers(raw)
    chosen, predicted, true = reference_chosen(plain, targets)
    norm = max(sum(score for _, score in chosen.values()), 1)
    terms = {name: value / norm for name, value in reference_boxes(plain, targets, chosen, predicted, true).items()}
    centres, points, visibility = slow.cells(SIZE), 0.0, 0.0
    for (b, n), (m, _) in chosen.items():
        x, y, s = centres[n]
        area = (true[m][2] - true[m][0]) * (true[m][3] - true[m][1])
        errors = []
        for j in range(J):
            value = plain["points"][b, values * j : values * (j + 1), n]
            tx, ty, seen = targets.keypoints[m, j].tolist()
            column, row = x / s - 0.5, y / s - 0.5
            d2 = ((value[0] * 2 + column) * s - tx) ** 2 + ((value[1] * 2 + row) * s - ty) ** 2
            if seen:
                errors.append(1 - math.exp(-d2 / (2 * area * (2 / J) ** 2)))
            if values == 3:
                visibility += slow.cross_entropy(value[2], float(seen > 0)) / J
        points += sum(errors) / max(len(errors), 1)
    terms |= {"cls": reference_classes(plain, targets, chosen) / norm, "keypoint": points / len(chosen)}
    if values == 3:
        terms["visibility"] = visibility / len(chosen)
    expect(PoseLoss((J, values))(raw, targets), terms, B)


@pytest.mark.parametrize("seed", [5, 6])
def test_oriented_boxes_agree_with_loops(seed: int) -> None:
    raw, targets = make(seed, 6)
    plain = numbers(raw)
    chosen, predicted, true = reference_chosen(plain, targets, oriented=True)
    norm = max(sum(score for _, score in chosen.values()), 1)
    centres, terms = slow.cells(SIZE), {"box": 0.0, "dfl": 0.0, "angle": 0.0}
    for (b, n), (m, score) in chosen.items():
        x, y, s = centres[n]
        scale = np.array([1 / s, 1 / s, 1 / s, 1 / s, 1])
        terms["box"] += score * (1 - slow.probiou(predicted[b, n] * scale, true[m] * scale))
        cx, cy, w, h, angle = true[m]
        # Of the angles that mean the same, the one nearest to the prediction: search, do not compute.
        angle = min((angle + k * math.pi for k in (-1, 0, 1, 2)), key=lambda a: abs(a - predicted[b, n][4]))
        move = complex(cx - x, cy - y) * complex(math.cos(angle), -math.sin(angle))
        distances = np.array([w / 2 - move.real, h / 2 - move.imag, w / 2 + move.real, h / 2 + move.imag]) / s
        terms["dfl"] += score * slow.focal(plain["distances"][b, :, n].reshape(4, 16), distances)
        turn, thin = predicted[b, n][4] - angle, (w * w - h * h) / (w * w + h * h)
        terms["angle"] += score * ((1 - thin) * math.sin(2 * turn) ** 2 + thin * math.sin(turn) ** 2)
    terms = {name: value / norm for name, value in terms.items()}
    expect(OrientedLoss()(raw, targets), {**terms, "cls": reference_classes(plain, targets, chosen) / norm}, B)


def test_classification_is_the_mean_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 2, (7, 4)), rng.integers(0, 4, 7)
    targets = Targets(SIZE, 7, torch.zeros(0), torch.zeros(0), torch.zeros(0, 4), class_id=torch.tensor(truth))
    each = [-math.log(slow.softmax(row)[k]) for row, k in zip(logits, truth, strict=True)]
    total, terms = ClassifyLoss()({"logits": torch.tensor(logits)}, targets)
    assert float(total) == pytest.approx(np.mean(each)) and float(terms["cls"]) == pytest.approx(np.mean(each))
    weights = np.array([1.0, 0.2, 3.0, 0.7])
    total, _ = ClassifyLoss(class_weights=torch.tensor(weights))({"logits": torch.tensor(logits)}, targets)
    assert float(total) == pytest.approx(np.average(each, weights=weights[truth]))


# The terms by themselves.


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, side = rng.uniform(0, 20, (count, 2)), rng.uniform(0.5, 30, (count, 2))
    return np.concatenate([corner, corner + side], 1)


def random_rotated(rng: np.random.Generator, count: int) -> np.ndarray:
    side = rng.uniform(0.5, 30, (count, 2))
    return np.concatenate([rng.uniform(0, 20, (count, 2)), side, rng.uniform(-3, 3, (count, 1))], 1)


def test_ciou_agrees_with_the_formula() -> None:
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 200), random_boxes(rng, 200)
    found = losses.ciou(torch.tensor(a), torch.tensor(b)).numpy()
    assert np.allclose(found, [slow.ciou(x, y) for x, y in zip(a, b, strict=True)], atol=1e-6)
    assert losses.ciou(torch.tensor(a), torch.tensor(a)).numpy() == pytest.approx(1, abs=1e-5)


def test_ciou_gradient_holds_the_aspect_weight_constant() -> None:
    """Central differences of the reference, its weight frozen as the paper says."""
    rng = np.random.default_rng(2)
    for a, b in zip(random_boxes(rng, 20), random_boxes(rng, 20), strict=True):
        t = torch.tensor(a, requires_grad=True)
        losses.ciou(t, torch.tensor(b)).backward()
        v = 4 / math.pi**2 * (math.atan2(b[2] - b[0], b[3] - b[1]) - math.atan2(a[2] - a[0], a[3] - a[1])) ** 2
        iou = slow.ciou(a, b, alpha=0.0) + _centre_term(a, b)
        alpha = v / (1 - iou + v)
        steps = np.eye(4) * 1e-6
        numeric = [(slow.ciou(a + e, b, alpha) - slow.ciou(a - e, b, alpha)) / 2e-6 for e in steps]
        assert t.grad.numpy() == pytest.approx(np.array(numeric), abs=1e-5)


def _centre_term(a: np.ndarray, b: np.ndarray) -> float:
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4 / diagonal


def test_probiou_agrees_with_matrices_and_with_the_host() -> None:
    rng = np.random.default_rng(3)
    a, b = random_rotated(rng, 100), random_rotated(rng, 100)
    found = losses.probiou(torch.tensor(a), torch.tensor(b)).numpy()
    assert np.allclose(found, [slow.probiou(x, y) for x, y in zip(a, b, strict=True)], atol=1e-5)
    large = np.concatenate([a[:, :2] * 50, a[:, 2:4] * 50 + 100, a[:, 4:]], 1)
    other = np.concatenate([b[:, :2] * 50, b[:, 2:4] * 50 + 100, b[:, 4:]], 1)
    found = losses.probiou(torch.tensor(large), torch.tensor(other)).numpy()
    assert np.allclose(found, np.diag(host_probiou(large, other)), atol=2e-4)  # the least variance is nothing here


def test_probiou_of_thin_boxes_in_single_precision() -> None:
    rng = np.random.default_rng(4)
    a = np.concatenate([rng.uniform(0, 4, (50, 2)), np.tile([[80.0, 0.2]], (50, 1)), rng.uniform(0, 0.2, (50, 1))], 1)
    b = a + rng.normal(0, 0.02, a.shape) * [1, 1, 1, 0, 0.1]
    single = losses.probiou(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)).numpy()
    assert np.allclose(single, [slow.probiou(x, y) for x, y in zip(a, b, strict=True)], atol=5e-3)


def test_gradients_in_double_precision() -> None:
    rng = np.random.default_rng(5)
    logits = torch.tensor(rng.normal(0, 1, (2, 4, 16)), requires_grad=True)
    distance = torch.tensor(rng.uniform(0, 17, (2, 4)))
    assert gradcheck(lambda x: losses.distribution_focal(x, distance), logits)
    assert gradcheck(losses.expectation, logits)
    a = torch.tensor(random_rotated(rng, 8), requires_grad=True)
    b = torch.tensor(random_rotated(rng, 8), requires_grad=True)
    assert gradcheck(losses.probiou, (a, b))
    assert gradcheck(lambda x: losses.angle_difference(x, b.detach()), a)
    points = torch.tensor(rng.uniform(0, 20, (4, 3, 2)), requires_grad=True)
    true, area, sigmas = torch.tensor(rng.uniform(0, 20, (4, 3, 2))), torch.full((4,), 90.0).double(), torch.ones(3) / 3
    assert gradcheck(lambda x: losses.keypoint_error(x, true, area, sigmas), points)
    coefficients = torch.tensor(rng.normal(0, 1, (3, 2)), requires_grad=True)
    prototypes = torch.tensor(rng.normal(0, 1, (2, 6, 7)), requires_grad=True)
    truth, boxes = (
        torch.tensor(rng.random((3, 6, 7)) < 0.5),
        torch.tensor([[0, 0, 7, 6], [1.2, 2.7, 4, 4], [3, 3, 3, 3]]),
    )
    assert gradcheck(lambda c, p: losses.mask_error(c, p, truth, boxes.double()), (coefficients, prototypes))


@pytest.mark.parametrize("distance", [-3.0, 0.0, 3.0, 7.4, 14.99, 15.0, 40.0])
def test_focal_loss_at_bins_between_them_and_outside(distance: float) -> None:
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 1, (1, 4, 16))
    found = losses.distribution_focal(torch.tensor(logits), torch.full((1, 4), distance, dtype=torch.float64))
    assert float(found) == pytest.approx(slow.focal(logits[0], [distance] * 4), rel=1e-9)


def test_angles_that_mean_the_same_cost_nothing() -> None:
    true = torch.tensor(
        [[0.0, 0, 30, 10, -1.5], [0, 0, 10, 10, 0.2], [0, 0, 30, 10, 0.3], [0, 0, 1000, 1, 0.3]]
    ).double()
    turned = true.clone()
    turned[:, 4] += torch.tensor([math.pi, math.pi / 2, math.pi / 2, math.pi / 2])
    assert losses.angle_difference(turned, true).tolist() == pytest.approx([0, 0, 0.8, 1.0], abs=1e-5)


def test_nearest_angle_and_the_frame_undo_the_head() -> None:
    """Distances of a box in the frame of any equivalent angle decode to that very box."""
    rng = np.random.default_rng(7)
    boxes = torch.tensor(random_rotated(rng, 60))
    predicted = torch.tensor(rng.uniform(-math.pi / 4, 3 * math.pi / 4, (60, 1)))
    near = nearest_angle(boxes[:, 4:], predicted)
    assert ((near - predicted).abs() <= math.pi / 2 + 1e-9).all()
    assert torch.allclose(((near - boxes[:, 4:]) / math.pi).round() * math.pi, near - boxes[:, 4:])
    turned = torch.cat((boxes[:, :4], near), 1)
    centres = torch.tensor(rng.uniform(0, 20, (60, 2)))
    sides = frame_distances(turned, centres)
    decoded = rotated_from_distances(sides[:, :, None], near[:, None], centres[:, :, None]).squeeze(2)
    assert torch.allclose(decoded, boxes[:, :4])


def test_an_untrained_head_gets_angles_in_its_own_range() -> None:
    true = torch.linspace(-math.pi / 2, math.pi / 2 - 1e-6, 101).double()[:, None]
    near = nearest_angle(true, torch.full_like(true, math.pi / 4))
    assert (near >= -math.pi / 4 - 1e-9).all() and (near <= 3 * math.pi / 4 + 1e-9).all()


# What breaks losses.

LOSSES = {
    "detect": lambda **kw: BoxLoss(**kw),
    "segment": lambda **kw: SegmentLoss(**kw),
    "pose": lambda **kw: PoseLoss((J, 3), **kw),
    "obb": lambda **kw: OrientedLoss(**kw),
}
USED = {
    "detect": ("distances", "logits"),
    "segment": ("distances", "logits", "coefficients", "prototypes"),
    "pose": ("distances", "logits", "points"),
    "obb": ("distances", "logits", "angles"),
}


def assert_finite_and_tied(task: str, raw: dict[str, torch.Tensor], total: torch.Tensor) -> None:
    """Every output of the head has a gradient, or distributed training would wait for it for ever."""
    assert total.isfinite()
    total.backward()
    for name in USED[task]:
        grad = raw[name].grad
        assert grad is not None and grad.isfinite().all(), name


@pytest.mark.parametrize("task", LOSSES)
def test_no_object_leaves_the_class_term(task: str) -> None:
    raw, targets = make(8, 0)
    total, terms = LOSSES[task]()(raw, targets)
    assert float(terms["cls"]) > 0 and all(float(v) == 0 for n, v in terms.items() if n != "cls")
    assert_finite_and_tied(task, raw, total)
    assert raw["distances"].grad.abs().sum() == 0


@pytest.mark.parametrize("task", LOSSES)
def test_an_image_without_objects_among_others(task: str) -> None:
    raw, targets = make(9, 5)
    targets = dataclasses.replace(targets, image=torch.ones(5, dtype=torch.int64))
    total, _ = LOSSES[task]()(raw, targets)
    assert_finite_and_tied(task, raw, total)
    assert raw["distances"].grad[0].abs().sum() == 0 < raw["distances"].grad[1].abs().sum()


@pytest.mark.parametrize("task", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_degenerate_boxes_and_saturated_logits(task: str, scale: float) -> None:
    """Targets without width, height or both; distances that collapse to 0 or 15; everything equal."""
    raw, targets = make(10, 8)
    with torch.no_grad():
        for value in raw.values():
            value.mul_(scale)
        raw["distances"].view(B, 4, 16, CELLS)[0, :, 0] += scale * 10  # boxes of size zero
    targets.boxes[0, 2] = targets.boxes[0, 0]
    targets.boxes[1, 2:] = targets.boxes[1, :2]
    targets.rotated[0, 3] = 0
    targets.rotated[1, 2:4] = 0
    targets.keypoints[2, :, :2] = targets.boxes[2, None, :2]
    total, _ = LOSSES[task]()(raw, targets)
    assert_finite_and_tied(task, raw, total)


@pytest.mark.parametrize("task", LOSSES)
def test_a_perfect_answer_has_finite_gradients(task: str) -> None:
    """Slopes of roots and logarithms at their ends: predicted boxes equal to the true ones."""
    raw, targets = make(11, 1, images=1)
    with torch.no_grad():
        raw["distances"].zero_().view(1, 4, 16, CELLS)[:, :, 2] = 1e4  # two cells to every side
        raw["angles"].zero_()
    targets.boxes[0] = torch.tensor([12.0, 12, 44, 44])  # cell (28, 28) of stride 8 is 16 from every side
    targets.rotated[0] = torch.tensor([28.0, 28, 32, 32, 0])
    total, terms = LOSSES[task]()(raw, targets)
    assert float(terms["box"]) < 7.5
    assert_finite_and_tied(task, raw, total)


@pytest.mark.parametrize("task", LOSSES)
def test_autocast_changes_nothing_and_half_precision_is_widened(task: str) -> None:
    raw, targets = make(12, 6)
    plain, _ = LOSSES[task]()(raw, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, terms = LOSSES[task]()(raw, targets)
    assert torch.equal(plain, cast) and all(v.dtype == torch.float32 for v in terms.values())
    half = {name: value.detach().bfloat16().requires_grad_() for name, value in raw.items()}
    wide = {name: value.detach().float().requires_grad_() for name, value in half.items()}
    found, expected = (float(LOSSES[task]()(values, targets)[0].detach()) for values in (half, wide))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", LOSSES)
def test_gains_and_the_reduction_over_ranks(task: str) -> None:
    raw, targets = make(13, 6)
    _, plain = LOSSES[task]()(raw, targets)
    _, gained = LOSSES[task](gains={"box": 15.0})(raw, targets)
    assert float(gained["box"]) == pytest.approx(2 * float(plain["box"]))
    assert float(gained["cls"]) == float(plain["cls"])
    loss, seen = LOSSES[task](), []
    loss.reduce = lambda sums: seen.append(sums.tolist()) or sums * 2
    _, halved = loss(raw, targets)
    (scores, count, images), *more = seen
    assert not more and count == int(count) >= 6 and images == B
    for name, value in plain.items():
        by_count = name in ("mask", "keypoint", "visibility")
        factor = 0.5 if by_count else max(scores, 1) / (2 * scores)
        assert float(halved[name]) == pytest.approx(float(value) * factor), name
    with pytest.raises(InputError, match="boxes"):
        LOSSES[task](gains={"boxes": 1.0})


@pytest.mark.parametrize(("task", "field"), [("segment", "masks"), ("pose", "keypoints"), ("obb", "rotated")])
def test_targets_of_another_task_are_refused(task: str, field: str) -> None:
    raw, targets = make(14, 3)
    with pytest.raises(InputError, match="labels"):
        LOSSES[task]()(raw, dataclasses.replace(targets, **{field: None}))
