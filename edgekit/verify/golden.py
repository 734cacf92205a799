"""Makes a bundle's self-test: which pictures, the answers to them, and how far other machines may be from those.

    entry = make(files, pictures, proof, session, target)        # files/selftest/…, and ``selftest`` for the manifest

The answers, and the values of stages, are the source's in float32, of INT8 the artifact's own. The bounds are what each
precision that other machines may execute does to this network on these pictures, and on those of the proof where that
is known by then (``rounding.py``). Before it is written it is tried on the artifact: on pictures with red and
blue exchanged, on zeros and on the wrong picture it has to fail, and ``catches`` says which of these it does tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgekit.runtime.processor import adds_exactly, is_cpu
from edgekit.spec import Json, Session
from edgekit.targets import Target
from edgekit.targets import get as target_named
from edgekit.verify import parity, rounding, selftest, stages
from edgekit.verify.proof import Proof
from edgekit.verify.selftest import Answers, gaps, spread

WIDTH, HEIGHT = 144, 108  # pixels that a picture may have; three of them are 140 kB
PICTURES, CANDIDATES = 3, 6
NARROW = ("w16", "f16", "bf16")  # what half-precision weights are executed in, by hardware; the widest bounds last

Pairs = list[tuple[Answers, Answers]]


def small(image: np.ndarray) -> np.ndarray:
    """A picture of at most ``WIDTH`` x ``HEIGHT`` pixels, its aspect kept."""
    height, width = image.shape[:2]
    factor = min(WIDTH / width, HEIGHT / height, 1.0)
    if factor == 1.0:
        return image
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def generated() -> list[np.ndarray]:
    """Pictures where none are given; wider than high, so that the letterbox shows."""
    return [image[:HEIGHT] for image in parity.generated_images(PICTURES, WIDTH)]


def make(
    folder: Path,
    pictures: Sequence[np.ndarray],
    proof: Proof,
    session: Session,
    target: Target,
    bits: int | None = None,
) -> Json:
    """Write the self-test into ``folder`` and return the manifest's entry.

    Args:
        pictures: uint8 BGR, of any size; none: generated ones.
        proof: of the build, with the source.
        session: the artifact, or what was opened in its place.
        bits: of an INT8 model's weights.

    Returns:
        ``images``, ``bytes``, ``source`` (``given`` or ``generated``), ``precisions``, ``catches`` and ``misses``; with
        0 images and ``why`` where this machine's answers are no measure for others.
    """
    if target.int8 and not target.exact and bits == 8 and adds_exactly() is False and is_cpu(None):
        return {"images": 0, "why": "sums of INT8 saturate on the machine that built it; its answers are no measure"}
    reference = proof.reference
    given = [small(image) for image in pictures]
    images = _telling(reference, given) if given else generated()
    truth = _each(session if target.int8 else reference, images)
    bounds = _bounds(proof, session, target, images)
    head, side = session.info.head, max(session.info.imgsz)
    bounds = _with_own(bounds, list(zip(truth, _each(session, images), strict=True)), session, target)
    wrong = {
        "channels": _each(session, images, swapped=True),
        "zeros": [{role: np.zeros_like(value) for role, value in each.items()} for each in truth],
        "pictures": [*truth[1:], truth[0]],
    }
    precision, widest = list(bounds.items())[-1]
    caught = {}
    for name, answers in wrong.items():
        rows = selftest.judged(list(zip(truth, answers, strict=True)), widest, head, precision, side)
        caught[name] = not all(row["pass"] for row in rows.values())
    document = {
        "answers": [{role: _plain(value) for role, value in each.items()} for each in truth],
        "allowed": bounds,
        "stages": _stages(proof, session if target.int8 else reference, images),
    }
    selftest.write(folder, images, document)
    return {
        "images": len(images),
        "bytes": sum(path.stat().st_size for path in (folder / selftest.FOLDER).iterdir()),
        "source": "given" if given else "generated",
        "precisions": list(bounds),
        "catches": [name for name, fails in caught.items() if fails],
        "misses": [name for name, fails in caught.items() if not fails],
    }


def _telling(reference: Session, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The pictures in which the source sees most, in their order."""
    seen = [_seen(answer) for answer in _each(reference, images)]
    best = sorted(np.argsort([-each for each in seen], kind="stable")[:PICTURES])
    return [images[i] for i in best]


def _seen(answer: Answers) -> float:
    scores = answer.get("scores", answer.get("class_probabilities"))
    assert scores is not None
    return float((scores >= parity.SEEN).sum() + scores.max(initial=0.0))


def _each(session: Session, images: Sequence[np.ndarray], swapped: bool = False) -> list[Answers]:
    """The answer to every image, from the first place of a batch."""
    return [answers[0] for answers in selftest.answered(session, images, swapped)]


def _bounds(
    proof: Proof, session: Session, target: Target, images: list[np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Precision -> role -> bounds."""
    reference, pixels = proof.reference, session.info.takes_uint8
    head, side = session.info.head, max(session.info.imgsz)

    def apart(one: Session, other: Any, precision: str) -> dict[str, dict[str, float]]:
        """Of the pictures alone and with those of the proof, whichever is more."""
        own = list(zip(_each(one, images), _each(other, images), strict=True))
        batches = [batch for batch in proof.batches(session.info)[:PICTURES] if other.knows(batch)]
        more = [(selftest.answers_of(one.run(b), head), selftest.answers_of(other.run(b), head)) for b in batches]
        found = [_allowed(gaps(pairs, head, precision, side), precision) for pairs in (own, own + more)]
        return {role: _most(row, found[1][role]) for role, row in found[0].items()}

    def of(precision: str) -> dict[str, dict[str, float]]:
        rounded = reference.narrowed(precision, pixels)
        if rounded is None:
            return _fixed(precision, _each(reference, images)[0])
        return apart(reference, rounded, precision)

    if not target.int8:
        return {precision: of(precision) for precision in (("f32",) if target.precision == "fp32" else NARROW)}
    found = apart(session, reference, "int8")
    if any(target_named(name).precision == "fp16" for name in target.floats):  # what is not quantized may be narrower
        found = {role: _most(row, of("bf16")[role]) for role, row in found.items()}
    return {"int8": found}


def _with_own(
    bounds: dict[str, dict[str, dict[str, float]]], pairs: Pairs, session: Session, target: Target
) -> dict[str, dict[str, dict[str, float]]]:
    """Twice what this machine is off, which the build has accepted, is no fault elsewhere either."""
    precision = list(bounds)[-1] if len(bounds) == 1 else stages.narrowest(session)
    if precision not in bounds:
        return bounds
    own = gaps(pairs, session.info.head, precision, max(session.info.imgsz))
    twice = {role: {key: 2 * value for key, value in spread(gap).items()} for role, gap in own.items()}
    return bounds | {precision: {role: _most(row, twice[role]) for role, row in bounds[precision].items()}}


def _allowed(found: Mapping[str, np.ndarray], precision: str) -> dict[str, dict[str, float]]:
    return {role: _of_noise(role, gap, precision) for role, gap in found.items()}


def _of_noise(role: str, gap: np.ndarray, precision: str) -> dict[str, float]:
    """Bounds of a role from what rounding does to it."""
    own = spread(gap)
    factor = rounding.SELF_TEST[precision] * (1 + rounding.FEW / max(gap.size, 1))
    floor = _floor(role)
    factors = {"rms": factor, "p99": factor, "max": rounding.PEAK * factor}
    return {key: factors[key] * own[key] + times * floor for key, times in rounding.TIMES.items()}


def _floor(role: str) -> float:
    if role == "angles":
        return rounding.ANGLES
    kind = "geometry" if role in selftest.PLACES else "masks" if role.startswith("mask") else "scores"
    return rounding.FLOORS[kind]


def _fixed(precision: str, answers: Answers) -> dict[str, dict[str, float]]:
    """Bounds where the source cannot be rounded."""
    most = parity.tolerances_for(precision)
    most |= {"angles": 10 * most["scores"], "visibility": most["scores"]}
    return {role: {"rms": most[role] / 4, "p99": most[role], "max": most[role]} for role in answers if role != "labels"}


def _most(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {key: max(value, other[key]) for key, value in one.items()}


def _stages(proof: Proof, session: Session, images: Sequence[np.ndarray]) -> Json:
    """A few values of every stage that the session shows, for the first run."""
    lineage = stages.Lineage.of(proof.graph.provenance)
    if lineage is None:
        return {}
    if session.target == "pytorch":  # there they are under their own names
        lineage = stages.Lineage([(path, path) for path, _ in lineage.stages])
    values = stages.values(session, selftest.batches(session, images)[0], lineage)
    return {path: _plain(selftest.sampled(value, selftest.STAGE_VALUES)) for path, value in values.items()}


def _plain(value: np.ndarray) -> object:
    """Numbers of seven digits, as short as they can be written."""
    if value.dtype == np.int64:
        return value.tolist()
    flat = [float(f"{number:.7g}") for number in np.nan_to_num(value.ravel())]
    return np.array(flat).reshape(value.shape).tolist()
