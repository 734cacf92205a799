"""How the builder of each TensorRT generation is asked, seen by a stand-in that has only that generation's names.

The names are those of the Python bindings in NVIDIA/TensorRT at v8.6.0, v10.3, v10.13.0 and v11.1: asking one of them
for something of another generation fails here as it would there.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import targets
from edgekit.checkpoint import catalog
from edgekit.errors import InputError, UsageError
from edgekit.spec import Graph, ModelInfo
from edgekit.targets import _cuda, tensorrt
from edgekit.targets._cuda import Gpu
from edgekit.targets._tensorrt_builder import build
from edgekit.targets._tensorrt_common import TensorRTOptions, generation_of
from edgekit.tasks import ports
from tests.gpu_stand_ins import Names

T4 = Gpu(0, "Tesla T4", 75, 13000)
_COMMON = "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME"
FLAGS = {
    "8.6.0": f"FP16 INT8 OBEY_PRECISION_CONSTRAINTS {_COMMON}",
    "10.13.0": f"FP16 INT8 OBEY_PRECISION_CONSTRAINTS {_COMMON} STRIP_PLAN REFIT_IDENTICAL",
    "11.1.0": f"{_COMMON} STRIP_PLAN REFIT_IDENTICAL",
}
FLAGS["10.3.0"] = FLAGS["10.13.0"]
CREATION = {
    "10.3.0": "EXPLICIT_BATCH STRONGLY_TYPED",
    "8.6.0": "EXPLICIT_BATCH EXPLICIT_PRECISION",
    "10.13.0": "EXPLICIT_BATCH STRONGLY_TYPED",
    "11.1.0": "",
}


class Layer:
    """A network's layer; in TensorRT 11 it has no precision to set."""

    def __init__(self, name: str, kind: str, typed: bool) -> None:
        self.name, self.type, self.types = name, f"LayerType.{kind}", {}
        self.num_outputs = 2 if kind == "TOPK" else 1
        if not typed:
            self.precision = None

    def get_output(self, place: int) -> Any:
        return SimpleNamespace(dtype="int32" if place else "float32")

    def set_output_type(self, place: int, kind: Any) -> None:
        assert hasattr(self, "precision")
        self.types[place] = kind


class Config:
    def __init__(self, sdk: Any) -> None:
        self.sdk, self.flags, self.pools, self.profiles = sdk, set(), {}, []
        self.timings: bytes | None = None

    def set_flag(self, flag: int) -> None:
        self.flags.add(list(self.sdk.BuilderFlag.__members__)[flag])

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self.pools[pool] = size

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile)

    def create_timing_cache(self, data: bytes) -> Any:
        if data.startswith(b"damaged"):
            return None
        return SimpleNamespace(data=data, serialize=lambda: data + b"+measured")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data.startswith(b"of other clocks"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def can_run_on_DLA(self, layer: Layer) -> bool:
        return layer.type.endswith("CONVOLUTION")


def sdk_of(version: str, layers: list[tuple[str, str]], says: str = "") -> Any:
    """A module like ``tensorrt`` of that version, whose parser makes ``layers`` of any graph."""
    kinds = {"float32": "float32", "int32": "int32"}
    sdk = SimpleNamespace(__name__="tensorrt", __version__=version, **kinds, asked=SimpleNamespace())

    class ILogger:
        def __init__(self) -> None:
            pass

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Any, log: Any) -> None:
            pass

        def parse_from_file(self, path: str) -> bool:
            return Path(path).is_file()

    class Builder:
        def __init__(self, log: Any) -> None:
            self.log = log

        def create_network(self, flags: int) -> Any:
            sdk.asked.creation = flags
            made = [Layer(name, kind, version.startswith("11")) for name, kind in layers]
            sdk.asked.layers = made
            return SimpleNamespace(num_layers=len(made), num_outputs=1, get_layer=lambda place: made[place])

        def create_builder_config(self) -> Config:
            sdk.asked.config = Config(sdk)
            return sdk.asked.config

        def create_optimization_profile(self) -> Any:
            shapes: dict[str, Any] = {}
            return SimpleNamespace(shapes=shapes, set_shape=lambda name, *sizes: shapes.update({name: sizes}))

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            if says:
                self.log.log("Severity.ERROR", says)
                return None
            return b"engine"

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, engine: bytes) -> Any:
            inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": sdk.inspected}))
            return SimpleNamespace(create_engine_inspector=lambda: inspector)

    sdk.ILogger, sdk.OnnxParser, sdk.Builder, sdk.Runtime = ILogger, OnnxParser, Builder, Runtime
    sdk.LayerInformationFormat = Names("ONELINE", "JSON")
    sdk.inspected = ["a bare name"]
    sdk.BuilderFlag = Names(*FLAGS[version].split())
    sdk.NetworkDefinitionCreationFlag = Names(*CREATION[version].split())
    sdk.ProfilingVerbosity = Names("LAYER_NAMES_ONLY", "NONE", "DETAILED")
    sdk.MemoryPoolType = Names("WORKSPACE")
    levels = ("NONE", "AMPERE_PLUS")
    if not version.startswith(("8", "10.3")):  # it came with 10.9
        levels = (*levels, "SAME_COMPUTE_CAPABILITY")
    sdk.HardwareCompatibilityLevel = Names(*levels)
    sdk.DeviceType = Names("GPU", "DLA")
    return sdk


LAYERS = [
    ("model.0.conv/Conv", "CONVOLUTION"),
    ("model.6.attn.core/Softmax", "SOFTMAX"),
    ("model.21/Mul", "ELEMENTWISE"),
]


def _info(batch: int | None = 1) -> ModelInfo:
    return ports.info(catalog.spec("yolo12n-cls", classes=3), ("a", "b", "c"), (32, 32), batch=batch)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``model.21/Mul`` in float32 behind a half-precision convolution."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["images"], ["half"], name="in", to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["half", "w"], ["c"], name="model.0.conv/Conv"),
        helper.make_node("Cast", ["c"], ["single"], name="out", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["single", "single"], ["answer"], name="model.21/Mul"),
    ]
    weights = numpy_helper.from_array(np.zeros((3, 3, 1, 1), np.float16), "w")
    ends = (value(name, TensorProto.FLOAT, [1, 3, 32, 32]) for name in ("images", "answer"))
    body = helper.make_graph(nodes, "g", [next(ends)], [next(ends)], [weights])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _build(
    version: str,
    path: Path,
    options: dict[str, str] | None = None,
    batch: int | None = 1,
    says: str = "",
    layers: list[tuple[str, str]] = LAYERS,
) -> Any:
    sdk = sdk_of(version, layers, says)
    built = build(
        sdk, generation_of("tensorrt", version), path, _info(batch), TensorRTOptions.parse(options or {}), gpu=T4
    )
    return sdk.asked, built[75].record


def test_8_6_is_permitted_narrow_types_and_held_to_float32_where_the_graph_is(graph: Path) -> None:
    asked, record = _build("8.6.0", graph)
    assert asked.creation == 1  # explicit batch
    assert asked.config.flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}  # int8 without scales would want ranges
    pinned = {layer.name: layer.precision for layer in asked.layers}
    assert pinned == {"model.0.conv/Conv": None, "model.6.attn.core/Softmax": None, "model.21/Mul": "float32"}
    assert asked.layers[2].types == {0: "float32"}
    assert record["attention"] == {"source": "not checked", "of": 1, "fused": None, "apart": []}
    assert (record["int8"], record["float32"]) == (False, {"model.21/Mul": "fp32"})


def test_8_6_is_permitted_int8_where_the_graph_quantizes(graph: Path) -> None:
    asked, record = _build("8.6.0", graph, layers=[*LAYERS, ("model.0.conv/input/q", "QUANTIZE")])
    assert asked.config.flags == {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"} and record["int8"]


def test_8_6_leaves_the_indices_of_a_pinned_top_k_alone(graph: Path) -> None:
    layers = [(name, "TOPK" if name == "model.21/Mul" else kind) for name, kind in LAYERS]
    asked, record = _build("8.6.0", graph, layers=layers)
    assert asked.layers[2].types == {0: "float32"} and record["float32"] == {"model.21/Mul": "fp32+int32"}


def test_8_6_keeps_the_decode_tail_of_a_float32_graph_in_float32(graph: Path) -> None:
    """What INT8 is built from there: it reads no Q/DQ of float16, so the graph cannot say it."""
    model = onnx.load(graph)
    weights = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    model.graph.node[0].attribute[0].i = TensorProto.FLOAT
    onnx.save(model, graph)
    asked, _ = _build("8.6.0", graph)
    assert [layer.precision for layer in asked.layers] == [None, None, "float32"]


def test_where_an_engine_can_be_loaded_its_inspector_is_asked_about_attention(graph: Path) -> None:
    sdk = sdk_of("11.1.0", LAYERS)
    node = "[ONNX Layer: model.6.attn.core/Softmax]"
    sdk.inspected = [{"Name": "_gemm_mha_v2_myl0_3", "LayerType": "kgen", "Metadata": node, "Outputs": []}]
    built = build(sdk, generation_of("tensorrt", "11.1.0"), graph, _info(), TensorRTOptions(), gpu=T4)
    assert built[75].record["attention"] == {"source": "engine inspector", "of": 1, "fused": 1, "apart": []}


@pytest.mark.parametrize(("version", "creation"), [("10.13.0", 1 << 1), ("11.1.0", 0)])
def test_later_ones_take_precision_from_the_graph_alone(version: str, creation: int, graph: Path) -> None:
    asked, _ = _build(version, graph)
    assert asked.creation == creation and asked.config.flags == set()
    assert all(getattr(layer, "precision", None) is None for layer in asked.layers)


def test_options_reach_the_builder(graph: Path) -> None:
    options = {"workspace": "64", "builder-level": "5", "hardware": "same-sm", "version-compatible": "yes"}
    asked, _ = _build("10.13.0", graph, {**options, "sparsity": "yes", "layer-names": "none"})
    config = asked.config
    assert config.pools == {0: 64 << 20} and config.builder_optimization_level == 5
    assert config.hardware_compatibility_level == 2 and config.profiling_verbosity == 1
    assert config.flags == {"VERSION_COMPATIBLE", "SPARSE_WEIGHTS"}
    asked, _ = _build("11.1.0", graph, {"strip-weights": "yes", "hardware": "ampere+"})
    assert asked.config.flags == {"STRIP_PLAN", "REFIT_IDENTICAL"} and asked.config.hardware_compatibility_level == 1


def test_an_sdk_that_finds_no_cuda_says_so(graph: Path) -> None:
    """As TensorRT 8.6.0 does where the driver is too old or missing."""
    sdk = sdk_of("8.6.0", LAYERS)

    def nothing(log: Any) -> None:
        log.log("Severity.WARNING", "CUDA initialization failure with error: 35. Please check your CUDA installation")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    sdk.Builder = nothing
    with pytest.raises(InputError, match="TensorRT 8.6 .*driver is missing or too old .*error: 35"):
        build(sdk, generation_of("tensorrt", "8.6.0"), graph, _info(), TensorRTOptions(), gpu=T4)


def test_what_a_version_of_10_lacks_is_refused(graph: Path) -> None:
    """JetPack 6 has 10.3, whose engines are for one GPU model or for Ampere and later."""
    with pytest.raises(UsageError, match="hardware=same-sm: TensorRT 10.3.0 .* 10.9"):
        _build("10.3.0", graph, {"hardware": "same-sm"})
    asked, _ = _build("10.3.0", graph, {"hardware": "ampere+"})
    assert asked.config.hardware_compatibility_level == 1


def test_engines_for_ampere_are_not_built_on_turing(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_sdk", lambda target: sdk_of("10.13.0", LAYERS))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: T4)
    with pytest.raises(UsageError, match="ampere.*: Tesla T4 is SM 75"):
        targets.get("trt-fp16").build(
            Graph(graph, _info(), ""), tmp_path, TensorRTOptions.parse({"hardware": "ampere+"})
        )


def test_a_dynamic_batch_gets_a_profile(graph: Path) -> None:
    asked, _ = _build("10.13.0", graph, {"batches": "1,8,32"}, batch=None)
    [profile] = asked.config.profiles
    assert profile.shapes == {"images": tuple((batch, 3, 32, 32) for batch in (1, 8, 32))}


def test_timings_are_kept_for_each_gpu_and_version(graph: Path, tmp_path: Path) -> None:
    options = {"timing-cache": str(tmp_path / "timings")}
    _build("10.13.0", graph, options)
    _build("10.13.0", graph, options)
    _build("11.1.0", graph, options)
    kept = {p.name: p.read_bytes() for p in (tmp_path / "timings").iterdir()}
    assert kept == {
        "tensorrt-10.13.0-sm75-Tesla-T4.timing": b"+measured+measured",
        "tensorrt-11.1.0-sm75-Tesla-T4.timing": b"+measured",
    }
    for unfit in (b"damaged", b"of other clocks"):
        (tmp_path / "timings" / "tensorrt-11.1.0-sm75-Tesla-T4.timing").write_bytes(unfit)
        _build("11.1.0", graph, options)
        assert (tmp_path / "timings" / "tensorrt-11.1.0-sm75-Tesla-T4.timing").read_bytes() == b"+measured"


def test_layers_that_do_not_go_on_the_dla_are_listed_or_refused(graph: Path) -> None:
    asked, record = _build("10.13.0", graph, {"dla": "1"})
    assert record["dla_fallback"] == ["model.6.attn.core/Softmax", "model.21/Mul"]
    assert (asked.config.default_device_type, asked.config.DLA_core) == (1, 1)
    assert asked.config.flags == {"GPU_FALLBACK"}
    with pytest.raises(
        UsageError, match="2 of 3 layers cannot run on a DLA, the first of them model.6.attn.core/Softmax"
    ):
        _build("10.13.0", graph, {"dla": "1", "gpu-fallback": "no"})


def test_a_builder_that_gives_up_is_quoted(graph: Path) -> None:
    with pytest.raises(InputError, match="TensorRT 10 builds no engine for SM 75: a layer finds no kernel within"):
        _build("10.13.0", graph, says="[x.cpp:1: y] no tactics within workspace limit. In z at /_src/a.cpp:9")


def test_the_target_writes_engine_and_record(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "_sdk", lambda target: sdk_of("10.13.0", LAYERS))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: T4)
    folder = tmp_path / "out"
    folder.mkdir()
    [row] = targets.get("trt-fp16").build(Graph(graph, _info(), ""), folder, TensorRTOptions())["engines"]
    assert (folder / row["file"]).read_bytes() == b"engine" and row["file"] == "model.sm75.engine"
    assert (row["gpu"], row["sdk"], row["sdk_version"], row["bytes"]) == ("Tesla T4", "tensorrt", "10.13.0", 6)
    assert (folder / "model.onnx").read_bytes() == graph.read_bytes()


def test_without_a_gpu_nothing_is_built_but_the_sentence_says_what_can_be(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "_sdk", lambda target: sdk_of("10.13.0", LAYERS))
    monkeypatch.setattr(_cuda, "_driver", lambda: None)
    with pytest.raises(
        InputError, match="builds on the GPU that will run the engine, and there is no NVIDIA driver .*--no-engine"
    ):
        targets.get("trt-fp16").build(Graph(graph, _info(), ""), tmp_path, TensorRTOptions())
