"""What is the first wrong thing in a model, or in a program's detections, that should do what a checkpoint does?

    found = diagnose(Path("theirs.onnx"), Path("yolo12n.pt"), images)
    found.same, [(finding.word, finding.says) for finding in found.findings]

The checkpoint is made to answer as each known fault would have it (``faults.py``), and the fault that brings it nearest
to the model in doubt is believed if it explains most of the difference; then the next is looked for. What no such fault
explains is looked for inside: the stage from which on none of the model's own values is the checkpoint's
(``verify/whereabouts.py``). What is left, small and everywhere, is precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.external import apart, faults, parts
from edgekit.bundle.external.doubtful import Doubtful, Model, read_detections
from edgekit.bundle.external.faults import Array, Fault, Roles
from edgekit.bundle.loading import open_session
from edgekit.errors import UsageError
from edgekit.runtime.image import Geometry, fit, to_input
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess
from edgekit.runtime.results import Result
from edgekit.spec import ModelInfo, Session
from edgekit.verify import whereabouts

# Errors: of values, root mean squares of the difference over those of the right ones, scores and places added; of
# detections, one less the share that has a partner, weighed by overlap and score.
SAME = {"values": 0.03, "detections": 0.05}
# So many times as much of values where the runtime by itself executes half precision, which is none of the export's
# doing: sound exports that OpenVINO ran in bf16 were 0.02 (obb), 0.05 (pose) and 0.08 (segment) off.
NARROW = 4.0
EXPLAINS = 0.4  # what a fault leaves of the error, at most
ROUNDING = 0.5  # an error above this is none of precision
MOST = 3  # faults at once


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        word: ``channel order``, ``normalisation``, ``letterbox``, ``box format``, ``class order``, ``sigmoid``,
            ``keypoints``, ``masks``, ``angle``, ``threshold``, ``NMS``, ``weights``, a stage's words, or ``precision``.
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
        theirs: a model of any tool (``models.py``), a bundle, or detections in COCO's results form (``.json``).
        reference: the checkpoint it should be.
        images: (file name or path, uint8 BGR ``[h, w, 3]``).
        imgsz: (height, width), where the model takes any; of detections, the size they were made at.
        task, outputs: of a model that does not say (``models.read``).

    Raises:
        EdgekitError: one of the two cannot be read, or they answer different questions.
    """
    with contextlib.ExitStack() as stack:
        model = None if theirs.suffix == ".json" else Model(theirs, imgsz, task, outputs)
        if model is not None:
            stack.callback(model.close)
            right = _Right(reference, imgsz or model.imgsz, model.names)
        else:
            right = _Right(reference, imgsz, None)
        stack.callback(right.session.close)
        doubtful: Doubtful = model or read_detections(theirs, images, right.info.task)
        return _Search(doubtful, right, images).run()


# ---- the right answer, and faulty ones -----------------------------------------------------------------------------


class _Right:
    """The checkpoint, in any size, with any faults."""

    def __init__(self, path: Path, imgsz: tuple[int, int] | None, names: tuple[str, ...] | None) -> None:
        self.session = open_session(path, imgsz=imgsz)
        if self.session.target != "pytorch":
            raise UsageError(f"{path}: the reference is a checkpoint; give the one that the model was made of")
        self.info: ModelInfo = self.session.info
        self.imgsz = self.info.imgsz
        self.names = names or self.info.names
        self.order: Array | None = None
        if names is not None and names != self.info.names:
            if sorted(names) != sorted(self.info.names):
                raise UsageError(f"{path} has classes {_few(self.info.names)}, the model {_few(names)}; give its own "
                                 "checkpoint")  # fmt: skip
            self.order = np.array([self.info.names.index(name) for name in names])

    def run(self, batch: Array) -> Roles:
        """Roles of the raw head, classes in the order of the model in doubt."""
        roles = {r: np.array(v) for r, v in self.session.run(batch).items()}
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


_ROLES = {"masks": ("mask_prototypes",), "keypoints": ("keypoints",), "rotated_boxes": ("rotated_boxes",)}


class _Search:
    """The search for faults of one model."""

    def __init__(self, doubtful: Doubtful, right: _Right, images: Sequence[tuple[str, Array]]) -> None:
        self.doubtful, self.right = doubtful, right
        self.images = [image for _, image in images]
        self.options = Options()
        self.measure = "values" if doubtful.dense else "detections"
        self.same = SAME[self.measure]
        if doubtful.dense and doubtful.session is not None and _halves(doubtful.session):
            self.same *= NARROW
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
        while error > self.same and len(believed) < MOST:
            after, fault = min(
                ((self._error([*believed, each]), each) for each in self._suspects(believed)),
                key=lambda pair: pair[0],
            )
            if after > EXPLAINS * error and not (after <= self.same and after < 0.7 * error):
                break
            findings.append(Finding(fault.word, fault.says, fault.advice, error, after))
            believed.append(fault)
            error = after
        if error > self.same:
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
            concerned = not fault.part or any(port.role in _ROLES[fault.part] for port in self.right.info.outputs)
            if fault.word not in words and kept and possible and concerned:
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
                found.roles.append(self.right.run(_seen(to_input([canvas]), looks)))
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
            if fault.turns:
                roles = roles | {"rotated_boxes": fault.turns(roles["rotated_boxes"])}
            if fault.points:
                points = roles["keypoints"]
                places = fault.points(points[..., :2], self.right.imgsz)
                roles = roles | {"keypoints": np.concatenate([places, points[..., 2:]], -1)}
        return roles

    def _finished(self, roles: Roles, geometry: Geometry, believed: Sequence[Fault]) -> Result:
        """Detections in the image, of an answer that is suppressed where it is right and then written and read."""
        options = self.options
        for fault in believed:
            options = replace(options, **fault.keeps)
            geometry = fault.lies(geometry, self.right.imgsz) if fault.lies and not fault.part else geometry
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
            if fault.part:
                parts.faulty(result, fault, geometry, size, self.doubtful.program)
        return result

    def _error(self, believed: Sequence[Fault]) -> float:
        wanted = self._faulty(believed)
        pairs = list(zip(wanted, self.given, strict=True))
        if self.doubtful.dense:
            return apart.values_apart([(a, b) for a, b in pairs if isinstance(a, dict) and isinstance(b, dict)])
        return apart.unmatched([(a, b) for a, b in pairs if isinstance(a, Result) and isinstance(b, Result)])

    # ---- faults with a number in them ----

    def _learned(self, believed: Sequence[Fault]) -> Iterator[Fault]:
        pairs = list(zip(self._faulty(believed), self.given, strict=True))
        order = apart.moved(pairs, len(self.right.names))
        if order is not None:
            yield faults.classes_moved(order, apart.said(order, self.right.names))
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
        session, found = self.doubtful.session, None
        given = to_input([self.canvases[0][0]])
        if session is not None:
            seen = _seen(given, believed)
            found = whereabouts.first_stranger(self.right.session, session, seen, given, self.doubtful.path)
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


def _halves(session: Session) -> bool:
    """Whether it executes half precision, and nothing narrower."""
    executed = set(session.precision_by_type())
    return bool(executed & {"f16", "bf16"}) and not executed & {"i8", "u8"}


def _seen(batch: Array, believed: Sequence[Fault]) -> Array:
    """What the network sees of ``batch`` with these faults."""
    for fault in believed:
        batch = fault.sees(batch) if fault.sees else batch
    return np.ascontiguousarray(batch)


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


def report(found: Diagnosis) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "same": found.same,
        "error": found.error,
        "measure": found.measure,
        "images": found.images,
        "findings": [vars(each) for each in found.findings],
    }
