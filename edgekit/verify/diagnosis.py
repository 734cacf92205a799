"""Why a self-test fails: the first stage that differs, where stages can be seen, and the fault in the words people use.

    found = diagnose(session, test, outcome, bits=8)
    found.cause, found.words, found.do            # 'channels', 'red and blue are exchanged', …

| cause | what is tried or looked at |
|---|---|
| ``channels`` | with red and blue of the pictures exchanged the answers are right |
| ``rows`` | the answers are right in another place of the batch; or a role has the right rows in another order |
| ``zeros`` | a role is zero, or not a number, everywhere, and no stage before the outputs differs |
| ``layer`` | a stage differs whose predecessors agree |
| ``saturation`` | INT8 with weights of eight bits on a processor that adds in sixteen |
| ``stale`` | the model in the bundle agrees stage by stage when it is compiled anew, its answers do not |
| ``weights`` | the first stage differs already, or none can be seen and nothing above explains it |

Nothing here decides whether a bundle passes; it is asked afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import MissingPackageError
from edgekit.nn.layers import words as stage_words
from edgekit.runtime.processor import saturation
from edgekit.spec import Session
from edgekit.verify import selftest, stages
from edgekit.verify.selftest import Answers, Outcome, SelfTest

# Relative root mean square by which a stage differs: what precisions explain, and what nothing does.
EXPLAINED = {"f32": 1e-4, "w16": 1e-2, "f16": 2e-2, "bf16": 5e-2, "int8": 0.15}
JUMP = 6.0
MOST = 0.7  # of the rows
_OTHERS = "others"
ANOTHER = 0.5  # of one stage: so far apart are two networks, saturated sums are not

_DO = {
    "channels": "give the model's input the order its manifest says under preprocess, or rebuild the bundle",
    "rows": "the runtime or driver mixes up what belongs together: update it, or use another device",
    "zeros": "the runtime or driver leaves that output unwritten: update it, or use another device",
    "layer": "the runtime computes that layer wrong in this precision: update it, use another device, or build for a "
    "wider precision (ov-fp32, ort-fp32)",
    "saturation": "build it with `weight_bits` 7, or for a floating-point target",
    "stale": "empty the runtime's cache (`cache`) or build the engine again; if that does not help, update "
    "the runtime or use another device",
    "weights": "the engine, the cache or a file is of another model: empty the cache, rebuild or copy the bundle again",
}


@dataclass(frozen=True)
class Diagnosis:
    """``cause`` of the table above, what was found in ``words``, the first ``stage`` that differs (its path; None where
    none does or none can be seen, ``unseen`` says why), and what to ``do``."""

    cause: str
    words: str
    stage: str | None
    unseen: str | None

    @property
    def do(self) -> str:
        return _DO[self.cause]

    def sentence(self) -> str:
        """The end of a message."""
        return f"{self.words}; {self.do}"


def diagnose(session: Session, test: SelfTest, outcome: Outcome, bits: int | None, device: str | None) -> Diagnosis:
    """Why ``outcome`` failed.

    Args:
        bits: of the weights of an INT8 model.
        device: what it runs on.
    """
    if selftest.run(session, test, outcome.precision, swapped=True).passed:
        said = "the answers are right with red and blue exchanged: BGR is taken for RGB, or RGB for BGR"
        return Diagnosis("channels", said, None, None)
    saturates = saturation(bits, device) is not None  # which moves candidates past each other, within INT8's bounds
    rows = _places(session, test, outcome) or (None if saturates else _reordered(test, outcome))
    if rows:
        return Diagnosis("rows", rows, None, None)
    errors, unseen = _errors(session, test)
    stage = _first(errors, outcome.precision)
    first = next(iter(errors), None)
    if saturates and (stage is None or errors[stage][0] < ANOTHER):
        where = f", first at {stage_words(stage)} ({stage})" if stage else ""
        said = f"this processor adds products of INT8 in 16 bits, which saturate{where}"
        return Diagnosis("saturation", said, stage, unseen)
    if stage is not None and (stage != first or _OTHERS not in errors[stage][1]):
        said = f"the first stage that differs is {stage_words(stage)} ({stage}), {errors[stage][1]}"
        return Diagnosis("layer", said, stage, None)
    silent = _silent(test, outcome)
    if silent:
        return Diagnosis("zeros", f"{', '.join(silent)}: zero or not a number everywhere", None, unseen)
    if errors and stage is None:
        said = (
            "compiled anew, every stage of the bundle's model agrees: what the runtime had kept is another model, or "
            "what it makes of the whole graph is wrong"
        )
        return Diagnosis("stale", said, None, None)
    if stage is not None:
        return Diagnosis("weights", f"{stage_words(stage)} ({stage}) differs already: other weights", stage, None)
    said = f"it answers like another network; {unseen}, so which stage differs first cannot be told"
    return Diagnosis("weights", said, None, unseen)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _places(session: Session, test: SelfTest, outcome: Outcome) -> str | None:
    """Whether the answers of a batch are right, each in another's place."""
    places = session.info.batch or 1
    if places < 2:
        return None
    head, side = session.info.head, max(session.info.imgsz)
    bounds = test.allowed.get(outcome.precision, list(test.allowed.values())[-1])
    orders = selftest.orders(len(test.images), places)
    moved = []
    for order, answers in zip(orders, outcome.found, strict=True):
        for place, image in enumerate(order):
            fits = [
                other
                for other, answer in enumerate(answers)
                if _all(selftest.judged([(test.answers[image], answer)], bounds, head, outcome.precision, side))
            ]
            if not fits:
                return None
            if place not in fits:
                moved.append(f"place {place} is answered in place {fits[0]}")
    return f"the places of a batch are mixed up: {moved[0]}" if moved else None


def _all(rows: dict[str, dict[str, object]]) -> bool:
    return all(row["pass"] for row in rows.values())


def _reordered(test: SelfTest, outcome: Outcome) -> str | None:
    """Whether a role has the right rows, but not beside the scores they belong to."""
    want = [test.answers[order[0]] for order in selftest.orders(len(test.images), None)]
    have = [run[0] for run in outcome.found]
    if "scores" not in want[0]:
        return None
    bounds = test.allowed.get(outcome.precision, list(test.allowed.values())[-1])
    if not all(_alike(a["scores"], b["scores"], bounds["scores"]["rms"]) for a, b in zip(want, have, strict=True)):
        return None
    for role in ("boxes", "rotated_boxes", "keypoints", "mask_coefficients"):
        if role not in want[0]:
            continue
        pairs = [(_flat(a[role]), _flat(b[role])) for a, b in zip(want, have, strict=True)]
        near = bounds[role]["rms"]
        if all(_same_rows(a, b, near) and not _alike(a, b, near) for a, b in pairs):
            return f"{role} are right but in another order than the scores: rows are swapped"
    return None


def _flat(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), -1)


def _alike(one: np.ndarray, other: np.ndarray, near: float) -> bool:
    return one.shape == other.shape and bool((np.abs(one - other) <= near).all())


def _same_rows(want: np.ndarray, have: np.ndarray, near: float) -> bool:
    """Whether most rows of either are somewhere in the other."""
    same = np.abs(want[:, None] - have[None]).max(2) <= near
    return bool(same.any(1).mean() > MOST and same.any(0).mean() > MOST)


# ---- stages and outputs ---------------------------------------------------------------------------------------------


def _errors(session: Session, test: SelfTest) -> tuple[dict[str, tuple[float, str]], str | None]:
    """By path of a stage, in order of computation, how far it is from what is stored and what its values are like; and
    why that cannot be told, where it cannot."""
    if not test.stages:
        return {}, "the self-test holds no stages"
    if test.lineage is None:
        return {}, "the manifest does not say where the stages are"
    try:
        values = stages.values(session, selftest.batches(session, test.images)[0], test.lineage)
    except MissingPackageError as error:
        return {}, f"looking into the model needs {error.package}, which is not installed"
    found = {}
    for path, value in values.items():
        if path not in test.stages:
            continue
        have, want = selftest.sampled(value, selftest.STAGE_VALUES).astype(np.float64), test.stages[path]
        if have.shape == want.shape:
            found[path] = _apart(want, have), _like(have)
    return found, None if found else f"{session.target} shows no stages"


def _apart(want: np.ndarray, have: np.ndarray) -> float:
    error = float(np.sqrt(np.mean((want - have) ** 2)) / (np.sqrt(np.mean(want**2)) or 1.0))
    return error if np.isfinite(error) else 1e30


def _like(have: np.ndarray) -> str:
    if not np.isfinite(have).all():
        return "whose values are not numbers"
    if not have.any():
        return "whose values are all zero"
    return "whose values are all alike" if np.ptp(have) == 0 else f"whose values are {_OTHERS}"


def _first(errors: dict[str, tuple[float, str]], precision: str) -> str | None:
    """The first stage that differs by more than what those before it, and the precision, explain."""
    level = EXPLAINED.get(precision, EXPLAINED["int8"])
    for path, (error, _) in errors.items():  # parts come before what they are parts of
        if error > JUMP * level:
            return path
        level = max(level, error)
    return None


def _silent(test: SelfTest, outcome: Outcome) -> Sequence[str]:
    """Roles that are zero or no numbers in every answer, and should not be."""
    have: list[Answers] = [run[0] for run in outcome.found]
    found = []
    for role in have[0]:
        if role == "labels" or not any(want[role].any() for want in test.answers):
            continue
        if all(not np.isfinite(each[role]).all() or not each[role].any() for each in have):
            found.append(role)
    return found
