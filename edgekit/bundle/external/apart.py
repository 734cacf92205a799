"""How far two answers are apart, of every cell or of detections, and where the one has the other's classes.

values_apart([(right, given)])          # 0.0 of the same roles, about 1 of others
unmatched([(right, given)])             # 0.0 of the same detections, 1.0 where none has a partner
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgekit.bundle.external import faults, parts
from edgekit.bundle.external.faults import Array, Roles
from edgekit.metrics.matching import greedy, same_objects
from edgekit.runtime.boxes import box_iou, probiou
from edgekit.runtime.results import Result

CELLS = 300  # that values are compared at: the best of either model


def values_apart(pairs: Sequence[tuple[Roles, Roles]]) -> float:
    """How far roles of a raw head are from the right ones."""
    sums: dict[str, list[float]] = {}
    for want, have in pairs:
        for role, (right, given) in _comparable(want, have).items():
            if right.shape != given.shape:
                return float("inf")
            total = sums.setdefault(role, [0.0, 0.0])
            with np.errstate(all="ignore"):
                total[0] += float(np.minimum(np.nan_to_num((given - right) ** 2, nan=1e18), 1e18).sum())
                total[1] += float((right**2).sum())
    return sum(min(float(np.sqrt(gap / max(size, 1e-30))), 1e6) for gap, size in sums.values())


def _comparable(want: Roles, have: Roles) -> dict[str, tuple[Array, Array]]:
    """Scores and places at the best cells, float64; probabilities of all classes."""
    if "class_probabilities" in want:
        right, given = (np.asarray(r["class_probabilities"], np.float64) for r in (want, have))
        if right.min() < 0:  # logits, but for a constant
            right = right - right.mean(1, keepdims=True)
            given = given - given.mean(1, keepdims=True)
        return {"class_probabilities": (right, given)}
    cells = np.union1d(
        *(np.argsort(-np.nan_to_num(r["scores"][0].max(0)), kind="stable")[:CELLS] for r in (want, have))
    )
    best = np.argsort(-np.nan_to_num(want["scores"][0].max(0)), kind="stable")[:CELLS]
    scores = [r["scores"][0][:, cells] for r in (want, have)]
    if scores[0].min() < 0:
        scores[1] = np.clip(scores[1], -faults.MOST_LOGIT, faults.MOST_LOGIT)
    found = {"scores": (scores[0], scores[1])}
    for role in ("boxes", "rotated_boxes", "keypoints", "mask_coefficients"):
        if role in want:
            found[role] = (want[role][0][best], have[role][0][best])
    if "mask_prototypes" in want:
        found["mask_prototypes"] = (want["mask_prototypes"][0], have["mask_prototypes"][0])
    if "rotated_boxes" in found:  # beside places in pixels, angles would not be seen
        whole, found["rotated_boxes"] = found["rotated_boxes"], _columns(found["rotated_boxes"], slice(4))
        found["angles"] = (_directions(whole[0]), _directions(whole[1]))
    return {role: (a.astype(np.float64), b.astype(np.float64)) for role, (a, b) in found.items()}


def _columns(pair: tuple[Array, Array], which: slice) -> tuple[Array, Array]:
    return pair[0][:, which], pair[1][:, which]


def _directions(boxes: Array) -> Array:
    """Of rotated boxes where they point, the less the squarer they are: the same for (w, h, θ) and (h, w, θ + π/2)."""
    _, _, w, h, angle = np.asarray(boxes, np.float64).T
    long = (w**2 - h**2) / np.maximum(w**2 + h**2, 1e-9)
    return np.stack([long * np.cos(2 * angle), long * np.sin(2 * angle), np.full(len(long), 0.3)], 1)


def unmatched(pairs: Sequence[tuple[Result, Result]]) -> float:
    """One less the share of detections that have a partner, each worth its overlap less the difference of scores, and
    as much less as masks and keypoints are unlike."""
    worth, count = 0.0, 0
    for want, have in pairs:
        if want.probs is not None and have.probs is not None:
            count += 2
            worth += 2 * max(1 - float(np.abs(want.probs - have.probs).sum()), 0.0)
            continue
        count += len(want) + len(have)
        if not len(want) or not len(have):
            continue
        assert want.scores is not None and have.scores is not None and want.labels is not None
        overlap = _overlap(want, have)
        paired = greedy(np.where(want.labels[:, None] == have.labels, overlap, -1.0), want.scores, np.array([0.3]))[
            :, 0
        ]
        rows = np.flatnonzero(paired >= 0)
        gaps = np.minimum(np.abs(want.scores[rows] - have.scores[paired[rows]]) * 2, 1)
        likeness = parts.alike(want, have, rows, paired[rows])
        worth += 2 * float((overlap[rows, paired[rows]] * (1 - gaps) * likeness).sum())
    return 1 - worth / count if count else 0.0


def _overlap(one: Result, other: Result) -> Array:
    if one.boxes is not None and other.boxes is not None:
        return box_iou(one.boxes, other.boxes)
    assert one.rotated_boxes is not None and other.rotated_boxes is not None
    return probiou(one.rotated_boxes, other.rotated_boxes)


# ---- the order of classes ------------------------------------------------------------------------------------------


def moved(pairs: Sequence[tuple[Roles | Result, Roles | Result]], classes: int) -> Array | None:
    """Where each class is answered, from classes that are seen; None where it is where it should be."""
    votes = np.zeros((classes, classes + 1))  # labels may begin at one
    for want, have in pairs:
        if isinstance(want, dict) and isinstance(have, dict):
            role = "class_probabilities" if "class_probabilities" in want else "scores"
            right, given = (np.asarray(r[role][0], np.float64).reshape(classes, -1) for r in (want, have))
            peaks = np.flatnonzero(right.max(0) > 0.1)
            np.add.at(votes, (right[:, peaks].argmax(0), np.nan_to_num(given[:, peaks]).argmax(0)), 1)
        elif isinstance(want, Result) and isinstance(have, Result) and len(want) and len(have):
            _vote(votes, want, have)
    if classes < 2 or not votes.any():
        return None
    return _completed(votes)


def _vote(votes: Array, want: Result, have: Result) -> None:
    blind = replace(have, labels=np.zeros(len(have), np.int64)), replace(want, labels=np.zeros(len(want), np.int64))
    paired = same_objects(blind[1], blind[0])
    assert want.labels is not None and have.labels is not None
    for row in np.flatnonzero(paired >= 0):
        label = int(have.labels[paired[row]])
        votes[int(want.labels[row]), min(max(label, 0), len(votes))] += 1


def _completed(votes: Array) -> Array | None:
    """The permutation that the votes are for; classes nobody saw move as far as the others, or take what is free."""
    classes = len(votes)
    seen = np.flatnonzero(votes.sum(1))
    steps = {int(votes[c].argmax() - c) for c in seen}
    if steps == {0}:
        return None
    if steps == {1} and votes[:, -1].any():
        return np.arange(classes) + 1
    around = {step % classes for step in steps}
    if len(around) == 1:
        return (np.arange(classes) + around.pop()) % classes
    order = np.full(classes, -1)
    free = np.ones(classes, bool)
    for c in seen[np.argsort(-votes[seen].max(1), kind="stable")]:
        place = int(np.where(free, votes[c, :classes], -1).argmax())
        order[c], free[place] = place, False
    order[order < 0] = np.flatnonzero(free)
    return order


def said(order: Array, names: Sequence[str]) -> str:
    moved = [c for c in range(len(order)) if order[c] != c]
    steps = {int(order[c] - c) % len(order) for c in range(len(order))}
    if steps == {1}:
        return "counts classes from 1: every label is one too high"
    if len(steps) == 1:
        return f"has every class {steps.pop()} places further on"
    some = ", ".join(f"{names[c]} at place {order[c]}" for c in moved[:4])
    return f"has its classes in another order: {some}{', …' if len(moved) > 4 else ''}"
