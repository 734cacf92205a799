"""TensorRT without TensorRT: options, versions, records, the checks before an engine is loaded, and the session's order
of things, with stand-ins for the SDK and for CUDA. What the real TensorRT-RTX builds is in test_tensorrt_rtx.py."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import targets
from edgekit.bundle import inspection, loading
from edgekit.checkpoint import catalog
from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.graph.rewrite import recipe_for
from edgekit.runtime import boxes
from edgekit.runtime import image as host
from edgekit.runtime.manifest import manifest_of, write_manifest
from edgekit.runtime.predictor import Predictor
from edgekit.spec import ModelInfo
from edgekit.targets import _cuda, _cuda_kernels, _tensorrt_engines, _tensorrt_layers, tensorrt
from edgekit.targets._cuda import DeviceArray, Gpu, view
from edgekit.targets._tensorrt_builder import _meaning
from edgekit.targets._tensorrt_common import DRIVER_FLOORS, TensorRTOptions, check, generation_of
from edgekit.targets._tensorrt_session import open_contexts
from edgekit.tasks import ports
from edgekit.verify import parity
from tests.gpu_stand_ins import FakeCore, FakeDriver, FakeEngine, FakeRuntime, FakeView, fake_sdk

T4 = Gpu(0, "Tesla T4", 75, 13000)


# --- options and versions


def test_options_from_the_command_line() -> None:
    found = TensorRTOptions.parse(
        {
            "sm": "8.6, sm75,89",
            "workspace": "512",
            "timing-cache": "t",
            "sparsity": "yes",
            "batches": "1,2,8",
            "dla": "0",
        }
    )
    assert found.sm == (75, 86, 89) and found.workspace == 512 and found.timing_cache == Path("t")
    assert found.sparsity and found.batches == (1, 2, 8) and found.dla == 0
    assert found.changed() == {"workspace": 512, "sparsity": True, "batches": [1, 2, 8], "dla": 0}
    assert TensorRTOptions().changed() == {}


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("sm", "turing", "`sm` turing: must be architectures by commas"),
        ("workspace", "0", "`workspace` 0: must be megabytes"),
        ("builder-level", "6", "`option` builder-level=6: must be 0 .* to 5"),
        ("timing-cache", "", "`timing_cache` : must be a folder"),
        ("hardware", "hopper", "`option` hardware=hopper: must be same, same-sm or ampere"),
        ("sparsity", "2:4", "`option` sparsity=2:4: must be yes or no"),
        ("batches", "8,4,1", "`option` batches=8,4,1: must be the least"),
        ("dla", "-1", "`option` dla=-1: must be the number of a DLA core"),
        ("layer-names", "all", "must be none, names or detailed"),
        ("fp16", "yes", "`option` fp16: these targets have no such option; they have sm, "),
    ],
)
def test_a_bad_option_is_named(name: str, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        TensorRTOptions.parse({name: text})


@pytest.mark.parametrize(
    ("sdk", "version", "typing", "attention", "opset"),
    [
        ("tensorrt", "8.6.0", "flags", False, 17),
        ("tensorrt", "8.6.2.3", "flags", False, 17),
        ("tensorrt", "10.3.0", "asked", False, 20),
        ("tensorrt", "10.14.1.48", "asked", True, 23),
        ("tensorrt", "11.1.0", "always", True, 25),
        ("tensorrt_rtx", "1.7.1.116", "always", True, 23),
    ],
)
def test_the_version_table(sdk: str, version: str, typing: str, attention: bool, opset: int) -> None:
    found = generation_of(sdk, version)
    assert (found.typing, found.attention, found.opset) == (typing, attention, opset)


@pytest.mark.parametrize(("sdk", "version"), [("tensorrt", "8.5.2"), ("tensorrt", "12.0"), ("tensorrt_rtx", "1.3")])
def test_an_unknown_version_names_the_known_ones(sdk: str, version: str) -> None:
    with pytest.raises(InputError, match=f"{sdk} {version} is installed, but edgekit builds with TensorRT"):
        generation_of(sdk, version)


@pytest.mark.parametrize(
    ("version", "sdk", "options", "sentence"),
    [
        ("10.3", "tensorrt", {"sm": "86"}, "`sm`: TensorRT builds for the GPU of the machine"),
        ("8.6.0", "tensorrt", {"strip-weights": "yes"}, "TensorRT 8.6 cannot; TensorRT 10"),
        ("8.6.0", "tensorrt", {"hardware": "same-sm"}, "only same and ampere"),
        ("10.3", "tensorrt", {"hardware": "ampere+", "dla": "0"}, "runs on that Jetson alone"),
        ("1.7", "tensorrt_rtx", {"dla": "0"}, "`option` dla: TensorRT-RTX has no such thing"),
        ("1.7", "tensorrt_rtx", {"timing-cache": "t"}, "`timing_cache`: TensorRT-RTX has no such thing"),
    ],
)
def test_what_a_generation_cannot_do_is_refused(version: str, sdk: str, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check(TensorRTOptions.parse(options), generation_of(sdk, version))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] "
            "Cannot compile operation 'model.6.m.0.0.attn.core/MatMul_U64' for Turing (SM75): FP32 GEMM is not "
            "supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)",
            "no float32 matrix products .* leave 75 out .*it says: Cannot compile operation 'model.6.m.0.0.attn.core/M",
        ),
        (
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic "
            "Selection: no tactics to implement the operation within workspace limit. Consider increase the allow",
            "give more with `workspace` MB",
        ),
        ("Could not find any implementation for node {ForeignNode[a...b]}.", "another target"),
        ("layer model.0 DLA validation failed and GPU fallback is off", "gpu-fallback=no"),
        ("something new", "something new"),
    ],
)
def test_a_builders_complaint_becomes_advice(said: str, sentence: str) -> None:
    import re

    found = _meaning([said])
    assert re.search(sentence, found) and "\n" not in found and "/_src/" not in found


def test_without_tensorrt_one_sentence_says_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for target in ("trt-fp16", "trt-int8"):
        sentence = targets.get(target).missing()
        assert sentence is not None and "pip install 'edgekit[tensorrt]'" in sentence
        assert "trt-rtx-* targets are built anywhere" in sentence and "--no-engine" in sentence


@pytest.mark.parametrize(
    ("installed", "form"),
    [
        (None, "older"),
        ("8.6.0", "older"),
        ("10.3.0", "older"),
        ("10.14.1", "operator"),
        ("99.0", "older"),
    ],
)
def test_the_graph_has_the_attention_operator_where_the_parser_reads_it(
    installed: str | None, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "version", lambda package: installed)
    assert targets.get("trt-int8").recipe == form
    assert recipe_for(form).opset == (23 if form == "operator" else 17)


def test_a_shell_of_tensorrt_without_its_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # importing it fails
    with pytest.raises(InputError, match="cannot be loaded .*--no-engine"):
        tensorrt._sdk("trt-fp16")
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(InputError, match="has no builder .*--no-engine"):
        tensorrt._sdk("trt-fp16")


# --- what became of attention


RECORDED = """\
Name: _gemm_mha_v2_myl0_31, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [8,100,32], Datatype: Half }], \
Outputs: [ { Name: b, Dimensions: [8,100,32], Datatype: Half, Format: row }], TacticName: _gemm_mha_v2_0x98dc, \
StreamId: 0, Metadata: [ONNX Layer: model.6.m.0.0.attn.core/MatMul_2][ONNX Layer: model.6.m.0.0.attn.core/Softmax]
Name: model.8.m.0.0.attn.core/MatMul_U155_myl0_108, LayerType: gemm, Inputs: [], Outputs: [ { Name: c, Datatype: Half \
}], TacticName: sm80_x, StreamId: 0, Metadata: [ONNX Layer: model.8.m.0.0.attn.core/MatMul]
Name: __myl_MaxrSubExpSumDiv_myl0_109, LayerType: kgen, Inputs: [], Outputs: [ { Name: d, Datatype: Float }], \
TacticName: __myl_Maxr, StreamId: 0, Metadata: [ONNX Layer: model.8.m.0.0.attn.core/Softmax]
"""  # shortened from the log of TensorRT-RTX 1.7
SOFTMAXES = ["model.6.m.0.0.attn.core/Softmax", "model.8.m.0.0.attn.core/Softmax"]
APART = {
    "node": "model.8.m.0.0.attn.core/Softmax",
    "layers": ["model.8.m.0.0.attn.core/MatMul_U155_myl0_108", "__myl_MaxrSubExpSumDiv_myl0_109"],
}


def test_attention_in_a_builders_log() -> None:
    layers = _tensorrt_layers.from_log(RECORDED)
    assert [layer.precision for layer in layers] == ["Half", "Half", "Float"]
    found = _tensorrt_layers.attention(SOFTMAXES, layers, "builder's log")
    assert found == {"source": "builder's log", "of": 2, "fused": 1, "apart": [APART]}


def test_attention_in_an_inspectors_answer() -> None:
    """The JSON is made up after NVIDIA's documentation of IEngineInspector: no engine was inspected for it."""
    rows = [
        {
            "Name": layer.name,
            "LayerType": layer.kind,
            "TacticName": layer.tactic,
            "Outputs": [{"Name": "x", "Format/Datatype": f"{layer.precision} linear"}],
            "Metadata": "".join(f"[ONNX Layer: {node}]" for node in layer.nodes),
        }
        for layer in _tensorrt_layers.from_log(RECORDED)
    ]
    layers = _tensorrt_layers.from_inspector(json.dumps({"Layers": rows}))
    assert layers == _tensorrt_layers.from_log(RECORDED)
    assert _tensorrt_layers.attention(SOFTMAXES, layers, "engine inspector")["apart"] == [APART]


def test_attention_is_not_checked_where_layers_are_bare_names() -> None:
    layers = _tensorrt_layers.from_inspector(json.dumps({"Layers": ["_gemm_mha_v2_myl0_31"]}))
    found = _tensorrt_layers.attention(SOFTMAXES, layers, "engine inspector")
    assert found == {"source": "not checked", "of": 2, "fused": None, "apart": []}


# --- records, and the checks before an engine is loaded


def _info(batch: int | None = 1) -> ModelInfo:
    return ports.info(catalog.spec("yolo12n-cls", classes=3), ("a", "b", "c"), (32, 32), batch=batch)


def _row(**changes: Any) -> dict[str, Any]:
    return {
        "file": "model.sm75.engine",
        "bytes": 6,
        "sm": 75,
        "sdk": "tensorrt",
        "sdk_version": "10.3.0",
        "cuda": 12,
        "driver": "525",
        "options": {},
        **changes,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _bundle(tmp_path / "bundle", [_row()])


def _bundle(path: Path, rows: list[dict[str, Any]], target: str = "trt-fp16") -> Path:
    path.mkdir()
    (path / "model.onnx").write_bytes(b"graph")
    for row in rows:
        (path / row["file"]).write_bytes(b"engine")
    write_manifest(path, manifest_of(_info(), target, path, engines=rows, parity={}, rewrites=[]))
    return path


def _choose(folder: Path, gpu: Gpu = T4, version: str = "10.3.0", sdk: str = "tensorrt") -> dict[str, Any]:
    return _tensorrt_engines.choose(folder, "trt-fp16", gpu, sdk, version)


def test_the_engine_of_the_architecture_is_chosen(tmp_path: Path) -> None:
    rows = [_row(sm=sm, file=f"model.sm{sm}.engine") for sm in (75, 86, 89)]
    folder = _bundle(tmp_path / "b", rows)
    assert _choose(folder, Gpu(0, "A10", 86, 12020))["file"] == "model.sm86.engine"


@pytest.mark.parametrize(
    ("gpu", "version", "changes", "sentence"),
    [
        (Gpu(0, "NVIDIA A10", 86, 12020), "10.3.0", {}, "its engines are for SM 75, and NVIDIA A10 is SM 86"),
        (T4, "10.13.0", {}, "built with tensorrt 10.3.0, and 10.13.0 is installed here"),
        (T4, "10.2.0", {"options": {"version_compatible": True}}, "built with tensorrt 10.3.0, and 10.2.0"),
        (T4, "11.0.0", {"sdk_version": "8.6.0", "options": {"version_compatible": True}}, "8.6.0, and 11.0.0"),
        (T4, "10.3.0", {"platform": "Windows AMD64"}, "built on Windows AMD64, and this is Linux"),
        (T4, "10.3.0", {"sdk": "tensorrt_rtx"}, "an engine of tensorrt_rtx, which tensorrt cannot load"),
        (Gpu(0, "T4", 75, 11040), "10.3.0", {}, "driver here runs CUDA 11.4 at most; install driver 525 or newer, or "),
        (T4, "10.3.0", {"bytes": 9}, "6 of 9 bytes are there, so it was cut off"),
    ],
)
def test_an_engine_that_does_not_fit_gets_one_sentence(
    gpu: Gpu, version: str, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    folder = _bundle(tmp_path / "bundle", [_row(**changes)])
    with pytest.raises(EdgekitError, match=sentence) as caught:
        _choose(folder, gpu, version)
    assert "\n" not in str(caught.value)
    assert f"edgekit build --rebuild {folder} --target trt-fp16 --out {folder}-here" in str(caught.value)


def test_the_command_that_rebuilds_has_the_options_of_the_engine(tmp_path: Path) -> None:
    options = TensorRTOptions.parse({"workspace": "64", "sparsity": "yes", "batches": "1,2,8", "gpu-fallback": "no"})
    folder = _bundle(tmp_path / "b", [_row(options=options.changed())])
    with pytest.raises(InputError, match="is SM 86") as caught:
        _choose(folder, Gpu(0, "NVIDIA A10", 86, 12020))
    words = str(caught.value).partition("-here ")[2].replace("--workspace ", "--option workspace=").split()
    assert words[::2] == ["--option"] * 4
    assert TensorRTOptions.parse(dict(word.split("=") for word in words[1::2])) == options


def test_a_version_compatible_engine_runs_on_later_versions_and_an_ampere_one_on_later_cards(tmp_path: Path) -> None:
    row = _row(sm=80, file="model.sm80.engine", options={"version_compatible": True, "hardware": "ampere+"})
    folder = _bundle(tmp_path / "b", [row])
    for later in ("10.9.0", "11.0.0"):  # the next major version too
        assert _choose(folder, Gpu(0, "L4", 89, 13000), later) == row
    with pytest.raises(InputError, match="is SM 75"):
        _choose(folder, T4, "10.9.0")


def test_a_bundle_without_engines_says_how_to_build_one(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "b", [])
    with pytest.raises(InputError, match="holds the graph but no engine; build one here with: edgekit build --rebuild"):
        _choose(folder)


@pytest.mark.parametrize("damage", ["text", [1], [{"file": "model.sm75.engine"}], [_row(file="../other")]])
def test_damaged_records(folder: Path, damage: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["engines"] = damage
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="manifest.json: .*(list of engines is damaged|is none of its files)"):
        _choose(folder)


def test_an_altered_engine_never_reaches_the_sdk(folder: Path) -> None:
    (folder / "model.sm75.engine").write_bytes(b"engine of somebody else")
    with pytest.raises(GateError, match="'model.sm75.engine' is not the file the bundle was built with"):
        loading.load(folder)


def test_without_a_driver_a_bundle_says_what_it_runs_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "_driver", lambda: None)
    with pytest.raises(InputError, match="run on an NVIDIA GPU of SM 75, and there is no NVIDIA driver here"):
        loading.load(folder)
    with pytest.raises(UsageError, match="`device` TPU: TensorRT runs on NVIDIA GPUs"):
        loading.load(folder, device="TPU")
    target = targets.get("trt-fp16")
    assert "no NVIDIA driver" in str(target.runs_here(target, folder))


class FakeLibrary:
    """libcuda with two GPUs, the second of them SM 86."""

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = 2

    def cuDriverGetVersion(self, version: Any) -> None:
        version._obj.value = 12040

    def cuDeviceGet(self, handle: Any, index: int) -> None:
        handle._obj.value = index

    def cuDeviceGetName(self, name: Any, size: int, handle: Any) -> None:
        name.value = (b"Tesla T4", b"NVIDIA A10")[handle.value]

    def cuDeviceGetPCIBusId(self, address: Any, size: int, handle: Any) -> None:
        address.value = b"0000:3b:00.0"

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> None:
        value._obj.value = {75: (7, 8), 76: (5, 6)}[attribute][handle.value]


A10 = Gpu(1, "NVIDIA A10", 86, 12040, "0000:3b:00.0")


def test_the_driver_is_asked_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cuda, "_driver", FakeLibrary)
    assert _cuda.find_gpu() == Gpu(0, "Tesla T4", 75, 12040, "0000:3b:00.0")
    assert _cuda.find_gpu("cuda:1") == _cuda.find_gpu("GPU.1".replace(".", ":")) == A10
    with pytest.raises(UsageError, match="`device` cuda:2: the driver shows 2 GPU"):
        _cuda.find_gpu("cuda:2")


def test_the_driver_floors_are_those_of_cuda_compatibility() -> None:
    """Table 1 of NVIDIA's "CUDA Compatibility", minor version compatibility."""
    assert DRIVER_FLOORS == {11: "450", 12: "525", 13: "580"}


@pytest.mark.parametrize(
    ("row", "batch", "line"),
    [
        (
            _row(sdk_version="8.6.0", options={"workspace": 512, "builder_level": 4, "dla": 0}, int8=True),
            1,
            "trtexec --onnx=model.onnx --saveEngine=model.sm75.engine --fp16 --int8 "
            "--memPoolSize=workspace:512 --builderOptimizationLevel=4 --useDLACore=0 --allowGPUFallback "
            "--profilingVerbosity=detailed --skipInference",
        ),
        (
            _row(sdk_version="8.6.1", int8=False, float32={"a/Mul": "fp32", "a/TopK": "fp32+int32"}),
            1,
            "trtexec --onnx=model.onnx --saveEngine=model.sm75.engine --fp16 --precisionConstraints=obey "
            "--layerPrecisions=a/Mul:fp32,a/TopK:fp32 --layerOutputTypes=a/Mul:fp32,a/TopK:fp32+int32 "
            "--profilingVerbosity=detailed --skipInference",
        ),
        (
            _row(sdk_version="11.1.0", options={"dla": 1, "gpu_fallback": False, "strip_weights": True}),
            1,
            "trtexec --onnx=model.onnx --saveEngine=model.sm75.engine --useDLACore=1 --stripWeights "
            "--profilingVerbosity=detailed --skipInference",
        ),
        (
            _row(options={"hardware": "same-sm", "sparsity": True, "batches": [1, 8, 32], "layer_names": "names"}),
            None,
            "trtexec --onnx=model.onnx --saveEngine=model.sm75.engine --stronglyTyped --sparsity=enable "
            "--hardwareCompatibilityLevel=sameComputeCapability --profilingVerbosity=layer_names_only "
            "--minShapes=images:1x3x32x32 --optShapes=images:8x3x32x32 --maxShapes=images:32x3x32x32 --skipInference",
        ),
        (
            _row(sdk="tensorrt_rtx", sdk_version="1.7.1.116"),
            1,
            "tensorrt_rtx --onnx=model.onnx --saveEngine=model.sm75.engine --computeCapabilities=75 "
            "--profilingVerbosity=detailed --skipInference",
        ),
    ],
)
def test_the_vendors_own_command_for_the_same_engine(row: dict[str, Any], batch: int | None, line: str) -> None:
    assert _tensorrt_engines.reproduce(row, _info(batch)) == line


def test_inspect_prints_it(folder: Path) -> None:
    (folder / "model.onnx").unlink()  # no graph either: `inspect` would look into it
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    [line] = inspection.inspect(folder)["reproduce"]
    assert line.startswith("trtexec --onnx=model.onnx") and "--stronglyTyped" in line


# --- the session, with stand-ins


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    return _install(monkeypatch, FakeDriver(current=7))


def _install(monkeypatch: pytest.MonkeyPatch, driver: FakeDriver) -> FakeRuntime:
    runtime = FakeRuntime()
    driver.runtime, runtime.driver = runtime, driver
    bindings, core = SimpleNamespace(runtime=runtime, driver=driver), FakeCore(runtime)
    package = SimpleNamespace(bindings=bindings, core=core)
    modules = {"cuda": package, "cuda.bindings": bindings, "cuda.core": core, "cuda.core.utils": core.utils}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    return runtime


def _sessions(
    folder: Path, runtime: FakeRuntime, count: int = 1, batch: int | None = 1, batches: Any = None, refuses: str = ""
) -> Any:
    tensors = {"images": ((batch or -1, 3, 32, 32), "float32"), "class_probabilities": ((batch or -1, 3), "float32")}
    if batch is None:
        tensors["images"] = ((batches[-1], 3, 32, 32), "float32")
    sdk = fake_sdk("10.3.0", FakeEngine(runtime, tensors, batches), refuses)
    return open_contexts(sdk, folder, _row(), _info(batch), "trt-fp16", T4, count)


def _image(value: float, batch: int = 1) -> np.ndarray:
    return np.full((batch, 3, 32, 32), value, np.float32)


def test_a_session_answers_each_input_and_replays_a_graph(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    for value in (0.5, 1.0, 0.25):
        found = session.run(_image(value))["class_probabilities"]
        np.testing.assert_allclose(found, np.full((1, 3), value * 3 * 32 * 32))
    assert runtime.launches == 3 and len(runtime.graphs) == 1  # recorded once, replayed for every call
    session.close()
    assert runtime.memory == {} and runtime.queues == {}  # nothing is left behind


@pytest.mark.parametrize("works", [0, 1, 5])
def test_a_session_that_finds_no_memory_gives_back_what_it_has(folder: Path, runtime: FakeRuntime, works: int) -> None:
    """Two sessions ask for eight pieces; there are so many."""
    allocate, made = runtime._allocate, []

    def few(size: int) -> Any:
        made.append(size)
        runtime.most = 1 << 30 if len(made) <= works else 0
        return allocate(size)

    runtime._allocate = few  # type: ignore[method-assign]
    with pytest.raises(InputError, match="cudaErrorMemoryAllocation"):
        _sessions(folder, runtime, count=2)
    assert runtime.memory == {} and runtime.queues == {}


def test_a_session_whose_run_cannot_be_recorded_still_answers(folder: Path, runtime: FakeRuntime) -> None:
    runtime.capture_fails = True
    [session] = _sessions(folder, runtime)
    for value in (0.5, 1.0):
        assert session.run(_image(value))["class_probabilities"][0, 0] == value * 3 * 32 * 32
    assert runtime.launches == 0
    session.close()


def test_what_may_not_happen_during_a_recording_runs_without_one(
    folder: Path, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    [session] = _sessions(folder, runtime)
    copy = runtime.cudaMemcpyAsync

    def refused(*arguments: Any) -> Any:
        return (runtime.unsupported,) if runtime.recording else copy(*arguments)

    monkeypatch.setattr(runtime, "cudaMemcpyAsync", refused)
    for value in (0.5, 1.0):
        assert session.run(_image(value))["class_probabilities"][0, 0] == value * 3 * 32 * 32
    assert runtime.launches == 0 and runtime.recording == {}


def test_replaying_can_be_turned_off_to_compare(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    session.replay = False
    for value in (0.5, 1.0):
        assert session.run(_image(value))["class_probabilities"][0, 0] == value * 3 * 32 * 32
    assert runtime.launches == 0 and runtime.graphs == {}


def test_a_dynamic_batch_takes_any_within_its_profile(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime, batch=None, batches=(1, 4))
    for batch in (1, 4, 2):
        assert session.run(_image(1.0, batch))["class_probabilities"].shape == (batch, 3)
    with pytest.raises(UsageError, match="not built for inputs of shape .*`option` batches"):
        session.run(_image(1.0, 5))
    session.close()


def test_a_fixed_batch_refuses_another(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    session.run(_image(1.0))
    with pytest.raises(UsageError, match=r"takes \[1, 3, 32, 32\], got \[2, 3, 32, 32\]"):
        session.run(_image(1.0, 2))


def test_sessions_of_one_engine_do_not_share_buffers(folder: Path, runtime: FakeRuntime) -> None:
    first, second = _sessions(folder, runtime, count=2)
    mine = first.run(_image(1.0))["class_probabilities"]
    second.run(_image(2.0))
    assert mine[0, 0] == 3 * 32 * 32
    first.close()
    assert second.run(_image(0.5))["class_probabilities"][0, 0] == 0.5 * 3 * 32 * 32
    second.close()
    assert runtime.memory == {}


def test_a_thread_without_the_context_gets_it_for_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(current=42)  # PyCUDA's, say
    runtime = _install(monkeypatch, driver)
    [session] = _sessions(folder, runtime)
    assert driver.pushed == []
    driver.stack = [0]  # another thread
    session.run(_image(1.0))
    assert driver.pushed == [42] and driver.stack == [0]


def test_a_context_of_another_gpu_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver(current=42)
    driver.devices[42] = 1
    runtime = _install(monkeypatch, driver)
    [session] = _sessions(folder, runtime)
    assert driver.stack == [42] and driver.pushed == [9]  # the primary context of GPU 0, for the call alone
    session.run(_image(1.0))
    assert driver.stack == [42] and driver.pushed == [9, 9]


def test_an_engine_the_sdk_refuses(folder: Path, runtime: FakeRuntime) -> None:
    with pytest.raises(GateError, match=r"cannot be loaded \(plan is corrupt\); rebuild with: edgekit build --rebuild"):
        _sessions(folder, runtime, refuses="plan is corrupt")


def test_no_memory_on_the_gpu(folder: Path, runtime: FakeRuntime) -> None:
    runtime.most = 100
    with pytest.raises(InputError, match="CUDA: cudaMalloc failed with cudaErrorMemoryAllocation"):
        _sessions(folder, runtime)


class OnGpu:
    """What PyTorch, CuPy and PyCUDA arrays have in common, around an array of the host."""

    def __init__(self, array: np.ndarray, stream: int | None = None, strides: Any = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": strides,
            "stream": stream,
        }


def test_an_array_on_the_gpu_is_read_where_it_is(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    image = OnGpu(_image(0.5))
    found = session.run_device(image)["class_probabilities"]
    seen = view(found)
    total = np.frombuffer((ctypes.c_uint8 * 12).from_address(seen.pointer), np.float32)
    assert seen.shape == (1, 3) and total[0] == 0.5 * 3 * 32 * 32
    assert session.run(_image(1.0))["class_probabilities"][0, 0] == 3 * 32 * 32  # back to its own buffer


def test_the_example_reads_an_array_of_pycuda_where_it_is(
    folder: Path, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[OnGpu] = []

    def to_gpu(array: np.ndarray) -> OnGpu:
        made.append(OnGpu(array))
        return made[0]

    gpuarray = SimpleNamespace(to_gpu=to_gpu)
    package = SimpleNamespace(autoinit=SimpleNamespace(), gpuarray=gpuarray)
    for name, module in (("pycuda", package), ("pycuda.autoinit", package.autoinit), ("pycuda.gpuarray", gpuarray)):
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    from edgekit.runtime.examples import pycuda_input

    [session] = _sessions(folder, runtime)
    monkeypatch.setattr(edgekit, "load", lambda path: Predictor(session))
    host.write_image(folder.parent / "in.png", np.full((40, 50, 3), 255, np.uint8))
    taken = []
    run = session.run_device
    monkeypatch.setattr(session, "run_device", lambda array: taken.append(array) or run(array))
    pycuda_input.main(str(folder), str(folder.parent / "in.png"))
    assert taken == made and made[0].array.shape == (1, 3, 32, 32), "the array itself went in"
    assert "class_probabilities [1, 3]" in capsys.readouterr().out
    assert runtime.memory == {}, "closed"


def test_on_the_callers_stream_nothing_is_waited_for(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    mine = SimpleNamespace(cuda_stream=5)  # PyTorch's stream
    image = OnGpu(_image(0.5), stream=9)  # filled on another one
    found = session.run_device(image, mine)["class_probabilities"]
    assert runtime.waits == [(5, 9)] and len(runtime.queues[5]) == 2  # queued behind it, not run
    assert found.__cuda_array_interface__["stream"] == 5
    runtime.cudaStreamSynchronize(5)
    assert np.frombuffer((ctypes.c_uint8 * 4).from_address(found.pointer), np.float32)[0] == 0.5 * 3 * 32 * 32


def test_what_follows_on_another_stream_waits_for_what_was_queued(folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    first = session.run_device(OnGpu(_image(0.5)), 5)["class_probabilities"]
    second = session.run_device(OnGpu(_image(0.25)), 6)["class_probabilities"]  # nobody holds the image but the session
    assert runtime.waits == [(6, 5)]
    runtime.cudaStreamSynchronize(6)
    assert not runtime.queues[5]  # done before
    assert first.pointer == second.pointer  # valid until the next call
    assert np.frombuffer((ctypes.c_uint8 * 4).from_address(second.pointer), np.float32)[0] == 0.25 * 3 * 32 * 32
    assert session.run(_image(1.0))["class_probabilities"][0, 0] == 3 * 32 * 32
    session.close()
    assert runtime.memory == {} and runtime.events == 0


class WantsGradient:
    @property
    def __cuda_array_interface__(self) -> Any:
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (WantsGradient(), "cannot be read: Can't get .* requires grad"),
        (OnGpu(np.zeros((1, 3, 32, 32), np.float64)), "takes float32 images, got float64"),
        (OnGpu(np.zeros((1, 3, 64, 32), np.float32)), r"takes \[1, 3, 32, 32\], got \[1, 3, 64, 32\]"),
        (OnGpu(np.zeros((1, 3, 32, 32), np.float32), strides=(12288, 4, 384, 12)), "not contiguous"),
        ([1, 2], "a list is no array in a GPU's memory"),
        (np.zeros((1, 3, 32, 32), np.float32), "in the host's memory"),
    ],
)
def test_an_array_that_cannot_be_taken(image: Any, sentence: str, folder: Path, runtime: FakeRuntime) -> None:
    [session] = _sessions(folder, runtime)
    with pytest.raises(UsageError, match=sentence):
        session.run_device(image)


class DLPackOnGpu:
    """NumPy's own DLPack capsule, said to be in a GPU's memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.told = array, -1

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, stream: int) -> Any:
        self.told = stream
        return self.array.__dlpack__()


@pytest.mark.parametrize("real", [False, True])
def test_dlpack_is_read_without_a_copy(real: bool, request: pytest.FixtureRequest) -> None:
    if real:
        pytest.importorskip("cuda.core", reason="needs cuda-core")
    else:
        request.getfixturevalue("runtime")
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    image = DLPackOnGpu(array)
    found = view(image, 5)
    assert (found.pointer, found.shape, found.dtype) == (array.ctypes.data, (2, 3, 4), np.dtype("float16"))
    assert image.told == 5
    with pytest.raises(UsageError, match="not contiguous"):
        view(DLPackOnGpu(array[:, ::2]))
    with pytest.raises(UsageError, match="in the host's memory"):
        view(array)


def test_the_default_stream_is_not_given_away_as_zero(runtime: FakeRuntime) -> None:
    """Zero is forbidden by both protocols, because it may mean either of two streams."""
    array = DeviceArray(64, (2,), np.dtype("float32"), 0)
    assert array.__cuda_array_interface__["stream"] == 1
    image = DLPackOnGpu(np.zeros(2, np.float32))
    view(image)
    assert image.told == 1


def test_the_stand_ins_have_no_function_that_nvidias_packages_lack() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
    core = pytest.importorskip("cuda.core", reason="needs cuda-core")
    assert all(hasattr(core, name) for name in vars(FakeCore) if not name.startswith("_"))
    assert set(vars(FakeView(np.zeros(1)))) <= set(dir(core.utils.StridedMemoryView))
    for name in vars(FakeRuntime):
        assert not name.startswith("cuda") or hasattr(real, name), name
    for name in vars(FakeDriver):
        assert not name.startswith("cu") or hasattr(driver, name), name


# --- kernels, compiled for the CPU


SHIM = r"""
#include <cmath>
#include <cstdint>
#include <barrier>
#include <thread>
#include <vector>
struct Place { int x, y, z; };
static thread_local Place threadIdx, blockIdx, blockDim;
static std::barrier<>* gate = nullptr;
#define __global__
#define __syncthreads() gate->arrive_and_wait()
%s
extern "C" void all_pixels(const unsigned char* image, int height, int width, float* planes, int H, int W, int top,
                           int left, int h, int w, float fill, float scale) {
    blockDim = {1, 1, 1};
    for (blockIdx.y = 0; blockIdx.y < H; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < W; ++blockIdx.x)
            letterbox(image, height, width, planes, H, W, top, left, h, w, fill, scale);
}
extern "C" void one_block(const float* boxes, const float* scores, const int* labels, int step, unsigned char* keep,
                          int count, float conf, float iou, int agnostic, int threads) {
    std::barrier<> mine(threads);
    gate = &mine;
    std::vector<std::thread> all;
    for (int j = 0; j < threads; ++j)
        all.emplace_back([=] {
            threadIdx = {j, 0, 0};
            blockDim = {threads, 1, 1};
            suppress(boxes, scores, labels, step, keep, count, conf, iou, agnostic);
        });
    for (auto& one : all) one.join();
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels' source as C++ for the CPU: a call for every thread, threads for a block that has to wait."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++, to compile the kernels for the CPU")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(SHIM % _cuda_kernels.SOURCE)
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o", "kernels.so", "kernels.cpp"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return ctypes.CDLL(str(folder / "kernels.so"))


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("shape", [(48, 64), (300, 200), (37, 91), (64, 96), (2, 500)])
def test_letterbox_is_what_the_host_does(kernels: ctypes.CDLL, shape: tuple[int, int]) -> None:
    image = parity.generated_images(1, side=max(shape))[0][: shape[0], : shape[1]].copy()
    size = (64, 96)
    canvas, geometry = host.letterbox(image, size)
    top, left, h, w = _cuda_kernels.placement(*shape, size)
    assert (geometry.top, geometry.left) == (top, left)
    assert (geometry.scale_y, geometry.scale_x) == (h / shape[0], w / shape[1])
    planes = np.zeros((3, *size), np.float32)
    kernels.all_pixels(
        _pointer(image), *shape, _pointer(planes), *size, top, left, h, w, ctypes.c_float(114), ctypes.c_float(1 / 255)
    )
    gap = np.abs(planes - host.to_input([canvas])[0]) * 255
    assert gap.max() <= 1.01  # a grey level: cv2 resizes in fixed point


@pytest.mark.parametrize(
    ("agnostic", "kind", "threads"),
    [(False, np.int64, 64), (True, np.int64, 64), (False, np.int32, 64), (False, np.int64, 3)],
)
def test_suppression_is_what_the_host_does(kernels: ctypes.CDLL, agnostic: bool, kind: Any, threads: int) -> None:
    """With a thread for every candidate, and with more candidates than threads, as of crowded images."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 60, (40, 2))
    found = np.concatenate([corners, corners + rng.uniform(10, 40, (40, 2))], 1).astype(np.float32)
    scores, labels = np.sort(rng.random(40).astype(np.float32))[::-1].copy(), rng.integers(0, 2, 40).astype(kind)
    keep = np.zeros(40, np.uint8)
    step, limits = labels.itemsize // 4, (ctypes.c_float(0.1), ctypes.c_float(0.3))
    kernels.one_block(
        *map(_pointer, (found, scores, labels)), step, _pointer(keep), 40, *limits, int(agnostic), threads
    )
    above = scores > 0.1
    expected = boxes.nms(found[above], None if agnostic else labels[above], 0.3, 300)
    assert 0 < len(expected) < above.sum()
    assert np.flatnonzero(keep).tolist() == expected.tolist()


def test_an_image_on_the_gpu_is_letterboxed_and_its_duplicates_go(
    kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of things, and the arguments of both kernels; the stand-in's network answers with a sum."""
    runtime = _install(monkeypatch, FakeDriver(current=7))
    core: Any = sys.modules["cuda.core"]
    core.kernels = {
        "letterbox": lambda *arguments: kernels.all_pixels(*arguments[:-1]),
        "suppress": kernels.one_block,
    }
    info = ports.info(catalog.spec("yolo12n", classes=2), ("a", "b"), (64, 96), head="topk")
    tensors = {port.name: (tuple(d or 1 for d in port.shape), port.dtype) for port in (*info.inputs, *info.outputs)}
    path = _bundle(tmp_path / "b", [_row()])
    [session] = open_contexts(fake_sdk("10.3.0", FakeEngine(runtime, tensors)), path, _row(), info, "trt-fp16", T4, 1)
    picture = np.full((30, 40, 3), 51, np.uint8)
    found = session.run_image(OnGpu(picture))
    _, _, h, w = _cuda_kernels.placement(30, 40, (64, 96))
    expected = 3 * (h * w * 51 + (64 * 96 - h * w) * 114) / 255
    count = found["scores"].shape[1]
    scores = np.frombuffer((ctypes.c_uint8 * (4 * count)).from_address(found["scores"].pointer), np.float32)
    np.testing.assert_allclose(scores, expected, rtol=1e-3)
    keep = np.frombuffer((ctypes.c_uint8 * count).from_address(found["keep"].pointer), np.uint8)
    assert keep.all()  # boxes without an area overlap nothing
    with pytest.raises(UsageError, match=r"an image is uint8 \[h, w, 3\], got float32"):
        session.run_image(OnGpu(_image(1.0)))
    session.close()
    assert runtime.memory == {}
