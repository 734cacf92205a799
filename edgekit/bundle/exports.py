"""Graphs of a source as targets want them, and the source itself to compare with, made once however many targets ask.

exports = Exports(folder)
graph, reference = exports.get(Path("yolo12n.pt"), targets.get("ov-fp16"), BuildOptions())
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import targets
from edgekit.bundle.crowding import Crowding, measure
from edgekit.bundle.options import BuildOptions
from edgekit.errors import InputError, optional
from edgekit.quantize.sets import Sets
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.runtime.suppressed import Suppressed
from edgekit.spec import Graph, ModelInfo, Session, sha256_file
from edgekit.targets import Target
from edgekit.verify.proof import Reference

if TYPE_CHECKING:
    from edgekit.checkpoint import Checkpoint


@dataclass
class Exports:
    """What was made of sources: targets that want the same form share one export, and all of them the answers of the
    source itself.

    Attributes:
        folder: where files stay.
    """

    folder: Path
    _graphs: dict[Any, Graph] = field(default_factory=dict)
    _references: dict[Any, Reference] = field(default_factory=dict)
    _checkpoints: dict[Path, Checkpoint] = field(default_factory=dict)
    _crowding: dict[Any, Crowding | None] = field(default_factory=dict)

    def get(self, source: Path, target: Target, options: BuildOptions) -> tuple[Graph, Reference]:
        """The source's ONNX graph as ``target`` wants it, and the source itself.

        Raises:
            InputError, GateError: the source cannot be used, or a rewrite did not fire as it must.
            MissingPackageError: what exporting needs is not installed.
        """
        with optional(f"building from {source}", "onnx"):
            from edgekit.graph.rewrite import recipe_for
        form = source, options.imgsz, options.batch, options.head, options.candidates
        key = recipe_for(target.recipe), form
        if key not in self._graphs:
            folder = self.folder / f"export-{len(self._graphs)}"
            shutil.rmtree(folder, ignore_errors=True)  # of an export that failed
            folder.mkdir()
            path = _onnx_of(source)
            make = self._exported if path is None else _rewritten
            self._graphs[key] = graph = make(source, folder / "model.onnx", target, options)
            if form not in self._references:
                session = self._torch(source, graph.info, options) if path is None else _opened(path)
                self._references[form] = Reference(session, folder)
        return self._graphs[key], self._references[form]

    def crowding(self, source: Path, options: BuildOptions, sets: Sets | None) -> Crowding | None:
        """How crowded ``sets`` are where the source is a checkpoint of a detecting task; None where the number of
        candidates is settled, or that keeps no more than the size's default anyway."""
        if options.candidates is not None or options.head == "raw" or sets is None or _onnx_of(source) is not None:
            return None
        key = source, options.imgsz
        if key not in self._crowding:
            self._crowding[key] = self._measured(source, options.imgsz, sets)
        return self._crowding[key]

    def _measured(self, source: Path, imgsz: tuple[int, int] | None, sets: Sets) -> Crowding | None:
        from edgekit import tasks

        loaded = self.checkpoint(source)
        if not tasks.get(loaded.spec.task).detects:
            return None
        from edgekit.nn.session import TorchSession

        datasets = [dataset for dataset in (sets.judged, sets.pool) if dataset is not None]
        found = measure(TorchSession(loaded.net, loaded.info(imgsz)), datasets)
        usual = loaded.info(imgsz, head="topk").candidates
        return found if found is not None and usual is not None and found.candidates > usual else None

    def checkpoint(self, source: Path) -> Checkpoint:
        if source not in self._checkpoints:
            with optional(f"building from {source}", "train"):
                from edgekit import checkpoint
            self._checkpoints[source] = checkpoint.load(source)
        return self._checkpoints[source]

    def _exported(self, source: Path, path: Path, target: Target, options: BuildOptions) -> Graph:
        loaded = self.checkpoint(source)
        with optional(f"building from {source}", "onnx"):
            from edgekit.graph.export import export
        form = options.imgsz, options.batch, None, options.head or "topk", target.recipe, options.candidates
        return export(loaded, path, *form)

    def _torch(self, source: Path, info: ModelInfo, options: BuildOptions) -> Session:
        from edgekit.nn.session import TorchSession

        loaded = self.checkpoint(source)
        session = TorchSession(loaded.net, info, source, fold=False)
        session.predicts = session.beside(loaded.info(options.imgsz, options.batch))
        return Suppressed(session) if info.head == "nms" else session


def _onnx_of(source: Path) -> Path | None:
    """The graph that there is already; None of a checkpoint."""
    path = source / "model.onnx" if is_bundle(source) else source
    return path if path.suffix == ".onnx" else None


def _opened(path: Path) -> Session:
    from edgekit.graph.document import read_document

    return targets.reference().open(path, ModelInfo.from_dict(read_document(path)["info"]))


def _rewritten(source: Path, out: Path, target: Target, options: BuildOptions) -> Graph:
    """A graph that edgekit exported, with the target's rewrites."""
    from edgekit.graph.document import REWRITTEN, read_document
    from edgekit.graph.files import rewrite_file
    from edgekit.graph.rewrite import LOWERINGS, recipe_for

    path = _onnx_of(source)
    assert path is not None
    if source != path:
        read_bundle(source)
    document = read_document(path)
    info = ModelInfo.from_dict(document["info"])
    if options.candidates not in (None, info.candidates):
        kept = f"with {info.candidates} candidates" if info.candidates else f"with a {info.head} head"
        raise InputError(f"{path}: exported {kept}; export it again with `candidates` {options.candidates}")
    counts = [row["fired"] for row in document["rewrites"] if row["rule"] in LOWERINGS]
    rewrite_file(path, out, recipe_for(target.recipe), counts, prove=False)  # what is built is compared later
    document = read_document(out)
    provenance = document["provenance"] | {k: document[k] for k in REWRITTEN if k in document}
    return Graph(out, info, sha256_file(path), provenance)


def with_candidates(options: BuildOptions, most: int | None, found: Crowding | None) -> BuildOptions:
    """The options with as many candidates as the crowding asks for and the target can (``most``)."""
    if found is None:
        return options
    return dataclasses.replace(options, candidates=min(found.candidates, most or found.candidates))
