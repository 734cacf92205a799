"""From a model to a bundle: export, rewrite, build, prove, seal.

    bundle = build(Path("yolo12n.pt"), "ov-fp16", Path("yolo12n-ov-fp16"))
    bundle.manifest["parity"]["boxes"]["max_abs"]

The bundle is made in a folder beside its destination and renamed when everything holds. A failed gate leaves nothing
at the destination and its evidence in ``OUT.failed.json``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import targets
from edgekit.bundle import layouts, preflight
from edgekit.errors import GateError, InputError, MissingPackageError, UsageError
from edgekit.quantize import Lowered, Wishes, needed
from edgekit.quantize.sets import Sets, open_sets
from edgekit.runtime.manifest import MANIFEST, Bundle, is_bundle, manifest_of, read_bundle, write_manifest
from edgekit.runtime.suppressed import Suppressed
from edgekit.spec import Graph, Images, Json, ModelInfo, Session, sha256_file
from edgekit.system.versions import versions
from edgekit.targets import BuildOptions, Target
from edgekit.verify import parity
from edgekit.verify.proof import Proof, plain, spreads

SAY: Callable[[str], None] = lambda _: None  # noqa: E731 - a silent default for progress messages


@dataclass
class Exports:
    """Graphs of one source, made when first asked for: targets that want the same form share one export.

    Attributes:
        folder: where their files stay.
    """

    folder: Path
    _known: dict[Any, tuple[Graph, Session]] = field(default_factory=dict)
    _crowding: dict[Any, Any] = field(default_factory=dict)

    def get(
        self,
        source: Path,
        target: Target,
        imgsz: tuple[int, int] | None,
        batch: int | None,
        head: str,
        candidates: int | None = None,
    ) -> tuple[Graph, Session]:
        """The source's ONNX graph as ``target`` wants it, and a session of the source itself to compare with."""
        try:
            from edgekit.graph.rewrite import recipe_for
        except ModuleNotFoundError as error:
            raise MissingPackageError(error.name or "onnx", f"building from {source}", "onnx") from error
        key = recipe_for(target.recipe), source, imgsz, batch, head, candidates
        if key not in self._known:
            folder = self.folder / f"export-{len(self._known)}"
            shutil.rmtree(folder, ignore_errors=True)  # of an export that failed
            folder.mkdir()
            self._known[key] = _graph(source, target, folder, imgsz, batch, head, candidates)
        return self._known[key]

    def crowding(self, source: Path, imgsz: tuple[int, int] | None, sets: Sets) -> Any:
        """How crowded ``sets`` are for the checkpoint ``source`` (``edgekit.bundle.crowding.Crowding``), or None."""
        key = source, imgsz
        if key not in self._crowding:
            self._crowding[key] = _crowding(source, imgsz, sets)
        return self._crowding[key]


def build(
    source: Path,
    target: str,
    out: Path,
    imgsz: tuple[int, int] | None = None,
    batch: int | None = 1,
    images: Images = None,
    head: str = "topk",
    say: Callable[[str], None] = SAY,
    options: Mapping[str, str] | None = None,
    layout: str | None = None,
    wishes: Wishes | None = None,
    exports: Exports | None = None,
    sets: Sets | None = None,
    candidates: int | None = None,
) -> Bundle:
    """Build ``source`` for ``target`` into the folder ``out`` (replaced if it is there).

    Args:
        source: a checkpoint, an ONNX file edgekit exported, or a bundle that holds one.
        target: one of ``targets.names()``.
        imgsz: (height, width) in pixels; the source's own by default.
        batch: fixed batch, None for a dynamic one.
        images: files, folders and globs of images for the parity check; generated ones by default.
        head: ``raw``, ``topk`` or ``nms``; an ONNX file keeps the one it was exported with.
        say: called with a line at each step.
        options: the target's own, by name (``targets/_tensorrt_common.py`` has those of TensorRT).
        layout: also write the files the way a server reads them: ``triton`` or ``ovms``.
        wishes: data, limits and seed of a narrower target (INT8 needs them).
        exports: of builds of the same source before this one, which this one may use and adds to.
        sets: what the wishes' data was found to hold, where that is settled; ``quantize.sets.open_sets`` by default.
        candidates: how many a topk or nms head keeps; by default what suits the size, and the objects in
            what the wishes' data holds where that is given (``edgekit.bundle.crowding``).

    Raises:
        InputError, UsageError, MissingPackageError: the source or the request cannot be used; nearly always said
            before the export (``preflight.py``).
        GateError: a rewrite count, the parity with PyTorch, accuracy or speed is off; see ``OUT.failed.json``.
    """
    asked = imgsz, batch, images, head, options, layout, wishes, sets, candidates
    checked = preflight.of_build(source, target, out, *asked)
    chosen, own = targets.get(target), checked.options
    if checked.sets is not None and sets is None:
        _say_notes(checked.sets, say)
    with failures_to(out), workspace(out) as folder:
        say(f"exporting {source}")
        exports = exports or Exports(folder)
        crowding = None
        if candidates is None and head != "raw" and checked.sets is not None:
            crowding = exports.crowding(source, imgsz, checked.sets)
        if crowding is not None:
            candidates = min(crowding.candidates, chosen.most_candidates or crowding.candidates)
        graph, reference = exports.get(source, chosen, imgsz, batch, head, candidates)
        say(f"building {target}")
        files = folder / "bundle"
        files.mkdir()
        proof = Proof(reference, graph, source, chosen, images, folder, say)
        exported = proof.of_graph()
        lowered = _lowered(graph, chosen, folder, wishes, checked.sets, own, say)
        built = _described(lowered.graph, chosen, own)
        info = built.info
        parts = lowered.parts | chosen.build(built, files, own)
        session, instead = _session(chosen, files, info)
        if lowered.graph is not graph and (files / "model.onnx").is_file():
            from edgekit.quantize.precision import by_group

            parts["precision"] = by_group(files / "model.onnx")
        if chosen.int8 and exported is not None:
            report = exported  # of the graph; what eight bits change is judged by accuracy
            if instead is None and chosen.engines:  # judged was the engine's graph: is it the same?
                parts |= _engine_parity(chosen, files, graph)
            parts |= proof.detections(session, report, judged=True)
            parts |= _speed(chosen, session, graph, folder, lowered, wishes, own, say)
        else:
            say("comparing with the reference")
            parts |= proof.of_weights(files, info)
            report = proof.of(session, "f16" if instead else None)
            parts |= proof.detections(session, report)
        session.close()
        layouts.write(layout, files, info, chosen, parts.get("engines", []))
        provenance = {k: v for k, v in graph.provenance.items() if k not in ("rewrites", "stages", "lineage")}
        provenance["onnx_sha256"] = graph.sha256
        provenance["versions"] = {**provenance.get("versions", {}), **_versions(chosen)}
        manifest = manifest_of(
            info,
            target,
            files,
            rewrites=graph.provenance["rewrites"],
            parity=plain(report),
            rounding=spreads(report),
            graph_parity=plain(exported),
            stages=graph.provenance["stages"],
            lineage=graph.provenance.get("lineage"),
            provenance=provenance,
            evaluated=instead,
            crowding=crowding.to_dict() if crowding is not None else None,
            **parts,
        )
        write_manifest(files, manifest)
        move_into_place(files, out)
    return read_bundle(out, verify=False)


def rebuild(
    source: Path,
    out: Path,
    target: str | None = None,
    options: Mapping[str, str] | None = None,
    layout: str | None = None,
    say: Callable[[str], None] = SAY,
) -> Bundle:
    """Build a bundle's graph, exactly as it is, anew with what this machine has: for its GPU, its SDK's version.

    Args:
        source: a bundle of a target whose engines are tied to a machine (trt-*), with or without engines.
        out: the folder of the new bundle.
        target: the bundle's own, and only that.
        options, layout: as for ``build``.

    Raises:
        InputError, UsageError: not such a bundle, or nothing here to build it with.
        GateError: the engine is not the function its graph is.
    """
    old = read_bundle(source)
    if target not in (None, old.target):
        raise UsageError(f"--target {target}: the graph in {source} was made for {old.target}; leave --target out")
    tied = targets.get(old.target)
    if not tied.engines:
        raise UsageError(
            f"--from {source}: a bundle of {old.target} is tied to no machine; --from is for trt-* targets"
        )
    own = preflight.own_options(tied, options)
    layouts.check(layout, tied)
    preflight.check_out(out)
    with failures_to(out), workspace(out) as folder:
        say(f"building {old.target} from {source}")
        files = folder / "bundle"
        shutil.copytree(source, files, ignore=shutil.ignore_patterns(MANIFEST, "*.engine", *layouts.LAYOUTS))
        provenance = old.manifest["provenance"]
        graph = Graph(files / "model.onnx", old.info, provenance.get("onnx_sha256", ""), provenance)
        parts = tied.build(graph, files, own)
        layouts.write(layout, files, old.info, tied, parts["engines"])
        if tied.runs_here(tied, files) is None:
            say("comparing with the graph")
            parts |= _engine_parity(tied, files, graph)
        kept = {k: v for k, v in old.manifest.items() if k not in ("schema", "target", "files", *old.info.to_dict())}
        kept["provenance"] = provenance | {"versions": provenance.get("versions", {}) | _versions(tied)}
        write_manifest(files, manifest_of(old.info, old.target, files, **(kept | parts)))
        move_into_place(files, out)
    return read_bundle(out, verify=False)


def _versions(target: Target) -> dict[str, str]:
    """Of what a bundle of ``target`` was made with."""
    return versions("edgekit", "numpy", *targets.reference().packages, *target.packages)


def _engine_parity(target: Target, files: Path, graph: Graph) -> Json:
    """The engine just built against its graph: ``engine_parity`` for the manifest, which is no longer ``evaluated``
    by the graph alone. None of both where there is no ONNX Runtime to run the graph, as on a Jetson."""
    runner = targets.reference()
    if runner.missing():
        return {}
    reference = runner.open(files / "model.onnx", graph.info)
    session = target.open(files, graph.info)
    batches = (parity.batch_of(picture, session.info) for picture in parity.generated_images())
    # Eight bits round to the one or the other side of a step: what follows differs by about as much as in bf16.
    report = parity.compare(reference, session, batches, "f16" if target.precision == "fp16" else "bf16")
    session.close()
    parity.check(report, f"the engine of {target.name} built here")
    return {"engine_parity": plain(report), "evaluated": None}


def _say_notes(sets: Sets, say: Callable[[str], None]) -> None:
    for note in sets.notes:
        say(f"note: {note}")


def _crowding(source: Path, imgsz: tuple[int, int] | None, sets: Sets) -> Any:
    """What ``crowding`` makes of the sets where the source is a detecting checkpoint; None where that keeps no
    more than the size's default anyway."""
    from edgekit import tasks
    from edgekit.bundle import crowding

    if source.is_dir() or source.suffix == ".onnx":
        return None  # exported already, with the candidates it has
    try:
        from edgekit import checkpoint
        from edgekit.nn.session import TorchSession
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", f"building from {source}", "train") from error
    loaded = checkpoint.load(source)
    if not tasks.get(loaded.spec.task).detects:
        return None
    datasets = [dataset for dataset in (sets.judged, sets.pool) if dataset is not None]
    found = crowding.measure(TorchSession(loaded.net, loaded.info(imgsz)), datasets)
    usual = loaded.info(imgsz, head="topk").candidates
    return found if found is not None and usual is not None and found.candidates > usual else None


def _lowered(
    graph: Graph,
    target: Target,
    folder: Path,
    wishes: Wishes | None,
    sets: Sets | None,
    own: BuildOptions,
    say: Callable[[str], None],
) -> Lowered:
    """The graph the target is built from: quantized or halved where that is what the target is, and judged."""
    if not needed(target, wishes):
        return Lowered(graph)
    from edgekit.quantize.pipeline import lower

    if sets is None and wishes is not None and (wishes.sources or wishes.calibration):
        sets = open_sets(wishes, graph.info.task, graph.info.names)  # the file alone did not say what the model is
        _say_notes(sets, say)

    def artifact(narrow: Graph) -> Session:
        files = folder / "trial"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        built = _described(narrow, target, own)
        if target.engines:  # an engine takes long to build, and its graph says as much
            shutil.copyfile(narrow.path, files / "model.onnx")
        else:
            target.build(built, files, own)
        return _session(target, files, built.info)[0]

    return lower(graph, target, folder, wishes, artifact, say, sets)


def _described(graph: Graph, target: Target, own: BuildOptions) -> Graph:
    """The graph with the ``info`` of what the target will make of it."""
    return dataclasses.replace(graph, info=target.info(graph.info, own))


def _speed(
    target: Target,
    session: Session,
    graph: Graph,
    folder: Path,
    lowered: Lowered,
    wishes: Wishes | None,
    own: BuildOptions,
    say: Callable[[str], None],
) -> Json:
    """``speed`` for the manifest: INT8 against the floating-point targets of the same runtime, interleaved."""
    if wishes is None or wishes.timing_s == 0 or not target.floats:
        return {}
    opened = {}
    for name in target.floats:
        sibling, files = targets.get(name), folder / name
        files.mkdir()
        built = _described(graph, sibling, own)
        sibling.build(built, files, own)
        opened[name] = sibling.open(files, built.info)
    from edgekit.bench.speed import against

    say("timing it against floating point")
    return {"speed": against(opened, session, lowered.pictures, wishes.require_speedup, wishes.timing_s)}


def _session(target: Target, files: Path, info: ModelInfo) -> tuple[Session, str | None]:
    """A session of the artifact, and None. Where it cannot run here: of the very graph it was built from, with what
    every operator puts out rounded as the artifact's would be, and the sentence that says so."""
    if target.runs_here(target, files) is None:
        return target.open(files, info), None
    from edgekit.graph import narrow

    rounded = files.parent / "rounded.onnx"
    narrow.rounded(files / "model.onnx", rounded)
    return targets.reference().open(rounded, info), "graph evaluated; engine not run here"


def _graph(
    source: Path,
    target: Target,
    folder: Path,
    imgsz: tuple[int, int] | None,
    batch: int | None,
    head: str,
    candidates: int | None,
) -> tuple[Graph, Session]:
    """The source's ONNX graph as the target wants it, and a session of the source itself to compare with."""
    path = source / "model.onnx" if is_bundle(source) else source
    if path.suffix == ".onnx":
        return _existing_graph(source, path, target, folder, candidates)
    try:
        from edgekit import checkpoint
        from edgekit.graph.export import export
        from edgekit.nn.session import TorchSession
    except ModuleNotFoundError as error:
        extra = "train" if error.name == "torch" else "onnx"
        raise MissingPackageError(error.name or "torch", f"building from {source}", extra) from error
    loaded = checkpoint.load(source)
    graph = export(loaded, folder / "model.onnx", imgsz, batch, None, head, target.recipe, candidates)
    reference = TorchSession(loaded.net, graph.info, source, fold=False)
    reference.predicts = TorchSession(loaded.net, loaded.info(imgsz, batch), source)
    return graph, Suppressed(reference) if graph.info.head == "nms" else reference


def _existing_graph(
    source: Path, path: Path, target: Target, folder: Path, candidates: int | None
) -> tuple[Graph, Session]:
    from edgekit.graph.document import REWRITTEN, read_document
    from edgekit.graph.files import rewrite_file
    from edgekit.graph.rewrite import LOWERINGS, recipe_for

    if source != path:
        read_bundle(source)
    document = read_document(path)
    info = ModelInfo.from_dict(document["info"])
    if candidates not in (None, info.candidates):
        kept = f"with {info.candidates} candidates" if info.candidates else f"with a {info.head} head"
        raise InputError(f"{path}: exported {kept}; export it again with --candidates {candidates}")
    counts = [row["fired"] for row in document["rewrites"] if row["rule"] in LOWERINGS]
    rewritten = folder / "model.onnx"
    rewrite_file(path, rewritten, recipe_for(target.recipe), counts, prove=False)  # what is built is compared below
    document = read_document(rewritten)
    provenance = document["provenance"] | {k: document[k] for k in REWRITTEN if k in document}
    session = targets.reference().open(path, info)
    return Graph(rewritten, info, sha256_file(path), provenance), session


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
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


def move_into_place(folder: Path, out: Path) -> None:
    """Rename ``folder`` to ``out``; an older bundle is set aside first, so that one of the two is always there."""
    aside = folder.parent / "replaced"
    preflight.check_out(out)
    if out.is_dir() and not out.is_symlink():
        os.replace(out, aside)
    try:
        os.replace(folder, out)
    except OSError:
        if aside.is_dir():
            os.replace(aside, out)
        raise
