"""What a narrower model loses where applications look: F1 at a threshold, the worst class, the meaning of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.metrics.operating import Curves
from edgekit.verify.accuracy import Measured, Objects
from edgekit.verify.operating import Limits, compared

THRESHOLDS = np.linspace(0, 1, 1001)


def curves(classes: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> Curves:
    """Of each class the scores of right and of wrong detections, and how many objects there are; written anew from the
    definitions of precision, recall and F1."""
    rows: dict[str, list[list[float]]] = {"precision": [], "recall": [], "f1": []}
    for right, wrong, objects in classes:
        hits = np.array([(right >= t).sum() for t in THRESHOLDS])
        taken = hits + np.array([(wrong >= t).sum() for t in THRESHOLDS])
        rows["precision"].append(list(np.where(taken > 0, hits / np.maximum(taken, 1), 1.0)))
        rows["recall"].append(list(hits / objects))
        rows["f1"].append(list(2 * hits / (taken + objects)))
    names = tuple("abc"[: len(classes)])
    none = np.zeros((len(classes), 1))
    return Curves(names, THRESHOLDS, *(np.array(rows[k]) for k in ("precision", "recall", "f1")), none[0], none)


def measured(value: float, scale: float = 1.0, objects: int = 1000) -> Measured:
    """A detector of one class whose scores are multiplied by ``scale``."""
    rng = np.random.default_rng(0)
    right, wrong = rng.uniform(0.4, 1, objects) * scale, rng.uniform(0, 0.5, objects) * scale
    return Measured(value, {"a": value}, {"a": objects}, curves([(right, wrong, objects)]))


def test_scores_that_shrink_cost_f1_though_the_metric_stays() -> None:
    found = compared(measured(0.5), measured(0.5, 0.7), Limits(0.5, f1=0.5))
    point = found.row["operating_point"]
    assert point["f1_after"] < point["f1_before"] - 0.05
    assert point["drop_points"] == pytest.approx(100 * (point["f1_before"] - point["f1_after"]))
    assert len(found.over) == 1 and "F1" in found.over[0] and found.excess > 0
    assert point["keeps_recall"] == pytest.approx(0.7 * point["threshold"], abs=2e-3)
    assert point["keeps_precision"] <= point["threshold"]


def test_the_kept_thresholds_keep_what_they_say() -> None:
    before, after = measured(0.5), measured(0.5, 0.7)
    point = compared(before, after, Limits(0.5)).row["operating_point"]
    assert before.curves is not None and after.curves is not None
    at, p, r = (round(1000 * point[k]) for k in ("threshold", "keeps_precision", "keeps_recall"))
    assert (after.curves.precision[0, p:] >= before.curves.precision[0, at]).all()
    assert after.curves.recall[0, r] >= before.curves.recall[0, at] > after.curves.recall[0, r + 1] - 1e-9
    assert point["per_class"]["a"]["keeps_recall"] == point["keeps_recall"]


def test_equal_models_lose_nothing() -> None:
    found = compared(measured(0.5), measured(0.5), Limits(0.0))
    assert found.over == [] and found.excess <= 0
    point = found.row["operating_point"]
    assert point["drop_points"] == 0 and point["keeps_recall"] >= point["threshold"] >= point["keeps_precision"]


@pytest.mark.parametrize(
    ("limits", "over"),
    [
        (Limits(100, 0.5), True),
        (Limits(100, 2), True),
        (Limits(0.5, 100), False),
        (Limits(0.5, 0), True),
        (Limits(0.5), False),
    ],
)
def test_f1_has_a_limit_of_its_own(limits: Limits, over: bool) -> None:
    assert bool(compared(measured(0.5), measured(0.5, 0.7), limits).over) == over


def test_one_object_of_a_small_set_is_let_pass() -> None:
    right = np.array([0.9, 0.8, 0.7, 0.6])
    one = Measured(0.5, {}, {"a": 4}, curves([(right, np.zeros(0), 4)]))
    other = Measured(0.5, {}, {"a": 4}, curves([(right[:3], np.zeros(0), 4)]))
    found = compared(one, other, Limits(0.5, 0.5))
    point = found.row["operating_point"]
    assert point["drop_points"] > 0.5 and found.over == []
    fewer = Measured(0.5, {}, {"a": 4}, curves([(right[:2], np.zeros(0), 4)]))
    assert compared(one, fewer, Limits(0.5, 0.5)).over


def test_the_class_that_loses_most_has_a_limit() -> None:
    before = Measured(0.5, {"a": 0.5, "b": 0.5}, {"a": 1000, "b": 1000})
    after = Measured(0.499, {"a": 0.53, "b": 0.468}, {"a": 1000, "b": 1000})
    found = compared(before, after, Limits(0.5, per_class=2))
    assert found.row["worst_class"]["class"] == "b" and found.row["worst_class"]["limit_points"] == 2.0
    assert len(found.over) == 1 and "class b" in found.over[0]
    assert compared(before, after, Limits(0.5, per_class=4)).over == []
    few = {"a": 1000, "b": 20}  # one of twenty is five points
    limits = Limits(0.5, per_class=2)
    loose = compared(dataclasses.replace(before, instances=few), dataclasses.replace(after, instances=few), limits)
    assert loose.over == []


def test_a_limit_that_nobody_asked_for_is_said_and_refuses_nothing() -> None:
    found = compared(measured(0.5), measured(0.5, 0.7), Limits(0.5))
    assert found.over == [] and found.excess <= 0
    assert len(found.row["exceeds"]) == 1 and "F1" in found.row["exceeds"][0]
    assert "exceeds" not in compared(measured(0.5), measured(0.5, 0.7), Limits(0.5, f1=0.5)).row


def test_a_class_that_is_gone_counts_in_full() -> None:
    before = Measured(0.5, {"a": 0.5}, {"a": 100})
    assert compared(before, Measured(0.5), Limits(0.5)).row["worst_class"]["drop_points"] == 50


def test_scores_of_the_same_objects_are_compared() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [90, 90, 99, 99.0]])
    one = Objects(np.array([0.9, 0.6, 0.1]), np.array([0, 1, 0]), boxes)
    other = Objects(np.array([0.7, 0.5, 0.9]), np.array([0, 1, 0]), boxes + 0.5)
    shift = compared(Measured(0.5, objects=[one]), Measured(0.5, objects=[other]), Limits(1)).row["score_shift"]
    assert (shift["objects"], shift["matched"]) == (2, 2)  # the third is too unsure to be asked about
    assert shift["mean"] == pytest.approx(-0.15) and shift["p5"] < shift["mean"] < shift["p95"]
    elsewhere = other._replace(classes=np.array([2, 2, 2]))
    gone = compared(Measured(0.5, objects=[one]), Measured(0.5, objects=[elsewhere]), Limits(1)).row["score_shift"]
    assert gone == {"objects": 2, "matched": 0}


def test_agreement_and_classifiers_have_no_threshold() -> None:
    assert compared(Measured(0.5), Measured(0.5), Limits(0.5)).row == {}
