"""An ONNX file, edgekit's or anybody's, rewritten for a target: read with care, rewritten, proven equal, written.

    result = rewrite_file(Path("theirs.onnx"), Path("ours.onnx"), recipe_for("ov-fp32"), counts=(8, 16))
    [r.to_dict() for r in result.reports]

Attention is recognised in any spelling. Inputs, outputs and metadata stay what they were; a file with edgekit's own
metadata gets the new rewrites added to it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import version_converter
from onnx_ir.passes import common
from onnxscript import ir

from edgekit.errors import GateError, InputError, UnsafeFileError, UsageError, optional
from edgekit.graph import lineages
from edgekit.graph import opset as opsets
from edgekit.graph.document import METADATA_KEY
from edgekit.graph.equality import Difference, differences
from edgekit.graph.rewrite import FINDING, Recipe, RuleReport, apply, became
from edgekit.graph.rules.attention_found import AttentionFound
from edgekit.runtime.atomic import replacing
from edgekit.runtime.silence import silent_stderr
from edgekit.spec import Json

OLDEST, NEWEST = 11, 25  # opsets of files
LARGEST = 2**31 - 2**20  # bytes one ONNX file may have


@dataclass(frozen=True)
class Rewritten:
    """What became of a file: reports rule by rule, how equal the outputs are, operators and opset before and after."""

    reports: list[RuleReport]
    equality: list[Difference]
    nodes: tuple[int, int]
    opset: tuple[int, int]


def rewrite_file(
    path: Path,
    out: Path,
    recipe: Recipe,
    counts: Collection[int] | None = None,
    prove: bool = True,
    size: tuple[int, int] | None = None,
) -> Rewritten:
    """Rewrite ``path`` into ``out`` by ``recipe``.

    Args:
        counts: how many attentions a model may have; any number but none if not given.
        prove: compare the outputs with the original's; only where the caller does that.
        size: (height, width) that a file for images of any size is fixed at, and at one image a run where it takes any
            number.

    Raises:
        UnsafeFileError: its data lies outside its folder.
        InputError: not ONNX, an opset out of range, or no attention edgekit could rewrite.
        GateError: the number of attentions is not one of ``counts``, or the outputs differ. Nothing is written.
    """
    original = _sized(path, load(path), size)
    before = _opset(original)
    if not OLDEST <= before <= NEWEST:
        raise InputError(f"{path}: opset {before}; edgekit rewrites opsets {OLDEST} to {NEWEST}: export it again")
    try:
        model = _in_memory(original)
        reports = apply(model, Recipe(recipe.opset, (*FINDING, *recipe.rules)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_counts(path, reports, counts)
    _finish(model, original, reports)
    rewritten = ir.to_proto(model)
    if rewritten.ByteSize() > LARGEST:
        raise InputError(f"{path}: larger than the 2 GB one ONNX file can hold")
    onnx.checker.check_model(rewritten, full_check=True)
    equality = _equality(path, original, rewritten) if prove else []
    _write(rewritten, out)
    nodes = len(original.graph.node), len(rewritten.graph.node)
    return Rewritten(reports, equality, nodes, (before, _opset(rewritten)))


def _sized(path: Path, model: onnx.ModelProto, size: tuple[int, int] | None) -> onnx.ModelProto:
    """The model with its image size fixed, which attention is recognised by."""
    image = next((i for i in model.graph.input if len(i.type.tensor_type.shape.dim) == 4), None)
    if image is None:
        return model
    batch, planes, *own = (d.dim_value for d in image.type.tensor_type.shape.dim)
    if all(own):
        if size not in (None, tuple(own)):
            raise UsageError(f"`imgsz` {size[0]},{size[1]}: {path} takes {own[0]},{own[1]}; export it for another size")
        return model
    if size is None:
        raise InputError(f"{path}: takes images of any size, which hides its attention; say which with `imgsz`")
    with optional("fixing an image size", "onnx"):
        import onnxsim
    with silent_stderr():  # it reports every value that it cannot compute beforehand
        fixed: onnx.ModelProto
        fixed, _ = onnxsim.simplify(model, overwrite_input_shapes={image.name: [batch or 1, planes or 3, *size]})
    return fixed


def load(path: Path) -> onnx.ModelProto:
    """An ONNX file with its data, none of it from outside the file's folder.

    Raises:
        InputError: no such file, or not ONNX, or its data is missing.
        UnsafeFileError: external data outside the folder; nothing has been read from there.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise InputError(f"{path}: not a readable ONNX file") from error
    if not model.opset_import or not model.graph.output:
        raise InputError(f"{path}: not a readable ONNX file")
    folder = path.resolve().parent
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_location(path, folder, tensor)
    try:
        onnx.load_external_data_for_model(model, str(folder))
    except Exception as error:
        raise InputError(f"{path}: its external data cannot be read ({str(error).splitlines()[0]})") from error
    return model


def _check_location(path: Path, folder: Path, tensor: onnx.TensorProto) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    place = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not place.is_relative_to(folder):
        raise UnsafeFileError(
            f"{path}: the data of {tensor.name!r} is said to be in {location!r}, outside the file's folder; not read"
        )
    if not place.is_file():
        raise InputError(f"{path}: the data of {tensor.name!r} should be in {location!r}, which is not there")


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the file, those of subgraphs and functions too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of(graph)


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _in_memory(original: onnx.ModelProto) -> ir.Model:
    """The graph with inferred shapes, at an opset the rules know."""
    proto = original
    if _opset(original) < opsets.OLDEST:
        try:
            proto = version_converter.convert_version(original, opsets.OLDEST)
        except Exception as error:
            raise InputError(
                f"opset {_opset(original)} cannot be raised to {opsets.OLDEST} ({str(error).splitlines()[0]}); "
                f"export it again with opset {opsets.OLDEST}"
            ) from error
    model = ir.from_proto(proto)
    model.graph.sort()  # some exporters' files are not in order
    common.ShapeInferencePass()(model)
    return model


def _check_counts(path: Path, reports: list[RuleReport], counts: Collection[int] | None) -> None:
    found = next((r for r in reports if r.rule == AttentionFound.NAME), RuleReport(AttentionFound.NAME, 0, None))
    sentences = [f"{r['node']}: {r['why']}" for r in found.refused]
    why = "; ".join([*sentences[:2], *([f"and {len(sentences) - 2} more"] if len(sentences) > 2 else [])])
    if not found.fired:
        raise InputError(f"{path}: no attention of YOLO12 in it ({why or 'nor any other'}); nothing to rewrite")
    evidence: dict[str, object] = {"rewrites": [r.to_dict() for r in reports]}
    if found.refused:
        raise GateError(f"{path}: {found.fired} attentions rewritten, but not all ({why})", evidence)
    if counts and found.fired not in counts:
        known = " or ".join(str(n) for n in sorted(counts))
        raise GateError(f"{path}: {found.fired} attentions found where YOLO12 has {known}", evidence)


def _finish(model: ir.Model, original: onnx.ModelProto, reports: list[RuleReport]) -> None:
    """Constants as initializers, a name for every node, the file's own notes."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass(size_limit=4096)(model)
    common.RemoveUnusedOpsetsPass()(model)
    taken = {node.name for node in model.graph}
    for number, node in enumerate(model.graph):
        node.metadata_props.pop("pkg.onnxscript.rewriter.rule_name", None)
        if not node.name:
            node.name = f"{node.op_type}_{number}" if f"{node.op_type}_{number}" not in taken else f"edgekit_{number}"
    model.metadata_props.update({entry.key: entry.value for entry in original.metadata_props})
    if METADATA_KEY in model.metadata_props:
        document: Json = json.loads(model.metadata_props[METADATA_KEY])
        document["rewrites"] = [*document["rewrites"], *(r.to_dict() for r in reports)]
        values = {value.name for node in model.graph for value in node.outputs}
        document["stages"] = [stage for stage in document["stages"] if stage[1] in values]  # some may be gone
        if "lineage" in document:
            older = document["lineage"]
            everything = {"stages": older["stages"], "became": {**older["became"], **became(model)}}
            document["lineage"] = lineages.renamed(everything, {str(name): str(name) for name in values})
        model.metadata_props[METADATA_KEY] = json.dumps(document, sort_keys=True)


def _equality(path: Path, original: onnx.ModelProto, rewritten: onnx.ModelProto) -> list[Difference]:
    try:
        found = differences(original, rewritten)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    wrong = [row for row in found if not row.equal]
    if wrong:
        worst = max(wrong, key=lambda row: row.largest / max(row.allowed, 1e-12))
        raise GateError(
            f"{path}: rewritten, it is another function: {worst.output} differs by {worst.largest:.3g} where rounding "
            f"explains {worst.allowed:.3g}; nothing was written",
            {"equality": [vars(row) for row in found]},
        )
    return found


def _write(model: onnx.ModelProto, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        onnx.save(model, partial)
