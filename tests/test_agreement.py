"""What two models find, each as ``predict`` runs it: pairs, objects without a partner, lists that were too short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.spec import ModelInfo, Port, Session
from edgekit.verify import agreement

SIDE = 64
CENTRES = [(x, y) for y in (8, 24, 40, 56) for x in (8, 24, 40, 56)]
BOXES = np.array([[x - 6, y - 6, x + 6, y + 6] for x, y in CENTRES], np.float32)
IMAGES = [np.zeros((SIDE, SIDE, 3), np.uint8)]


class Answers(Session):
    """A detector that always finds objects of these scores at ``BOXES``: all of them, or the best few candidates."""

    target, path = "ort-fp32", Path("x")

    def __init__(self, scores: np.ndarray, candidates: int | None = None, shift: float = 0.0) -> None:
        count = len(BOXES)
        rows = candidates or count
        shape = (1, rows) if candidates else (1, 1, rows)
        ports = [Port("boxes", "boxes", (1, rows, 4)), Port("scores", "scores", shape)]
        ports += [Port("labels", "labels", (1, rows), "int64")] if candidates else []
        images = (Port("images", "images", (1, 3, SIDE, SIDE)),)
        self.info = ModelInfo("detect", (SIDE, SIDE), "topk" if candidates else "raw", ("a",), images, tuple(ports))
        best = np.argsort(-scores, kind="stable")[:rows] if candidates else np.arange(count)
        kept = scores[best].astype(np.float32)
        self.outputs = {"boxes": BOXES[best][None] + np.float32(shift), "scores": kept.reshape(shape)}
        if candidates:
            self.outputs["labels"] = np.zeros((1, rows), np.int64)

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return self.outputs

    def intermediates(self, batch: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        return {}

    def precision_by_type(self) -> dict[str, int]:
        return {"f32": 1}


def compared(first: Answers, second: Answers, margin: float = 0.001) -> dict:
    return agreement.compared(first, second, IMAGES, conf=0.25, margin=margin)


def test_a_list_of_candidates_that_is_too_short_is_said_with_the_numbers() -> None:
    scores = np.linspace(0.9, 0.4, len(BOXES))
    found = compared(Answers(scores), Answers(scores, candidates=5))
    assert (found["first"], found["second"], found["matched"]) == (16, 5, 5)
    assert (found["full"], found["cut_off"], found["unexplained"]) == (1, 11, 0)
    assert found["pass"]  # the artifact is what it was built to be
    assert "`candidates`" in found["warning"] and "16" in found["warning"]


def test_a_list_with_room_left_is_not_full() -> None:
    scores = np.array([0.9, 0.8, 0.7] + [0.1] * 13)
    found = compared(Answers(scores), Answers(scores, candidates=5))
    assert (found["first"], found["second"], found["full"], found["cut_off"]) == (3, 3, 0, 0)
    assert found["pass"] and "warning" not in found


def test_objects_that_only_one_finds_fail_beyond_what_rounding_explains() -> None:
    scores = np.linspace(0.9, 0.4, len(BOXES))
    other = scores.copy()
    other[3:6] = 0.01  # three are gone, where one may be
    found = compared(Answers(scores), Answers(other))
    assert (found["only_first"], found["unexplained"], found["allowed"]) == (3, 3, 1) and not found["pass"]
    assert compared(Answers(scores), Answers(other), margin=0.6)["pass"]  # as near to the confidence as rounding moves


@pytest.mark.parametrize(("shift", "passes"), [(0.5, True), (10.0, False)])
def test_objects_are_paired_by_place(shift: float, passes: bool) -> None:
    scores = np.linspace(0.9, 0.4, len(BOXES))
    found = compared(Answers(scores), Answers(scores, shift=shift))
    assert found["pass"] is passes
    assert found["max_box_px"] == (pytest.approx(shift) if passes else 0.0)
