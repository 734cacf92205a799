"""The task-aligned assigner against loops over every object and cell, and on cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgekit.nn import assigner
from edgekit.nn.assigner import Assignment, Grid, assign
from edgekit.nn.boxloss import BoxLoss
from edgekit.nn.losses import ciou
from edgekit.nn.targets import Targets
from edgekit.tasks.obb.loss import OrientedLoss
from tests import loss_reference as slow

SIZE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def make_targets(boxes, image, classes, count, rotated=None) -> Targets:
    boxes = torch.tensor(np.asarray(boxes, np.float32).reshape(-1, 4))
    return Targets(
        SIZE,
        count,
        torch.tensor(image, dtype=torch.int64),
        torch.tensor(classes, dtype=torch.int64),
        boxes,
        None if rotated is None else torch.tensor(np.asarray(rotated, np.float32).reshape(-1, 5)),
    )


def random_case(seed: int, objects: int, low: float = 6, high: float = 60, images: int = 3, classes: int = 2):
    rng = np.random.default_rng(seed)
    side = rng.uniform(low, high, (objects, 2))
    centre = rng.uniform(0, 1, (objects, 2)) * (SIZE[1], SIZE[0])
    boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
    targets = make_targets(boxes, np.sort(rng.integers(0, images, objects)), rng.integers(0, classes, objects), images)
    raw = {
        "distances": torch.tensor(rng.normal(0, 2, (images, 64, CELLS)), dtype=torch.float32),
        "logits": torch.tensor(rng.normal(-1, 2, (images, classes, CELLS)), dtype=torch.float32),
    }
    return raw, targets


def as_dict(found: Assignment) -> dict[tuple[int, int], tuple[int, float]]:
    places = list(zip(found.image.tolist(), found.cell.tolist(), strict=True))
    assert len(set(places)) == len(places), "a cell learns two objects"
    assert found.object.tolist() == sorted(found.object.tolist())
    return dict(zip(places, zip(found.object.tolist(), found.score.tolist(), strict=True), strict=True))


def assert_same(found: Assignment, expected: dict[tuple[int, int], tuple[int, float]]) -> None:
    mine = as_dict(found)
    assert {place: m for place, (m, _) in mine.items()} == {place: m for place, (m, _) in expected.items()}
    for place, (_, score) in expected.items():
        assert mine[place][1] == pytest.approx(score, rel=2e-3, abs=1e-5)  # overlap to the sixth power, in float32


def reference(raw, targets: Targets):
    predicted = slow.upright(raw["distances"].double().numpy(), SIZE)
    objects, image, classes = targets.boxes.double().numpy(), targets.image.numpy(), targets.classes.numpy()
    logits = raw["logits"].double().numpy()
    return slow.assign(objects, image, classes, logits, predicted, SIZE, slow.in_upright, slow.ciou)


@pytest.mark.parametrize(
    ("seed", "objects", "low", "high"), [(0, 9, 6, 60), (1, 25, 4, 14), (2, 20, 30, 90), (3, 90, 10, 40), (4, 1, 5, 9)]
)
def test_it_agrees_with_loops(seed: int, objects: int, low: float, high: float) -> None:
    raw, targets = random_case(seed, objects, low, high)
    assert_same(BoxLoss().assign(raw, targets, Grid(SIZE)), reference(raw, targets))


def test_more_objects_than_cells() -> None:
    """Every cell has one object at most, and some objects none."""
    raw, targets = random_case(5, 200, 40, 90, images=1)
    assert_same(BoxLoss().assign(raw, targets, Grid(SIZE)), reference(raw, targets))


def test_portions_of_images_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, targets = random_case(6, 30, images=5)
    whole = BoxLoss().assign(raw, targets, Grid(SIZE))
    monkeypatch.setattr(assigner, "_CHUNK", CELLS * 7)
    portions = assigner._portions(targets.image, CELLS)
    assert len(portions) > 2 and portions[0][0] == 0 and portions[-1][1] == 30
    cut = BoxLoss().assign(raw, targets, Grid(SIZE))
    assert all(torch.equal(getattr(cut, name), getattr(whole, name)) for name in ("image", "cell", "object"))
    # Vectorised powers round the ends of a row otherwise than its middle, and portions have other ends.
    assert torch.allclose(cut.score, whole.score, rtol=1e-5, atol=1e-7)


def test_grid_lays_cells_out_as_the_head_does() -> None:
    grid = Grid(SIZE)
    expected = np.array(slow.cells(SIZE))
    assert len(grid) == CELLS
    assert np.array_equal(torch.stack((grid.x, grid.y, grid.stride), 1).numpy(), expected)


def by_hand(boxes, predicted, image=None, classes=None, logit=0.0, images=1, topk=10) -> dict:
    """Assignment of boxes when all cells of all images predict the box ``predicted``."""
    targets = make_targets(boxes, image or [0] * len(boxes), classes or [0] * len(boxes), images)
    box = torch.tensor(predicted, dtype=torch.float32)

    def overlap(objects: torch.Tensor, image: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return ciou(box.expand(len(objects), 4), targets.boxes[objects])

    logits = torch.full((images, 1, CELLS), logit)
    return as_dict(assign(targets.boxes, targets.image, targets.classes, logits, Grid(SIZE), overlap, topk=topk))


def test_a_tiny_object_gets_the_cells_within_eight_pixels() -> None:
    """3 x 3 pixels at (20, 20) count as 16 x 16: x and y between 12 and 28, edges not included."""
    found = by_hand([[18.5, 18.5, 21.5, 21.5]], [18, 18, 22, 22])
    centres = slow.cells(SIZE)
    # Of the 8-pixel centres 12, 20 and 28 only 20 is strictly inside; of the 16-pixel ones 24; of the 32-pixel ones 16.
    assert {centres[n] for _, n in found} == {(20, 20, 8), (24, 24, 16), (16, 16, 32)}
    iou = 9 / 16
    assert all(score == pytest.approx(iou, rel=1e-4) for _, score in found.values())


def test_one_thin_side_grows_and_the_other_stays() -> None:
    found = by_hand([[0, 18, 96, 22]], [0, 18, 96, 22], topk=100)
    rows = {slow.cells(SIZE)[n][1] for _, n in found}
    assert rows == {20.0, 24.0, 16.0}  # 12 and 28 lie on the edge of the grown box
    assert len(found) == 12 + 6 + 3


def test_the_best_overlapping_object_takes_a_disputed_cell() -> None:
    """Both hold the same cells; the prediction is the second one exactly."""
    found = by_hand([[0, 0, 64, 64], [0, 0, 62, 62]], [0, 0, 62, 62])
    assert {m for m, _ in found.values()} == {1}
    assert len(found) == 10 and all(score == pytest.approx(1, abs=1e-5) for _, score in found.values())


def test_equals_go_to_the_earlier_object_and_the_earlier_cell() -> None:
    found = by_hand([[0, 0, 32, 32]] * 3, [0, 0, 32, 32], topk=3)
    assert found.keys() == {(0, 0), (0, 1), (0, 2)} and {m for m, _ in found.values()} == {0}


def test_objects_of_other_images_do_not_compete() -> None:
    found = by_hand([[0, 0, 32, 32]] * 2, [0, 0, 32, 32], image=[0, 2], images=3, topk=1)
    assert {(place[0], m) for place, (m, _) in found.items()} == {(0, 0), (2, 1)}


def test_nothing_overlaps_nothing_is_chosen() -> None:
    assert by_hand([[0, 0, 32, 32]], [60, 40, 90, 60]) == {}


def test_no_object_at_all() -> None:
    found = by_hand([], [0, 0, 32, 32], images=2)
    assert found == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_do_not_break_it(bad: float) -> None:
    raw, targets = random_case(7, 12)
    raw["logits"][0, :, ::3] = bad
    raw["distances"][1, :, ::5] = bad
    found = BoxLoss().assign(raw, targets, Grid(SIZE))
    assert found.score.isfinite().all()
    as_dict(found)


def test_half_precision_logits_and_autocast() -> None:
    raw, targets = random_case(8, 12)
    raw = {name: value.bfloat16() for name, value in raw.items()}
    same = {name: value.float() for name, value in raw.items()}
    plain = as_dict(BoxLoss().assign(same, targets, Grid(SIZE)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert as_dict(BoxLoss().assign(raw, targets, Grid(SIZE))).keys() == plain.keys()


# Rotated.


def rotated_case(boxes, seed: int = 0, images: int = 1, classes: int = 1, image=None):
    rng = np.random.default_rng(seed)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    image = [0] * len(boxes) if image is None else image
    targets = make_targets(np.zeros((len(boxes), 4)), image, [0] * len(boxes), images, boxes)
    raw = {
        "distances": torch.tensor(rng.normal(0, 2, (images, 64, CELLS)), dtype=torch.float32),
        "logits": torch.tensor(rng.normal(-1, 2, (images, classes, CELLS)), dtype=torch.float32),
        "angles": torch.tensor(rng.uniform(-math.pi / 4, 3 * math.pi / 4, (images, 1, CELLS)), dtype=torch.float32),
    }
    return raw, targets


def rotated_reference(raw, targets: Targets):
    predicted = slow.rotated(raw["distances"].double().numpy(), raw["angles"].double().numpy(), SIZE)
    return slow.assign(
        targets.rotated.double().numpy(),
        targets.image.numpy(),
        targets.classes.numpy(),
        raw["logits"].double().numpy(),
        predicted,
        SIZE,
        slow.in_rotated,
        slow.probiou,
    )


@pytest.mark.parametrize(
    "boxes",
    [
        [[48, 32, 80, 20, math.pi / 4 - 0.01]],  # 45 degrees
        [[48, 32, 90, 2, 0.3], [48, 32, 90, 2, -0.9]],  # thin, crossing
        [[30, 30, 60, 30, -math.pi / 2], [60, 30, 60, 30, math.pi / 2 - 1e-3]],  # both ends of the range
        [[20, 20, 5, 3, 1.0], [70, 40, 9, 9, 0.2]],  # tiny
    ],
)
def test_rotated_by_hand_agrees_with_loops(boxes) -> None:
    raw, targets = rotated_case(boxes)
    assert_same(OrientedLoss().assign(raw, targets, Grid(SIZE)), rotated_reference(raw, targets))


@pytest.mark.parametrize("seed", range(3))
def test_rotated_at_random_agrees_with_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = np.sort(rng.uniform(4, 80, (25, 2)), 1)[:, ::-1]
    centre, angle = rng.uniform(0, 1, (25, 2)) * (SIZE[1], SIZE[0]), rng.uniform(-math.pi / 2, math.pi / 2, (25, 1))
    raw, targets = rotated_case(
        np.concatenate([centre, side, angle], 1), seed, 2, image=np.sort(rng.integers(0, 2, 25))
    )
    assert_same(OrientedLoss().assign(raw, targets, Grid(SIZE)), rotated_reference(raw, targets))


def test_a_thin_diagonal_takes_cells_along_itself_only() -> None:
    """Upright, its surrounding box would hold every cell; turned, only cells within 8 pixels of the diagonal count."""
    raw, targets = rotated_case([[32, 32, 80, 2, math.pi / 4]])
    found = OrientedLoss().assign(raw, targets, Grid(SIZE))
    grid = Grid(SIZE)
    assert len(found.cell) == 10
    assert ((grid.x - grid.y)[found.cell].abs() / math.sqrt(2) < 8).all()
