"""Is the artifact the same function? Outputs of two sessions compared role by role.

    report = compare(reference, artifact, batches, tolerances_for("ort-fp32"))
    report["boxes"]      # {'max_abs': 3e-5, 'mean_abs': 8e-7, 'tolerance': 0.01, 'pass': True}

Boxes and keypoints are compared in pixels of the network's input; scores and probabilities as fractions. In lower
precision the box of a cell that sees nothing is noise, so there geometry is judged where the reference's best score
reaches ``SEEN`` of the highest score (every cell in float32).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.errors import GateError
from edgekit.spec import Session

GEOMETRY = ("boxes", "rotated_boxes", "keypoints")
SEEN = 0.25

# Largest difference allowed per role. float32: rounding of another order of summation. f16: weights rounded to half
# precision. bf16: eight bits of mantissa in every operator.
_TOLERANCES = {
    "f32": {"geometry": 5e-2, "scores": 1e-3, "masks": 1e-2},
    "f16": {"geometry": 1.0, "scores": 1e-2, "masks": 1e-1},
    "bf16": {"geometry": 12.0, "scores": 8e-2, "masks": 5e-1},
}


def tolerances_for(precision: str) -> dict[str, float]:
    """Role -> largest absolute difference allowed at ``precision`` (``f32``, ``f16`` or ``bf16``)."""
    kind = _TOLERANCES[precision]
    return {
        **dict.fromkeys(GEOMETRY, kind["geometry"]),
        "scores": kind["scores"],
        "class_probabilities": kind["scores"],
        "mask_coefficients": kind["masks"],
        "mask_prototypes": kind["masks"],
    }


def compare(
    reference: Session, artifact: Session, batches: Iterable[np.ndarray], precision: str = "f32"
) -> dict[str, dict[str, Any]]:
    """Largest and mean absolute difference of every role over ``batches`` (float32 ``[1, 3, H, W]`` each)."""
    tolerances = tolerances_for(precision)
    worst: dict[str, float] = {}
    means: dict[str, list[float]] = {}
    for batch in batches:
        expected = {k: np.array(v) for k, v in reference.run(batch).items()}
        found = artifact.run(batch)
        seen = _seen(expected, precision)
        for role, want in expected.items():
            got = np.asarray(found[role], np.float32)
            if got.shape != want.shape:
                raise GateError(f"{artifact.path}: {role} has shape {got.shape}, expected {want.shape}")
            gap = np.abs(got - want)
            if role in GEOMETRY:
                gap = gap[seen]
            gap = np.where(np.isfinite(gap), gap, np.inf)
            worst[role] = max(worst.get(role, 0.0), float(gap.max(initial=0.0)))
            means.setdefault(role, []).append(float(gap.mean()) if gap.size else 0.0)
    return {
        role: {
            "max_abs": worst[role],
            "mean_abs": float(np.mean(means[role])),
            "tolerance": tolerances[role],
            "pass": worst[role] <= tolerances[role],
        }
        for role in worst
    }


def check(report: Mapping[str, Mapping[str, Any]], name: str) -> None:
    """Raise GateError naming the worst role unless every role passes."""
    failed = {role: row for role, row in report.items() if not row["pass"]}
    if failed:
        role, row = max(failed.items(), key=lambda item: item[1]["max_abs"] / item[1]["tolerance"])
        raise GateError(
            f"{name}: not the same function as the checkpoint: {role} differ by up to {row['max_abs']:.3g}, "
            f"tolerance {row['tolerance']:.3g}; nothing was written",
            {"parity": {k: dict(v) for k, v in report.items()}},
        )


def _seen(expected: Mapping[str, np.ndarray], precision: str) -> np.ndarray | slice:
    scores = expected.get("scores")
    if precision == "f32" or scores is None:
        return slice(None)
    best = scores.max(1)
    return best >= SEEN * best.max()


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
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            x, y, r = (int(v) for v in rng.integers([0, 0, 6], [side, side, side // 4]))
            if rng.random() < 0.5:
                cv2.circle(image, (x, y), r, colour, -1, cv2.LINE_AA)
            else:
                cv2.rectangle(image, (x - r, y - r // 2), (x + r, y + r // 2), colour, -1)
        noise = rng.normal(0, 6, image.shape)
        images.append(np.clip(image + noise, 0, 255).astype(np.uint8))
    return images


def read_images(folder: Path, most: int = 8) -> list[np.ndarray]:
    """The first ``most`` images of a folder (uint8 BGR)."""
    from edgekit.runtime.sources import open_sources

    frames = (f for f in open_sources([str(folder)]) if f.image is not None)
    return [frame.image for frame, _ in zip(frames, range(most), strict=False)]
