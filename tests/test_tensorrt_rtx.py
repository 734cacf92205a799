"""TensorRT-RTX as installed: engines built for cards that are not here, and its answers to what it cannot build.

An engine cannot be loaded without a driver, so what is checked is what was built (sizes, hashes, records, the builder's
own list of kernels) and the function of the graph that went in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import checkpoint, targets
from edgekit.bundle import build as building
from edgekit.bundle.options import BuildOptions
from edgekit.checkpoint import catalog
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.graph.document import read_document
from edgekit.graph.export import export
from edgekit.quantize import QuantizeOptions
from edgekit.runtime.manifest import read_bundle
from edgekit.spec import Graph, ModelInfo, sha256_file
from edgekit.targets import _tensorrt_engines
from edgekit.targets import tensorrt_rtx as rtx
from edgekit.targets._cuda import Gpu
from edgekit.targets._tensorrt_common import TensorRTOptions
from tests.networks import pictures, settled

sdk = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'edgekit[tensorrt-rtx]' on x86-64")

SMS = (75, 86, 89, 120)
TASKS = ["seg-balloon", "pose-person", "obb-table-tennis", "cls-flowers5"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier: eight attentions and the quickest to build."""
    made = settled("yolo12n-cls", pictures(), 1e-3, ("a", "b", "c"))
    return checkpoint.save(made, tmp_path_factory.mktemp("tiny") / "tiny.pt")


@pytest.fixture(scope="module")
def packed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's half-precision graph in a bundle without engines."""
    out = tmp_path_factory.mktemp("packed") / "packed"
    return building.build(tiny, "trt-rtx-fp16", out, BuildOptions(target={"engine": "no"})).path


def _graph(packed: Path) -> Graph:
    return Graph(packed / "model.onnx", ModelInfo.from_dict(read_document(packed / "model.onnx")["info"]), "")


def _check(path: Path, sms: tuple[int, ...]) -> dict[str, Any]:
    """What a bundle's records say is what its files are; the manifest."""
    manifest = read_bundle(path).manifest
    assert [row["sm"] for row in manifest["engines"]] == list(sms)
    for row in manifest["engines"]:
        file = path / row["file"]
        assert row["bytes"] == file.stat().st_size > 1 << 20
        assert row["sha256"] == sha256_file(file) == manifest["files"][row["file"]]
        assert row["onnx_sha256"] == manifest["files"]["model.onnx"]
        assert (row["sdk"], row["sdk_version"]) == ("tensorrt_rtx", sdk.__version__)
        assert row["attention"] == {"source": "builder's log", "of": 8, "fused": 8, "apart": []}
        chosen = _tensorrt_engines.choose(path, "trt-rtx-fp16", _gpu(row["sm"]), "tensorrt_rtx", sdk.__version__)
        assert chosen == row
    assert len({row["sha256"] for row in manifest["engines"]}) == len(sms)
    assert manifest["evaluated"] == "graph evaluated; engine not run here"
    assert all(row["pass"] for row in manifest["parity"].values())
    return dict(manifest)


def _gpu(sm: int) -> Gpu:
    return Gpu(0, "an RTX card", sm, 13000)


def _types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


def test_the_detector_in_half_precision_for_four_architectures(shared: Path, tmp_path: Path) -> None:
    model = shared / "fixtures" / "yolo12n-bccd.pt"
    out = building.build(
        model, "trt-rtx-fp16", tmp_path / "out", BuildOptions(imgsz=(320, 320), target={"sm": "75,86,89,120"})
    ).path
    manifest = _check(out, SMS)
    assert manifest["graph_parity"].keys() == manifest["parity"].keys() == {"boxes", "scores"}
    assert TensorProto.FLOAT16 in _types(out / "model.onnx")
    assert (manifest["precision"]["attention"], manifest["precision"]["decode tail"]) == ("f16", "f32")
    sizes = {row["sm"]: row["bytes"] for row in manifest["engines"]}
    assert sizes[86] < 2.2 * (out / "model.onnx").stat().st_size  # weights of half the width, and kernels


def _few(data: Path, folder: Path, train: int, val: int) -> Path:
    """A set of the first images of ``data``, linked."""
    for split, count in (("train", train), ("val", val)):
        for image in sorted((data / "images" / split).iterdir())[:count]:
            label = (data / "labels" / split / image.name).with_suffix(".txt")
            for source, kind in ((image, "images"), (label, "labels")):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
                os.symlink(source, folder / kind / split / source.name)
    (folder / "data.yaml").write_text((data / "data.yaml").read_text())
    return folder / "data.yaml"


@pytest.mark.long
def test_the_detector_in_int8_for_four_architectures(shared: Path, tmp_path: Path) -> None:
    """On a handful of images: that it is built. What it loses is asked on the whole set, below."""
    wishes = QuantizeOptions(
        data=_few(shared / "data" / "bccd", tmp_path / "few", 16, 4), count=16, max_drop=100, timing_s=0
    )
    model = shared / "fixtures" / "yolo12n-bccd.pt"
    out = building.build(
        model,
        "trt-rtx-int8",
        tmp_path / "out",
        BuildOptions(imgsz=(320, 320), target={"sm": "75,86,89,120"}, quantize=wishes),
    ).path
    manifest = _check(out, SMS)
    assert {TensorProto.INT8, TensorProto.FLOAT16} <= _types(out / "model.onnx")
    assert manifest["calibration"]["images"] == 16
    precision = manifest["precision"]
    assert (precision["stage 6 mlp"], precision["attention"], precision["decode tail"]) == ("i8", "f16", "f32")


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_the_other_tasks_in_half_precision(name: str, shared: Path, tmp_path: Path) -> None:
    model, side = shared / "fixtures" / f"yolo12n-{name}.pt", 224 if "cls" in name else 320
    _check(
        building.build(
            model, "trt-rtx-fp16", tmp_path / "out", BuildOptions(imgsz=(side, side), target={"sm": "75"})
        ).path,
        (75,),
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["s", "m", "l", "x"])
def test_the_larger_scales(scale: str, tmp_path: Path) -> None:
    made = checkpoint.new(catalog.spec(f"yolo12{scale}", classes=80), tuple(map(str, range(80))), imgsz=640)
    export(made, tmp_path / "model.onnx", recipe=targets.get("trt-rtx-fp16").recipe, head="topk")
    out = building.build(
        tmp_path / "model.onnx", "trt-rtx-fp16", tmp_path / "out", BuildOptions(target={"sm": "75,86,89,120"})
    ).path
    for row in read_bundle(out).manifest["engines"]:
        assert row["attention"]["fused"] == row["attention"]["of"] == (16 if scale in "lx" else 8)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "points"), [("trt-rtx-fp16", 0.1), ("trt-rtx-int8", 0.5)])
def test_what_the_graph_loses_on_the_whole_set(target: str, points: float, shared: Path, tmp_path: Path) -> None:
    """The build fails where more is lost than allowed."""
    wishes = QuantizeOptions(data=shared / "data" / "bccd" / "data.yaml", max_drop=points, timing_s=0)
    model = shared / "fixtures" / "yolo12n-bccd.pt"
    built = building.build(model, target, tmp_path / "out", BuildOptions(target={"sm": "86"}, quantize=wishes))
    assert built.manifest["accuracy"]["drop_points"] <= points


def test_a_graph_packed_without_engines_is_finished_elsewhere(packed: Path, tmp_path: Path) -> None:
    assert read_bundle(packed).manifest["engines"] == []
    finished = building.rebuild(packed, tmp_path / "out", options={"sm": "89"})
    manifest = _check(finished.path, (89,))
    first = read_bundle(packed).manifest
    assert manifest["files"]["model.onnx"] == first["files"]["model.onnx"]  # the same graph, not made again
    assert manifest["provenance"]["onnx_sha256"] == first["provenance"]["onnx_sha256"]
    again = building.rebuild(finished.path, tmp_path / "again", options={"sm": "86"})
    files = sorted(name for name in again.manifest["files"] if not name.startswith("selftest"))
    assert files == ["model.onnx", "model.sm86.engine"]


def test_an_engine_built_twice_is_of_the_same_graph_and_layers(packed: Path, tmp_path: Path) -> None:
    """Its bytes are TensorRT-RTX's: of two such pairs, in whole runs on a busy machine, one engine was as large as that
    for SM 75, and of sixty built by hand all were equal."""
    built = [building.rebuild(packed, tmp_path / name, options={"sm": "86"}).manifest for name in "ab"]
    own = [{k: v for k, v in each["engines"][0].items() if k not in ("sha256", "bytes", "seconds")} for each in built]
    assert own[0] == own[1] and own[0]["attention"]["fused"] == 8
    assert built[0]["files"]["model.onnx"] == built[1]["files"]["model.onnx"]


def test_attention_that_did_not_fuse_is_named_with_the_layers_around_it(tiny: Path, tmp_path: Path) -> None:
    """In float32 TensorRT-RTX has no fused kernel: a product, a Softmax and a product each."""
    graph = export(checkpoint.load(tiny), tmp_path / "model.onnx", recipe=targets.get("trt-rtx-fp16").recipe)
    [row] = targets.get("trt-rtx-fp16").build(graph, tmp_path, TensorRTOptions(sm=(86,)))["engines"]
    assert row["attention"]["fused"] == 0 and len(row["attention"]["apart"]) == 8
    first = row["attention"]["apart"][0]
    assert first["node"] == "model.6.m.0.0.attn.core/Attention"
    assert any("Exp" in layer for layer in first["layers"])


def test_a_dynamic_batch_is_built_with_its_profile(tiny: Path, tmp_path: Path) -> None:
    built = building.build(
        tiny, "trt-rtx-fp16", tmp_path / "out", BuildOptions(batch=None, target={"sm": "86", "batches": "1,2,4"})
    )
    [row] = built.manifest["engines"]
    assert built.info.batch is None and row["options"] == {"batches": [1, 2, 4]}


@pytest.mark.parametrize(
    ("sm", "sentence"),
    [
        (87, "Jetson Orin takes engines of its own TensorRT: build trt-fp16 or trt-int8 on the Jetson"),
        (90, "H100, H200 and GH200 take engines of TensorRT"),
        (61, "GPUs before Turing"),
        (77, "give one of those"),
    ],
)
def test_an_architecture_it_does_not_build_for(sm: int, sentence: str, packed: Path, tmp_path: Path) -> None:
    known = ", ".join(map(str, rtx.architectures()))
    with pytest.raises(InputError, match=f"`sm` {sm}: TensorRT-RTX [0-9.]+ builds for {known}; {sentence}"):
        building.rebuild(packed, tmp_path / "out", options={"sm": f"86,{sm}"})
    assert list(tmp_path.iterdir()) == []


def test_float32_products_on_turing_are_refused_with_what_to_do(tiny: Path, tmp_path: Path) -> None:
    """Found with the decomposed form; the operator's products are another kernel, which Turing has."""
    graph = export(checkpoint.load(tiny), tmp_path / "model.onnx", recipe=targets.get("trt-fp16").recipe)
    with pytest.raises(
        InputError, match=r"SM 75: this architecture has no float32 matrix products .* leave 75 out"
    ) as e:
        targets.get("trt-rtx-fp16").build(graph, tmp_path, TensorRTOptions(sm=(75,)))
    assert "\n" not in str(e.value)


def test_too_little_scratch_memory(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give more with `workspace` MB"):
        building.rebuild(packed, tmp_path / "out", options={"sm": "86", "workspace": "1"})
    assert list(tmp_path.iterdir()) == []


def test_leaving_weights_out_wants_a_gpu(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it wanted a GPU while building: .*strip-weights"):
        building.rebuild(packed, tmp_path / "out", options={"sm": "86", "strip-weights": "yes"})


def test_finished_detections_are_refused_before_anything_is_built(tiny: Path, packed: Path, tmp_path: Path) -> None:
    graph = _graph(packed)
    nms = dataclasses.replace(graph, info=graph.info.replace(head="nms"))
    with pytest.raises(UsageError, match="`head` nms: TensorRT targets have raw and topk"):
        targets.get("trt-rtx-fp16").build(nms, tmp_path, TensorRTOptions(sm=(86,)))


def _one_node(path: Path, operator: str, opset: int = 18, domain: str = "") -> Path:
    value = helper.make_tensor_value_info
    node = helper.make_node(operator, ["images"], ["class_probabilities"], name="model.0/It", domain=domain)
    images, answer = (value(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "class_probabilities"))
    graph = helper.make_graph([node], "g", [images], [answer], [numpy_helper.from_array(np.zeros(1, "f"), "unused")])
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    path.write_bytes(helper.make_model(graph, opset_imports=imports).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("operator", "opset", "domain"), [("Cube", 18, "somebody"), ("Det", 22, ""), ("AreaAttention", 23, "edgekit")]
)
def test_an_operator_the_parser_does_not_know_is_named(
    operator: str, opset: int, domain: str, packed: Path, tmp_path: Path
) -> None:
    path = _one_node(tmp_path / "theirs.onnx", operator, opset, domain)
    with pytest.raises(
        InputError, match=rf"does not read the operator {operator} \(model.0/It\): .*`opset` 23 or less"
    ):
        targets.get("trt-rtx-fp16").build(
            dataclasses.replace(_graph(packed), path=path), tmp_path, TensorRTOptions(sm=(86,))
        )


def test_a_file_that_is_no_graph(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"\x00junk" * 9)
    with pytest.raises(InputError, match="does not read") as caught:
        targets.get("trt-rtx-fp16").build(
            dataclasses.replace(_graph(packed), path=path), tmp_path, TensorRTOptions(sm=(86,))
        )
    assert "\n" not in str(caught.value)


def test_a_build_interrupted_half_way_leaves_nothing(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(_tensorrt_engines, "sha256_file", interrupted)  # after the first engine's bytes
    with pytest.raises(KeyboardInterrupt):
        building.rebuild(packed, tmp_path / "out", options={"sm": "86,89"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"target": "trt-fp16"}, "`target` trt-fp16: the graph in .* was made for trt-rtx-fp16; leave `target` out"),
        ({"layout": "triton"}, "`layout` triton: NVIDIA Triton does not load what trt-rtx-fp16 builds"),
        ({"layout": "kserve"}, "`layout` kserve: layouts are triton, ovms"),
        ({"options": {"dla": "0"}}, "`option` dla: TensorRT-RTX has no such thing"),
        ({"options": {"sm": ""}}, "`sm` : must be architectures"),
    ],
)
def test_what_cannot_be_asked_of_a_rebuild(call: dict[str, Any], sentence: str, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=sentence):
        building.rebuild(packed, tmp_path / "out", **call)
    assert list(tmp_path.iterdir()) == []


def test_options_are_for_targets_that_have_some(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`option` workspace: ort-fp32 has no options of its own"):
        building.build(tiny, "ort-fp32", tmp_path / "out", BuildOptions(target={"workspace": "64"}))
    plain = building.build(tiny, "ort-fp32", tmp_path / "plain").path
    with pytest.raises(UsageError, match="a bundle of ort-fp32 is tied to no machine"):
        building.rebuild(plain, tmp_path / "out")


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'edgekit[tensorrt-rtx]'" in str(rtx.missing())
