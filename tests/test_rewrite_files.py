"""ONNX files rewritten for a target: what is recognised, proven, kept, refused; and the real checkpoints' graphs.

Numbers of trained weights are those of ``tests/test_export.py``: 0.01 px and 1e-4 of score from the stored outputs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import cli, targets
from edgekit.errors import GateError, InputError, UnsafeFileError, UsageError
from edgekit.graph.document import read_document
from edgekit.graph.equality import differences
from edgekit.graph.files import load, rewrite_file
from edgekit.graph.rewrite import recipe_for
from edgekit.graph.rules import attention_decomposed
from edgekit.spec import Graph, ModelInfo, sha256_file
from tests import graphs
from tests.graphs import Builder, block
from tests.networks import noise, settled
from tests.test_models import CHECKPOINTS

ORT, OV = recipe_for(targets.get("ort-fp32").recipe), recipe_for(targets.get("ov-fp32").recipe)
PEER = os.environ.get("EDGEKIT_PEER")  # a virtual environment made by ../shared/peer/setup.sh


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight attentions in the spelling hardest to recognise, with notes that are not ours."""
    model = block(graphs.exp_sum_div, blocks=8)
    model.producer_name, model.doc_string = "somebody", "as it was"
    helper.set_model_props(model, {"names": "{0: 'cat'}", "stride": "32"})
    path = tmp_path_factory.mktemp("theirs") / "theirs.onnx"
    onnx.save(model, path)
    return path


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def fired(result) -> dict[str, int]:
    return {report.rule: report.fired for report in result.reports}


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32", "trt-fp16"])
def test_a_file_from_elsewhere_keeps_its_notes_and_its_ports(theirs: Path, target: str, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = rewrite_file(theirs, out, recipe_for(targets.get(target).recipe), (8, 16))
    assert fired(result)["softmax_spelled_out"] == fired(result)["attention_found"] == 8
    assert [row.equal for row in result.equality] == [True]
    before, after = onnx.load(theirs), onnx.load(out)
    for part in ("input", "output"):
        assert [*getattr(after.graph, part)] == [*getattr(before.graph, part)]
    assert {p.key: p.value for p in after.metadata_props} == {p.key: p.value for p in before.metadata_props}
    assert (after.producer_name, after.doc_string) == ("somebody", "as it was")
    assert after.opset_import[0].version == result.opset[1] == recipe_for(targets.get(target).recipe).opset
    kinds = {n.op_type for n in after.graph.node}
    assert not kinds & {"Exp", "ReduceSum", "Div", "AreaAttention", "Gather", "Identity"}
    assert ("Attention" in kinds) == (target == "ov-fp32")
    assert all(n.name for n in after.graph.node) and len({n.name for n in after.graph.node}) == len(after.graph.node)
    assert b"onnxscript" not in out.read_bytes()


def test_rewriting_twice_changes_nothing_more(theirs: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    rewrite_file(theirs, first, OV)
    rewrite_file(first, second, OV)
    counts = [Counter(n.op_type for n in onnx.load(path).graph.node) for path in (first, second)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("opset", [11, 13, 17, 24])
def test_files_of_other_opsets(opset: int, tmp_path: Path) -> None:
    model = block(graphs.scale_after, blocks=8)
    if opset < 13:
        for node in model.graph.node:  # sizes were an attribute then
            if node.op_type == "Split":
                del node.input[1:]
                node.attribute.append(helper.make_attribute("split", [32, 32, 32]))
    model.opset_import[0].version = opset
    result = rewrite_file(saved(model, tmp_path), tmp_path / "out.onnx", ORT)
    assert result.opset == (opset, 18) and all(row.equal for row in result.equality)


@pytest.mark.parametrize("opset", [10, 26])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    model = block(graphs.scale_after)
    model.opset_import[0].version = opset
    with pytest.raises(InputError, match=f"opset {opset}; edgekit rewrites opsets 11 to 25"):
        rewrite_file(saved(model, tmp_path), tmp_path / "out.onnx", ORT)


@pytest.mark.parametrize("blocks", [7, 9])
def test_another_number_of_attentions_fails(blocks: int, tmp_path: Path) -> None:
    path = saved(block(graphs.scale_after, blocks=blocks), tmp_path)
    with pytest.raises(GateError, match=f"{blocks} attentions found where YOLO12 has 8 or 16"):
        rewrite_file(path, tmp_path / "out.onnx", ORT, (8, 16))
    assert not (tmp_path / "out.onnx").exists()


def test_one_attention_with_a_wrong_scale_fails_and_is_named(tmp_path: Path) -> None:
    model = block(graphs.scale_after, blocks=8)
    factors = [n for n in model.graph.node if n.op_type == "Mul"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.17, np.float32), "wrong"))
    factors[3].input[1] = "wrong"
    with pytest.raises(GateError, match=r"7 attentions rewritten, but not all \(product_\d+: its scale is 0.17;"):
        rewrite_file(saved(model, tmp_path), tmp_path / "out.onnx", ORT)


def test_a_file_without_attention_is_refused(tmp_path: Path) -> None:
    b = Builder()
    b.op("Relu", "x")
    b.nodes[-1].output[0] = "y"
    path = saved(b.model({"x": (1, 2)}, {"y": (1, 2)}), tmp_path)
    with pytest.raises(InputError, match="no attention of YOLO12 in it .nor any other.; nothing to rewrite"):
        rewrite_file(path, tmp_path / "out.onnx", ORT)


def test_unknown_sides_are_refused(tmp_path: Path) -> None:
    b = Builder()
    q, k, v = (b.transpose(b.reshape(x, 1, 2, 32, -1), 0, 1, 3, 2) for x in "qkv")
    scores = b.scale(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), 32**-0.5)
    b.op("MatMul", b.op("Softmax", scores, axis=-1), v, name="product")
    b.nodes[-1].output[0] = "y"
    path = saved(b.model(dict.fromkeys("qkv", (1, 64, "h", "w")), {"y": (1, 2, "t", 32)}), tmp_path)
    with pytest.raises(InputError, match="`imgsz`"):
        rewrite_file(path, tmp_path / "out.onnx", ORT)


def test_a_size_that_is_left_open_can_be_fixed(tmp_path: Path) -> None:
    b = Builder()
    q, k, v = (b.transpose(b.reshape("x", 1, 2, 32, -1), 0, 1, 3, 2) for _ in range(3))
    scores = b.scale(b.op("MatMul", q, b.transpose(k, 0, 1, 3, 2)), 32**-0.5)
    b.op("MatMul", b.op("Softmax", scores, axis=-1), v, name="product")
    b.nodes[-1].output[0] = "y"
    path = saved(b.model({"x": ("n", 64, "h", "w")}, {"y": (1, 2, "t", 32)}), tmp_path)
    with pytest.raises(InputError, match="`imgsz`"):
        rewrite_file(path, tmp_path / "out.onnx", ORT)
    result = rewrite_file(path, tmp_path / "out.onnx", ORT, size=(32, 64))
    assert fired(result)["attention_found"] == 1
    (image,) = onnx.load(tmp_path / "out.onnx").graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 64, 32, 64]
    given = {"x": np.random.default_rng(0).random((1, 64, 32, 64), dtype=np.float32)}
    before, after = (
        onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, given)[0]
        for p in (path, tmp_path / "out.onnx")
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="`imgsz` 64,64"):
        rewrite_file(tmp_path / "out.onnx", tmp_path / "again.onnx", ORT, size=(64, 64))


def test_a_mistaken_rule_writes_nothing(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = attention_decomposed.AttentionDecomposed
    honest = rule.scale
    monkeypatch.setattr(rule, "scale", staticmethod(lambda op, *rest: op.Neg(honest(op, *rest))))
    with pytest.raises(GateError, match="rewritten, it is another function: y differs by") as caught:
        rewrite_file(theirs, tmp_path / "out.onnx", ORT)
    assert not list(tmp_path.iterdir())
    row = caught.value.evidence["equality"][0]
    assert row["output"] == "y" and row["largest"] > row["allowed"]


# Files that reach outside


def external(path: Path, location: str) -> onnx.ModelProto:
    """A model whose first weights are said to lie in another file."""
    model = block(graphs.scale_after, blocks=8)
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(len(tensor.raw_data))}.items():
        tensor.external_data.add(key=key, value=value)
    path.with_name("weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return model


def test_data_beside_the_file_is_read(tmp_path: Path) -> None:
    external(tmp_path / "model.onnx", "weights.bin")
    rewrite_file(tmp_path / "model.onnx", tmp_path / "out.onnx", ORT)
    assert all(t.data_location != TensorProto.EXTERNAL for t in onnx.load(tmp_path / "out.onnx").graph.initializer)


@pytest.mark.parametrize("location", ["../weights.bin", "{}/weights.bin", "sub/../../weights.bin", "link.bin", ""])
def test_data_outside_the_folder_is_refused_unread(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    external(inside / "model.onnx", location.format(tmp_path))
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    (inside / "link.bin").symlink_to(tmp_path / "weights.bin")

    def read(*_: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(onnx, "load_external_data_for_model", read)
    with pytest.raises(UnsafeFileError, match="outside the file's folder; not read"):
        rewrite_file(inside / "model.onnx", tmp_path / "out.onnx", ORT)


def test_data_of_nested_graphs_is_looked_at_too(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../w.bin")
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, (3,))
    constant = helper.make_node("Constant", [], ["z"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [value])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    flag = helper.make_tensor_value_info("c", TensorProto.BOOL, ())
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, (3,))
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", [flag], [value])).SerializeToString())
    with pytest.raises(UnsafeFileError, match="the data of 'w' is said to be in '../w.bin'"):
        load(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "no such file"), (b"", "not a readable ONNX file"), (b"\x08\x07garbage", "not a readable ONNX file")],
)
def test_what_is_no_onnx_file(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path / "model.onnx")


def test_missing_data_is_said_so(tmp_path: Path) -> None:
    external(tmp_path / "model.onnx", "gone.bin")
    with pytest.raises(InputError, match="should be in 'gone.bin', which is not there"):
        load(tmp_path / "model.onnx")


# What equality means


def picking(change: float = 0.0, noise: float = 0.0) -> onnx.ModelProto:
    """Sixty-four candidates of nearly one score, the best eight picked; ``change`` after, ``noise`` before that."""
    b = Builder()
    scores = b.op("Add", b.op("ReduceMean", "x", np.array([1], np.int64), keepdims=0), np.float32([noise]), name="s")
    values, rows = b.op("TopK", scores, np.array([8], np.int64), outputs=2, axis=0)
    boxes = b.op("Gather", "x", rows, axis=0)
    b.op("Concat", b.op("Add", boxes, np.float32([change])), b.reshape(values, 8, 1), axis=1)
    b.nodes[-1].output[0] = "y"
    return b.model({"x": (64, 4)}, {"y": (8, 5)})


def test_rounding_before_a_choice_is_no_difference_but_a_change_behind_it_is() -> None:
    assert all(row.equal for row in differences(picking(), picking(noise=1e-7)))
    rows = {row.output: row.equal for row in differences(picking(), picking(change=1e-3))}
    assert rows == {"s_out0": True, "y": False}
    assert not all(row.equal for row in differences(picking(), picking(noise=1e-2)))


def test_what_is_not_a_number_is_different() -> None:
    def graph(kind: str) -> onnx.ModelProto:
        b = Builder()
        b.op(kind, b.op("Neg", "x"))
        b.nodes[-1].output[0] = "y"
        return b.model({"x": (1, 4)}, {"y": (1, 4)})

    assert differences(graph("Sqrt"), graph("Sqrt"))[0].equal
    assert not differences(graph("Relu"), graph("Sqrt"))[0].equal


# The command


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["rewrite", *map(str, words)])
    return int(end.value.code or 0)


def test_the_command_prints_one_document(theirs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    assert command(theirs, "--target", "ort-fp32", "--out", out, "--with", "attention_operator", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["opset"] == {"before": 18, "after": 23}
    assert {row["rule"]: row["fired"] for row in document["rewrites"]}["attention_found"] == 8
    assert document["equality"]["y"]["max_abs"] <= document["equality"]["y"]["tolerance"]
    assert command(theirs, "--target", "ort-fp32", "--out", out) == 2  # there already
    assert command(theirs, "--target", "ort-fp32", "--out", out, "--force") == 0
    assert "attention_found" in capfd.readouterr().err


def test_a_failed_command_leaves_its_evidence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, out = saved(block(graphs.scale_after, blocks=2), tmp_path), tmp_path / "out.onnx"
    assert command(path, "--target", "ov-fp32", "--out", out) == 1
    assert "2 attentions found where YOLO12 has 8 or 16" in capfd.readouterr().err
    evidence = json.loads((tmp_path / "out.onnx.failed.json").read_text())
    assert evidence["rewrites"][0]["fired"] == 2
    assert not out.exists()


# Real checkpoints


@pytest.mark.parametrize("target", ["ort-fp32", "ov-fp32", "trt-fp16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_form_of_a_trained_network_gives_the_stored_outputs(
    name: str, target: str, exported, raw, tmp_path: Path
) -> None:
    source, out = exported(name), tmp_path / "out.onnx"
    result = rewrite_file(source, out, recipe_for(targets.get(target).recipe), (8,), prove=False)
    assert fired(result)["attention_found"] == 8
    document = read_document(out)
    assert document["rewrites"][: len(read_document(source)["rewrites"])] == read_document(source)["rewrites"]
    values = {name for node in onnx.load(out).graph.node for name in node.output}
    shown = dict(document["stages"])
    assert values >= set(shown.values())  # every stage can still be looked at
    lineage = document["lineage"]
    apart = {path for path, value in lineage["stages"] if value in lineage["became"]}
    gone = {path for path, _ in read_document(source)["stages"]} - set(shown) - apart
    joins = {f"model.{layer}" for layer in (9, 10, 12, 13)}
    assert gone <= (joins if target.startswith("ov") else set())  # but what is no longer made
    kinds = Counter(n.op_type for n in onnx.load(out).graph.node)
    assert kinds["Attention"] == (8 if target == "ov-fp32" else 0)
    assert kinds["MatMul"] == (0 if target == "ov-fp32" else 16)
    info = ModelInfo.from_dict(document["info"])
    session = targets.get("ort-fp32").open(out, info)
    batch, expected = raw(name)
    raw.assert_close(session.run(batch), expected, pixels=1e-2, scores=1e-4, masks=1e-3)


@pytest.mark.parametrize("target", ["ov-fp32", "ov-fp16"])
@pytest.mark.parametrize("name", ["yolo12n-bccd", "yolo12n-turbo"])
def test_openvino_runs_every_attention_as_one_kernel(name: str, target: str, exported, tmp_path: Path) -> None:
    """Whole in the IR; in the compiled graph either the operator's kernel or one generated kernel for all of it."""
    import openvino

    out = tmp_path / "out.onnx"
    rewrite_file(exported(name), out, recipe_for(targets.get(target).recipe), prove=False)
    info = ModelInfo.from_dict(read_document(out)["info"])
    targets.get(target).build(Graph(out, info, sha256_file(out)), tmp_path)
    core = openvino.Core()
    kinds = Counter(op.get_type_name() for op in core.read_model(tmp_path / "model.xml").get_ordered_ops())
    assert kinds["ScaledDotProductAttention"] == 8 and kinds["MatMul"] == 0
    compiled = core.compile_model(tmp_path / "model.xml", "CPU")
    layers = [{k: str(v.value) for k, v in o.get_rt_info().items()} for o in compiled.get_runtime_model().get_ops()]
    whole = [
        layer
        for layer in layers
        if layer["layerType"] in ("Subgraph", "ScaledDotProductAttention")
        and "Attention" in layer["originalLayersNames"]
    ]
    assert len(whole) == 8
    left = Counter(layer["layerType"] for layer in layers)
    assert left["MatMul"] == 0 and left["Softmax"] == 1  # that of the box distances


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "attentions"), [("n", 8), ("s", 8), ("m", 8), ("l", 16), ("x", 16)])
def test_the_peers_own_export(scale: str, attentions: int, shared: Path, tmp_path: Path) -> None:
    if PEER is None:
        pytest.skip("needs EDGEKIT_PEER, a virtual environment made by ../shared/peer/setup.sh")
    weights = shared / "fixtures" / "yolo12n-bccd.pt" if scale == "n" else f"yolo12{scale}.yaml"
    script = [Path(PEER) / "bin" / "python", shared / "peer" / "export.py", weights]
    subprocess.run([*script, "--format", "onnx", "--out", "peer"], cwd=tmp_path, check=True, capture_output=True)
    source = next(tmp_path.rglob("*.onnx"))
    for recipe in (ORT, OV):
        result = rewrite_file(source, tmp_path / "out.onnx", recipe, (8, 16))
        assert fired(result)["attention_found"] == attentions
        assert all(row.equal for row in result.equality)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", "-turbo"])
@pytest.mark.parametrize("scale", "nsmlx")
def test_every_detector_exports_for_every_form(scale: str, suffix: str, tmp_path: Path) -> None:
    """Random weights through PyTorch's exporter; the counts are checked by the export itself."""
    torch = pytest.importorskip("torch")
    from edgekit.graph.export import export

    batch = noise(1, 3, 64, 64)
    loaded = settled(f"yolo12{scale}{suffix}", batch, {"boxes": 1e-3, "scores": 1e-4})
    with torch.no_grad():
        expected = loaded.net(torch.from_numpy(batch))
    portable = export(loaded, tmp_path / "portable.onnx", (64, 64))
    rewrite_file(portable.path, tmp_path / "operator.onnx", OV, prove=False)
    for path in (portable.path, tmp_path / "operator.onnx"):
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.run(["boxes", "scores"], {"images": batch})
        np.testing.assert_allclose(found[0], expected["boxes"].numpy(), atol=1e-3)
        np.testing.assert_allclose(found[1], expected["scores"].numpy(), atol=1e-4)
