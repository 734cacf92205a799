"""From a model to a bundle: export, rewrite, quantize, build, prove, seal.

    bundle = build(Path("yolo12n.pt"), "ov-fp16", Path("yolo12n-ov-fp16"), BuildOptions(imgsz=(320, 320)))
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
from edgekit.bundle.exports import Exports, with_candidates
from edgekit.bundle.gates import Artifact, Gate, within_limit
from edgekit.bundle.options import BuildOptions
from edgekit.errors import GateError, UsageError
from edgekit.quantize import needed
from edgekit.quantize.sets import Sets, open_sets
from edgekit.runtime.manifest import MANIFEST, Bundle, manifest_of, read_bundle, write_manifest
from edgekit.runtime.versions import versions
from edgekit.spec import Graph, Json, ModelInfo, Session
from edgekit.targets import Target, TargetOptions
from edgekit.verify import parity
from edgekit.verify.proof import Proof, Report, plain, spreads

SAY: Callable[[str], None] = lambda _: None  # noqa: E731 - a silent default for progress messages


def build(
    source: Path,
    target: str,
    out: Path,
    options: BuildOptions | None = None,
    say: Callable[[str], None] = SAY,
    exports: Exports | None = None,
    sets: Sets | None = None,
) -> Bundle:
    """Build ``source`` for ``target`` into the folder ``out`` (replaced if it is there).

    Args:
        source: a checkpoint, an ONNX file edgekit exported, or a bundle that holds one.
        target: one of ``targets.names()``.
        say: called with a line at each step.
        exports: of builds of the same source before this one, which this one may use and adds to.
        sets: what the options' data was found to hold, where that is settled; ``quantize.sets.open_sets`` by default.

    Raises:
        InputError, UsageError, MissingPackageError: the source or the request cannot be used; nearly always said
            before the export (``preflight.py``).
        GateError: a rewrite count, the parity with PyTorch, accuracy or speed is off; see ``OUT.failed.json``.
    """
    chosen = targets.get(target)
    options = (options or BuildOptions()).with_head(chosen.heads)
    checked = preflight.of_build(source, chosen, out, options, sets)
    if checked.sets is not None and sets is None:
        _say_notes(checked.sets, say)
    with failures_to(out), workspace(out) as folder:
        say(f"exporting {source}")
        exports = exports or Exports(folder)
        crowding = exports.crowding(source, options, checked.sets)
        graph, reference = exports.get(source, chosen, with_candidates(options, chosen.most_candidates, crowding))
        say(f"building {target}")
        job = _Job(chosen, options, checked.options, graph, folder, checked.sets, say)
        proof = Proof(reference, graph, source, chosen, options.images, say)
        exported = proof.of_graph()
        made = job.artifact()
        report, parts = _proved(job, made, proof, exported)
        parts["selftest"] = _selftest(job, made, proof)
        made.session.close()
        layouts.write(options.layout, made.files, made.graph.info, chosen, parts.get("engines", []))
        about = {"crowding": crowding and crowding.to_dict(), "graph_parity": plain(exported)}
        _seal(made, chosen, parts | about, report)
        move_into_place(made.files, out)
    return read_bundle(out, verify=False)


@dataclass
class _Job:
    """One target built of one graph."""

    target: Target
    options: BuildOptions
    own: TargetOptions
    graph: Graph
    folder: Path
    sets: Sets | None
    say: Callable[[str], None]
    pictures: list[Any] = field(default_factory=list)  # to time on
    _built: int = 0

    def artifact(self) -> Artifact:
        """What the bundle gets: of the graph itself, or of what it is quantized or halved to, judged on accuracy."""
        quantize = self.options.quantize
        narrow = needed(self.target, quantize)
        if self.sets is None and (quantize.sources or quantize.calibration):
            info = self.graph.info
            asked = preflight.to_judge(quantize, narrow)
            self.sets = open_sets(asked, info.task, info.names, calibrate=narrow)  # the file alone did not say
            _say_notes(self.sets, self.say)
        if not narrow:
            return self._judged(self._finished(self._opened(self.graph, {})))
        from edgekit.quantize.candidates import Quantizer, halved

        if self.sets is None:
            return self._finished(self._opened(*halved(self.graph, self.folder)))
        quantizer = Quantizer(self.graph, self.target, self.folder, quantize, self.sets)
        self.pictures = quantizer.pictures()
        if not quantize.judged:
            self.say(f"calibrating on {len(quantizer.files)} images")
            return self._finished(self._opened(*quantizer.candidate()))
        gate = Gate.of(self.graph, self.sets, quantize, self.say)
        self._say_calibration(self.sets)
        made, row = within_limit(quantizer, self._opened, gate, self.say, quantize.recalibrate_scores)
        made.parts["accuracy"] = row
        return self._finished(made)

    def _say_calibration(self, sets: Sets) -> None:
        """On how many images; where the set has more, and nobody chose these, that stays to be read."""
        used, pool = len(sets.files), sets.pool
        if self.options.quantize.calibration is None and pool is not None and len(pool) > used:
            of = f"{len(pool)} images of {pool.split}"
            self.say(f"note: {pool.source}: calibrated on {used} of its {of}; `count` takes more")
        self.say(f"calibrating on {used} images")

    def _judged(self, made: Artifact) -> Artifact:
        """A floating-point artifact, judged where there is something to judge it on."""
        if self.sets is not None and self.options.quantize.judged:
            gate = Gate.of(self.graph, self.sets, self.options.quantize, self.say)
            self.say(f"judging {self.target.name}")
            gate.check(made, self.target.name, same=self.target == targets.reference())
        return made

    def given(self) -> list[Any]:
        """A few of the pictures that the options name, those judged on first; none where they name none."""
        from edgekit.verify import golden
        from edgekit.verify.images import images_for, some_of

        if self.sets is not None and self.sets.judged is not None:
            return some_of(self.sets.judged, golden.CANDIDATES)
        if self.sets is not None and self.sets.frames:
            return list(self.sets.frames[: golden.CANDIDATES])
        return images_for(self.options.images, None, golden.CANDIDATES) if self.options.images else []

    def _opened(self, graph: Graph, parts: Json) -> Artifact:
        """``graph`` built and opened. An engine takes long to build, and its graph says as much."""
        self._built += 1
        files = self.folder / f"built-{self._built}"
        files.mkdir()
        graph = described(graph, self.target, self.own)
        if self.target.engines:
            kept = Path(shutil.copyfile(graph.path, files / "model.onnx"))
            if graph.path != self.graph.path:  # the next candidate takes its place
                graph = dataclasses.replace(graph, path=kept)
        else:
            parts = parts | self.target.build(graph, files, self.own)
        return Artifact(graph, files, *self._session(files, graph.info), parts)

    def _finished(self, made: Artifact) -> Artifact:
        """With the engine, and what is known of a graph that the bundle holds."""
        if self.target.engines:
            made.session.close()
            made.parts |= self.target.build(made.graph, made.files, self.own)
            made.session, made.instead = self._session(made.files, made.graph.info)
        if made.graph.path != self.graph.path and (made.files / "model.onnx").is_file():
            from edgekit.quantize.precision import by_group

            made.parts["precision"] = by_group(made.files / "model.onnx")
        return made

    def _session(self, files: Path, info: ModelInfo) -> tuple[Session, str | None]:
        """A session of the artifact, and None. Where it cannot run here: of the very graph it was built from, with what
        every operator puts out rounded as the artifact's would be, and the sentence that says so."""
        if self.target.runs_here(self.target, files) is None:
            return self.target.open(files, info), None
        from edgekit.graph import narrow

        rounded = self.folder / f"rounded-{files.name}.onnx"
        narrow.rounded(files / "model.onnx", rounded)
        return targets.reference().open(rounded, info), "graph evaluated; engine not run here"


def _proved(job: _Job, made: Artifact, proof: Proof, exported: Report | None) -> tuple[Report, Json]:
    """The report on the roles that the manifest gets as ``parity``, and all its further keys.

    Raises:
        GateError: the artifact is another function, or not as fast as it must be.
    """
    parts = dict(made.parts)
    if job.target.int8 and exported is not None:
        report = exported  # of the graph; what eight bits change is judged by accuracy
        if made.instead is None and job.target.engines:  # judged was the engine's graph: is it the same?
            parts |= _engine_parity(job.target, made.files, job.graph)
        parts |= proof.detections(made.session, report, judged=True)
        parts |= _speed(job, made.session)
    else:
        job.say("comparing with the reference")
        parts |= proof.of_weights(made.files, made.graph.info, made.session)
        report = proof.of(made.session, "f16" if made.instead else None)
        parts |= proof.detections(made.session, report)
    return report, parts


def _selftest(job: _Job, made: Artifact, proof: Proof) -> Json | None:
    """``selftest`` for the manifest, its files written; of pictures that were given, if the options let them in."""
    if job.options.self_test == "none":
        return None
    from edgekit.verify import golden

    job.say("writing the self-test")
    pictures = job.given() if job.options.self_test == "given" else []
    bits = made.parts.get("quantization", {}).get("weight_bits")
    return golden.make(made.files, pictures, proof, made.session, job.target, bits)


def _speed(job: _Job, session: Session) -> Json:
    """``speed`` for the manifest: INT8 against the floating-point targets of the same runtime, interleaved."""
    quantize = job.options.quantize
    if quantize.timing_s == 0 or not job.target.floats:
        return {}
    opened = {}
    for name in job.target.floats:
        sibling, files = targets.get(name), job.folder / name
        files.mkdir()
        built = described(job.graph, sibling, job.own)
        sibling.build(built, files, job.own)
        opened[name] = sibling.open(files, built.info)
    from edgekit.bench.speed import against

    job.say("timing it against floating point")
    found = against(opened, session, job.pictures, quantize.require_speedup, quantize.timing_s)
    for other in opened.values():
        other.close()
    return {"speed": found}


def described(graph: Graph, target: Target, own: TargetOptions) -> Graph:
    """The graph with the ``info`` of what the target will make of it."""
    return dataclasses.replace(graph, info=target.info(graph.info, own))


def _seal(made: Artifact, target: Target, parts: Json, report: Report) -> None:
    """Write the manifest of what was built."""
    told = made.graph.provenance
    provenance = {k: v for k, v in told.items() if k not in ("rewrites", "stages", "lineage")}
    provenance["onnx_sha256"] = made.graph.sha256
    provenance["versions"] = {**provenance.get("versions", {}), **_versions(target)}
    kept = {key: told.get(key) for key in ("rewrites", "stages", "lineage")}
    proved = {"parity": plain(report), "rounding": spreads(report), "evaluated": made.instead}
    parts = kept | proved | {"provenance": provenance} | parts
    write_manifest(made.files, manifest_of(made.graph.info, target.name, made.files, **parts))


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
        raise UsageError(f"`target` {target}: the graph in {source} was made for {old.target}; leave `target` out")
    tied = targets.get(old.target)
    if not tied.engines:
        raise UsageError(
            f"`rebuild` {source}: a bundle of {old.target} is tied to no machine; `rebuild` is for trt-* targets"
        )
    own = preflight.own_options(tied, options)
    layouts.check(layout, tied, old.info.task)
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
    parity.check(report, f"the engine of {target.name} built here", "its graph")
    return {"engine_parity": plain(report), "evaluated": None}


def _say_notes(sets: Sets, say: Callable[[str], None]) -> None:
    for note in sets.notes:
        say(f"note: {note}")


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
