"""Every rewrite alone: the operators it leaves and the numbers, against loops in double precision or ONNX Runtime.

Tolerances: attention in float32 is right to 1e-5 (rtol and atol), whole blocks to 2e-5; rearrangements are exact.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from importlib import metadata

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnxscript import ir

from edgekit import targets
from edgekit.checkpoint import catalog
from edgekit.errors import GateError, InputError, UsageError
from edgekit.graph import rewrite as rewriting
from edgekit.graph.equality import differences
from edgekit.graph.rewrite import FINDING, RECIPES, RULES, Recipe, apply, recipe_for, rewrite
from edgekit.graph.rules._rule import Rule
from tests import graphs
from tests.graphs import Builder, block

BY_NAME = {rule.NAME: rule for rule in RULES}


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def rewritten(model: onnx.ModelProto, *names: str, opset: int | None = None) -> tuple[onnx.ModelProto, dict[str, dict]]:
    """The model after the rules of these names, checked by ONNX, and their reports."""
    rules = tuple(rule for rule in RULES if rule.NAME in names)
    inner = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    version = opset or max([inner.opset_imports[""], *(rule.OPSET for rule in rules)])
    reports = apply(inner, Recipe(version, rules))
    found = ir.to_proto(inner)
    onnx.checker.check_model(found, full_check=True)
    return found, {r.rule: r.to_dict() for r in reports}


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def _version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split(".")[:2])


def random_map(*shape: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


# What attention becomes


def bare(area: int, heads: int = 2, side: tuple[int, int] = (6, 8), batch: int | str = 1, **more) -> onnx.ModelProto:
    """The operator alone, on three inputs."""
    b = Builder()
    b.op("AreaAttention", "q", "k", "v", area=area, domain="edgekit", **more)
    b.nodes[-1].output[0] = "y"
    shape = (batch, heads * graphs.D, *side)
    return b.model(dict.fromkeys("qkv", shape), {"y": shape})


LOWERED = {
    ("attention_decomposed", 1): {"Reshape": 4, "Transpose": 3, "Mul": 1, "MatMul": 2, "Softmax": 1},
    ("attention_decomposed", 4): {"Reshape": 7, "Transpose": 4, "Mul": 1, "MatMul": 2, "Softmax": 1},
    ("attention_operator", 1): {"Reshape": 4, "Transpose": 8, "Mul": 1, "Attention": 1},
    ("attention_operator", 4): {"Reshape": 4, "Transpose": 8, "Mul": 1, "Attention": 1},
}


@pytest.mark.parametrize(("name", "area"), LOWERED)
@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_attention_lowered_is_attention_by_loops(name: str, area: int, batch: int | str) -> None:
    model, reports = rewritten(bare(area, batch=batch), name)
    assert reports[name]["fired"] == 1 and reports[name]["refused"] == []
    assert operators(model) == LOWERED[name, area]
    q, k, v = (random_map(3 if batch == "batch" else int(batch), 64, 6, 8, seed=i, spread=2) for i in range(3))
    found = run(model, q=q, k=k, v=v)[0]
    np.testing.assert_allclose(found, graphs.attention(q, k, v, area), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["attention_decomposed", "attention_operator"])
def test_the_scale_is_on_q_before_the_product(name: str) -> None:
    model, _ = rewritten(bare(4), name)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    constants |= {n.output[0]: onnx.numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if not n.input}
    nodes = {n.op_type: n for n in model.graph.node}
    assert constants[nodes["Mul"].input[1]] == pytest.approx(32**-0.5)
    product = next(n for n in model.graph.node if n.op_type in ("MatMul", "Attention"))
    assert product.input[0] == nodes["Mul"].output[0]
    if name == "attention_operator":
        assert helper.get_node_attr_value(product, "scale") == 1.0


@pytest.mark.skipif("EDGEKIT_TEST_FLOAT32" in os.environ, reason="a limited oneDNN compiles no bf16")
@pytest.mark.parametrize(("heads", "side", "area"), [(2, (1, 2), 1), (2, (2, 4), 4), (4, (2, 2), 1), (12, (3, 4), 1)])
def test_as_many_tokens_as_heads_are_not_taken_for_them_in_bf16(heads: int, side: tuple[int, int], area: int) -> None:
    """OpenVINO's fused kernel: half of the values were others, and others from run to run."""
    openvino = pytest.importorskip("openvino")
    model, _ = rewritten(bare(area, heads, side), "attention_operator")
    q, k, v = (random_map(1, heads * graphs.D, *side, seed=i) for i in range(3))
    core = openvino.Core()
    ir = core.read_model(model.SerializeToString())
    for _ in range(4):
        compiled = core.compile_model(ir, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        found = compiled({"q": q, "k": k, "v": v})[0]
        assert np.sqrt(np.mean((found - graphs.attention(q, k, v, area)) ** 2)) < 0.02


@pytest.mark.parametrize("name", ["attention_decomposed", "attention_operator"])
def test_half_precision_stays_half(name: str) -> None:
    model = bare(4)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    model, _ = rewritten(model, name)
    q, k, v = (random_map(1, 64, 6, 8, seed=i).astype(np.float16) for i in range(3))
    found = run(model, q=q, k=k, v=v)[0]
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), graphs.attention(q, k, v, 4), atol=5e-3)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (bare(5), "6x8 tokens do not divide into 5 areas; image sides that are multiples of 32 always do"),
        (bare(4, side=("h", "w")), "channels, height and width must be known"),
    ],
)
def test_attention_that_cannot_be_lowered_is_refused_by_name(model: onnx.ModelProto, sentence: str) -> None:
    inner = ir.from_proto(model)
    reports = rewrite(inner, [BY_NAME["attention_decomposed"]])
    assert reports[0].fired == 0 and reports[0].refused[0]["node"] == "AreaAttention_0"
    assert sentence in reports[0].refused[0]["why"]
    with pytest.raises(GateError, match="attention_decomposed fired 0 times where this model needs 1 .AreaAttention_0"):
        rewrite(inner, [BY_NAME["attention_decomposed"]], {"attention": 1})


# Attention in other people's spelling


@pytest.mark.parametrize("family", ["v1.0", "turbo"])
@pytest.mark.parametrize("area", [1, 4])
@pytest.mark.parametrize("spelling", graphs.SPELLINGS)
def test_every_spelling_becomes_the_same_graph_and_stays_the_same_function(
    spelling: str, area: int, family: str
) -> None:
    theirs = block(graphs.SPELLINGS[spelling], family, area=area, opset=23)
    steps = (*(r.NAME for r in FINDING), "layout_chain", "channel_selection", "selected_convolution")
    model, reports = rewritten(theirs, *steps, "attention_decomposed")
    assert reports["attention_found"]["fired"] == 1
    assert ("softmax_spelled_out" in reports) == spelling.startswith("exp_sum_div")
    convolutions = {"Conv": 5, "Add": 2}  # q, k, v, pe, proj
    assert operators(model) == Counter(LOWERED["attention_decomposed", area]) + Counter(convolutions)
    x = random_map(1, 64, 6, 8)
    np.testing.assert_allclose(run(model, x=x)[0], run(theirs, x=x)[0], rtol=2e-5, atol=2e-5)


def test_the_operator_form_leaves_no_product_of_attention() -> None:
    model, _ = rewritten(block(graphs.scale_after, blocks=3), *(r.NAME for r in FINDING), "attention_operator")
    assert operators(model)["Attention"] == 3
    assert not {"MatMul", "Softmax"} & set(operators(model))


def test_a_dynamic_batch_is_followed_too() -> None:
    portable, _ = rewritten(block(batch="batch"), "channel_selection", "selected_convolution", "attention_decomposed")
    recipe = ("attention_found", "layout_chain", "attention_operator")
    model, reports = rewritten(portable, *recipe)
    assert [reports[name]["fired"] for name in recipe] == [1, 1, 1]
    assert operators(model) == Counter(LOWERED["attention_operator", 4]) + Counter(Conv=5, Add=2)
    x = random_map(3, 64, 6, 8)
    np.testing.assert_allclose(run(model, x=x)[0], run(portable, x=x)[0], rtol=2e-5, atol=2e-5)


def with_head_width(width: int) -> onnx.ModelProto:
    b = Builder()
    q, k, v = (b.transpose(b.reshape(n, 1, 2, width, 48), 0, 1, 3, 2) for n in "qkv")
    scores = b.scale(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), width**-0.5)
    b.op("MatMul", b.op("Softmax", scores, axis=-1), v, name="product")
    b.nodes[-1].output[0] = "y"
    shape = (1, 2 * width, 6, 8)
    return b.model(dict.fromkeys("qkv", shape), {"y": (1, 2, 48, width)})


def attention_of_another_model(change: str) -> onnx.ModelProto:
    b = Builder()
    q, k, v = (graphs._tokens(b, x, 4, 2, (6, 8)) for x in "qkv")
    if change == "shuffled":
        q, k, v = (b.op("Gather", x, np.arange(12)[::-1].copy(), axis=2) for x in (q, k, v))
    q = b.scale(q, 0.2 if change == "scale" else 32**-0.5)
    if change == "causal":
        b.op("Attention", q, k, v, name="product", scale=1.0, softcap=0.0, is_causal=1)
        b.nodes[-1].output[0] = "y"
        return b.model(dict.fromkeys("qkv", (1, 64, 6, 8)), {"y": (4, 2, 12, 32)}, opset=23)
    scores = b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2))
    if change == "mask":
        scores = b.op("Add", scores, random_map(12, 12))
    b.op("MatMul", b.op("Softmax", scores, axis=-2 if change == "axis" else -1), v, name="product")
    b.nodes[-1].output[0] = "y"
    return b.model(dict.fromkeys("qkv", (1, 64, 6, 8)), {"y": (4, 2, 12, 32)})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (with_head_width(64), "heads of 64 channels; YOLO12's have 32"),
        (attention_of_another_model("scale"), "its scale is 0.2; heads of 32 channels have 0.1768"),
        (attention_of_another_model("mask"), "something is added to its scores"),
        (attention_of_another_model("axis"), "its softmax does not run over the keys"),
        (attention_of_another_model("causal"), "it has is_causal; YOLO12's is over [batch, heads, tokens, channels]"),
        (attention_of_another_model("shuffled"), "its q is not made of heads over consecutive chunks of the map's"),
    ],
    ids=["head width", "scale", "mask", "axis", "causal", "shuffled"],
)
def test_attention_of_another_model_is_left_alone_with_the_reason(model: onnx.ModelProto, sentence: str) -> None:
    before = operators(model)
    found, reports = rewritten(model, "attention_found")
    assert operators(found) == before
    assert reports["attention_found"]["refused"][0]["node"] == "product"
    assert sentence in reports["attention_found"]["refused"][0]["why"]


def test_products_that_are_no_attention_are_not_even_refused() -> None:
    b = Builder()
    expectation = b.op("MatMul", b.op("Softmax", "x", axis=-1), np.arange(16, dtype=np.float32)[:, None])
    b.op("MatMul", expectation, random_map(1, 3))
    b.nodes[-1].output[0] = "y"
    _, reports = rewritten(b.model({"x": (1, 4, 16)}, {"y": (1, 4, 3)}), "attention_found")
    assert reports == {}


def test_exponentials_without_the_maximum_overflow_and_softmax_does_not() -> None:
    b = Builder()
    graphs._exponentials(b, "x", minus_maximum=False)
    b.nodes[-1].output[0] = "y"
    theirs = b.model({"x": (2, 8)}, {"y": (2, 8)})
    model, _ = rewritten(theirs, "softmax_spelled_out")
    assert operators(model) == {"Softmax": 1}
    x = random_map(2, 8)
    np.testing.assert_allclose(run(model, x=x)[0], run(theirs, x=x)[0], rtol=2e-6)
    assert np.isnan(run(theirs, x=x + 100)[0]).all() and np.isfinite(run(model, x=x + 100)[0]).all()


def test_a_sum_over_two_axes_is_no_softmax() -> None:
    b = Builder()
    e = b.op("Exp", "x")
    b.op("Div", e, b.op("ReduceSum", e, np.array([0, 1], np.int64), keepdims=1, name="sum"), name="division")
    b.nodes[-1].output[0] = "y"
    _, reports = rewritten(b.model({"x": (2, 8)}, {"y": (2, 8)}), "softmax_spelled_out")
    assert reports["softmax_spelled_out"]["refused"] == [
        {"node": "division", "why": "sum does not sum along one axis, kept as 1"}
    ]


# Maps and convolutions


@pytest.mark.parametrize(("family", "selections"), [("v1.0", 3), ("turbo", 1)])
def test_q_k_and_v_come_out_of_convolutions_of_their_own(family: str, selections: int) -> None:
    ours, theirs = block(graphs.fused, family), block(graphs.scale_first, family)
    model, reports = rewritten(ours, "channel_selection", "selected_convolution", "attention_decomposed")
    assert reports["channel_selection"]["fired"] == selections
    assert operators(model) == Counter(LOWERED["attention_decomposed", 4]) + Counter(Conv=5, Add=2)
    x = random_map(1, 64, 6, 8)
    np.testing.assert_allclose(run(model, x=x)[0], run(theirs, x=x)[0], rtol=2e-5, atol=2e-5)


def test_convolutions_that_share_a_bias_part_without_mixing_it_up() -> None:
    theirs = block(graphs.scale_first, blocks=3)
    convolutions = [node for node in theirs.graph.node if node.name.startswith("qkv")]
    assert len(convolutions) == 3
    for node in convolutions:
        node.input[2] = convolutions[0].input[2]
    model, _ = rewritten(theirs, "channel_selection", "selected_convolution")
    assert operators(model)["Conv"] == 15
    x = random_map(1, 64, 6, 8)
    np.testing.assert_allclose(run(model, x=x)[0], run(theirs, x=x)[0], rtol=2e-5, atol=2e-5)


def test_a_convolution_used_as_a_whole_too_stays_whole() -> None:
    b = Builder()
    whole = b.op("Conv", "x", random_map(64, 3, 1, 1), name="whole")
    first, second = b.split(whole, 1, 32, 32)
    b.op("Concat", first, second, whole, axis=1)
    b.nodes[-1].output[0] = "y"
    theirs = b.model({"x": (1, 3, 4, 4)}, {"y": (1, 128, 4, 4)})
    model, reports = rewritten(theirs, "channel_selection", "selected_convolution")
    assert reports["selected_convolution"]["fired"] == 0
    assert "other nodes use whole as a whole" in reports["selected_convolution"]["refused"][0]["why"]
    x = random_map(1, 3, 4, 4)
    np.testing.assert_array_equal(run(model, x=x)[0], run(theirs, x=x)[0])


def chain(*steps: tuple[str, tuple[int, ...]], shape: tuple, out: tuple) -> onnx.ModelProto:
    b, x = Builder(), "x"
    for kind, numbers in steps:
        x = b.reshape(x, *numbers) if kind == "Reshape" else b.transpose(x, *numbers)
    b.op("Relu", x)  # something must use the chain
    b.nodes[-1].output[0] = "y"
    return b.model({"x": shape}, {"y": out})


@pytest.mark.parametrize(
    ("steps", "shape", "out", "left"),
    [
        ([("Reshape", (6, 4)), ("Reshape", (2, 12))], (2, 3, 4), (2, 12), {"Reshape": 1}),
        ([("Reshape", (6, 4)), ("Reshape", (2, 3, 4))], (2, 3, 4), (2, 3, 4), {}),
        ([("Transpose", (0, 2, 1)), ("Transpose", (0, 2, 1))], (2, 3, 4), (2, 3, 4), {}),
        (
            [("Transpose", (0, 2, 1)), ("Reshape", (2, 2, 2, 3)), ("Transpose", (0, 3, 1, 2)), ("Reshape", (2, 3, 4))],
            (2, 3, 4),
            (2, 3, 4),
            {},
        ),
        ([("Reshape", (2, 12))], (2, 3, 4), (2, 12), {"Reshape": 1}),
        ([("Reshape", (2, 3, 4))], (2, 3, 4), (2, 3, 4), {}),
        ([("Transpose", (1, 0, 2)), ("Reshape", (3, 8))], (2, 3, 4), (3, 8), {"Transpose": 1, "Reshape": 1}),
        ([("Reshape", (0, -1)), ("Reshape", (-1, 4, 3))], ("n", 3, 4), ("n", 4, 3), {"Reshape": 1}),
        ([("Reshape", (1, -1, 12)), ("Reshape", (1, -1, 4, 3))], ("n", 3, 4), (1, "n", 4, 3), {"Reshape": 1}),
    ],
)
def test_layout_chains_that_move_nothing_go(steps: list, shape: tuple, out: tuple, left: dict[str, int]) -> None:
    theirs = chain(*steps, shape=shape, out=out)
    model, _ = rewritten(theirs, "layout_chain")
    assert operators(model) == {**left, "Relu": 1}
    x = random_map(*(5 if d == "n" else d for d in shape))
    np.testing.assert_array_equal(run(model, x=x)[0], run(theirs, x=x)[0])


def test_a_computed_target_shape_becomes_a_constant() -> None:
    b = Builder()
    batch = b.op("Shape", "x", start=0, end=1)
    b.op("Reshape", "x", b.op("Concat", batch, np.array([12], np.int64), axis=0))
    b.nodes[-1].output[0] = "y"
    theirs = b.model({"x": ("n", 3, 4)}, {"y": ("n", 12)})
    model, _ = rewritten(theirs, "reshape_static")
    assert operators(model) == {"Reshape": 1}
    x = random_map(5, 3, 4)
    np.testing.assert_array_equal(run(model, x=x)[0], run(theirs, x=x)[0])


# Forms of single operators


def division(by: float) -> onnx.ModelProto:
    b = Builder()
    y = b.op("Div", b.op("Cast", "i", to=onnx.TensorProto.FLOAT), np.array(by, np.float32))
    b.op("Cast", b.op("Mul", b.op("Floor", b.op("Abs", y)), b.op("Sign", y)), to=onnx.TensorProto.INT64, name="end")
    b.nodes[-1].output[0] = "y"
    model = b.model({"i": (6,)}, {"y": (6,)})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def test_integer_division_stays_in_integers() -> None:
    theirs = division(80)
    model, _ = rewritten(theirs, "integer_division")
    assert operators(model) == {"Div": 1}
    i = np.array([0, 79, 80, 23999, -81, -1])
    np.testing.assert_array_equal(run(model, i=i)[0], run(theirs, i=i)[0])
    large = 80 * 7 + (1 << 40)  # beyond what float32 holds
    assert run(model, i=np.full(6, large))[0][0] == large // 80
    _, reports = rewritten(division(2.5), "integer_division")
    assert reports["integer_division"]["refused"] == [
        {"node": "end", "why": "it divides by 2.5, which is no whole number"}
    ]


def resize(opset: int = 18, scales=(1, 1, 2, 2), sizes=None, **attributes: str) -> onnx.ModelProto:
    b = Builder()
    if sizes:
        b.op("Resize", "x", "", "", np.array(sizes, np.int64), name="resize", **attributes)
    else:
        b.op("Resize", "x", "", np.array(scales, np.float32), name="resize", **attributes)
    b.nodes[-1].output[0] = "y"
    size = sizes or [round(d * s) for d, s in zip((1, 2, 3, 5), scales, strict=True)]
    return b.model({"x": (1, 2, 3, 5)}, {"y": tuple(size)}, opset)


NEAREST = {"mode": "nearest"}


@pytest.mark.parametrize(
    "model",
    [
        resize(**NEAREST),
        resize(**NEAREST, coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil"),
        resize(**NEAREST, coordinate_transformation_mode="pytorch_half_pixel"),
        resize(**NEAREST, sizes=[1, 2, 6, 10]),
        resize(**NEAREST, sizes=[1, 2, 6, 10], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ],
)
def test_doubling_has_one_form(model: onnx.ModelProto) -> None:
    found, _ = rewritten(model, "resize_by_two")
    node = next(n for n in found.graph.node if n.op_type == "Resize")
    form = {a.name: helper.get_attribute_value(a).decode() for a in node.attribute}
    assert form == {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert len(node.input) == 3
    x = random_map(1, 2, 3, 5)
    np.testing.assert_array_equal(run(found, x=x)[0], x.repeat(2, 2).repeat(2, 3))
    np.testing.assert_array_equal(run(found, x=x)[0], run(model, x=x)[0])


@pytest.mark.parametrize(
    "model",
    [
        resize(mode="linear"),
        resize(**NEAREST, scales=(1, 1, 3, 3)),
        resize(**NEAREST, coordinate_transformation_mode="asymmetric", nearest_mode="ceil"),
        resize(**NEAREST, sizes=[1, 2, 7, 10]),
    ],
)
def test_other_resizes_are_refused_by_name(model: onnx.ModelProto) -> None:
    found, reports = rewritten(model, "resize_by_two")
    assert reports["resize_by_two"]["fired"] == 0 and reports["resize_by_two"]["refused"][0]["node"] == "resize"
    x = random_map(1, 2, 3, 5)
    np.testing.assert_array_equal(run(found, x=x)[0], run(model, x=x)[0])


def test_forms_that_opset_17_reads() -> None:
    b = Builder()
    a, c, d = b.op("Split", "x", outputs=3, axis=1, num_outputs=3)
    highest = b.op("ReduceMax", b.op("Add", b.op("Mul", a, c), d), np.array([1], np.int64), keepdims=0)
    b.op("Resize", highest, "", np.array([1, 2, 2], np.float32), mode="nearest", antialias=0)
    b.nodes[-1].output[0] = "y"
    theirs = b.model({"x": (1, 6, 4, 4)}, {"y": (1, 8, 8)})
    model, reports = rewritten(theirs, "split_sizes", "reduce_axes", opset=17)
    assert {name: report["fired"] for name, report in reports.items()} == {"split_sizes": 1, "reduce_axes": 1}
    assert model.opset_import[0].version == 17 and model.ir_version <= 8
    x = random_map(1, 6, 4, 4)
    np.testing.assert_array_equal(run(model, x=x)[0], run(theirs, x=x)[0])


def test_what_has_no_older_form_is_refused_by_name() -> None:
    inner = ir.from_proto(rewritten(bare(4), "attention_operator")[0])
    with pytest.raises(InputError, match="opset 17 has no Attention"):
        apply(inner, Recipe(17, ()))
    antialiased = resize(mode="linear", antialias=1)
    with pytest.raises(InputError, match="resize: Resize has no antialias in opset 17"):
        apply(ir.from_proto(antialiased), Recipe(17, ()))


# Recipes


def test_every_target_has_a_recipe_and_every_rule_a_place() -> None:
    assert {target.recipe for target in targets.every()} == set(RECIPES)
    assert len({rule.NAME for rule in RULES}) == len(RULES)
    for recipe in (*RECIPES.values(), rewriting.PORTABLE):
        assert [r for r in RULES if r in recipe.rules] == list(recipe.rules)  # in the order of RULES
        assert not set(FINDING) & set(recipe.rules)
        assert sum(rule.NAME in rewriting.LOWERINGS for rule in recipe.rules) == 1
        assert recipe.opset >= max(rule.OPSET for rule in recipe.rules)


def test_every_rule_says_what_it_does_in_a_table() -> None:
    import sys

    for rule in RULES:
        text = sys.modules[rule.__module__].__doc__ or ""
        assert "| before | after |" in text, rule.NAME
        assert rule.__module__.rpartition(".")[2] == rule.NAME


def test_rules_can_be_added_and_dropped_by_name() -> None:
    recipe = recipe_for(targets.get("ort-fp32").recipe, add=["attention_operator"], drop=["layout_chain"])
    assert recipe.opset == 23
    names = [rule.NAME for rule in recipe.rules]
    assert "attention_operator" in names and "layout_chain" not in names
    changed = recipe_for(targets.get("ov-fp32").recipe, add=["attention_decomposed"])
    assert "attention_operator" not in [rule.NAME for rule in changed.rules]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "vulkan"}, "there is no recipe 'vulkan'"),
        ({"name": "portable", "add": ["wish"]}, "there is no rule 'wish'; rules are softmax_spelled_out"),
        ({"name": "openvino", "drop": ["attention_operator"]}, "attention must become something"),
        ({"name": "openvino", "opset": 18}, "`opset` 18: the rule attention_operator makes an operator of opset 23"),
    ],
)
def test_recipes_that_cannot_be(arguments: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        recipe_for(**arguments)


def test_the_expected_counts_are_those_of_the_networks() -> None:
    """Counted from the networks themselves, all scales and families of detectors."""
    torch = pytest.importorskip("torch")
    from edgekit.nn.blocks import AAttn, C3k2
    from edgekit.tasks.network import build

    for scale in "nsmlx":
        for suffix in ("", "-turbo"):
            spec = catalog.spec(f"yolo12{scale}{suffix}")
            net = build(spec, "meta")
            attentions = [m for m in net.modules() if isinstance(m, AAttn)]
            assert len(attentions) == {"n": 8, "s": 8, "m": 8, "l": 16, "x": 16}[scale]
            cut = [m.qk if suffix else m.qkv for m in attentions]
            pieces = sum(m.conv.out_channels // m.conv.in_channels for m in cut)
            assert all(isinstance(m.conv, torch.nn.Conv2d) for m in cut)
            expected = {
                "attention": len(attentions),
                "channel_selection": len(attentions) if suffix else pieces,
                "selected_convolution": pieces,
                "split_convolution": sum(isinstance(m, C3k2) for m in net.modules()),
                "upsampled_convolution": sum(isinstance(m, torch.nn.Upsample) for m in net.modules()),
            }
            assert catalog.expected_rewrites(spec) == expected
    spec = catalog.spec("yolo12n-cls")
    cut = sum(isinstance(m, C3k2) for m in build(spec, "meta").modules())
    counts = catalog.expected_rewrites(spec)
    assert (counts["split_convolution"], counts.get("upsampled_convolution")) == (cut, None)
    assert catalog.attention_counts() == {8, 16}


# Mistakes


def mistaken_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = BY_NAME["attention_decomposed"]
    honest = rule.scale
    monkeypatch.setattr(rule, "scale", staticmethod(lambda op, *rest: op.Neg(honest(op, *rest))))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_branch_of_no_weights_is_a_constant(turned: bool, bias: float) -> None:
    b = Builder()
    hidden = b.op("Conv", "x", random_map(6, 4, 1, 1))
    gone = b.op("Conv", hidden, np.zeros((4, 6, 1, 1), np.float32), np.arange(4, dtype=np.float32) * np.float32(bias))
    kept = b.op("Conv", "x", random_map(4, 4, 1, 1, seed=1))
    b.op("Add", *((gone, kept) if turned else (kept, gone)))
    b.nodes[-1].output[0] = "y"
    model = b.model({"x": (1, 4, 6, 8)}, {"y": (1, 4, 6, 8)})
    made, reports = rewritten(model, "constant_branch")
    assert reports["constant_branch"]["fired"] == 1
    assert operators(made) == ({"Conv": 1, "Add": 1} if bias else {"Conv": 1})
    assert all(row.equal for row in differences(model, made))


def test_what_is_no_constant_branch_stays() -> None:
    b = Builder()
    few = b.op("Conv", "x", np.full((1, 4, 1, 1), 0, np.float32), np.zeros(1, np.float32))  # added to every channel
    small = b.op("Conv", "x", np.full((4, 4, 1, 1), 1e-30, np.float32), np.zeros(4, np.float32))
    nobody = b.op("Conv", "x", np.zeros((4, 4, 1, 1), np.float32))  # without a bias
    b.op("Add", b.op("Add", b.op("Add", "x", few), small), nobody)
    b.nodes[-1].output[0] = "y"
    made, reports = rewritten(b.model({"x": (1, 4, 6, 8)}, {"y": (1, 4, 6, 8)}), "constant_branch")
    assert not reports and operators(made) == {"Conv": 3, "Add": 3}


def mistaken_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.graph.rules import selected_convolution

    honest = selected_convolution._rows
    mistaken = lambda op, value, rows, number: honest(op, value, np.roll(rows, number == 1), number)  # noqa: E731
    monkeypatch.setattr(selected_convolution, "_rows", mistaken)


@pytest.mark.parametrize("mistake", [mistaken_sign, mistaken_rows])
def test_a_mistaken_rule_is_another_function(mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = block(graphs.scale_after)
    steps = [r.NAME for r in RULES if r.NAME != "attention_operator"]
    right, _ = rewritten(theirs, *steps)
    assert all(row.equal for row in differences(theirs, right))
    mistake(monkeypatch)
    wrong, _ = rewritten(theirs, *steps)
    assert operators(wrong) - operators(right) in ({}, {"Neg": 1})
    assert not any(row.equal for row in differences(theirs, wrong))


def test_a_rule_that_fires_too_often_or_too_seldom_fails() -> None:
    class Never(Rule):
        NAME = "never"

        def pattern(self, op, x):
            return op.Relu(x)

        def check(self, context, x):
            return self.refuse(x.producer(), "it never does")

        def rewrite(self, op, x):
            return x

    model = ir.from_proto(chain(("Reshape", (2, 12)), shape=(2, 3, 4), out=(2, 12)))
    with pytest.raises(GateError, match="never fired 0 times where this model needs 1 .Reshape_0: it never does") as e:
        rewrite(model, [Never], {"never": 1})
    assert e.value.evidence["rewrites"][0]["refused"] == [{"node": "Reshape_0", "why": "it never does"}]
    reports = rewrite(model, [Never])
    assert asdict(reports[0]) == {**reports[0].to_dict()} and reports[0].expected is None
