"""From a network to one ONNX file that says by itself what it is.

The graph is captured (``capture.py``; by PyTorch's exporter where the batch is dynamic) with every Area Attention as
one operator, which the rules then lower; BatchNorms are folded first; node names are the model's own
(``model.6.m.0.0.attn/MatMul``); the file's metadata holds the ``ModelInfo``, the rewrites and the provenance under the
key ``edgekit``.

    graph = export(checkpoint, Path("yolo12n.onnx"), imgsz=(640, 640))
    document.read_document(Path("yolo12n.onnx"))["info"]
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes import common
from onnxscript import ir
from torch import nn

from edgekit.checkpoint import Checkpoint, catalog
from edgekit.graph import lineages
from edgekit.graph.capture import OPSET, SCOPE, capture
from edgekit.graph.document import METADATA_KEY, REWRITTEN, SCHEMA
from edgekit.graph.nms import append_nms
from edgekit.graph.rewrite import RuleReport, apply, became, recipe_for
from edgekit.nn.blocks import fuse
from edgekit.nn.session import shaped
from edgekit.runtime import modelinfo
from edgekit.runtime.atomic import replacing
from edgekit.runtime.silence import quiet_loggers
from edgekit.runtime.versions import versions
from edgekit.spec import Graph, Json, ModelInfo, check_opset, sha256_file

_INSIDE_CONV = ("conv", "act")  # what a Conv block is made of is no stage of its own


class _Roles(nn.Module):
    """Returns the roles as a tuple in a fixed order, which is what an exporter takes."""

    def __init__(self, net: nn.Module, roles: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.roles = net, roles

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.net(images)
        return tuple(outputs[role] for role in self.roles)


def export(
    checkpoint: Checkpoint,
    path: Path,
    imgsz: tuple[int, int] | None = None,
    batch: int | None = 1,
    opset: int | None = None,
    head: str = "raw",
    recipe: str | None = None,
    candidates: int | None = None,
) -> Graph:
    """Write ``checkpoint`` as ONNX, decoding included.

    Args:
        path: the file to write (under a temporary name first).
        imgsz: (height, width) in pixels, multiples of 32; the checkpoint's own by default.
        batch: fixed batch, or None for a dynamic one (height and width stay fixed).
        opset: ONNX opset, 17 to 24; the recipe's own by default.
        head: ``raw`` (every cell and class) or ``topk`` (the best pairs, decoded) or ``nms`` (finished
            detections, where the runtime can).
        recipe: of rewrites, by name (``Target.recipe``); by default a form that most runtimes read.
        candidates: pairs (of ``nms`` cells) that the head keeps; by default as many as suit the size.

    Raises:
        InputError: the opset is out of range.
        UsageError: no such recipe, or its rules need a newer opset; ``candidates`` of a raw head.
        GateError: a rewrite did not fire as often as the model needs.
    """
    if opset is not None:
        check_opset(opset)
    chosen = recipe_for(recipe, opset)
    info = checkpoint.info(imgsz, batch, head, candidates)
    model = _capture(checkpoint, info)
    if info.head == "nms":
        append_nms(model, info)
    stages = _stages(model)
    reports = apply(model, chosen, catalog.expected_rewrites(checkpoint.spec))
    lineage = lineages.renamed({"stages": stages, "became": became(model)}, _tidy(model))
    document = _described(model, checkpoint, info, reports, lineage)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        onnx.save(proto, partial)
    return Graph(path, info, sha256_file(path), document["provenance"] | {k: document[k] for k in REWRITTEN})


def _described(
    model: ir.Model, checkpoint: Checkpoint, info: ModelInfo, reports: list[RuleReport], lineage: lineages.Lineage
) -> Json:
    """What the file says of itself, which is put into its metadata."""
    installed = versions("edgekit", "torch", "onnx", "onnxscript")
    document: Json = {
        "schema": SCHEMA,
        "info": info.to_dict(),
        "rewrites": [r.to_dict() for r in reports],
        "provenance": {
            "checkpoint_sha256": checkpoint.sha256,
            "checkpoint": checkpoint.provenance,
            "family": checkpoint.spec.family,
            "license": checkpoint.license,
            "versions": installed,
        },
        "lineage": lineage,
        "stages": lineages.whole(lineage, model),
    }
    model.metadata_props[METADATA_KEY] = json.dumps(document, sort_keys=True)
    for key, text in modelinfo.entries(info).items():
        model.metadata_props[f"{modelinfo.KEY} {key}"] = text
    model.producer_name, model.producer_version = "edgekit", installed["edgekit"]
    return document


def _capture(checkpoint: Checkpoint, info: ModelInfo) -> ir.Model:
    roles = tuple(port.role for port in info.outputs)
    wrapped = _Roles(shaped(fuse(checkpoint.net), info), roles).eval()
    example = torch.zeros(info.batch or 2, 3, *info.imgsz)
    if info.batch is not None and (found := capture(wrapped, example, info.inputs[0].name, roles)) is not None:
        return found
    shapes = None if info.batch else ({0: torch.export.Dim("batch", min=1)},)
    # The exporter narrates on both streams and warns about itself; what matters is checked on the result.
    quiet = quiet_loggers("torch.onnx", "onnxscript", "onnx_ir")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet, torch.no_grad():
        warnings.simplefilter("ignore")
        program = _written(
            torch.export.export(wrapped, (example,), dynamic_shapes=shapes, strict=False),
            input_names=[info.inputs[0].name],
            output_names=list(roles),
        )
    model: ir.Model = program.model
    # Where the network asks for the batch as a number, the exporter writes the example's into the graph, silently.
    fixed = model.graph.inputs[0].shape is None or isinstance(model.graph.inputs[0].shape[0], int)
    assert fixed == (info.batch is not None), "a dynamic batch became a fixed one while the network was captured"
    return model


def _written(captured: torch.export.ExportedProgram, **names: list[str]) -> torch.onnx.ONNXProgram:
    """As ONNX. The exporter has PyTorch trace a program once more, to take operators apart that it cannot write and to
    make a value of its own of what is written in place: half of its time, for what our networks need not."""
    options: dict[str, Any] = {
        "dynamo": True,
        "opset_version": OPSET,  # which it writes natively; others are reached from there
        "optimize": False,  # _tidy does what is needed in a third of the time
        "verbose": False,
        **names,
    }
    operators = [node.target for node in captured.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    if not any(operator.name().partition(".")[0].endswith("_") for operator in operators):  # add_ writes in place
        as_it_is = copy.copy(captured)
        vars(as_it_is)["run_decompositions"] = lambda *_: as_it_is
        with contextlib.suppress(torch.onnx.errors.OnnxExporterError):  # an operator that has to be taken apart
            if (program := torch.onnx.export(as_it_is, (), **options)) is not None:
                return program
    program = torch.onnx.export(captured, (), **options)
    assert program is not None
    return program


def _stages(model: ir.Model) -> list[tuple[str, str]]:
    """(module path, name of the value that is the module's output) in the order they are complete.

    Whatever ran last under a module's name is its output. What is computed from chosen candidates is left out: their
    order, and which they are, is a matter of rounding.
    """
    stages: dict[str, str] = {}
    chosen: set[ir.Value] = set()
    left_out: set[str] = set()
    for node in model.graph:
        parts = _scope(node.metadata_props.get(SCOPE, "")).split(".")
        paths = [".".join(parts[:depth]) for depth in range(len(parts) - (parts[-1] in _INSIDE_CONV), 1, -1)]
        if node.op_type == "TopK" or not chosen.isdisjoint(v for v in node.inputs if v is not None):
            chosen.update(node.outputs)
            left_out.update(paths)
        for path in paths:
            stages.pop(path, None)  # inserted again, to keep the order of completion
            stages[path] = str(node.outputs[0].name)
    return [(path, value) for path, value in stages.items() if path not in left_out]


def _tidy(model: ir.Model) -> dict[str, str]:
    """Name nodes and values after the modules they came from, drop the exporter's notes (they carry local paths).

    Returns:
        The values' names before -> after.
    """
    for node in model.graph:
        scopes = node.metadata_props.get(SCOPE)
        if scopes:
            node.metadata_props["scope"] = _scope(scopes)
    for clean in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(size_limit=4096),
        common.RemoveUnusedOpsetsPass(),
    ):
        clean(model)
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    ends = {id(value) for value in model.graph.outputs}
    scope = ""
    for node in model.graph:
        # Nodes made by a rewrite have no scope of their own: they belong where their neighbours do.
        scope = node.metadata_props.get("scope", scope)
        name = f"{scope}/{node.op_type}"
        counts[name] = counts.get(name, 0) + 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        node.metadata_props.clear()
        node.doc_string = None
        for place, value in enumerate(node.outputs):
            before = str(value.name)
            if id(value) not in ends:
                value.name = node.name if place == 0 else f"{node.name}:{place}"
            names[before] = str(value.name)
    for value in [*model.graph.initializers.values(), *(o for n in model.graph for o in n.outputs)]:
        value.metadata_props.clear()
    for name, value in list(model.graph.initializers.items()):
        value.name = name.removeprefix("net.")
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.name = "edgekit"
    model.graph.doc_string = model.doc_string = None
    return names


def _scope(name_scopes: str) -> str:
    """``"['', 'net', 'net.model.6', 'net.model.6.cv1', 'conv2d_3']"`` -> ``model.6.cv1``."""
    modules = [s for s in name_scopes.strip("[]").replace("'", "").split(", ") if s.startswith("net")]
    return modules[-1].removeprefix("net").removeprefix(".") if modules else ""
