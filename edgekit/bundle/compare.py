"""Two models side by side on the same images: raw outputs role by role, detections, and the stage where they part.

    report = compare(Path("yolo12n.pt"), Path("yolo12n-ov"), images)
    report["detections"]["matched"], report["stage"]

Any two models of one task will do: checkpoints, exported ONNX files, bundles, and other tools' models as far as
``external/models.py`` understands them, whose stages are not known. Raw outputs are compared in one form of head. What
an application sees is compared as ``predict`` runs either model, a checkpoint with every cell and class
(``detections``).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.external.models import is_foreign
from edgekit.bundle.loading import open_session
from edgekit.errors import UsageError
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.options import OpenOptions
from edgekit.spec import Session
from edgekit.verify import agreement, parity, stages
from edgekit.verify.rounded import rounded as narrowed


def compare(
    first: Path,
    second: Path,
    images: Sequence[np.ndarray],
    conf: float = 0.25,
    size: tuple[int, int] | None = None,
    task: str | None = None,
    outputs: str | None = None,
) -> dict[str, Any]:
    """Compare two models.

    Args:
        first, second: whatever ``loading.load`` opens, or another tool's model; ``first`` is the reference.
        images: uint8 BGR ``[h, w, 3]``.
        conf: confidence that detections are compared at.
        size: input size of checkpoints; by default that of the other model, if it has a fixed one.
        task, outputs: what another tool's model is for, and how it lays out what it gives, where it does not say.

    Returns:
        ``roles`` (None where the heads differ), ``detections`` and ``stage`` (None where roles agree or none stands
            out).

    Raises:
        UsageError: the models are of different tasks, classes or input sizes.
    """
    a, b = _open_both(first, second, OpenOptions(task, outputs, size))
    own, theirs = _lineage(first), _lineage(second)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked = _as_predicted(first, a)
        for session in {id(s): s for s in (a, b, asked)}.values():
            stack.callback(session.close)
        same_form = {p.role: p.shape[1:] for p in a.info.outputs} == {p.role: p.shape[1:] for p in b.info.outputs}
        batches = [parity.batch_of(image, b.info) for image in images]
        narrow = stages.narrowest(b)
        rounded = None if is_foreign(first) else narrowed(a, narrow, folder, b.info.takes_uint8)
        roles = parity.compare(a, b, batches, narrow, rounded) if same_form else None
        allowed = (roles or {}).get("scores", {}).get("tolerance", parity.tolerances_for(narrow)["scores"])
        detections = agreement.compared(asked, b, images, conf, allowed)
        # Inside equal models, too, errors may jump: where values cancel, say. Outputs that hold leave nothing to blame.
        equal = roles is not None and all(role["pass"] for role in roles.values())
        stage = None if equal else _parting(a, b, batches[0], own, theirs, rounded)
    return {
        "first": {"path": str(first), "target": a.target, "head": a.info.head},
        "second": {"path": str(second), "target": b.target, "head": b.info.head},
        "images": len(images),
        "roles": roles,
        "detections": detections,
        "stage": stage,
    }


def _as_predicted(path: Path, session: Session) -> Session:
    """The model as ``predict`` opens it: of a checkpoint every cell and class, whatever head it is compared in."""
    if session.target != "pytorch" or session.info.head == "raw":
        return session
    return open_session(path, imgsz=session.info.imgsz)


def _parting(
    a: Session,
    b: Session,
    batch: np.ndarray,
    own: stages.Lineage | None,
    theirs: stages.Lineage | None,
    rounded: Session | None,
) -> dict[str, Any] | None:
    """The stage where ``b`` parts from ``a``; None where neither says which values its stages are."""
    if theirs and (a.target == "pytorch" or own):
        return stages.first_difference(a, b, batch, theirs, own, rounded)
    if own and b.target == "pytorch":
        return stages.first_difference(b, a, batch, own)
    return None


def _open_both(first: Path, second: Path, how: OpenOptions) -> tuple[Session, Session]:
    b = open_session(second, how, foreign=True)
    fixed = b.info.imgsz if b.target != "pytorch" else None
    head = b.info.head if b.info.head != "nms" else "raw"
    kept = b.info.candidates if head == "topk" else None
    a = open_session(first, how, head, kept, foreign=True, imgsz=how.imgsz or fixed)
    if b.target == "pytorch" and a.info.imgsz != b.info.imgsz:
        b = open_session(second, imgsz=a.info.imgsz, head=a.info.head, candidates=a.info.candidates)
    if a.info.task != b.info.task or a.info.names != b.info.names:
        what = f"tasks {a.info.task} and {b.info.task}" if a.info.task != b.info.task else "different classes"
        raise UsageError(f"{first} and {second} have {what}; only models that answer the same question compare")
    if a.info.imgsz != b.info.imgsz:
        raise UsageError(f"{first} takes {a.info.imgsz} pixels and {second} {b.info.imgsz}; build them for one size")
    return a, b


def _lineage(path: Path) -> stages.Lineage | None:
    if is_foreign(path):
        return None
    if path.is_dir():
        return stages.Lineage.of(read_bundle(path, verify=False).manifest)
    if path.suffix == ".onnx":
        from edgekit.graph.document import read_document

        return stages.Lineage.of(read_document(path))
    return None
