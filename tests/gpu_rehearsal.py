"""`edgekit gpu-check` on a CPU: the whole command, its steps and their child processes, with a GPU that is pretended.

    python -m tests.gpu_rehearsal WORK --only basics,engine      # WORK/gpu.json; options are gpu-check's
    EDGEKIT_REHEARSAL_FAULT=numbers python -m tests.gpu_rehearsal WORK --only engine

What is pretended is as low as it can be. ``libcuda`` is a C file that knows one GPU; ``cuda.bindings`` and
``cuda.core`` are the stand-ins of the tests, whose device memory is the host's and whose kernels are ours compiled by
g++; ``tensorrt`` takes the graph that its parser is given and answers by ONNX Runtime; ``tensorrt_rtx`` is NVIDIA's,
except that an engine answers as the graph beside it; C++ is compiled against ``cpp/pretended``, where OpenVINO answers;
PyTorch's GPU is the CPU. So every line of edgekit's runs, at 256 pixels, and times say nothing.

``EDGEKIT_REHEARSAL_TENSORRT`` is the version pretended (10.14.1.48), ``EDGEKIT_REHEARSAL_FAULT`` what goes wrong:
numbers, unfused, crash, hang, memory, missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.gpu_stand_ins import FakeCore, FakeDriver, FakeRuntime, FakeView, Names

REPO = Path(__file__).resolve().parents[1]
VERSION = os.environ.get("EDGEKIT_REHEARSAL_TENSORRT", "10.14.1.48")
FAULT = os.environ.get("EDGEKIT_REHEARSAL_FAULT", "")
FOLDER = Path(os.environ.get("EDGEKIT_REHEARSAL", "."))
MEMORY = 1 << 29  # bytes of the GPU's
SM = 86
MAGIC = b"a rehearsed engine\n"
SIDE = 256  # pixels, instead of 640
SLOWER = 5.0  # times as long as a step may take: a CPU is no GPU
THREADS = 4  # of a kernel's block
NOWHERE = 1 << 16  # no memory is below this address

_LIBCUDA = r"""
#include <stdlib.h>
#include <string.h>
static int hidden(void) { const char* v = getenv("CUDA_VISIBLE_DEVICES"); return v && (!*v || *v == '-'); }
int cuInit(unsigned flags) { return hidden() ? 100 : 0; }
int cuDeviceGetCount(int* count) { *count = hidden() ? 0 : 1; return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, "NVIDIA Pretended 3060", size); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { *value = attribute == 75 ? 8 : 6; return 0; }
int cuDeviceGetPCIBusId(char* id, int size, int device) { strncpy(id, "0000:01:00.0", size); return 0; }
"""
_CUDA = """
import sys
from types import SimpleNamespace
from tests import gpu_rehearsal
_all = gpu_rehearsal.cuda_modules()
bindings, core = _all["cuda.bindings"], _all["cuda.core"]
sys.modules.update(_all)
"""
_START = """
import dataclasses, sys
from edgekit.cli._app import application
from edgekit.report.gpu import runner
runner.STEPS = [dataclasses.replace(step, seconds=SLOWER * step.seconds) for step in runner.STEPS]
runner.WORKER = ["-c", "import sys; from tests.gpu_rehearsal import worker; worker(*sys.argv[1:])"]
application()(["gpu-check", *sys.argv[1:]])
"""


def prepare(folder: Path) -> dict[str, str]:
    """What is pretended, made in ``folder``; the environment in which it is found."""
    from edgekit.targets import _cuda_kernels
    from tests.test_tensorrt import SHIM

    folder, own = folder.absolute(), {}
    site, libraries = folder / "site", folder / "lib"
    for place in (site / "cuda", site / "tensorrt", site / f"tensorrt-{VERSION}.dist-info", libraries):
        place.mkdir(parents=True, exist_ok=True)
    (site / "cuda" / "__init__.py").write_text(_CUDA)
    (site / "tensorrt" / "__init__.py").write_text(
        "from tests import gpu_rehearsal\nglobals().update(vars(gpu_rehearsal.tensorrt()))\n"
    )
    told = f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {VERSION}\n"
    (site / f"tensorrt-{VERSION}.dist-info" / "METADATA").write_text(told)
    (libraries / "libcuda.c").write_text(_LIBCUDA)
    (libraries / "kernels.cpp").write_text(SHIM % _cuda_kernels.SOURCE)
    _compiled(libraries / "libcuda.so.1", ["gcc", "libcuda.c"])
    _compiled(libraries / "kernels.so", ["g++", "-std=c++20", "-pthread", "kernels.cpp"])
    _native(folder, libraries)
    if "EDGEKIT_PEER" in os.environ:
        _peer(folder / "peer" / "bin", Path(os.environ["EDGEKIT_PEER"]) / "bin" / "python")
        own = {"EDGEKIT_PEER": str(folder / "peer")}
    paths = {"PYTHONPATH": [site, REPO], "LD_LIBRARY_PATH": [libraries], "CMAKE_PREFIX_PATH": [folder / "sdk"]}
    own |= {name: os.pathsep.join([*map(str, here), os.environ.get(name, "")]) for name, here in paths.items()}
    return {**os.environ, **own, "EDGEKIT_REHEARSAL": str(folder)}


def _compiled(made: Path, command: list[str]) -> None:
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        words = [*command, "-O1", "-shared", "-fPIC", "-o", str(made)]
        subprocess.run(words, cwd=made.parent, check=True, capture_output=True)


def _native(folder: Path, libraries: Path) -> None:
    """What the C++ library is compiled and run with, where CUDA's headers are."""
    [toolkit, *_] = [*sorted(Path("/usr/local").glob("cuda*/include/cuda_runtime_api.h")), None]
    if toolkit is None:
        return
    import openvino

    [cudart, *_] = sorted(toolkit.parents[1].glob("lib64/libcudart.so.[0-9][0-9]"))
    vendor, sources = Path(openvino.__file__).parent, REPO / "tests" / "cpp" / "pretended"
    [openvino_library, *_] = sorted((vendor / "libs").glob("libopenvino.so*"))
    include = [f"-isystem{toolkit.parent}", f"-isystem{vendor / 'include'}", f"-I{sources}"]
    versions = libraries / "versions"
    versions.write_text(f"{cudart.name} {{ global: *; }};")
    told = [f"-Wl,-soname,{cudart.name}", f"-Wl,--version-script={versions}"]
    _compiled(libraries / cudart.name, ["g++", *include, str(sources / "cudart.cpp"), *told])
    linked = [str(openvino_library), f"-Wl,-rpath,{vendor / 'libs'}"]
    _compiled(folder / "sdk/lib/libnvinfer.so", ["g++", "-std=c++17", *include, str(sources / "nvinfer.cpp"), *linked])
    (folder / "sdk/include").mkdir(exist_ok=True)
    shutil.copy(sources / "NvInferRuntime.h", folder / "sdk/include")


def _peer(folder: Path, python: Path) -> None:
    """A Python whose programs work on the CPU where they ask for the first GPU."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "python"
    helper = REPO.parent / "shared" / "peer"  # a PyTorch for CPUs may lack torchvision's operators
    script.write_text(f"""#!/bin/sh
code=$(printf %s "$2" | sed 's/device=0/device="cpu"/')
[ -f {helper}/cpu_torchvision.py ] && code="import sys; sys.path.insert(0, '{helper}'); import cpu_torchvision
$code"
shift 2
exec {python} -c "$code" "$@"
""")
    script.chmod(0o755)


def rehearse(folder: Path, words: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """``edgekit gpu-check`` with ``words``; its results are ``folder/gpu.json``."""
    told = ["--out", str(folder / "gpu.json"), "--work-dir", str(folder / "work"), *words]
    command = [sys.executable, "-c", _START.replace("SLOWER", str(SLOWER)), *told]
    return subprocess.run(command, env=prepare(folder) | more, check=False, text=True, stdout=subprocess.PIPE)


def worker(*words: str) -> None:
    """The process of a step, with what it uses of PyTorch and TensorRT-RTX pretended."""
    from edgekit.report.gpu import trials
    from edgekit.report.gpu.worker import main

    trials.torch_device, trials.SIDE, trials.TIMED_S, trials.MANY = lambda: "cpu", SIDE, 0.5, 32
    for pretend in (_pretend_pytorch, _pretend_rtx):
        with contextlib.suppress(ImportError):
            pretend()
    main(*words)


def _pretend_pytorch() -> None:
    """Arrays on the CPU that say they are on a GPU, and a group of processes by Gloo."""
    import torch
    import torch.distributed as dist

    plain, group = torch.as_tensor, dist.init_process_group

    def interface(tensor: torch.Tensor) -> dict[str, Any]:
        array = tensor.detach().numpy()
        return {"version": 3, "data": (array.ctypes.data, False), "shape": array.shape, "typestr": array.dtype.str,
                "strides": None if tensor.is_contiguous() else array.strides, "stream": 1}  # fmt: skip

    def as_tensor(data: Any, *arguments: Any, **options: Any) -> torch.Tensor:
        if hasattr(data, "pointer"):
            size = int(np.prod(data.shape)) * data.dtype.itemsize
            raw = (ctypes.c_uint8 * size).from_address(data.pointer)
            return torch.from_numpy(np.frombuffer(raw, data.dtype).reshape(data.shape))
        return plain(data, *arguments, **options)

    torch.Tensor.__cuda_array_interface__ = property(interface)  # type: ignore[assignment,method-assign]
    exported = torch.Tensor.__dlpack__
    torch.Tensor.__dlpack__ = lambda tensor, **_: exported(tensor)  # type: ignore[method-assign,assignment]
    torch.Tensor.__dlpack_device__ = lambda tensor: (2, 0)  # type: ignore[method-assign,assignment,return-value]
    torch.as_tensor = as_tensor
    torch.cuda.set_device = lambda device: None
    dist.init_process_group = lambda backend, **options: group("gloo", **options)


def _pretend_rtx() -> None:
    import tensorrt_rtx

    tensorrt_rtx.Runtime = type("Runtime", (Runtime,), {"graph_of": staticmethod(_graph_beside)})
    tensorrt_rtx.nptype = np.dtype


def _graph_beside(data: bytes) -> bytes | None:
    """The graph of a bundle whose engine is ``data``."""
    for engine in FOLDER.rglob("*.engine"):
        if engine.stat().st_size == len(data) and engine.read_bytes() == data:
            return (engine.parent / "model.onnx").read_bytes()
    return None


# --- CUDA


class _Runtime(FakeRuntime):
    """With as much memory as ``MEMORY``, and a context that can be lost."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.lost = 0, False
        self.most = MEMORY

    def _allocate(self, size: int) -> Any:
        self.most = 0 if FAULT == "memory" else MEMORY - self.used
        code, pointer = super()._allocate(size)
        self.used += size if pointer else 0
        return code, pointer

    def cudaFree(self, pointer: int) -> Any:
        self.used -= len(self.memory[pointer]) if pointer else 0
        return super().cudaFree(pointer)

    cudaFreeHost = cudaFree

    def cudaStreamSynchronize(self, stream: int) -> Any:
        done = super().cudaStreamSynchronize(stream)
        return (_Illegal(700), None) if self.lost else done

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not (name.startswith("cuda") and callable(found) and object.__getattribute__(self, "lost")):
            return found

        def refuse(*_: object) -> Any:
            return (_Illegal(700), None)

        refuse.__name__ = name
        return refuse


class _Illegal(int):
    name = "cudaErrorIllegalAddress"


class _Core(FakeCore):
    """Kernels run on the CPU; one that is given an address where nothing is loses the context."""

    def __init__(self, runtime: _Runtime) -> None:
        super().__init__(runtime)
        compiled = ctypes.CDLL(str(FOLDER / "lib" / "kernels.so"))

        def suppress(*arguments: Any) -> None:
            compiled.one_block(*arguments[:-1], min(arguments[-1], THREADS))

        self.kernels = {"letterbox": lambda *a: compiled.all_pixels(*a[:-1]), "suppress": suppress}

    def launch(self, stream: int, config: Any, name: str, *arguments: Any) -> None:
        if all(value > NOWHERE for value in arguments if type(value) is int):
            super().launch(stream, config, name, *arguments)
        else:
            self.runtime.queue(stream, lambda: setattr(self.runtime, "lost", True))


_MODULES: dict[str, Any] = {}


def cuda_modules() -> dict[str, Any]:
    """``cuda.bindings`` and ``cuda.core``, by name."""
    if not _MODULES:
        runtime, driver = _Runtime(), FakeDriver()
        driver.devices[driver.primary] = 0
        driver.runtime, runtime.driver = runtime, driver
        core = _Core(runtime)
        core.utils = SimpleNamespace(StridedMemoryView=FakeView)
        bindings = SimpleNamespace(runtime=runtime, driver=driver)
        _MODULES.update(
            {"cuda.bindings": bindings, "cuda.bindings.runtime": runtime, "cuda.bindings.driver": driver,
             "cuda.core": core, "cuda.core.utils": core.utils}
        )  # fmt: skip
    return _MODULES


# --- TensorRT


_KINDS = {"Conv": "CONVOLUTION", "Softmax": "SOFTMAX", "TopK": "TOPK", "QuantizeLinear": "QUANTIZE"}
_FLAGS = "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS VERSION_COMPATIBLE EXCLUDE_LEAN_RUNTIME"
_NARROW = "FP16 INT8 OBEY_PRECISION_CONSTRAINTS"
_LATER = "STRIP_PLAN REFIT_IDENTICAL"


class _Layer:
    def __init__(self, node: Any) -> None:
        attention = node.op_type == "Attention"
        self.name = f"{node.name}_AttentionInput" if attention else node.name
        self.type = f"LayerType.{'ATTENTION_INPUT' if attention else _KINDS.get(node.op_type, 'ELEMENTWISE')}"
        self.num_outputs = len(node.output)
        if VERSION.startswith(("8", "10")):
            self.precision = None

    def get_output(self, place: int) -> Any:
        return SimpleNamespace(dtype="int32" if self.type.endswith("TOPK") and place else "float32")

    def set_output_type(self, place: int, kind: Any) -> None:
        assert VERSION.startswith(("8", "10"))


class _Network:
    def __init__(self) -> None:
        self.data, self.layers, self.num_outputs = b"", [], 0

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, place: int) -> _Layer:
        return self.layers[place]


class _Parser:
    num_errors = 0

    def __init__(self, network: _Network, log: Any) -> None:
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        import onnx

        self.network.data = Path(path).read_bytes()
        graph = onnx.load_from_string(self.network.data).graph
        self.network.layers = [_Layer(node) for node in graph.node if node.op_type != "Constant"]
        self.network.num_outputs = len(graph.output)
        return True


class _Config:
    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.cache: Any = None

    def set_flag(self, flag: int) -> None:
        self.flags.add(list(tensorrt().BuilderFlag.__members__)[flag])

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        assert size > 0

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b"measured")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache

    def can_run_on_DLA(self, layer: _Layer) -> bool:
        return layer.type.endswith("CONVOLUTION")


class _Builder:
    def __init__(self, log: Any) -> None:
        self.log = log

    def create_network(self, flags: int) -> _Network:
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        if FAULT == "hang":
            time.sleep(10_000)
        if FAULT == "crash":
            ctypes.string_at(0)
        stripped = "STRIP_PLAN" in config.flags
        head = json.dumps({"version": VERSION, "stripped": stripped}).encode() + b"\n"
        return MAGIC + head + network.data


def _graph_inside(data: bytes) -> tuple[bytes, bool] | None:
    magic, head, graph = bytes(data).split(b"\n", 2)
    told = json.loads(head)
    return (graph, told["stripped"]) if magic + b"\n" == MAGIC and told["version"] == VERSION else None


class Runtime:
    """Loads what ``_Builder`` gave."""

    def __init__(self, log: Any) -> None:
        self.log = log

    @staticmethod
    def graph_of(data: bytes) -> bytes | None:
        found = _graph_inside(data)
        return found and found[0]

    def deserialize_cuda_engine(self, data: bytes) -> Any:
        graph = self.graph_of(bytes(data))
        if graph is None:
            self.log.log("Severity.ERROR", "the version or the header of the plan is wrong")
            return None
        return _Engine(graph)


class _Engine:
    def __init__(self, graph: bytes) -> None:
        import onnx
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.graph = onnx.load_from_string(graph).graph
        ports = {p.name: p for p in (*self.session.get_inputs(), *self.session.get_outputs())}
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int32" if VERSION.startswith("8") else "int64",
                 "tensor(float16)": "float16", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}  # fmt: skip
        self.types = {name: kinds[port.type] for name, port in ports.items()}
        self.shapes = {name: tuple(port.shape) for name, port in ports.items()}
        self.names = list(ports)
        self.num_io_tensors = len(ports)

    def get_tensor_name(self, place: int) -> str:
        return self.names[place]

    def get_tensor_dtype(self, name: str) -> str:
        return self.types[name]

    def create_execution_context(self) -> Any:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": list(self._layers())}))

    def _layers(self) -> Any:
        from edgekit.nn import layers

        for node in self.graph.node:
            known = layers.parse(node.name)
            attention = node.op_type == "Attention" or (node.op_type == "Softmax" and known and known.attention)
            mha = bool(attention) and FAULT != "unfused"
            yield {"Name": f"_gemm_mha_v2 {node.name}" if mha else node.name, "LayerType": "kgen",
                   "Outputs": [{"Format/Datatype": "Half"}], "TacticName": "_gemm_mha_v2_0x98dc" if mha else "t",
                   "Metadata": f"[ONNX Layer: {node.name}]"}  # fmt: skip


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.engine.shapes[name]

    def execute_async_v3(self, stream: int) -> bool:
        addresses, engine = dict(self.addresses), self.engine

        def array(name: str) -> np.ndarray:
            dtype = np.dtype(engine.types[name])
            raw = (ctypes.c_uint8 * (int(np.prod(engine.shapes[name])) * dtype.itemsize)).from_address(addresses[name])
            return np.frombuffer(raw, dtype).reshape(engine.shapes[name])

        def compute() -> None:
            given = engine.session.get_inputs()[0].name
            names = [port.name for port in engine.session.get_outputs()]
            for name, answer in zip(names, engine.session.run(names, {given: array(given)}), strict=True):
                array(name)[:] = answer * 0.8 if FAULT == "numbers" and answer.dtype.kind == "f" else answer

        cuda_modules()["cuda.bindings.runtime"].queue(stream, compute)
        return True


_SDK: list[Any] = []


def tensorrt() -> Any:
    """The module, with the names that its version has."""
    if FAULT == "missing":
        raise ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory")
    if _SDK:
        return _SDK[0]

    class ILogger:
        def __init__(self) -> None:
            pass

    old, last = VERSION.startswith("8"), VERSION.startswith("11")
    flags = f"{'' if last else _NARROW} {_FLAGS} {'' if old else _LATER}"
    levels = ("NONE", "AMPERE_PLUS") if old else ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")
    creation = ("EXPLICIT_BATCH", "EXPLICIT_PRECISION") if old else ("EXPLICIT_BATCH", "STRONGLY_TYPED")
    sdk = SimpleNamespace(
        __version__=VERSION, ILogger=ILogger, OnnxParser=_Parser, Builder=_Builder, Runtime=Runtime, nptype=np.dtype,
        float32="float32", int32="int32", BuilderFlag=Names(*flags.split()),
        NetworkDefinitionCreationFlag=Names(*(() if last else creation)), MemoryPoolType=Names("WORKSPACE"),
        ProfilingVerbosity=Names("LAYER_NAMES_ONLY", "NONE", "DETAILED"), DeviceType=Names("GPU", "DLA"),
        HardwareCompatibilityLevel=Names(*levels), LayerInformationFormat=Names("ONELINE", "JSON"),
    )  # fmt: skip
    if not old:
        sdk.Refitter = lambda engine, log: SimpleNamespace(refit_cuda_engine=lambda: True)
        sdk.OnnxParserRefitter = lambda refitter, log: SimpleNamespace(
            refit_from_file=lambda path: Path(path).is_file()
        )
    _SDK.append(sdk)
    return sdk


def results(folder: Path) -> Mapping[str, Any]:
    """What a rehearsal in ``folder`` found, by step."""
    document = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    return {step["name"]: step for step in document["steps"]}


if __name__ == "__main__":
    work = Path(sys.argv[1])
    if shutil.which("g++") is None:
        sys.exit("a rehearsal needs gcc and g++")
    sys.exit(rehearse(work, sys.argv[2:]).returncode)
