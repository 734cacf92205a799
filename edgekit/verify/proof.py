"""The proof that an artifact is the function its checkpoint is, step by step, and the stage to blame where it is not.

    proof = Proof(reference, graph, source, targets.get("ov-fp16"), images)
    proof.of_graph()                              # the exported graph, in float32
    proof.of_weights(files, info)                 # half-precision weights, executed in float32: nothing else differs
    report = proof.of(session)                    # as it executes, within what that precision does to this network
    proof.detections(session, report)             # what an application sees

Each step rules out what the next could not tell apart: eight bits of mantissa hide a weight that is off by a percent,
so a graph and its stored weights are held to float32 first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import targets
from edgekit.errors import GateError
from edgekit.spec import Graph, Images, ModelInfo, Session
from edgekit.targets import Target
from edgekit.verify import agreement, parity, stages
from edgekit.verify.images import images_for
from edgekit.verify.rounded import rounded

CONF = 0.25  # of the detections that are compared: the default of every command
KEYS = ("max_abs", "mean_abs", "tolerance", "pass")  # of a role in the manifest

Report = dict[str, dict[str, Any]]


class Reference:
    """The source that artifacts are held against. It runs every batch once, as it is and as each precision rounds it:
    several steps, and several targets, want the same answers.

    Args:
        session: of the source.
        folder: where graphs may be written that rounding needs.
    """

    def __init__(self, session: Any, folder: Path) -> None:
        self._session, self._folder = session, folder
        self.predicts = session.predicts and Reference(session.predicts, folder)
        self._known: dict[str, dict[str, Any]] = {}
        self._rounded: dict[tuple[str, bool], Reference | None] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def knows(self, batch: np.ndarray) -> bool:
        """Whether it has answered this one."""
        return self._key(batch) in self._known

    @staticmethod
    def _key(batch: np.ndarray) -> str:
        return f"{batch.shape} {batch.dtype} {hashlib.sha256(batch.tobytes()).hexdigest()}"

    def run(self, batch: np.ndarray) -> dict[str, Any]:
        key = self._key(batch)
        if key not in self._known:
            self._known[key] = {role: np.array(value) for role, value in self._session.run(batch).items()}
        return self._known[key]

    def narrowed(self, precision: str, pixels: bool = False) -> Any:
        """``edgekit.verify.rounded.rounded`` of the source."""
        key = precision, pixels and precision != "f32"
        if key not in self._rounded:
            made = rounded(self._session, precision, self._folder, key[1])
            self._rounded[key] = None if made is None else Reference(made, self._folder)
        return self._rounded[key]


class Proof:
    """Holds what a target is built from and into against ``reference``, on the same images.

    Args:
        reference: the source itself, in the head of ``graph``.
        graph: exported for ``target``.
        images: files or folders that ``images_for`` takes, None for generated ones.
        say: called with a warning.
    """

    def __init__(
        self,
        reference: Reference,
        graph: Graph,
        source: Path,
        target: Target,
        images: Images,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.reference: Any = reference
        self.graph, self.target, self.say = graph, target, say
        self.name = f"{source} as {target.name}"
        self.pictures: list[np.ndarray] = images_for(images, None, 8)
        self._batches: list[np.ndarray] = []

    def of_graph(self) -> Report | None:
        """The exported graph in float32; None where the artifact is that, or it cannot be run here.

        It tells a fault of the graph from one of the runtime, and finds those that a lower precision would hide.

        Raises:
            GateError: it is another function; names the role and the stage.
        """
        runner = targets.reference()
        alike = self.reference.target == runner.name and not self.target.int8
        if self.target == runner or alike or runner.missing():
            return None
        session = runner.open(self.graph.path, self.graph.info)
        report = self._held(self.reference, session, "f32", f"the graph exported for {self.target.name}")
        session.close()
        return report

    def of_weights(self, files: Path, info: ModelInfo, session: Session | None = None) -> dict[str, Any]:
        """``weights_parity`` for the manifest: half-precision weights executed in float32, against the reference with
        its own weights rounded to half; nothing where the target does not store such, or they cannot be had.

        Args:
            session: open on the same files; taken where it executes float32 anyway.
        """
        twin = self.target.float32
        half = self.reference.narrowed("w16", info.takes_uint8) if twin else None
        if twin is None or half is None:
            return {}
        wide = session is not None and stages.narrowest(session) == "w16"
        try:
            opened = session if wide and session is not None else twin.open(files, info)
        except GateError:  # a device that executes nothing as wide
            return {}
        # What float32 loses is as much with either weights, and of the checkpoint's own it is known by now.
        against = "the checkpoint with its weights rounded to half"
        report = self._held(half, opened, "f32", self.name, against, self.reference)
        if not wide:
            opened.close()
        return {"weights_parity": plain(report)}

    def of(self, session: Session, precision: str | None = None) -> Report:
        """The artifact as it executes.

        Args:
            precision: of ``edgekit.verify.rounding.PRECISIONS``; by default what the session says.

        Raises:
            GateError: rounding does not explain how far it is from the reference; names the role and the stage.
        """
        return self._held(self.reference, session, precision or stages.narrowest(session), self.name)

    def detections(
        self, session: Session, report: Mapping[str, Mapping[str, Any]], judged: bool = False
    ) -> dict[str, Any]:
        """``detections`` for the manifest: what an application finds, the source run as ``predict`` runs it.

        Lists of candidates that are too short for a picture are said; they are no fault of the artifact.

        Args:
            report: of the roles, whose scores may be off by as much as it says.
            judged: what the artifact loses was weighed elsewhere, as of INT8; nothing fails here.

        Raises:
            GateError: more objects are found by one of the two alone than rounding explains.
        """
        whole = self.reference.predicts or self.reference
        margin = report.get("scores", {}).get("tolerance", 0.0)
        found = agreement.compared(whole, session, self.pictures, CONF, margin)
        if "warning" in found:
            self.say(f"warning: {found['warning']}")
        if not (judged or found.get("pass", True)) and self.graph.info.head != "nms":
            raise GateError(
                f"{self.name}: {found['unexplained']} objects are found by it or by the checkpoint alone (of "
                f"{found['second']} and {found['first']}), though the network's outputs agree; {found['allowed']} may",
                {"detections": found},
            )
        return {"detections": found | {"conf": CONF, "images": len(self.pictures)}}

    def batches(self, info: ModelInfo) -> list[np.ndarray]:
        """The pictures as every session takes them (``parity.batch_of``)."""
        self._batches = self._batches or [parity.batch_of(each, info) for each in self.pictures]
        return self._batches

    def _held(
        self,
        reference: Any,
        session: Session,
        precision: str,
        name: str,
        against: str = "the checkpoint",
        rounds: Any = None,
    ) -> Report:
        """``session`` held against ``reference``; what ``precision`` does is seen in ``rounds``, by default itself."""
        pixels = session.info.takes_uint8
        known = rounds or reference
        batches = self.batches(session.info)
        report = parity.compare(reference, session, batches, precision, known.narrowed(precision, pixels), known)
        try:
            parity.check(report, name, against)
        except GateError as error:
            found = self._parting(reference, session, reference.narrowed(precision, pixels), batches)
            raise GateError(f"{error}{stages.sentence(found)}", error.evidence | {"stage": found}) from error
        return report

    def _parting(
        self, reference: Session, session: Session, own: Session | None, batches: list[np.ndarray]
    ) -> dict[str, Any] | None:
        """The stage to blame, by the first image that shows one."""
        lineage = stages.Lineage.of(self.graph.provenance)
        if lineage is None:  # a file of an older edgekit
            return None
        mine = None if reference.target == "pytorch" else lineage
        found = None
        for batch in batches:
            found = stages.first_difference(reference, session, batch, lineage, mine, own)
            if found is not None and found["path"] is not None:
                break
        return found


def plain(report: Report | None) -> Report | None:
    """What the manifest says of every role."""
    return None if report is None else {role: {key: row[key] for key in KEYS} for role, row in report.items()}


def spreads(report: Report) -> dict[str, Any] | None:
    """By role: root mean square and 99th percentile, found and allowed; None where nothing is known of rounding."""
    return {role: row["spread"] for role, row in report.items() if "spread" in row} or None
