"""A fault before a rewrite, in it and after it is named as what it is, and nobody else is: every rule that takes a
stage's value apart, on graphs made by hand, in float32 of ONNX Runtime.

The reference is the graph as it was, the artifact the graph with a fault, rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnxscript import ir

from edgekit import checkpoint, targets
from edgekit.graph import lineages
from edgekit.graph.document import read_document
from edgekit.graph.export import export
from edgekit.graph.files import rewrite_file
from edgekit.graph.rewrite import RULES, Recipe, apply, became, recipe_for
from edgekit.graph.rules import selected_convolution
from edgekit.graph.rules._area import AreaRule
from edgekit.nn import layers
from edgekit.nn.session import TorchSession
from edgekit.spec import Session
from edgekit.verify import stages
from edgekit.verify.stages import Lineage, first_difference
from tests.graphs import Builder, D
from tests.networks import noise, settled
from tests.test_rewrite import random_map

Stage = tuple[str, str]
RNG = np.random.default_rng(5)


class Shown(Session):
    """A graph whose values can be looked at, on inputs that stay the same."""

    target = "ort-fp32"

    def __init__(self, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
        self.model, self.feeds = model, feeds

    def run(self, batch: Any) -> dict[str, Any]:
        return {}

    def intermediates(self, batch: Any, names: list[str]) -> dict[str, np.ndarray]:
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        known = {name for node in model.graph.node for name in node.output}
        wanted = [name for name in names if name in known]
        outputs = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in outputs)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return dict(zip(wanted, session.run(wanted, self.feeds), strict=True)) if wanted else {}

    def precision_by_type(self) -> dict[str, int]:
        return {"f32": 1}


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1 / np.sqrt(np.prod(shape[1:]) or 1), shape).astype(np.float32)


def conv(b: Builder, x: str, out: int, into: int, kernel: int = 1, name: str = "") -> str:
    return b.op("Conv", x, weights(out, into, kernel, kernel), weights(out), pads=[kernel // 2] * 4, name=name)


def silu(b: Builder, x: str) -> str:
    return b.op("Mul", b.op("Sigmoid", x), x)


def cut() -> tuple[onnx.ModelProto, list[Stage]]:
    """``split_convolution``: model.1.cv1 is cut in two."""
    b = Builder()
    before = conv(b, "x", 8, 4, name="before")
    y = silu(b, conv(b, before, 12, 8, 3, name="cut"))
    first, second = b.op("Split", y, np.array([4, 8], np.int64), outputs=2, axis=1)
    inner = conv(b, second, 8, 8, name="inner")
    conv(b, b.op("Concat", first, second, inner, axis=1), 6, 20, name="after")
    b.nodes[-1].output[0] = "y"
    found = [("model.0", before), ("model.1.cv1", y), ("model.1.m.0", inner), ("model.1", "y")]
    return b.model({"x": (1, 4, 6, 5)}, {"y": (1, 6, 6, 5)}), found


def upsampled() -> tuple[onnx.ModelProto, list[Stage]]:
    """``upsampled_convolution``: model.1 repeats pixels, model.2 joins; neither is made any more."""
    b = Builder()
    before = conv(b, "x", 5, 5, name="before")
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
    up = b.op("Resize", before, "", np.array([1, 1, 2, 2], np.float32), name="up", **how)
    both = b.op("Concat", up, "s", axis=1, name="both")
    mix = conv(b, both, 7, 8, name="mix")
    conv(b, mix, 6, 7, name="after")
    b.nodes[-1].output[0] = "y"
    found = [("model.0", before), ("model.1", up), ("model.2", both), ("model.3.cv1", mix), ("model.3", "y")]
    return b.model({"x": (1, 5, 4, 3), "s": (1, 3, 8, 6)}, {"y": (1, 6, 8, 6)}), found


def branched() -> tuple[onnx.ModelProto, list[Stage]]:
    """``constant_branch``: of three branches the second is gone."""
    b = Builder()
    value, found = conv(b, "x", 4, 4, name="before"), []
    for place in range(3):
        hidden = conv(b, value, 6, 4, name=f"hidden{place}")
        last = conv(b, hidden, 4, 6, name=f"last{place}")
        if place == 1:
            weights = next(t for t in b.constants if t.name == b.nodes[-1].input[1])
            weights.CopyFrom(numpy_helper.from_array(np.zeros((4, 6, 1, 1), np.float32), weights.name))
        value = b.op("Add", value, last)
        found.append((f"model.6.m.0.{place}", value))
    conv(b, value, 5, 4, name="after")
    b.nodes[-1].output[0] = "y"
    return b.model({"x": (1, 4, 6, 8)}, {"y": (1, 5, 6, 8)}), [*found, ("model.6.cv2", "y")]


SIZES = ((8, 10), (4, 5), (2, 3))  # of three levels, 106 cells


def gathered() -> tuple[onnx.ModelProto, list[Stage]]:
    """``gathered_branch``: the last two convolutions of every level run at the cells asked for."""
    b, parts, found = Builder(), [], []
    for level, (height, width) in enumerate(SIZES):
        first = silu(b, conv(b, f"x{level}", 4, 4, 3, name=f"first{level}"))
        hidden = silu(b, conv(b, first, 6, 4, 3, name=f"inner{level}"))
        last = conv(b, hidden, 5, 6, name=f"last{level}")
        found += [(f"model.21.cv2.{level}.{i}", value) for i, value in enumerate((first, hidden, last))]
        parts.append(b.reshape(last, 0, 5, height * width))
    cells = b.op("Cast", "cells", to=TensorProto.INT64)
    index = b.op("Expand", b.op("Unsqueeze", cells, np.array([1], np.int64)), np.array([1, 5, 1], np.int64))
    b.op("GatherElements", b.op("Concat", *parts, axis=2), index, axis=2)
    b.nodes[-1].output[0] = "y"
    inputs = {f"x{i}": (1, 4, *size) for i, size in enumerate(SIZES)}
    return b.model({**inputs, "cells": (1, 17)}, {"y": (1, 5, 17)}), found


def attending() -> tuple[onnx.ModelProto, list[Stage]]:
    """``channel_selection``, ``selected_convolution`` and both lowerings."""
    b, C, side = Builder(), 2 * D, (6, 8)
    before = conv(b, "x", C, C, name="before")
    qkv = conv(b, before, 3 * C, C, name="qkv")
    parts = b.split(b.reshape(qkv, 0, 2, 3 * D, *side), 2, D, D, D)
    q, k, v = (b.reshape(part, 0, C, *side) for part in parts)
    core = b.op("AreaAttention", q, k, v, area=4, domain="edgekit", name="core")
    proj = conv(b, core, C, C, name="proj")
    b.op("Add", proj, before)
    b.nodes[-1].output[0] = "y"
    base = "model.6.m.0.0.attn"
    found = [("model.6.cv1", before), (f"{base}.qkv", qkv), (f"{base}.core", core), (f"{base}.proj", proj)]
    return b.model({"x": (1, C, *side)}, {"y": (1, C, *side)}), found


GRAPHS: dict[str, tuple[Callable[[], tuple[onnx.ModelProto, list[Stage]]], tuple[str, ...]]] = {
    "split": (cut, ("split_convolution",)),
    "upsampled": (upsampled, ("upsampled_convolution",)),
    "gathered": (gathered, ("gathered_branch",)),
    "decomposed": (attending, ("channel_selection", "selected_convolution", "attention_decomposed")),
    "branched": (branched, ("constant_branch",)),
    "operator": (attending, ("channel_selection", "selected_convolution", "attention_operator")),
}
# Graph, the convolution that is faulty, the stage to be named, and stages that may have been it.
FAULTS = [
    ("split", "before", "model.0", []),
    ("split", "cut", "model.1.cv1", []),
    ("split", "inner", "model.1.m.0", []),
    ("split", "after", "model.1", []),
    ("upsampled", "before", "model.0", []),
    ("upsampled", "mix", "model.3.cv1", ["model.1", "model.2"]),
    ("upsampled", "after", "model.3", []),
    ("branched", "hidden0", "model.6.m.0.0", []),
    ("branched", "hidden2", "model.6.m.0.2", []),
    ("branched", "after", "model.6.cv2", []),
    *(("gathered", f"first{i}", f"model.21.cv2.{i}.0", []) for i in range(3)),
    *(("gathered", f"inner{i}", f"model.21.cv2.{i}.1", []) for i in range(3)),
    *(("gathered", f"last{i}", f"model.21.cv2.{i}.2", []) for i in range(3)),
    *(
        (kind, *row, [])
        for kind in ("decomposed", "operator")
        for row in (
            ("before", "model.6.cv1"),
            ("qkv", "model.6.m.0.0.attn.qkv"),
            ("proj", "model.6.m.0.0.attn.proj"),
        )
    ),
]


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    feeds = {}
    for place, value in enumerate(model.graph.input):
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        feeds[value.name] = random_map(*shape, seed=place)
    if "cells" in feeds:  # corners of every level, as the padding is theirs too
        feeds["cells"] = np.array([[0, 9, 70, 79, 80, 84, 95, 99, 100, 102, 103, 105, 3, 44, 87, 101, 60]], np.float32)
    return feeds


def spoiled(model: onnx.ModelProto, node: str, by: float = 1.05) -> onnx.ModelProto:
    """The model with one convolution's weights off by a twentieth."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    name = next(n.input[1] for n in model.graph.node if n.name == node)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), name))
    return model


def rewritten(model: onnx.ModelProto, names: tuple[str, ...], found: list[Stage]) -> tuple[onnx.ModelProto, Lineage]:
    rules = tuple(rule for rule in RULES if rule.NAME in names)
    inner = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    reports = apply(inner, Recipe(max(18, *(rule.OPSET for rule in rules)), rules))
    assert {r.rule for r in reports if r.fired} == set(names)
    values = {str(v.name): str(v.name) for node in inner.graph for v in node.outputs}
    lineage = lineages.renamed({"stages": found, "became": became(inner)}, values)
    return ir.to_proto(inner), Lineage(lineage["stages"], lineage["became"])


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """What ONNX Runtime can run of a graph with edgekit's own operator, stages unchanged."""
    if not any(node.domain for node in model.graph.node):
        return model
    inner = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    apply(inner, Recipe(18, tuple(rule for rule in RULES if rule.NAME == "attention_decomposed")))
    return ir.to_proto(inner)


def parting(kind: str, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> dict[str, Any] | None:
    """Where the rewritten graph of ``change``'s result parts from the graph as it was."""
    make, names = GRAPHS[kind]
    model, found = make()
    feeds = feeds_of(model)
    after, lineage = rewritten(change(model), names, found)
    reference = Shown(lowered(model), feeds)
    return first_difference(reference, Shown(after, feeds), np.zeros(1), lineage, found)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_faithful_rewrite_has_no_such_stage(kind: str) -> None:
    found = parting(kind, lambda model: model)
    assert found is None or (found["path"] is None and kind == "upsampled")


@pytest.mark.parametrize(("kind", "node", "path", "unseen"), FAULTS)
def test_a_fault_before_in_and_after_a_rewrite_is_named(kind: str, node: str, path: str, unseen: list[str]) -> None:
    found = parting(kind, lambda model: spoiled(model, node))
    assert found is not None and found["path"] == path and found["unseen"] == unseen


def test_a_mistaken_rule_is_named_by_the_stage_it_takes_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = selected_convolution._rows
    with monkeypatch.context() as patch:
        patch.setattr(selected_convolution, "_rows", lambda op, v, rows, n: honest(op, v, np.roll(rows, 1), n))
        found = parting("decomposed", lambda model: model)
    assert found is not None and found["path"] == "model.6.m.0.0.attn.qkv"
    for kind in ("decomposed", "operator"):
        before = parting(kind, lambda model: model)
        assert before is None
    make, names = GRAPHS["operator"]
    model, stages_ = make()
    reference = Shown(lowered(model), feeds_of(model))
    monkeypatch.setattr(AreaRule, "scale", staticmethod(lambda op, q, like: q))  # the scale forgotten
    after, lineage = rewritten(model, names, stages_)
    found = first_difference(reference, Shown(after, feeds_of(model)), np.zeros(1), lineage, stages_)  # type: ignore[arg-type]
    assert found is not None and found["path"] == "model.6.m.0.0.attn.core"


def test_a_fault_in_what_is_made_no_more_is_not_laid_on_another() -> None:
    """The upsampling shifted by a pixel, after the rewrite: the first stage seen behind it is named with those lost."""
    make, names = GRAPHS["upsampled"]
    model, found = make()
    after, lineage = rewritten(model, names, found)
    resize = next(node for node in after.graph.node if node.op_type == "Resize")
    next(a for a in resize.attribute if a.name == "nearest_mode").s = b"ceil"
    feeds = feeds_of(model)
    told = first_difference(Shown(model, feeds), Shown(after, feeds), np.zeros(1), lineage, found)  # type: ignore[arg-type]
    assert told is not None and told["path"] == "model.3.cv1" and told["unseen"] == ["model.1", "model.2"]
    assert "stage 1, stage 2" in stages.sentence(told)
    many = [f"model.{number}" for number in range(20)]  # of an engine, which shows no stage
    assert "20 stages" in stages.sentence({"path": None, "unseen": many})
    assert "stage 19" not in stages.sentence({"path": None, "unseen": many})


def test_a_fault_behind_the_stages_is_the_decodings() -> None:
    make, names = GRAPHS["gathered"]
    model, found = make()
    after, lineage = rewritten(model, names, found)
    end = next(node for node in after.graph.node if node.output[0] == "y")
    end.output[0] = "y_right"
    after.graph.node.append(onnx.helper.make_node("Neg", ["y_right"], ["y"]))
    feeds = feeds_of(model)
    told = first_difference(Shown(model, feeds), Shown(after, feeds), np.zeros(1), lineage, found)  # type: ignore[arg-type]
    assert told is None and "decoding" in stages.sentence(told)


@pytest.fixture(scope="module")
def detector() -> checkpoint.Checkpoint:
    return settled("yolo12n", noise(1, 3, 64, 64, seed=2), {"scores": 1e-3}, names=("a", "b"))


@pytest.mark.parametrize(
    ("target", "twice"), [("ort-fp32", False), ("ov-fp32", False), ("ov-fp32", True), ("trt-fp16", False)]
)
def test_every_stage_of_a_network_can_be_compared_after_every_recipe(
    target: str, twice: bool, detector: checkpoint.Checkpoint, tmp_path: Path
) -> None:
    """Each module's output against the lineage's, number by number; what cannot be compared is no longer made."""
    path = export(
        detector, tmp_path / "model.onnx", recipe=targets.get("ort-fp32" if twice else target).recipe, head="topk"
    ).path
    if twice:  # what a first recipe took apart, a second one finds in parts
        rewrite_file(path, path.with_name("again.onnx"), recipe_for(targets.get(target).recipe), prove=False)
        path = path.with_name("again.onnx")
    document = read_document(path)
    lineage = Lineage.of(document)
    assert lineage is not None
    made = {name for node in onnx.load(path).graph.node for name in node.output}
    kept = {name for name in made if any(name == value for _, value in lineage.stages)}
    assert {value for _, value in document["stages"]} == kept
    batch = noise(1, 3, 64, 64, seed=2)
    info = detector.info(head="topk")
    reference = TorchSession(detector.net, info, fold=False)
    paths = [stage for stage, _ in lineage.stages]
    shown = set(reference.intermediates(batch, paths))
    gone = {stage for stage, value in lineage.stages if value not in made and value not in lineage.became}
    copies = {f"model.{layer}" for layer in (9, 10, 12, 13)} if target.startswith("ov") else set()
    assert shown & gone == copies
    assert "upsampled_convolution" in {r.NAME for r in recipe_for(targets.get(target).recipe).rules} or not copies
    session = targets.get("ort-fp32").open(path, info)
    assert first_difference(reference, session, batch, lineage, None, reference.rounded(None)) in (
        None,
        {"path": None, "words": ", ".join(map(layers.words, sorted(copies))), "unseen": sorted(copies)},
    )
