"""Exported graphs and the artifacts built from them, against the stored outputs of the real checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgekit import checkpoint, targets
from edgekit.checkpoint import catalog
from edgekit.errors import GateError, InputError
from edgekit.graph.document import read_document
from edgekit.graph.export import export
from edgekit.nn.session import TorchSession
from edgekit.spec import Graph, ModelInfo, sha256_file
from tests.networks import noise, settled
from tests.test_models import CHECKPOINTS


def _open(path: Path, target: str, folder: Path):
    backend = targets.get(target)
    info = ModelInfo.from_dict(read_document(path)["info"])
    backend.build(Graph(path, info, sha256_file(path)), folder)
    return backend.open(folder, info)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_onnxruntime_gives_the_stored_outputs(name: str, exported, raw, tmp_path: Path) -> None:
    session = _open(exported(name), "ort-fp32", tmp_path)
    batch, expected = raw(name)
    raw.assert_close(session.run(batch), expected, pixels=1e-2, scores=1e-4, masks=1e-3)
    assert set(session.precision_by_type()) <= {"f32", "i64", "none"}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_openvino_float32_gives_the_stored_outputs(name: str, exported, raw, tmp_path: Path) -> None:
    session = _open(exported(name), "ov-fp32", tmp_path)
    batch, expected = raw(name)
    raw.assert_close(session.run(batch), expected, pixels=5e-2, scores=1e-3, masks=1e-2)
    executed = session.precision_by_type()
    assert executed["f32"] > 100 and not {"bf16", "f16"} & set(executed)


def test_openvino_half_stores_half_the_bytes(exported, tmp_path: Path) -> None:
    sizes = {}
    for target in ("ov-fp32", "ov-fp16"):
        folder = tmp_path / target
        folder.mkdir()
        _open(exported("yolo12n-bccd"), target, folder)
        sizes[target] = (folder / "model.bin").stat().st_size
    assert sizes["ov-fp16"] == pytest.approx(sizes["ov-fp32"] / 2, rel=0.02)


def test_the_graph_has_attention_scale_first_and_one_softmax_each(exported) -> None:
    model = onnx.load(exported("yolo12n-bccd"))
    producers = {out: node for node in model.graph.node for out in node.output}
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    softmaxes = [n for n in model.graph.node if n.op_type == "Softmax" and ".attn.core/" in n.name]
    assert len(softmaxes) == 8
    for softmax in softmaxes:
        product = producers[softmax.input[0]]
        assert product.op_type == "MatMul"
        while (q := producers[product.input[0]]).op_type in ("Reshape", "Transpose"):
            product = q
        assert q.op_type == "Mul" and constants[q.input[1]] == pytest.approx(32**-0.5)
    assert not {n.op_type for n in model.graph.node} & {
        "Exp",
        "ReduceSum",
        "Div",
        "AreaAttention",
        "Identity",
        "Constant",
    }
    assert {o.domain for o in model.opset_import} == {""}


def test_the_file_alone_says_what_it_is(exported, shared: Path) -> None:
    path = exported("yolo12n-bccd")
    document = read_document(path)
    info = ModelInfo.from_dict(document["info"])
    assert info.names == ("RBC", "WBC", "Platelets")
    assert [(p.role, p.shape) for p in info.outputs] == [("boxes", (1, 2100, 4)), ("scores", (1, 3, 2100))]
    assert info.license is not None and info.license.startswith("AGPL-3.0")
    source = shared / "fixtures" / "yolo12n-bccd.pt"
    assert document["provenance"]["checkpoint_sha256"] == sha256_file(source)
    assert document["rewrites"] == [
        {"rule": "channel_selection", "fired": 24, "expected": 24, "refused": []},
        {"rule": "selected_convolution", "fired": 24, "expected": 24, "refused": []},
        {"rule": "attention_decomposed", "fired": 8, "expected": 8, "refused": []},
    ]
    text = path.read_bytes()
    assert str(shared).encode() not in text and b"site-packages" not in text  # no local paths in what people publish


def test_nodes_are_named_after_the_model(exported) -> None:
    names = Counter(n.name.split("/")[0] for n in onnx.load(exported("yolo12n-bccd")).graph.node)
    modules = dict(checkpoint.new(catalog.spec("yolo12n", classes=3)).net.named_modules())
    assert set(names) <= set(modules)
    assert names["model.6.m.0.0.attn.core"] > 5


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("yolo12n-pose", (96, 160), marks=pytest.mark.slow), ("yolo12n-turbo", (64, 64))]
)
def test_dynamic_batch_and_rectangular_input(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    batch = noise(3, 3, *size)
    loaded = settled(name, batch, 1e-3)
    graph = export(loaded, tmp_path / "model.onnx", size, batch=None)
    with torch.no_grad():
        expected = loaded.net(torch.from_numpy(batch))
    for target in ("ort-fp32", "ov-fp32"):
        folder = tmp_path / target
        folder.mkdir()
        backend = targets.get(target)
        backend.build(graph, folder)
        found = backend.open(folder, graph.info).run(batch)
        for role, value in expected.items():
            np.testing.assert_allclose(found[role], value.numpy(), atol=1e-3, err_msg=f"{target} {role}")


def test_dynamic_batch_of_candidates(tmp_path: Path) -> None:
    batch = noise(3, 3, 64, 96)
    loaded = settled("yolo12n", batch, {"scores": 1e-4})
    recipe = targets.get("ov-fp32").recipe
    graph = export(loaded, tmp_path / "model.onnx", (64, 96), batch=None, head="topk", recipe=recipe)
    expected = TorchSession(loaded.net, graph.info).run(batch)
    found = targets.get("ort-fp32").open(graph.path, graph.info).run(batch)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    assert found["boxes"].shape == (3, *expected["boxes"].shape[1:])


def _in_place(net: torch.nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, torch.nn.SiLU):
            module.inplace = True


def _gridded(net: torch.nn.Module) -> None:
    def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        rows, _ = torch.meshgrid(output[0, 0, :, 0], output[0, 0, 0], indexing="ij")
        return output + rows.sigmoid()

    net.get_submodule("model.0").register_forward_hook(hook)


@pytest.mark.parametrize("plant", [_in_place, _gridded])
def test_what_the_exporter_cannot_write_as_it_was_captured(
    plant: Callable[[torch.nn.Module], None], tmp_path: Path
) -> None:
    """Activations that write into their input, and an operator that has to be taken apart first."""
    batch = noise(1, 3, 64, 64)
    loaded = settled("yolo12n-cls", batch, 1e-4, tuple("abcd"), plant=plant)
    graph = export(loaded, tmp_path / "model.onnx", (64, 64))
    with torch.no_grad():
        expected = loaded.net(torch.from_numpy(batch))["class_probabilities"].numpy()
    found = targets.get("ort-fp32").open(graph.path, graph.info).run(batch)
    np.testing.assert_allclose(found["class_probabilities"], expected, atol=1e-4)


def test_two_exports_are_the_same_file(tmp_path: Path) -> None:
    loaded = checkpoint.new(catalog.spec("yolo12n-cls", classes=4))
    first = export(loaded, tmp_path / "a.onnx", (64, 64)).sha256
    assert export(loaded, tmp_path / "b.onnx", (64, 64)).sha256 == first


def test_a_rewrite_that_fires_too_seldom_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "expected_rewrites", lambda spec: {"attention": 9})
    with pytest.raises(GateError, match="attention_decomposed fired 8 times where this model needs 9"):
        export(checkpoint.new(catalog.spec("yolo12n-cls", classes=4)), tmp_path / "a.onnx", (64, 64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", [16, 25])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`opset` {opset}"):
        export(checkpoint.new(catalog.spec("yolo12n-cls", classes=4)), tmp_path / "a.onnx", opset=opset)


def test_foreign_damaged_and_newer_onnx_files_get_a_sentence(tmp_path: Path) -> None:
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    path = tmp_path / "foreign.onnx"
    onnx.save(foreign, path)
    with pytest.raises(InputError, match="without edgekit's metadata"):
        read_document(path)
    for value, sentence in (("{", "damaged"), (json.dumps({"schema": 99}), "schema 99")):
        foreign.metadata_props.clear()
        entry = foreign.metadata_props.add()
        entry.key, entry.value = "edgekit", value
        onnx.save(foreign, path)
        with pytest.raises(InputError, match=sentence):
            read_document(path)
    path.write_bytes(b"not protobuf at all")
    with pytest.raises(InputError, match="not a readable ONNX file|without edgekit's metadata"):
        read_document(path)
    with pytest.raises(InputError, match="no such file"):
        read_document(tmp_path / "none.onnx")
