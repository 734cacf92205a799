"""What is the first wrong thing in a model, or in a program's detections, that should do what a checkpoint does?

    found = diagnose(Path("theirs.onnx"), Path("yolo12n.pt"), images)
    found.same, [(finding.word, finding.says) for finding in found.findings]

The checkpoint is made to answer as each known fault would have it (``faults.py``), and the fault that brings it nearest
to the model in doubt is believed if it explains most of the difference; then the next is looked for. What no such fault
explains is looked for inside: the stage from which on none of the model's own values is the checkpoint's
(``verify/whereabouts.py``). What is left, small and everywhere, is precision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import external, faults
from edgekit.bundle.faults import Array, Fault, Roles
from edgekit.bundle.loading import open_session
from edgekit.errors import InputError, UsageError
from edgekit.metrics.matching import greedy, same_objects
from edgekit.runtime.boxes import box_iou, probiou
from edgekit.runtime.image import Geometry, fit, to_input
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo, Session
from edgekit.verify import whereabouts

# Errors: of values, root mean squares of the difference over those of the right ones, scores and places added; of
# detections, one less the share that has a partner, weighed by overlap and score.
SAME = {"values": 0.03, "detections": 0.05}
EXPLAINS = 0.4  # what a fault leaves of the error, at most
ROUNDING = 0.5  # an error above this is none of precision
CELLS = 300  # that values are compared at: the best of either model
MOST = 3  # faults at once


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        word: ``channel order``, ``normalisation``, ``letterbox``, ``box format``, ``class order``, ``sigmoid``,
            ``threshold``, ``NMS``, ``weights``, a stage's words, or ``precision``.
        says, advice: what is the case, and what to do.
        before, after: error without it and with it as explanation.
        path: of the stage, as PyTorch names modules.
    """

    word: str
    says: str
    advice: str
    before: float
    after: float
    path: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What was found: ``same`` if nothing is wrong, ``findings`` in order of the flow, ``error`` of the model as it is,
    ``measure`` that it is in (``values`` or ``detections``), and how many ``images`` were looked at."""

    same: bool
    findings: tuple[Finding, ...]
    error: float
    measure: str
    images: int


def diagnose(
    theirs: Path,
    reference: Path,
    images: Sequence[tuple[str, Array]],
    imgsz: tuple[int, int] | None = None,
    task: str | None = None,
    outputs: str | None = None,
) -> Diagnosis:
    """Find what is wrong with ``theirs``.

    Args:
        theirs: a model of any tool (``external.py``), a bundle, or detections in COCO's results form (``.json``).
        reference: the checkpoint it should be.
        images: (file name or path, uint8 BGR ``[h, w, 3]``).
        imgsz: (height, width), where the model takes any; of detections, the size they were made at.
        task, outputs: of a model that does not say (``external.read``).

    Raises:
        EdgekitError: one of the two cannot be read, or they answer different questions.
    """
    doubtful: _Doubtful = (
        _detections(theirs, images) if theirs.suffix == ".json" else _Model(theirs, imgsz, task, outputs)
    )
    try:
        search = _Search(doubtful, _Right(reference, imgsz or doubtful.imgsz, doubtful.names), images)
        return search.run()
    finally:
        doubtful.close()


# ---- the model in doubt --------------------------------------------------------------------------------------------


class _Doubtful:
    """What answers: of every image either roles of a raw head (``dense``) or detections."""

    path: Path
    imgsz: tuple[int, int] | None = None
    names: tuple[str, ...] | None = None
    dense = False
    form = 0  # of ``faults.box_forms``
    program = False  # whether pictures were put on the canvas by somebody else
    session: Session | None = None

    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Roles | Result:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the session."""


class _Model(_Doubtful):
    """A model that can be run."""

    def __init__(self, path: Path, imgsz: tuple[int, int] | None, task: str | None, outputs: str | None) -> None:
        self.path = path
        if external.is_foreign(path):
            known = external.read(path, imgsz, task, outputs)
            self.session = known.unchecked(known.target.open(known.path, known.inner))
        else:
            self.session = open_session(path, imgsz=imgsz)
        info = self.session.info
        self.imgsz, self.dense = info.imgsz, info.head == "raw"
        self.names = info.names if self.session.named else None
        self.form = 1 if self.dense else 0

    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Roles | Result:
        assert self.session is not None
        roles = {r: np.array(v, np.float32) for r, v in self.session.run(batch).items()}
        return roles if self.dense else postprocess(roles, self.session.info, [geometry], options)[0]

    def close(self) -> None:
        if self.session is not None:
            self.session.close()


class _Detections(_Doubtful):
    """Detections that a program made of the same pictures."""

    program, form = True, 2

    def __init__(self, path: Path, results: list[Result]) -> None:
        self.path, self._results = path, results

    def answer(self, i: int, batch: Array, geometry: Geometry, options: Options) -> Result:
        return self._results[i]


def _detections(path: Path, images: Sequence[tuple[str, Array]]) -> _Detections:
    """Detections in COCO's results form: ``image_id`` (or ``file_name``) is the picture's name without its ending, or
    that as a number; ``bbox`` x, y, width, height."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = rows["annotations"] if isinstance(rows, dict) else rows
        read = [
            (Path(str(r.get("file_name", r["image_id"]))).stem, *map(float, r["bbox"]), float(r["score"]),
             int(r["category_id"])) for r in rows
        ]  # fmt: skip
        assert all(len(r) == 7 for r in read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(
            f"{path}: no detections in COCO's results form, a list of image_id, category_id, bbox, score"
        ) from error
    results, known = [], 0
    for name, image in images:
        stem = Path(name).stem
        mine = np.array([r[1:] for r in read if r[0] in (stem, stem.lstrip("0"))], np.float32).reshape(-1, 6)
        known += len(mine)
        boxes = np.concatenate([mine[:, :2], mine[:, :2] + mine[:, 2:4]], 1)
        results.append(Result(image.shape[:2], (), boxes, mine[:, 4], mine[:, 5].astype(np.int64)))
    if not known:
        raise InputError(f"{path}: none of its {len(read)} detections is of one of the {len(images)} images given")
    return _Detections(path, results)


# ---- the right answer, and faulty ones -----------------------------------------------------------------------------


class _Right:
    """The checkpoint, in any size, with any faults."""

    def __init__(self, path: Path, imgsz: tuple[int, int] | None, names: tuple[str, ...] | None) -> None:
        self.session = open_session(path, imgsz=imgsz)
        if self.session.target != "pytorch":
            raise UsageError(f"{path}: the reference is a checkpoint; give the one that the model was made of")
        self.info: ModelInfo = self.session.info
        self.imgsz = self.info.imgsz
        self._own: Session | None = None
        self._path = path
        self.order: Array | None = None
        if names is not None and names != self.info.names:
            if sorted(names) != sorted(self.info.names):
                raise UsageError(f"{path} has classes {_few(self.info.names)}, the model {_few(names)}; give its own "
                                 "checkpoint")  # fmt: skip
            self.order = np.array([self.info.names.index(name) for name in names])

    def at_its_own_size(self) -> Session:
        """The checkpoint at the size that it was trained for."""
        if self._own is None:
            self._own = open_session(self._path)
        return self._own

    def run(self, batch: Array) -> Roles:
        """Roles of the raw head, classes in the order of the model in doubt."""
        roles = {r: np.array(v) for r, v in self.session.run(np.ascontiguousarray(batch)).items()}
        if self.order is None:
            return roles
        return {r: v[:, self.order] if r in ("scores", "class_probabilities") else v for r, v in roles.items()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)})" if len(names) > 4 else "")


@dataclass
class _Answers:
    """Of every image what was answered, and where it lay."""

    roles: list[Roles]
    geometries: list[Geometry]


class _Search:
    """The search for faults of one model."""

    def __init__(self, doubtful: _Doubtful, right: _Right, images: Sequence[tuple[str, Array]]) -> None:
        self.doubtful, self.right = doubtful, right
        self.images = [image for _, image in images]
        self.options = Options()
        self.measure = "values" if doubtful.dense else "detections"
        self._seen: dict[tuple[int, ...], _Answers] = {}
        self.canvases = [fit(image, right.imgsz, right.info.preprocess) for image in self.images]
        self.given = [
            doubtful.answer(i, to_input([canvas]), geometry, self.options)
            for i, (canvas, geometry) in enumerate(self.canvases)
        ]

    def run(self) -> Diagnosis:
        believed: list[Fault] = []
        findings: list[Finding] = []
        error = first = self._error(believed)
        while error > SAME[self.measure] and len(believed) < MOST:
            after, fault = min(
                ((self._error([*believed, each]), each) for each in self._suspects(believed)),
                key=lambda pair: pair[0],
            )
            if after > EXPLAINS * error and not (after <= SAME[self.measure] and after < 0.7 * error):
                break
            findings.append(Finding(fault.word, fault.says, fault.advice, error, after))
            believed.append(fault)
            error = after
        if error > SAME[self.measure]:
            findings += self._inside(believed, error)
        order = {id(f): s.stage for f, s in zip(findings, believed, strict=False)}
        findings.sort(key=lambda f: order.get(id(f), 1))
        return Diagnosis(not findings, tuple(findings), first, self.measure, len(self.images))

    def _suspects(self, believed: Sequence[Fault]) -> Iterator[Fault]:
        """Faults that the model in doubt can have beside those already believed."""
        words = {fault.word for fault in believed}
        for fault in (*faults.CATALOGUE, *faults.box_forms(self.doubtful.form), *self._learned(believed)):
            kept = not fault.keeps or not self.doubtful.dense
            possible = fault.inside or self.doubtful.program
            if fault.word not in words and kept and possible:
                yield fault

    # ---- answers with faults ----

    def _answers(self, believed: Sequence[Fault]) -> _Answers:
        """The checkpoint's raw answers where the network sees what faults make it see."""
        looks = [fault for fault in believed if fault.stage == 0]
        key = tuple(id(fault) for fault in looks)
        if key not in self._seen:
            found = _Answers([], [])
            fits = next((fault.fits for fault in looks if fault.fits), None)
            for image, (canvas, geometry) in zip(self.images, self.canvases, strict=True):
                if fits:
                    canvas, geometry = fits(image, self.right.imgsz)
                batch = to_input([canvas])
                for fault in looks:
                    batch = fault.sees(batch) if fault.sees else batch
                found.roles.append(self.right.run(batch))
                found.geometries.append(geometry)
            self._seen[key] = found
        return self._seen[key]

    def _faulty(self, believed: Sequence[Fault]) -> Iterator[Roles | Result]:
        seen = self._answers(believed)
        for roles, geometry in zip(seen.roles, seen.geometries, strict=True):
            if self.doubtful.dense:
                yield self._dense(roles, believed)
            else:
                yield self._finished(roles, geometry, believed)

    def _dense(self, roles: Roles, believed: Sequence[Fault]) -> Roles:
        for fault in believed:
            roles = fault.answers(roles) if fault.answers else roles
            if fault.boxes and "boxes" in roles:
                roles = roles | {"boxes": fault.boxes(roles["boxes"], self.right.imgsz)}
        return roles

    def _finished(self, roles: Roles, geometry: Geometry, believed: Sequence[Fault]) -> Result:
        """Detections in the image, of an answer that is suppressed where it is right and then written and read."""
        options = self.options
        for fault in believed:
            options = replace(options, **fault.keeps)
            geometry = fault.lies(geometry) if fault.lies else geometry
            if fault.answers and not fault.labels:
                roles = fault.answers(roles)
        size = self.right.imgsz
        result = _kept(roles, self.right.info, geometry, options)
        for fault in believed:
            if fault.labels and result.labels is not None:
                result.labels = fault.labels(result.labels)
            if fault.boxes and result.boxes is not None and self.doubtful.program:
                result.boxes = fault.boxes(result.boxes, result.shape)
            elif fault.boxes and result.boxes is not None:
                result.boxes = geometry.boxes_to_image(fault.boxes(geometry.boxes_to_canvas(result.boxes), size))
        return result

    def _error(self, believed: Sequence[Fault]) -> float:
        wanted = self._faulty(believed)
        pairs = list(zip(wanted, self.given, strict=True))
        if self.doubtful.dense:
            return _apart([(a, b) for a, b in pairs if isinstance(a, dict) and isinstance(b, dict)])
        return _unmatched([(a, b) for a, b in pairs if isinstance(a, Result) and isinstance(b, Result)])

    # ---- faults with a number in them ----

    def _learned(self, believed: Sequence[Fault]) -> Iterator[Fault]:
        pairs = list(zip(self._faulty(believed), self.given, strict=True))
        order = _order(pairs, len(self.right.info.names))
        if order is not None:
            yield faults.classes_moved(order, _said(order, self.right.info.names))
        if self.doubtful.dense or self.right.info.task == "classify":
            return
        given = [each for each in self.given if isinstance(each, Result)]
        scores = np.concatenate([r.scores if r.scores is not None else np.zeros(0) for r in given])
        if len(scores):
            least = float(np.floor(scores.min() * 100 + 1e-3) / 100)
            if 0 <= least < 1:
                yield faults.keeping("threshold", f"keeps nothing below a confidence of {least:g}, where "
                                     f"{self.options.conf:g} was asked for", "export or call it with the threshold you "
                                     "mean", conf=least)  # fmt: skip
            most = max(len(r) for r in given)
            yield faults.keeping("threshold", f"keeps at most {most} objects of an image", "raise its `max_det`",
                                 max_det=most)  # fmt: skip

    # ---- what no fault explains ----

    def _inside(self, believed: Sequence[Fault], error: float) -> list[Finding]:
        """The stage to blame, or precision, or that nothing is known."""
        session = self.doubtful.session
        looks = [fault for fault in believed if fault.sees]

        def seen(batch: Array) -> Array:
            for fault in looks:
                batch = fault.sees(batch) if fault.sees else batch
            return np.ascontiguousarray(batch)

        found = None
        batch = to_input([self.canvases[0][0]])
        if session is not None:
            found = whereabouts.first_stranger(self.right.session, session, seen(batch), batch, self.doubtful.path)
        if found is not None and found.path is not None:
            return [_finding(found, error)]
        narrow = whereabouts.narrowness(session, self.doubtful.path) if session is not None else ""
        if error <= ROUNDING and (narrow or found is not None):
            what = narrow or "values that drift apart slowly, from stage to stage"
            return [Finding("precision", f"is the same network, but less exact: {what}",
                            "judge it on labels (`edgekit val`), or keep its last layers in higher precision", error,
                            error)]  # fmt: skip
        why = "its inner values cannot be looked at; give the ONNX file it was made of" if found is None else (
            "its network is the checkpoint's up to the last stage")  # fmt: skip
        return [Finding("unknown", f"answers otherwise, and no known fault explains it; {why}",
                        "check its post-processing against `outputs`", error, error)]  # fmt: skip


def _finding(found: whereabouts.Stranger, error: float) -> Finding:
    if found.before is None:
        return Finding("weights", "holds the weights of another network: not one of its stages is the checkpoint's",
                       "export it again from this checkpoint", error, error, found.path)  # fmt: skip
    return Finding(found.words, f"is the checkpoint's network up to {found.before}, and another from {found.words} on "
                   f"(relative error {found.error:.2g} where it was {found.error_before:.1g})",
                   "look at how that layer was exported or changed", error, error, found.path)  # fmt: skip


def _kept(roles: Roles, info: ModelInfo, geometry: Geometry, options: Options) -> Result:
    clean = {r: np.nan_to_num(np.asarray(v, np.float32), posinf=1e9, neginf=-1e9) for r, v in roles.items()}
    return postprocess(clean, info, [geometry], options)[0]


# ---- how far apart -------------------------------------------------------------------------------------------------


def _apart(pairs: Sequence[tuple[Roles, Roles]]) -> float:
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
    return {role: (a.astype(np.float64), b.astype(np.float64)) for role, (a, b) in found.items()}


def _unmatched(pairs: Sequence[tuple[Result, Result]]) -> float:
    """One less the share of detections that have a partner, each worth its overlap less the difference of scores."""
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
        worth += 2 * float((overlap[rows, paired[rows]] * (1 - gaps)).sum())
    return 1 - worth / count if count else 0.0


def _overlap(one: Result, other: Result) -> Array:
    if one.boxes is not None and other.boxes is not None:
        return box_iou(one.boxes, other.boxes)
    assert one.rotated_boxes is not None and other.rotated_boxes is not None
    return probiou(one.rotated_boxes, other.rotated_boxes)


# ---- the order of classes ------------------------------------------------------------------------------------------


def _order(pairs: Sequence[tuple[Roles | Result, Roles | Result]], classes: int) -> Array | None:
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


def _said(order: Array, names: Sequence[str]) -> str:
    moved = [c for c in range(len(order)) if order[c] != c]
    steps = {int(order[c] - c) % len(order) for c in range(len(order))}
    if steps == {1}:
        return "counts classes from 1: every label is one too high"
    if len(steps) == 1:
        return f"has every class {steps.pop()} places further on"
    some = ", ".join(f"{names[c]} at place {order[c]}" for c in moved[:4])
    return f"has its classes in another order: {some}{', …' if len(moved) > 4 else ''}"


def report(found: Diagnosis) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "same": found.same,
        "error": found.error,
        "measure": found.measure,
        "images": found.images,
        "findings": [vars(each) for each in found.findings],
    }
