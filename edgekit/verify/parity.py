"""Is the artifact the same function? Outputs of two sessions compared role by role.

    report = compare(reference, artifact, batches, "bf16", rounded(reference, "bf16", folder))
    report["boxes"]      # {'max_abs': 0.68, 'mean_abs': 0.08, 'tolerance': 13.2, 'pass': True, …}

How far apart two answers may be follows from what rounding does to this very network on these very images
(``rounding.py`` has the facts and the factors). Boxes and keypoints are compared in pixels of the network's input;
scores and probabilities as fractions. In lower precision the box of a cell that sees nothing is noise, so there
geometry is judged where the reference's best score reaches ``SEEN`` of the highest score (every cell in float32), and a
coordinate outside the input, which is extrapolated, may be off by as much more as it lies further away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from edgekit.errors import GateError
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.image import prepare
from edgekit.spec import NMS_IOU, ModelInfo, Session
from edgekit.verify import rounding

GEOMETRY = ("boxes", "rotated_boxes", "keypoints")
PER_CANDIDATE = (*GEOMETRY, "mask_coefficients")
SEEN = 0.25
PER_SCORE = 100.0  # pixels that a difference of 1 in score weighs: about the ratio of the tolerances
_MEAN = 0.05  # in bf16, of the tolerance: rounding has rare outliers, a fault shows everywhere
_BORDER = {"f32": 0.02, "w16": 0.1, "f16": 0.1, "bf16": 0.3}  # how far rounding moves the overlap of two boxes
_HUGE = 1e9  # stands for NaN and infinity, which JSON has no word for
_SPOKEN = {"rms": "{} in the root mean square", "p99": "{} or more in one of a hundred values", "max": "up to {}"}

Roles = dict[str, np.ndarray]

# Largest difference allowed per role where the reference cannot be rounded as the artifact is (an engine, say), so that
# nothing is known of what rounding does to this network. bf16: a score that a model is unsure of was seen to move by
# 0.15 where the mean was 0.001, so the mean is held to a twentieth of the largest.
_TOLERANCES = {
    "f32": {"geometry": 5e-2, "scores": 1e-3, "masks": 1e-2},
    "f16": {"geometry": 1.0, "scores": 1e-2, "masks": 1e-1},
    "bf16": {"geometry": 12.0, "scores": 0.25, "masks": 5e-1},
}


def tolerances_for(precision: str) -> dict[str, float]:
    """Role -> largest absolute difference allowed at ``precision`` where no rounded reference can be had."""
    kind = _TOLERANCES["f16" if precision == "w16" else precision]
    return {
        **dict.fromkeys(GEOMETRY, kind["geometry"]),
        # Keypoints reach further from their cell than sides do, and rounding is relative.
        "keypoints": kind["geometry"] * (1 if precision == "f32" else 2),
        "scores": kind["scores"],
        "class_probabilities": kind["scores"],
        "mask_coefficients": kind["masks"],
        "mask_prototypes": kind["masks"],
    }


def compare(
    reference: Session,
    artifact: Session,
    batches: Iterable[np.ndarray],
    precision: str = "f32",
    rounded: Session | None = None,
    exact: Session | None = None,
) -> dict[str, dict[str, Any]]:
    """Differences of every role over ``batches`` (float32 ``[B, 3, H, W]`` each), and whether rounding explains them.

    Candidates of a topk or nms head come in order of score, so equal or nearly equal ones may change places: they
    are paired by label and nearness first (``pair_rows``), and one without a counterpart counts as a difference of
    its score from the lowest score kept.

    Args:
        precision: of ``edgekit.verify.rounding.PRECISIONS``, what the artifact executes.
        rounded: the reference as that precision rounds it (``verify.rounded``): its differences from the reference
            set the bounds. Without, ``tolerances_for`` does.
        exact: what ``rounded`` was made of, where that is another network than the reference.

    What float32 loses is much the same on every image, and is measured on the first ones that give
    ``rounding.ENOUGH`` numbers of every role.

    Returns:
        Role -> ``max_abs``, ``mean_abs``, ``tolerance`` of the largest and ``pass``; with ``rounded`` also ``spread``
        (``rms`` and ``p99``: found and allowed) and, where it does not pass, ``why``.
    """
    gaps: dict[str, list[np.ndarray]] = {}
    noise: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        expected = _outputs(reference, batch)
        side = max(batch.shape[-2:]) if precision != "f32" else np.inf
        for kept, session in ((gaps, artifact), (noise, rounded)):
            if session is None or (kept is noise and precision == "f32" and _enough(noise)):
                continue
            wanted = _outputs(exact, batch) if exact is not None and session is rounded else expected
            found = _outputs(session, batch)
            if artifact.info.head == "nms":
                wanted, found = _side_by_side(expected, found, precision)
            for role, want in wanted.items():
                if role not in found or found[role].shape != want.shape:
                    have = found[role].shape if role in found else "absent"
                    raise GateError(f"{session.path}: {role} is {have}, expected shape {want.shape}")
            differ = _aligned_gaps if "labels" in wanted else _plain_gaps
            for role, gap in differ(wanted, found, precision, side).items():
                kept.setdefault(role, []).append(np.where(np.isfinite(gap), gap, np.inf).ravel())
    return {role: _row(role, np.concatenate(parts), precision, noise.get(role)) for role, parts in gaps.items()}


def _enough(noise: Mapping[str, list[np.ndarray]]) -> bool:
    return bool(noise) and all(sum(map(len, parts)) >= rounding.ENOUGH for parts in noise.values())


def _outputs(session: Session, batch: np.ndarray) -> Roles:
    return {role: np.array(value) for role, value in session.run(batch).items()}


def _row(role: str, gap: np.ndarray, precision: str, noise: list[np.ndarray] | None) -> dict[str, Any]:
    worst, mean = float(gap.max(initial=0.0)), float(gap.mean()) if gap.size else 0.0
    row: dict[str, Any] = {"max_abs": min(worst, _HUGE), "mean_abs": min(mean, _HUGE)}
    if noise is None:
        tolerance = tolerances_for(precision)[role]
        far = f"{row['mean_abs']:.3g} on average, tolerance {_MEAN * tolerance:.3g}"
        if worst > tolerance:
            far = f"up to {row['max_abs']:.3g}, tolerance {tolerance:.3g}"
        passes = worst <= tolerance and (precision != "bf16" or mean <= _MEAN * tolerance)
        return row | {"tolerance": tolerance, "pass": passes} | ({} if passes else {"why": far})
    found, own = _spread(gap), _spread(np.concatenate(noise))
    factor = rounding.FACTORS[precision] * (1 + rounding.FEW / max(gap.size, 1))
    floor = rounding.FLOORS[_kind(role)]
    factors = {"rms": factor, "p99": factor, "max": rounding.PEAK * factor}
    allowed = {k: min(factors[k] * own[k] + times * floor, _HUGE) for k, times in rounding.TIMES.items()}
    over = max(found, key=lambda name: found[name] / allowed[name])
    passes = all(found[name] <= allowed[name] for name in found) and found["max"] < _HUGE
    row |= {"tolerance": allowed["max"], "pass": passes}
    row["spread"] = {name: {"found": found[name], "allowed": allowed[name]} for name in ("rms", "p99")}
    if not passes:
        row["why"] = f"{_SPOKEN[over].format(f'{found[over]:.3g}')}, where rounding explains {allowed[over]:.3g}"
    return row


def _spread(gap: np.ndarray) -> dict[str, float]:
    gap = np.minimum(gap, _HUGE).astype(np.float64)
    if not gap.size:
        return dict.fromkeys(_SPOKEN, 0.0)
    return {
        "rms": float(np.sqrt(np.mean(gap**2))),
        "p99": float(np.quantile(gap, 0.99)),
        "max": float(gap.max()),
    }


def _kind(role: str) -> str:
    """What its differences are measured in: ``geometry`` (pixels), ``scores`` or ``masks``."""
    if role in GEOMETRY:
        return "geometry"
    return "masks" if role.startswith("mask") else "scores"


def _plain_gaps(expected: Roles, found: Roles, precision: str, side: float) -> Roles:
    """|difference| of every role, element by element; geometry only where something is seen (module's text)."""
    seen: Any = ...
    if precision != "f32" and "scores" in expected:
        best = expected["scores"].max(1)
        seen = best >= SEEN * best.max()
    return {r: _gap(r, want, found[r], side)[seen if r in PER_CANDIDATE else ...] for r, want in expected.items()}


def _aligned_gaps(expected: Roles, found: Roles, precision: str, side: float) -> Roles:
    """|difference| of candidates paired across the two answers, image by image."""
    gaps: dict[str, list[np.ndarray]] = {r: [] for r in expected if r != "labels"}
    for image in range(len(expected["labels"])):
        want = {r: v[image] for r, v in expected.items()}
        have = {r: v[image] for r, v in found.items()}
        rows, partners = pair_rows(want, have)
        floor = want["scores"].min(initial=1.0)
        alone = np.setdiff1d(np.arange(len(want["labels"])), rows)
        gaps["scores"].append(want["scores"][alone] - floor)
        worth = want["scores"][rows] >= (0.0 if precision == "f32" else SEEN * want["scores"].max(initial=0.0))
        for role in gaps:
            if role in PER_CANDIDATE:
                gaps[role].append(_gap(role, want[role][rows], have[role][partners], side)[worth].ravel())
            elif role == "scores":
                gaps[role].append(np.abs(have[role][partners] - want[role][rows]))
            else:
                gaps[role].append(np.abs(have[role] - want[role]).ravel())
    return {role: np.concatenate(parts) for role, parts in gaps.items()}


def _gap(role: str, want: np.ndarray, have: np.ndarray, side: float) -> np.ndarray:
    """|difference|, of coordinates relative to how many input sides away from the origin they lie."""
    gap: np.ndarray = np.abs(have - want)
    return gap / np.maximum(1.0, np.abs(want) / side) if role in GEOMETRY else gap


def _side_by_side(expected: Roles, found: Roles, precision: str) -> tuple[Roles, Roles]:
    """Two answers of finished detections, whose numbers may differ, as two of as many candidates.

    Where two boxes overlap by just about as much as suppression allows, rounding decides whether both stay: one that
    only one answer has is left out if it is such a one. Others without a counterpart stay, as candidates whose label
    nobody shares.
    """
    want, have = ({r: v[0] for r, v in side.items()} for side in (expected, found))
    rows, partners = pair_rows(want, have)
    lost, more = (
        [i for i in np.setdiff1d(np.arange(len(a["labels"])), paired) if not _borderline(a, i, b, precision)]
        for a, paired, b in ((want, rows, have), (have, partners, want))
    )
    alone = {r: np.concatenate([want[r][lost], have[r][more]]) for r in want if r != "mask_prototypes"}
    joined = [
        {r: np.concatenate([v[order], alone[r]]) if r in alone else v for r, v in side.items()}
        for side, order in ((want, rows), (have, partners))
    ]
    joined[1]["labels"][len(rows) :] = -1
    return {r: v[None] for r, v in joined[0].items()}, {r: v[None] for r, v in joined[1].items()}


def _borderline(a: Roles, row: int, b: Roles, precision: str) -> bool:
    """Whether the row of ``a`` overlaps one of ``b`` by about as much as is allowed."""
    rivals = b["boxes"][b["labels"] == a["labels"][row]]
    overlap = float(box_iou(a["boxes"][[row]], rivals).max(initial=0.0))
    return abs(overlap - NMS_IOU) <= _BORDER[precision]


def pair_rows(want: Roles, have: Roles, reach: float = 16.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two answers for one image that are one candidate: equal label, nearest in place and score, one to one.

    Args:
        want, have: role -> array of one image, ``labels [K]``, ``scores [K]`` and boxes ``[K, 4 or 5]``.
        reach: pixels beyond which two boxes are not the same.

    Returns:
        (rows of ``want``, rows of ``have``), best scores first.
    """
    apart = distances(want, have, reach)
    rows, partners = [], []
    for row in np.argsort(-want["scores"], kind="stable"):
        partner = int(apart[row].argmin()) if apart.shape[1] else -1
        if partner >= 0 and np.isfinite(apart[row, partner]):
            rows.append(int(row))
            partners.append(partner)
            apart[:, partner] = np.inf
    return np.array(rows, int), np.array(partners, int)


def distances(want: Roles, have: Roles, reach: float = np.inf) -> np.ndarray:
    """``[K, L]`` pixels, a difference in score weighed, between two answers' candidates (``pair_rows``); infinite
    where labels differ or boxes are further apart than ``reach``."""
    role = "rotated_boxes" if "rotated_boxes" in want else "boxes"
    gap = np.zeros((len(want[role]), len(have[role])), want[role].dtype)
    for one, other in zip(want[role].T, have[role].T, strict=True):  # a side at a time: no [K, L, 4]
        np.maximum(gap, np.abs(one[:, None] - other[None]), out=gap)
    # Neighbouring cells answer with boxes a pixel apart, and in low precision that tells them apart no longer.
    apart: np.ndarray = gap + PER_SCORE * np.abs(want["scores"][:, None] - have["scores"])
    apart[(want["labels"][:, None] != have["labels"][None]) | (gap > reach)] = np.inf
    return apart


def check(report: Mapping[str, Mapping[str, Any]], name: str, reference: str = "the checkpoint") -> None:
    """Raise GateError naming the worst role unless every role passes."""
    failed = {role: row for role, row in report.items() if not row["pass"]}
    if failed:
        role, row = max(failed.items(), key=lambda item: item[1]["max_abs"] / item[1]["tolerance"])
        raise GateError(
            f"{name}: not the same function as {reference}: {role} differ by {row['why']}",
            {"parity": {k: dict(v) for k, v in report.items()}},
        )


def batch_of(image: np.ndarray, info: ModelInfo) -> np.ndarray:
    """One image in the form that every session takes, whatever form its own input has: float32 ``[B, 3, H, W]``.

    Of a fixed batch every place holds it, moved round by another share of its width: empty places, where nothing is
    seen, would be judged by noise, and equal ones would hide that places are mixed up.
    """
    wanted = dataclasses.replace(info.preprocess, color="RGB", scale=1 / 255) if info.takes_uint8 else info.preprocess
    places = info.batch or 1
    images = [np.roll(image, place * image.shape[1] // places, axis=1) for place in range(places)]
    return prepare(images, info.imgsz, wanted, places)[0]


def generated_images(count: int = 3, side: int = 480, seed: int = 0) -> list[np.ndarray]:
    """Images of smooth texture, edges and shapes (uint8 BGR), for parity where no photographs are given.

    White noise would do the comparison no favour: it excites nothing a trained network looks for.
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        for _ in range(24):
            color = tuple(int(c) for c in rng.integers(0, 256, 3))
            x, y, r = (int(v) for v in rng.integers([0, 0, 6], [side, side, side // 4]))
            if rng.random() < 0.5:
                cv2.circle(image, (x, y), r, color, -1, cv2.LINE_AA)
            else:
                cv2.rectangle(image, (x - r, y - r // 2), (x + r, y + r // 2), color, -1)
        noise = rng.normal(0, 6, image.shape)
        images.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return images
