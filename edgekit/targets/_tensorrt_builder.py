"""From an ONNX graph to an engine, for every generation of TensorRT: parse, configure, build, and say what went wrong.

    built = build(tensorrt_rtx, generation, Path("model.onnx"), info, TensorRTOptions(), sms=(75, 86))
    built[86].engine, built[86].record["attention"]      # the bytes, {'fused': 8, 'of': 8, …}

The graph's own types are the engine's: float16 tensors and Q/DQ pairs say where which precision is. Only TensorRT 8.6
chooses by itself, among what flags permit; there every node the graph computes in float32 is pinned to it.

The SDK comes as an argument: nothing of a vendor's is imported here. The paths of TensorRT itself (not RTX) are
unchecked on hardware; their calls are those that TensorRT-RTX and the public headers have.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, UsageError, optional
from edgekit.nn import layers
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json, ModelInfo
from edgekit.targets._cuda import Gpu
from edgekit.targets._tensorrt_common import Generation, TensorRTOptions
from edgekit.targets._tensorrt_layers import Layer, attention, from_inspector, from_log

if TYPE_CHECKING:
    import tensorrt

# What a builder's complaint means and what to do about it. The first that fits is told, the builder's words after it.
_COMPLAINTS = (
    (
        r"FP32 GEMM is not supported",
        "this architecture has no float32 matrix products in TensorRT-RTX: build a -fp16 or -int8 target, whose graph "
        "has them in half precision, or leave 75 out of `sm`",
    ),
    (
        r"NonMaxSuppression|NMS",
        "it has no such operator: build with `head` topk, and duplicates are suppressed afterwards",
    ),
    (
        r"(?i)top-?k",
        "it sorts at most 3840 candidates: export with `candidates` 3840 or fewer",
    ),
    (
        r"(?i)insufficient (workspace|memory)|out of memory|workspace limit|requested size",
        "a layer finds no kernel within the memory allowed: give more with `workspace` MB",
    ),
    (
        r"(?i)\bDLA\b",
        "the DLA cannot take a layer: leave out `option` gpu-fallback=no, or `option` dla",
    ),
    (
        r"(?i)could not find any implementation|no implementation",
        "no kernel for a layer: give more scratch with `workspace` MB, or another target",
    ),
    (
        r"graph_jit\.cpp",
        "it wanted a GPU while building: TensorRT-RTX 1.7 needs one to leave weights out (`option` strip-weights)",
    ),
    (
        r"(?i)driver version is insufficient|no CUDA-capable device|CUDA initialization failure",
        "the NVIDIA driver is missing or too old",
    ),
)


@dataclass
class Built:
    """An engine file's bytes and what its record says of them."""

    engine: bytes
    record: Json


@dataclass
class Lines:
    """What an SDK said: errors, warnings, and the lines that list an engine's layers."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)


def new_log(trt: Any) -> tensorrt.ILogger:
    """An SDK's logger that keeps ``lines`` and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lines = Lines()

        def log(self, severity: object, message: str) -> None:
            name = str(severity).rpartition(".")[2]
            if name in ("ERROR", "INTERNAL_ERROR"):
                self.lines.errors.append(message)
            elif name == "WARNING":
                self.lines.warnings.append(message)
            elif "LayerType:" in message:
                self.lines.layers += from_log(message)

    return Log()


def build(
    trt: ModuleType,
    generation: Generation,
    path: Path,
    info: ModelInfo,
    options: TensorRTOptions,
    sms: Sequence[int] = (),
    gpu: Gpu | None = None,
) -> dict[int, Built]:
    """Engines of the graph at ``path``, by architecture.

    Args:
        trt: the SDK's module.
        info: whose head and batch the graph has.
        sms: architectures to build for (TensorRT-RTX).
        gpu: the GPU here: the one to build on and for (TensorRT), or whose engine can be inspected (TensorRT-RTX).

    Raises:
        InputError: the SDK does not read or build the graph; the sentence names the operator and what to do.
        UsageError: an option this SDK or graph has no use for.
    """
    if info.head == "nms":
        raise UsageError("`head` nms: TensorRT targets have raw and topk, whose duplicates are suppressed afterwards")
    log = new_log(trt)
    builder = _builder(trt, log, generation)
    network = builder.create_network(_creation_flags(trt, generation))
    _parse(trt, network, log, path, generation)
    pinned = _pin_float32(trt, network, path) if generation.typing == "flags" else None
    found = {}
    for sm in sms or ([gpu.sm] if gpu else []):
        log.lines = Lines()
        config = _configuration(trt, builder, network, generation, options, info)
        if not generation.here:
            _aim(trt, config, sm)
        fallback = _use_dla(trt, network, config, options)
        cache = _timing_cache(config, options, trt, gpu)
        start = time.perf_counter()
        serialized = builder.build_serialized_network(network, config)
        seconds = time.perf_counter() - start
        if serialized is None:
            raise InputError(f"{path}: {generation.name} builds no engine for SM {sm}: {_meaning(log.lines.errors)}")
        _keep_timings(config, cache)
        seen = _inspected(trt, log, serialized, options.version_compatible) if gpu and gpu.sm == sm else []
        told = any(layer.nodes for layer in seen)
        layers, source = (seen, "engine inspector") if told else (log.lines.layers, "builder's log")
        record = {
            "sm": sm,
            "seconds": round(seconds, 2),
            "layers": network.num_layers,
            "attention": attention(_attentions(network), layers, source),
            **({"dla_fallback": fallback} if fallback else {}),
            **({"int8": _quantized(network), "float32": pinned} if generation.typing == "flags" else {}),
        }
        found[sm] = Built(bytes(serialized), record)
    return found


def _builder(trt: ModuleType, log: tensorrt.ILogger, generation: Generation) -> tensorrt.Builder:
    """
    Raises:
        InputError: the SDK finds no CUDA that it can use, for an old driver, say.
    """
    try:
        return trt.Builder(log)
    except TypeError as error:  # pybind11's, of a constructor that gives nothing
        said = [*log.lines.errors, *log.lines.warnings]
        raise InputError(f"{generation.name} does not start here: {_meaning(said[-1:])}") from error


def _creation_flags(trt: ModuleType, generation: Generation) -> int:
    """The network's kind: explicit batch where that had to be asked for, strong typing where it has to be."""
    flags = trt.NetworkDefinitionCreationFlag
    if generation.typing == "flags":
        return 1 << int(flags.EXPLICIT_BATCH)
    return 1 << int(flags.STRONGLY_TYPED) if generation.typing == "asked" else 0


def _parse(
    trt: ModuleType, network: tensorrt.INetworkDefinition, log: tensorrt.ILogger, path: Path, generation: Generation
) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)) and network.num_outputs:
        return
    error = parser.get_error(0) if parser.num_errors else None
    if error is None:
        why = _meaning(log.lines.errors) if log.lines.errors else "it holds no network; export it again"
        raise InputError(f"{path}: {generation.name} does not read it: {why}")
    # node_operator() and node_name() came with TensorRT 10; before, the description has what there is.
    operator, name = (getattr(error, what, lambda: "")() for what in ("node_operator", "node_name"))
    where = f"the operator {operator or 'of node ' + str(error.node())}" + (f" ({name})" if name else "")
    fitting = _known(f"{operator} {error.desc()}")
    advice = fitting or (
        f"export with `opset` {generation.opset} or less, or let `edgekit build` make the graph from the checkpoint"
    )
    raise InputError(f"{path}: {generation.name} does not read {where}: {_short(error.desc())}; {advice}")


def _known(text: str) -> str | None:
    return next((advice for pattern, advice in _COMPLAINTS if re.search(pattern, text)), None)


def _meaning(errors: Sequence[str]) -> str:
    """One sentence of a builder's errors: what to do, then its own words."""
    if not errors:
        return "it gives no reason"
    text = " ".join(errors)
    advice, said = _known(text), _short(errors[0])
    return f"{advice} (it says: {said})" if advice else said


def _short(text: str) -> str:
    """A complaint without the places in NVIDIA's source it came from, on one line."""
    inner = re.search(r"\[[\w.]+:\d+: \w+\] (.*)", text, re.S)
    text = re.sub(r"\s*\b[Ii]n \w+ at \S+:\d+\)?", "", inner[1] if inner else text)
    text = re.sub(r"\s+", " ", text).strip(" .)")
    return text if len(text) <= 200 else text[:197] + "..."


def _configuration(
    trt: ModuleType,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    generation: Generation,
    options: TensorRTOptions,
    info: ModelInfo,
) -> tensorrt.IBuilderConfig:
    config = builder.create_builder_config()
    flags = trt.BuilderFlag
    if generation.typing == "flags":
        config.set_flag(flags.FP16)
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        if _quantized(network):  # permitted without scales, int8 would want ranges of its own
            config.set_flag(flags.INT8)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.builder_level is not None:
        config.builder_optimization_level = options.builder_level
    if options.hardware != "same":
        levels = trt.HardwareCompatibilityLevel.__members__
        wanted = "AMPERE_PLUS" if options.hardware == "ampere+" else "SAME_COMPUTE_CAPABILITY"
        if wanted not in levels:
            raise UsageError(
                f"`option` hardware={options.hardware}: TensorRT {trt.__version__} has only same and ampere+; 10.9 and "
                "later have it"
            )
        config.hardware_compatibility_level = levels[wanted]
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.sparsity:
        config.set_flag(flags.SPARSE_WEIGHTS)
    if options.strip_weights:
        config.set_flag(flags.STRIP_PLAN)  # beside it, what "Refitting Engines" of either SDK asks for
        config.set_flag(flags.REFIT_IDENTICAL if generation.here else flags.REFIT)
    verbosity = trt.ProfilingVerbosity
    config.profiling_verbosity = {
        "none": verbosity.NONE,
        "names": verbosity.LAYER_NAMES_ONLY,
        "detailed": verbosity.DETAILED,
    }[options.layer_names]
    if info.batch is None:
        name, shape = info.inputs[0].name, tuple(info.inputs[0].shape[1:])
        profile = builder.create_optimization_profile()
        profile.set_shape(name, *((batch, *shape) for batch in options.batches))
        config.add_optimization_profile(profile)
    return config


def _quantized(network: tensorrt.INetworkDefinition) -> bool:
    return any(_kind(network.get_layer(place)) == "QUANTIZE" for place in range(network.num_layers))


def _kind(layer: tensorrt.ILayer) -> str:
    return str(layer.type).rpartition(".")[2]


def _aim(trt: ModuleType, config: tensorrt.IBuilderConfig, sm: int) -> None:
    """Build for another machine's architecture."""
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), 0)


def _use_dla(
    trt: ModuleType, network: tensorrt.INetworkDefinition, config: tensorrt.IBuilderConfig, options: TensorRTOptions
) -> list[str]:
    """Put what goes on the DLA there; the names of the layers that do not go.

    Raises:
        UsageError: there are such layers, and they may not run on the GPU.
    """
    if options.dla is None:
        return []
    config.default_device_type, config.DLA_core = trt.DeviceType.DLA, options.dla
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    left = [str(layer.name) for layer in layers if not config.can_run_on_DLA(layer)]
    if options.gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    elif left:
        raise UsageError(
            f"`option` gpu-fallback=no: {len(left)} of {len(layers)} layers cannot run on a DLA, the first of them "
            f"{left[0]}; let them run on the GPU, or leave out `option` dla"
        )
    return left


def _timing_cache(
    config: tensorrt.IBuilderConfig, options: TensorRTOptions, trt: ModuleType, gpu: Gpu | None
) -> Path | None:
    """Give the builder the kernel times measured on this GPU model with this version; where they are kept."""
    if options.timing_cache is None or gpu is None:
        return None
    words = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    path = options.timing_cache / f"{trt.__name__}-{trt.__version__}-sm{gpu.sm}-{words}.timing"
    for data in (path.read_bytes() if path.is_file() else b"", b""):  # one damaged or of other clocks: begin anew
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return path
    return None


def _keep_timings(config: tensorrt.IBuilderConfig, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))


def _inspected(
    trt: ModuleType, log: tensorrt.ILogger, serialized: tensorrt.IHostMemory, version_compatible: bool
) -> list[Layer]:
    """The engine's kernels as its inspector lists them, which takes loading it; none if that fails here."""
    runtime = trt.Runtime(log)
    if version_compatible:
        runtime.engine_host_code_allowed = True  # such engines bring the lean runtime along
    engine = runtime.deserialize_cuda_engine(serialized)
    if engine is None:
        return []
    return from_inspector(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _attentions(network: tensorrt.INetworkDefinition) -> list[str]:
    """Names of the graph's attention nodes: one layer each, or the Softmax of one spelled out."""
    found = []
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        kind, name = _kind(layer), str(layer.name)
        if kind == "ATTENTION_INPUT":
            found.append(name.removesuffix("_AttentionInput"))
        elif kind == "SOFTMAX" and (known := layers.parse(name)) and known.attention:
            found.append(name)
    return found


def _pin_float32(trt: ModuleType, network: tensorrt.INetworkDefinition, path: Path) -> dict[str, str]:
    """Keep in float32 what TensorRT 8.6 would choose a type for by speed: what a graph with float16 tensors computes in
    float32, and of one without (Q/DQ of float16 came after 8.6) the decode tail.

    Returns:
        Layer -> the types it puts out, as ``trtexec --layerOutputTypes`` has them.

    Raises:
        MissingPackageError: onnx, which knows the types of a graph, is not installed.
    """
    with optional("building for TensorRT 8.6", "onnx"):
        import onnx
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    tail = layers.tail(node.name for node in model.graph.node)
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    float32 = {
        node.name
        for node in model.graph.node
        if node.op_type not in ("Cast", "Constant", "QuantizeLinear", "DequantizeLinear")
        and types.get(node.output[0]) == onnx.TensorProto.FLOAT
        and (half or node.name in tail)
    }
    pinned = {}
    for place in range(network.num_layers):
        layer = network.get_layer(place)
        if layer.name in float32:
            layer.precision = trt.float32
            whole = [layer.get_output(output).dtype == trt.int32 for output in range(layer.num_outputs)]
            for output, indices in enumerate(whole):
                if not indices:  # those of a TopK stay int32
                    layer.set_output_type(output, trt.float32)
            pinned[layer.name] = "+".join("int32" if indices else "fp32" for indices in whole)
    return pinned
