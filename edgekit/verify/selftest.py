"""A bundle's self-test: small pictures, what the model must answer to them, and by how much another machine may differ.

    test = read(bundle)                         # None: the bundle is older than self-tests
    outcome = run(session, test)
    outcome.passed, outcome.roles["boxes"]

``selftest/selftest.json`` holds it, beside the pictures (binary PPM, which needs no library to be read):

| key | what it holds |
|---|---|
| ``schema`` | 1 |
| ``images`` | paths in the bundle; 140 kB at most |
| ``answers`` | for each image, by role, what is below |
| ``allowed`` | precision -> role -> ``rms``, ``p99``, ``max`` of the differences; the widest bounds last |
| ``stages`` | path of a module -> a few of the values that it gives for the first image |

Answers are those of a picture's ``KEPT`` best candidates (anchor and class), best first, whatever the head: ``scores``,
``labels``, ``boxes`` or ``rotated_boxes`` (centre and sides) and ``angles``, ``keypoints`` (places) and ``visibility``,
``mask_coefficients``; of ``mask_prototypes`` ``SAMPLES`` values; of classifiers ``class_probabilities``. They are
judged as ``parity.py`` judges: candidates are paired by label, place and score, those among the ``JUDGED`` best of
either side without a partner count as a difference of their score from the lowest one kept (where fewer than half have
one, they are paired by label and score alone, so that wrong places show as such), and of all differences of a
role the root mean square, the 99th percentile and the largest are held to what ``rounding.py`` explains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np

from edgekit.errors import EdgekitError, GateError, InputError
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.image import read_image
from edgekit.runtime.manifest import Bundle
from edgekit.runtime.predictor import Predictor
from edgekit.spec import NMS_IOU, Json, Session
from edgekit.verify.parity import SEEN, distances, pair_rows
from edgekit.verify.rounding import TIMES
from edgekit.verify.stages import Lineage, narrowest

SCHEMA = 1
FOLDER = "selftest"
DOCUMENT = f"{FOLDER}/selftest.json"
KEPT, JUDGED = 36, 18  # candidates of an image that are stored, and of those the best, which must have a partner
SAMPLES = 512  # values of the mask prototypes
STAGE_VALUES = 16
BOXES = ("boxes", "rotated_boxes")
PLACES = (*BOXES, "keypoints")  # pixels
_PER_CANDIDATE = (*PLACES, "angles", "visibility", "mask_coefficients")
OWN = ("mask_coefficients", "keypoints", "angles")  # what a task tells of a candidate besides place and score
ALIKE = 1.0  # pixels (and PER_SCORE), by which low precision tells an object's neighbouring cells apart no longer
_BORDER = 0.3  # of the overlap of two boxes, by which rounding may move it
_HUGE = 1e9
_MOST_IMAGES = 16

Answers = dict[str, np.ndarray]
Bounds = Mapping[str, Mapping[str, float]]  # role -> rms, p99, max


@dataclass(frozen=True)
class SelfTest:
    """What was read: ``images`` uint8 BGR, an ``answers`` for each, bounds by precision, values of stages and
    where those are in the artifact, and the manifest's entry."""

    images: tuple[np.ndarray, ...]
    answers: tuple[Answers, ...]
    allowed: Mapping[str, Bounds]
    stages: Mapping[str, np.ndarray]
    lineage: Lineage | None
    about: Json


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        passed: whether every role is within its bounds.
        precision: whose bounds they are.
        roles: role -> ``found`` and ``allowed`` (``rms``, ``p99``, ``max``) and ``pass``.
        milliseconds: of preparing, running and judging.
        found: the answers, by run and place, for those who ask why.
    """

    passed: bool
    precision: str
    roles: Json
    milliseconds: float
    found: tuple[tuple[Answers, ...], ...] = field(repr=False, default=())

    def worst(self) -> str:
        """The role that is furthest from its bounds, and by how much, in words."""
        if self.passed:
            return ""
        role = max(self.roles, key=lambda name: _excess(self.roles[name]))
        row = self.roles[role]
        over = max(row["allowed"], key=lambda k: row["found"][k] / row["allowed"][k])
        spoken = {"rms": "in the root mean square", "p99": "in one of a hundred values", "max": "at most"}[over]
        return f"{role} differ by {row['found'][over]:.3g} {spoken}, {row['allowed'][over]:.3g} is allowed"


def _excess(row: Json) -> float:
    return max(float(row["found"][key]) / float(bound) for key, bound in row["allowed"].items())


# ---- running --------------------------------------------------------------------------------------------------------


def run(session: Session, test: SelfTest, precision: str | None = None, swapped: bool = False) -> Outcome:
    """The pictures through ``session`` and its answers held against the stored ones.

    Args:
        precision: whose bounds to hold them to; by default what the session says it executes.
        swapped: give it the pictures with red and blue exchanged.
    """
    start = perf_counter()
    kept = list(test.allowed)
    if precision is None:
        precision = kept[-1] if len(kept) == 1 else narrowest(session)
    bounds = test.allowed.get(precision, test.allowed[kept[-1]])
    found = tuple(answered(session, test.images, swapped))
    pairs = [
        (test.answers[image], answer)
        for order, answers in zip(orders(len(test.images), session.info.batch), found, strict=True)
        for image, answer in zip(order, answers, strict=True)
    ]
    roles = judged(pairs, bounds, session.info.head, precision, max(session.info.imgsz))
    spent = 1e3 * (perf_counter() - start)
    return Outcome(all(row["pass"] for row in roles.values()), precision, roles, spent, found)


def orders(images: int, batch: int | None) -> list[list[int]]:
    """Which image lies in which place of each run: every image once in the first place, others in the places beside."""
    return [[(first + place) % images for place in range(batch or 1)] for first in range(images)]


def answered(session: Session, images: Sequence[np.ndarray], swapped: bool = False) -> Iterator[tuple[Answers, ...]]:
    """Answers to uint8 BGR images by run (``orders``) and place; ``swapped``: with red and blue exchanged."""
    for batch in batches(session, images, swapped):
        outputs = session.run(batch)
        yield tuple(answers_of(outputs, session.info.head, place) for place in range(len(batch)))


def batches(session: Session, images: Sequence[np.ndarray], swapped: bool = False) -> list[np.ndarray]:
    """The inputs of all runs, as the session takes them."""
    predictor = Predictor(session)
    shown = [np.ascontiguousarray(image[..., ::-1]) if swapped else image for image in images]
    return [predictor.preprocess([shown[i] for i in order])[0] for order in orders(len(images), session.info.batch)]


def answers_of(outputs: Mapping[str, np.ndarray], head: str, place: int = 0) -> Answers:
    """What is stored and compared of one image's outputs (``edgekit.spec.ROLES``, batch first)."""
    one = {role: np.asarray(value[place]) for role, value in outputs.items()}
    if "class_probabilities" in one:
        return {"class_probabilities": one["class_probabilities"].astype(np.float64)}
    scores = one["scores"]
    classes = scores.shape[0] if head == "raw" else 1
    flat = np.asarray(scores.T, np.float64).ravel()
    best = _best(flat)
    rows = best // classes
    labels = best % classes if head == "raw" else one["labels"][rows]
    found: Answers = {"scores": flat[best], "labels": labels.astype(np.int64)}
    for role in ("boxes", "rotated_boxes", "keypoints", "mask_coefficients"):
        if role in one:
            found[role] = one[role][rows].astype(np.float64)
    if "rotated_boxes" in one:
        found["rotated_boxes"], found["angles"] = found["rotated_boxes"][:, :4], found["rotated_boxes"][:, 4]
    if "keypoints" in one:
        found["keypoints"], found["visibility"] = found["keypoints"][..., :2], found["keypoints"][..., 2]
    if "mask_prototypes" in one:
        found["mask_prototypes"] = sampled(one["mask_prototypes"], SAMPLES).astype(np.float64)
    return found


def _best(scores: np.ndarray) -> np.ndarray:
    """Places of the ``KEPT`` highest scores, of equal ones the first."""
    if scores.size <= KEPT:
        return np.argsort(-scores, kind="stable")
    first = np.argpartition(-scores, KEPT)[:KEPT]
    return first[np.lexsort((first, -scores[first]))]


def sampled(value: np.ndarray, most: int) -> np.ndarray:
    """At most so many of its numbers, from all over it, always the same ones."""
    flat = value.ravel()
    if flat.size <= most:
        return flat
    return flat[(np.arange(1, most + 1) * 0.6180339887498949 % 1 * flat.size).astype(np.int64)]


# ---- judging --------------------------------------------------------------------------------------------------------


def judged(
    pairs: Sequence[tuple[Answers, Answers]], bounds: Bounds, head: str, precision: str, side: int
) -> dict[str, Json]:
    """By role how far pairs of answers (wanted, found) are apart, and whether that is within ``bounds``."""
    rows: dict[str, Json] = {}
    for role, gap in gaps(pairs, head, precision, side).items():
        found, allowed = spread(gap), bounds[role]
        held = found["max"] < _HUGE and all(found[key] <= allowed[key] for key in allowed)
        rows[role] = {"found": found, "allowed": dict(allowed), "pass": held}
    return rows


def spread(gap: np.ndarray) -> dict[str, float]:
    """Root mean square, 99th percentile and largest of differences; of none at all 0."""
    gap = np.minimum(np.where(np.isfinite(gap), gap, _HUGE), _HUGE)
    if not gap.size:
        return dict.fromkeys(TIMES, 0.0)
    return {
        "rms": float(np.sqrt(np.mean(gap**2))),
        "p99": float(np.sort(gap)[-1 - gap.size // 100]),
        "max": float(gap.max()),
    }


def gaps(pairs: Sequence[tuple[Answers, Answers]], head: str, precision: str, side: int) -> dict[str, np.ndarray]:
    """|differences| of every role over pairs of answers (wanted, found).

    Args:
        head: of the model; of an ``nms`` head one more or less of boxes that overlap by just about the threshold is no
            difference.
        precision: in ``f32`` every candidate's place is compared, in others those with ``SEEN`` of the best score.
        side: pixels; coordinates outside the image may differ by as much more as they lie further away.
    """
    found: dict[str, list[np.ndarray]] = {}
    for want, have in pairs:
        differ = _plain if "class_probabilities" in want else _paired
        for role, gap in differ(want, have, head, precision, side).items():
            found.setdefault(role, []).append(gap.ravel())
    return {role: np.concatenate(parts) for role, parts in found.items()}


def _plain(want: Answers, have: Answers, *_: object) -> dict[str, np.ndarray]:
    return {role: _apart(value, have[role]) for role, value in want.items()}


def _apart(want: np.ndarray, have: np.ndarray) -> np.ndarray:
    same = want.shape == have.shape
    return np.abs(want - have) if same else np.full(want.shape, np.inf)


def _paired(want: Answers, have: Answers, head: str, precision: str, side: int) -> dict[str, np.ndarray]:
    have = {role: np.nan_to_num(value, nan=_HUGE, posinf=_HUGE, neginf=-_HUGE) for role, value in have.items()}
    rows, partners = pair_rows(want, have)
    if 2 * (rows < JUDGED).sum() < min(JUDGED, len(want["scores"])):  # places are what is wrong
        rows, partners = pair_rows(want, have, np.inf)
    lonely = [_lonely(want, rows, have, head), _lonely(have, partners, want, head)]
    near = rows < JUDGED
    rows, partners = rows[near], partners[near]
    differ = {"scores": np.concatenate([np.abs(want["scores"][rows] - have["scores"][partners]), *lonely])}
    least = 0.0 if precision == "f32" else SEEN * want["scores"].max(initial=0.0)
    seen = want["scores"][rows] >= least
    cells = partners if precision == "f32" else _cells(want, have, rows, partners)
    for role in _PER_CANDIDATE:
        if role in want:
            gap = np.abs(want[role][rows] - have[role][partners if role in BOXES else cells])
            if role == "angles":
                gap = np.minimum(gap % np.pi, np.pi - gap % np.pi)
            if role in PLACES:
                gap = gap / np.maximum(1.0, np.abs(want[role][rows]) / side)
            differ[role] = gap[seen]
    if "mask_prototypes" in want:
        differ["mask_prototypes"] = _apart(want["mask_prototypes"], have["mask_prototypes"])
    return differ


def _cells(want: Answers, have: Answers, rows: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Of the candidates of ``have`` that place and score cannot tell from each of ``partners``, the one whose own
    values are nearest: neighbouring cells find the same object, and need not say the same of it."""
    role = next((name for name in OWN if name in want), None)
    if role is None or not len(rows):
        return partners
    apart = distances(want, have)[rows]
    alike = apart <= apart[np.arange(len(rows)), partners][:, None] + ALIKE
    own = np.abs(want[role][rows][:, None] - have[role]).reshape(*apart.shape, -1).mean(2)
    chosen: np.ndarray = np.where(alike, own, np.inf).argmin(1)
    return chosen


def _lonely(one: Answers, paired: np.ndarray, other: Answers, head: str) -> np.ndarray:
    """Of the best of ``one`` without a partner: by how much each is above what the other side kept at all."""
    alone = np.setdiff1d(np.arange(min(JUDGED, len(one["scores"]))), paired)
    if head == "nms":
        alone = np.array([row for row in alone if not _borderline(one, row, other)], int)
    full = len(other["scores"]) >= KEPT
    floor = other["scores"].min(initial=np.inf) if full else 0.0
    gap: np.ndarray = np.maximum(one["scores"][alone] - floor, 0.0)
    return gap


def _borderline(one: Answers, row: int, other: Answers) -> bool:
    """Whether it overlaps one of ``other`` by about as much as suppression allows."""
    rivals = other["boxes"][other["labels"] == one["labels"][row]]
    overlap = float(box_iou(one["boxes"][[row]], rivals).max(initial=0.0))
    return abs(overlap - NMS_IOU) <= _BORDER


# ---- the file -------------------------------------------------------------------------------------------------------


def read(bundle: Bundle) -> SelfTest | None:
    """The self-test of a bundle whose files were checked; None where it has none.

    Raises:
        GateError: its files are not among those that the manifest has a hash of.
        InputError: it is not a valid one, or of a newer edgekit.
    """
    about = bundle.manifest.get("selftest")
    if not isinstance(about, dict) or not about.get("images"):
        return None
    where = bundle.path / DOCUMENT
    _check_listed(bundle, DOCUMENT)
    try:
        document = json.loads(where.read_text(encoding="utf-8"))
        if document["schema"] > SCHEMA:
            raise InputError(f"{where}: self-test schema {document['schema']}, this edgekit reads {SCHEMA}; upgrade it")
        names = document["images"]
        if not 0 < len(names) == len(document["answers"]) <= _MOST_IMAGES:
            raise ValueError(f"{len(names)} images")
        answers = tuple(_arrays(each, bundle) for each in document["answers"])
        allowed = {name: _bounds(row, answers[0]) for name, row in document["allowed"].items()}
        if not allowed:
            raise ValueError("no bounds")
        stages = {str(path): np.array(values, np.float64) for path, values in document["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, EdgekitError):
            raise
        raise InputError(f"{where}: not a valid self-test ({error}); rebuild the bundle") from error
    for name in names:
        _check_listed(bundle, name)
    images = tuple(read_image(bundle.path / name) for name in names)
    return SelfTest(images, answers, allowed, stages, _lineage(bundle), about)


def absent(bundle: Bundle) -> str:
    """Why a bundle has no self-test."""
    about = bundle.manifest.get("selftest")
    why = about.get("why") if isinstance(about, dict) else None
    told = why if isinstance(why, str) else "it was built without, or by an older edgekit"
    return f"the bundle has no self-test ({told}); build it again to have it verified"


def _lineage(bundle: Bundle) -> Lineage | None:
    try:
        return Lineage.of(bundle.manifest)
    except (KeyError, TypeError, AttributeError):
        return None


def _check_listed(bundle: Bundle, name: object) -> None:
    """What has no hash could be anything."""
    if name not in bundle.manifest["files"]:
        raise GateError(
            f"{bundle.path}: its self-test uses {name!r}, of which the manifest has no hash; rebuild or copy the "
            "bundle again"
        )


def _arrays(answer: Json, bundle: Bundle) -> Answers:
    found = {str(role): np.array(values, np.float64) for role, values in answer.items()}
    if "labels" in found:
        found["labels"] = found["labels"].astype(np.int64)
        rows = len(found["labels"])
        if any(role in found and len(found[role]) != rows for role in ("scores", *_PER_CANDIDATE)):
            raise ValueError("answers of different lengths")
    roles = {port.role for port in bundle.info.outputs} - ({"labels"} if "labels" not in found else set())
    if not roles <= set(found):
        raise ValueError(f"no answer for {', '.join(sorted(roles - set(found)))}")
    return found


def _bounds(row: Json, answers: Answers) -> Bounds:
    bounds = {str(role): {key: float(values[key]) for key in TIMES} for role, values in row.items()}
    if not all(value > 0 for values in bounds.values() for value in values.values()):
        raise ValueError("a bound that is not above zero")
    if not answers.keys() - {"labels"} <= bounds.keys():
        raise ValueError("a role without bounds")
    return bounds


def write(folder: Path, images: Sequence[np.ndarray], document: Json) -> None:
    """The document and its pictures in ``folder/selftest``."""
    place = folder / FOLDER
    place.mkdir()
    names = []
    for number, image in enumerate(images):
        name = f"{number}.ppm"
        height, width = image.shape[:2]
        (place / name).write_bytes(b"P6\n%d %d\n255\n" % (width, height) + image[..., ::-1].tobytes())
        names.append(f"{FOLDER}/{name}")
    text = json.dumps({"schema": SCHEMA, "images": names, **document}, allow_nan=False, separators=(",", ":"))
    (folder / DOCUMENT).write_text(text + "\n", encoding="utf-8")
