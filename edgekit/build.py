"""From a model to a bundle: export, rewrite, build, prove, seal.

    bundle = build(Path("yolo12n.pt"), "ov-fp16", Path("yolo12n-ov-fp16"))
    bundle.manifest["parity"]["boxes"]["max_abs"]

The bundle is made in a folder beside its destination and renamed when everything holds. A failed gate leaves nothing
at the destination and its evidence in ``OUT.failed.json``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit import bundle, parity, stages, targets
from edgekit.errors import GateError, InputError, MissingPackageError
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Graph, ModelInfo, Session, sha256_file
from edgekit.versions import versions

SAY: Callable[[str], None] = lambda _: None  # noqa: E731 - a silent default for progress messages
_SDKS = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "numpy")


def build(
    source: Path,
    target: str,
    out: Path,
    imgsz: tuple[int, int] | None = None,
    batch: int | None = 1,
    images: Path | None = None,
    head: str = "topk",
    say: Callable[[str], None] = SAY,
) -> bundle.Bundle:
    """Build ``source`` for ``target`` into the folder ``out`` (replaced if it is there).

    Args:
        source: a checkpoint, an ONNX file edgekit exported, or a bundle that holds one.
        target: one of ``targets.names()``.
        imgsz: (height, width) in pixels; the source's own by default.
        batch: fixed batch, None for a dynamic one.
        images: folder of images for the parity check; generated ones by default.
        head: ``raw``, ``topk`` or ``nms``; an ONNX file keeps the one it was exported with.
        say: called with a line at each step.

    Raises:
        InputError, UsageError, MissingPackageError: the source or the request cannot be used.
        GateError: a rewrite count or the parity with PyTorch is off; see ``OUT.failed.json``.
    """
    backend = targets.backend(target)
    reason = backend.missing()
    if reason:
        raise InputError(reason)
    with failures_to(out), _workspace(out) as folder:
        say(f"exporting {source}")
        graph, reference = _graph(source, target, folder, imgsz, batch, head)
        say(f"building {target}")
        files = folder / "bundle"
        files.mkdir()
        backend.build(graph, target, files)
        say("comparing with the reference")
        session = backend.open_session(files, graph.info, target)
        exported = _graph_parity(reference, graph, target, images)
        report = _parity(reference, session, target, images)
        _check(report, reference, session, graph, f"{source} as {target}", images)
        session.close()
        provenance = {k: v for k, v in graph.provenance.items() if k not in ("rewrites", "stages")}
        provenance["onnx_sha256"] = graph.sha256
        provenance["versions"] = {**provenance.get("versions", {}), **versions("edgekit", *_SDKS)}
        manifest = bundle.manifest_of(
            graph.info,
            target,
            files,
            rewrites=graph.provenance["rewrites"],
            parity=report,
            graph_parity=exported,
            stages=graph.provenance["stages"],
            provenance=provenance,
        )
        bundle.write_manifest(files, manifest)
        _move_into_place(files, out)
    return bundle.read(out, verify=False)


def _graph(
    source: Path, target: str, folder: Path, imgsz: tuple[int, int] | None, batch: int | None, head: str
) -> tuple[Graph, Session]:
    """The source's ONNX graph as the target wants it, and a session of the source itself to compare with."""
    path = source / "model.onnx" if bundle.is_bundle(source) else source
    if path.suffix == ".onnx":
        return _existing_graph(source, path, target, folder, imgsz)
    if source.is_dir():
        raise InputError(f"{source}: a folder, but no bundle; give a checkpoint or an exported ONNX file")
    try:
        from edgekit import checkpoint
        from edgekit.graph.export import export
        from edgekit.nn.session import TorchSession
    except ModuleNotFoundError as error:
        extra = "train" if error.name == "torch" else "onnx"
        raise MissingPackageError(error.name or "torch", f"building from {source}", extra) from error
    loaded = checkpoint.load(source)
    graph = export(loaded, folder / "model.onnx", imgsz, batch, head=head, target=target)
    return graph, TorchSession(loaded.net, graph.info, source, fold=False)


def _existing_graph(
    source: Path, path: Path, target: str, folder: Path, imgsz: tuple[int, int] | None
) -> tuple[Graph, Session]:
    from edgekit.graph.document import read_document
    from edgekit.graph.files import rewrite_file
    from edgekit.graph.rewrite import LOWERINGS, recipe_for

    if source != path:
        bundle.read(source)
        if not path.is_file():
            raise InputError(f"{source}: this bundle holds no ONNX file to build from; give its checkpoint")
    document = read_document(path)
    info = ModelInfo.from_dict(document["info"])
    if imgsz not in (None, info.imgsz):
        raise InputError(f"{path}: exported for {info.imgsz[0]},{info.imgsz[1]}; export it again with --imgsz")
    counts = [row["fired"] for row in document["rewrites"] if row["rule"] in LOWERINGS]
    rewritten = folder / "model.onnx"
    rewrite_file(path, rewritten, recipe_for(target), counts, prove=False)  # what is built is compared below
    document = read_document(rewritten)
    provenance = document["provenance"] | {k: document[k] for k in ("rewrites", "stages")}
    session = targets.backend("ort-fp32").open_session(path, info, "ort-fp32")
    return Graph(rewritten, info, sha256_file(path), provenance), session


def _check(
    report: dict[str, dict[str, Any]],
    reference: Session,
    session: Session,
    graph: Graph,
    name: str,
    images: Path | None,
) -> None:
    """Raise GateError naming the role and the first stage that differ, unless parity holds."""
    try:
        parity.check(report, name)
    except GateError as error:
        picture = (parity.read_images(images, 1) if images else parity.generated_images(1))[0]
        batch, _ = Predictor(session).preprocess([picture])
        known = graph.provenance["stages"]
        own = None if reference.target == "pytorch" else known
        found = stages.first_difference(reference, session, batch, known, own)
        raise GateError(f"{error}{stages.sentence(found)}", error.evidence | {"stage": found}) from error


def _graph_parity(
    reference: Session, graph: Graph, target: str, images: Path | None
) -> dict[str, dict[str, Any]] | None:
    """The exported graph in float32 against the reference; None where that is the artifact, or cannot be run here.

    It tells a fault of the graph from one of the runtime, and finds those that a target's lower precision would hide.
    """
    runner = targets.backend("ort-fp32")
    if target == "ort-fp32" or reference.target == "ort-fp32" or runner.missing():
        return None
    session = runner.open_session(graph.path, graph.info, "ort-fp32")
    report = _parity(reference, session, "ort-fp32", images)
    _check(report, reference, session, graph, f"the graph exported for {target}", images)
    session.close()
    return report


def _parity(reference: Session, session: Session, target: str, images: Path | None) -> dict[str, dict[str, Any]]:
    predictor = Predictor(session)
    pictures = parity.read_images(images) if images else parity.generated_images()
    batches = (predictor.preprocess([picture])[0] for picture in pictures)
    narrow = "bf16" if "bf16" in session.precision_by_type() else "f16"
    return parity.compare(reference, session, batches, narrow if target.endswith("fp16") else "f32")


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A scratch folder beside ``out`` (same file system, so the final rename is one step), removed at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.partial-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def failures_to(out: Path) -> Iterator[None]:
    """Write a failed gate's evidence to ``OUT.failed.json``; remove an older one on success."""
    evidence = out.with_name(out.name + ".failed.json")
    try:
        yield
    except GateError as error:
        document = {"error": str(error), **error.evidence}
        evidence.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
        raise
    evidence.unlink(missing_ok=True)


def _move_into_place(folder: Path, out: Path) -> None:
    """Rename ``folder`` to ``out``; an older bundle is set aside first, so that one of the two is always there."""
    aside = folder.parent / "replaced"
    if out.is_dir() and not out.is_symlink():
        if any(out.iterdir()) and not bundle.is_bundle(out):
            raise InputError(f"--out {out}: a folder with other files in it; give a new name or empty it")
        os.replace(out, aside)
    elif out.exists():
        raise InputError(f"--out {out}: a file, where a bundle needs a folder; give another name")
    try:
        os.replace(folder, out)
    except OSError:
        if aside.is_dir():
            os.replace(aside, out)
        raise
