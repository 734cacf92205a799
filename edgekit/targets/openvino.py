"""OpenVINO on the CPU (and GPU or NPU where its plugins are): an IR folder per target.

``ov-fp32`` executes float32 and checks that it does. ``ov-fp16`` stores half-precision weights and lets the plugin
execute what the hardware has: bf16 with AMX or AVX512-BF16, f16 on GPUs and ARM, float32 elsewhere;
``precision_by_type`` says which. ``ov-int8`` takes an IR that ``edgekit.quantize`` has made.

    target = targets.get("ov-fp16")
    graph = dataclasses.replace(graph, info=target.info(graph.info))      # 8-bit canvases instead of floats
    target.build(graph, folder)                                           # folder/model.xml, model.bin
    session = target.open(folder, graph.info, Opening(threads=2))
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from edgekit.errors import GateError, InputError, UsageError, not_installed, optional
from edgekit.runtime import modelinfo
from edgekit.runtime.atomic import written_whole
from edgekit.runtime.fields import option
from edgekit.runtime.forks import keep_in_children
from edgekit.runtime.home import ensure_home
from edgekit.runtime.processor import is_arm, is_cpu, usable_cpus
from edgekit.spec import Graph, Json, ModelInfo, Port, Session
from edgekit.targets._openvino_input import MARK, take_pixels
from edgekit.targets._target import Opening, Served, Target, TargetOptions

if TYPE_CHECKING:
    import openvino

EXTRA = "openvino"
MODEL = "model.xml"

_KERNELS = ("f32", "f16", "bf16", "i8", "u8", "i32", "i64")
_NOTES = ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames")
_NOT_COMPUTING = ("Input", "Output", "Const", "Reorder", "Reshape", "Parameter", "Result", "Constant")


ALIGNED = 64  # bytes, of a constant in the file of weights
WARM_RUNS = 3  # of a profile, not counted

# OpenVINO makes its table of dtypes when first asked for one. Two threads that ask first, as two that infer do, wait
# for each other and, holding the interpreter's lock, stop the whole process (2026.4).
_once = threading.Lock()


@dataclass(frozen=True)
class OpenVinoOptions(TargetOptions):
    """What can be asked of a build."""

    input: str = option("uint8", choices=("uint8", "float"))
    """Canvases as they are (``_openvino_input``), or float32 RGB 0..1."""

    wrapper: str = option("own", choices=("own", "ssd"))
    """own, or ssd: also an output ``bboxes``, boxes as shares of the image, that Model API's SSD wrapper reads."""


def missing() -> str | None:
    """Why these targets cannot be used here, or None."""
    return not_installed("openvino", "ov-* targets", EXTRA)


def _openvino(target: str) -> Any:
    ensure_home()
    with optional(target, EXTRA):
        import openvino
    with _once:
        openvino.Type.u8.to_dtype()
    return openvino


def _takes(target: Target, info: ModelInfo, options: OpenVinoOptions) -> ModelInfo:
    """What the artifact of a graph with ``info`` will take and give."""
    batch, planes, height, width = info.inputs[0].shape
    if options.input == "float" or info.takes_uint8 or planes != 3:
        return info
    port = replace(info.inputs[0], shape=(batch, height, width, 3), dtype="uint8")
    return info.replace(inputs=(port,), preprocess=replace(info.preprocess, color="BGR", scale=1.0))


def _build(target: Target, graph: Graph, folder: Path, options: OpenVinoOptions) -> None:
    """Convert the graph, an ONNX file or an IR, to an IR with the input that ``graph.info`` describes; ``fp16``
    compresses the weights."""
    openvino = _openvino(target.name)
    try:
        model = openvino.Core().read_model(str(graph.path))
    except Exception as error:
        raise InputError(f"{graph.path}: OpenVINO cannot read it ({str(error).splitlines()[0]})") from error
    if graph.info.takes_uint8:
        take_pixels(model)
    if options.wrapper == "ssd":
        _for_ssd(model, graph.info)
    for key, text in modelinfo.entries(graph.info, "ssd" if options.wrapper == "ssd" else None).items():
        model.set_rt_info(text, [modelinfo.KEY, key])
    save(model, folder / MODEL, target.precision == "fp16")


def _for_ssd(model: openvino.Model, info: ModelInfo) -> None:
    """Add the output that Model API's SSD wrapper reads beside ``scores`` and ``labels``.

    Raises:
        UsageError: there are no such outputs.
    """
    import openvino.opset13 as ops

    names = {port.role: port.name for port in info.outputs}
    if set(names) != {"boxes", "scores", "labels"} or info.batch != 1:
        raise UsageError("`option` wrapper=ssd: for detectors with a topk or nms head that take one image a run")
    height, width = info.imgsz
    sides = ops.constant(np.array([width, height, width, height], np.float32))
    shares = ops.divide(model.output(names["boxes"]).get_node().input_value(0), sides)
    shares.output(0).set_names({"bboxes"})
    model.add_results([ops.result(shares)])


def save(model: openvino.Model, path: Path, compressed: bool = False) -> None:
    """Write an IR, its weights in half precision where ``compressed``, and open it again.

    Raises:
        InputError: it could not be written whole.
    """
    openvino = _openvino(path.name)
    with written_whole(path):
        openvino.save_model(model, str(path), compress_to_fp16=compressed)
        openvino.Core().read_model(str(path))


def _open(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    """Compile ``place/model.xml`` (or the file itself); for several sessions once, for as many streams."""
    path = place if place.suffix == ".xml" else place / MODEL
    if count > 1:
        threads = opening.threads and opening.threads * count
        opening = replace(opening, threads=threads, streams=count)
    first = OpenVinoSession(path, info, target, opening)
    return [first, *(first.beside() for _ in range(count - 1))]


def join(folder: Path, other: Path, stem: str) -> str:
    """Add the IR in ``other``, of another input size, to ``folder`` as ``STEM.xml``: its constants are those of
    ``folder/model.bin``, which gets what it lacks at its end. Returns the file's name."""
    tree = ElementTree.parse(other / MODEL)
    theirs = (other / MODEL).with_suffix(".bin").read_bytes()
    path = (folder / MODEL).with_suffix(".bin")
    ours = bytearray(path.read_bytes())
    known: dict[bytes, int] = {}
    for data in _constants(ElementTree.parse(folder / MODEL)):
        begin = int(data.attrib["offset"])
        known.setdefault(bytes(ours[begin : begin + int(data.attrib["size"])]), begin)
    for data in _constants(tree):
        begin = int(data.attrib["offset"])
        value = theirs[begin : begin + int(data.attrib["size"])]
        if value not in known:
            ours.extend(b"\0" * (-len(ours) % ALIGNED))
            known[value] = len(ours)
            ours.extend(value)
        data.set("offset", str(known[value]))
    path.write_bytes(ours)
    tree.write(folder / f"{stem}.xml", encoding="utf-8", xml_declaration=True)
    return f"{stem}.xml"


def _constants(tree: ElementTree.ElementTree[Any]) -> Iterator[ElementTree.Element]:
    """Where an IR says which bytes of its weights' file a constant is."""
    for layer in tree.iter("layer"):
        data = layer.find("data")
        if layer.get("type") == "Const" and data is not None:
            yield data


def describe(path: Path) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of an IR from anywhere: no roles, None for a dynamic side, ``#0`` where a port has no name.

    Raises:
        MissingPackageError: openvino is not installed.
        InputError: OpenVINO cannot read the file.
    """
    try:
        model = _openvino(str(path)).Core().read_model(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot read it ({str(error).splitlines()[0]})") from error

    def port(place: int, found: openvino.Output) -> Port:
        dims = [] if found.partial_shape.rank.is_dynamic else found.partial_shape
        shape = tuple(None if d.is_dynamic else d.get_length() for d in dims)
        name = min(found.get_names(), default=f"#{place}")
        return Port(name, "", shape, str(found.element_type.to_dtype()))

    return [port(*p) for p in enumerate(model.inputs)], [port(*p) for p in enumerate(model.outputs)]


class _Own(threading.local):
    """What each thread that runs a session has for itself."""

    request: openvino.InferRequest | None = None
    memory: np.ndarray | None = None


class OpenVinoSession(Session):
    """A compiled model, and an infer request for each thread that runs it.

    Raises:
        MissingPackageError: openvino is not installed.
        UsageError: OpenVINO has no such device here.
        InputError: OpenVINO refuses the file, or it does not fit its manifest.
        GateError: ``ov-fp32`` would execute something narrower than float32.
    """

    concurrent = True  # threads may call run() at once

    def __init__(self, path: Path, info: ModelInfo, target: Target, opening: Opening) -> None:
        openvino = _openvino(target.name)
        device, threads, streams, cache = opening.device, opening.threads, opening.streams, opening.cache
        self.info, self.target, self.path, self.streams = info, target.name, path, streams or 1
        self.weights = "f16" if target.precision == "fp16" else "f32"
        self._core = core = openvino.Core()
        name = "CPU" if device is None or is_cpu(device) else device.upper()
        self.sums = "f16" if name == "CPU" and is_arm() else "f32"
        kind, several, _ = name.partition(":")  # AUTO:GPU,CPU and GPU.1 are devices too
        known = {"AUTO", "HETERO"} | (set() if several else {d.split(".")[0] for d in core.available_devices})
        if kind.split(".")[0] not in known:
            raise UsageError(f"`device` {device}: OpenVINO sees {', '.join(core.available_devices)} here")
        properties: Json = {"PERFORMANCE_HINT": "LATENCY"}
        if streams:
            properties = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams}
        if target.precision == "fp32":
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        if threads and name == "CPU":
            properties["INFERENCE_NUM_THREADS"] = threads
            if threads < usable_cpus():  # pinned, those of every such process would share the first processors
                properties["ENABLE_CPU_PINNING"] = False
        if cache:
            properties["CACHE_DIR"] = str(cache)
        try:
            self._compiled = core.compile_model(self._source(), name, properties)
            self._how = (name, properties)
        except Exception as error:
            raise InputError(f"{path}: OpenVINO cannot compile it ({str(error).splitlines()[0]})") from error
        self._own = _Own()
        self.moves = kind == "AUTO"
        keep_in_children(self)
        self.forkable = self.streams == 1 and name == "CPU"  # a single stream runs in the thread that asks
        try:
            # By port, not by position or name: fusions may drop names, never ports of results.
            self._ports = [(port.role, self._compiled.output(_key(port.name))) for port in info.outputs]
        except RuntimeError as error:
            raise InputError(
                f"{path}: its inputs and outputs are not those of the manifest; rebuild the bundle"
            ) from error
        if target.precision == "fp32":
            self._check_float32()

    def _source(self) -> Any:
        """What to compile: the file, or of one without weights beside it the model read with those of the bundle."""
        if self.path.with_suffix(".bin").is_file():
            return str(self.path)
        return self._core.read_model(str(self.path), str(self.path.with_name(MODEL).with_suffix(".bin")))

    def _check_float32(self) -> None:
        narrow = {p: n for p, n in self.precision_by_type().items() if p in ("bf16", "f16")}
        if narrow:
            raise GateError(f"{self.path}: OpenVINO executes {narrow} instead of float32; use `target` ov-fp16", narrow)

    def _request(self) -> openvino.InferRequest:
        """This thread's infer request: calls of several threads share the compiled model and nothing else."""
        if self._own.request is None:
            self._own.request = self._compiled.create_infer_request()
        return self._own.request

    def memory(self) -> np.ndarray | None:
        """What this thread's request reads where it lies, to be filled and given to ``run``: uint8 ``[B, H, W, 3]``;
        None where the input is float, or of any batch."""
        if not self.info.takes_uint8 or self.info.batch is None:
            return None
        if self._own.memory is None:
            self._own.memory = np.zeros([d or 1 for d in self.info.inputs[0].shape], np.uint8)
        return self._own.memory

    def _taken(self, batch: np.ndarray) -> np.ndarray:
        """The batch as the compiled model takes it: floats become the pixels that they are or are nearest to."""
        if not self.info.takes_uint8 or batch.dtype == np.uint8:
            return batch
        pixels = np.rint(np.asarray(batch, np.float32)[:, ::-1] * 255).clip(0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 ``[B, H, W, 3]`` where that is the input, or ``[B, 3, H, W]`` float32 in 0..1 -> one array per role,
        valid until this thread's next call."""
        results = self._request().infer([self._taken(batch)], share_inputs=True, share_outputs=True)
        return {role: results[port] for role, port in self._ports}

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values called ``names`` inside the model (those that still exist), at this session's precision."""
        source = self._source()
        model = self._core.read_model(source) if isinstance(source, str) else source
        known = {name for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
        wanted = [name for name in dict.fromkeys(names) if name in known]
        outputs = {name for port in model.outputs for name in port.get_names()}
        model.add_outputs([name for name in wanted if name not in outputs])
        compiled = self._core.compile_model(model, *self._how)
        results = compiled.create_infer_request().infer([self._taken(batch)])
        return {name: np.array(results[compiled.output(name)]) for name in wanted}

    def precision_by_type(self) -> dict[str, int]:
        """Computing layers of the compiled graph by the precision of the kernel that runs them.

        The kernel's own name ends in it (``brgconv_avx2_f32``); ``runtimePrecision`` reports f16 for float32
        kernels whose weights are stored in half precision, so it only stands in where a kernel has no name.
        """
        counts: Counter[str] = Counter()
        for notes in self._computing():
            kernel = notes.get("primitiveType", "").rpartition("_")[2].lower()
            counts[kernel if kernel in _KERNELS else notes["runtimePrecision"].lower()] += 1
        return dict(counts)

    def kernels(self) -> list[str]:
        """Names of the kernels that compute, such as ``brgconv_avx512_amx_bf16``: they tell the instruction set."""
        return [notes.get("primitiveType", "") for notes in self._computing()]

    def _computing(self) -> list[dict[str, str]]:
        nodes = self._compiled.get_runtime_model().get_ordered_ops()
        found = [{k: str(v.value) for k, v in node.get_rt_info().items() if k in _NOTES} for node in nodes]
        return [
            notes
            for notes in found
            if notes.get("layerType", "Const") not in _NOT_COMPUTING and not _enters(notes) and not _turns(notes)
        ]

    def devices(self) -> tuple[str, ...]:
        """``EXECUTION_DEVICES``: with AUTO the processor, in brackets, until another device has compiled the model."""
        found = self._compiled.get_property("EXECUTION_DEVICES")
        return tuple(str(name).strip("()") for name in ([found] if isinstance(found, str) else found))

    def drivers(self) -> dict[str, str]:
        """Names, architectures and whatever calls itself a version, of every device; of the plugins their builds."""
        said = {}
        for device in self.devices():
            with suppress(RuntimeError):  # a plugin that cannot be asked
                for name in self._core.get_property(device, "SUPPORTED_PROPERTIES"):
                    if name in ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE") or "VERSION" in name:
                        said[f"{device} {name}"] = str(self._core.get_property(device, name))
                said |= {f"{device} {k}": v.build_number for k, v in self._core.get_versions(device).items()}
        return said

    def profile(self, batch: np.ndarray, runs: int) -> list[tuple[str, str, float]]:
        """(names of the layers it was made of, operator type, milliseconds) of every kernel executed, in order; medians
        of ``runs``."""
        name, properties = self._how
        compiled = self._core.compile_model(self._source(), name, {**properties, "PERF_COUNT": True})
        sources = {
            node.get_friendly_name(): str(node.get_rt_info()["originalLayersNames"].value)
            for node in compiled.get_runtime_model().get_ordered_ops()
            if "originalLayersNames" in node.get_rt_info()
        }
        request, batch = compiled.create_infer_request(), self._taken(batch)
        times: dict[str, list[float]] = {}
        for number in range(runs + WARM_RUNS):
            request.infer([batch], share_inputs=True)
            for entry in request.profiling_info:  # not every layer is in every run's
                if number >= WARM_RUNS and entry.status == entry.Status.EXECUTED:
                    times.setdefault(entry.node_name, []).append(1e3 * entry.real_time.total_seconds())
        kinds = {entry.node_name: entry.node_type for entry in request.profiling_info}
        return [(sources.get(n) or n, kinds[n], float(np.median(t))) for n, t in times.items() if n in kinds]

    def beside(self) -> OpenVinoSession:
        """Another session of the same compiled model, which can run at the same time."""
        twin = copy.copy(self)
        twin._own = _Own()
        return twin

    def close(self) -> None:
        """Release the request and the compiled model."""
        self._own = _Own()
        self._compiled = self._core = None


def _enters(notes: Mapping[str, str]) -> bool:
    """Whether a layer only brings pixels into the model's type and order."""
    names = notes.get("originalLayersNames", "").split(",")
    return all(name.startswith(MARK) for name in names)


def _turns(notes: Mapping[str, str]) -> bool:
    """Whether a layer only turns stored half-precision weights, which are converted afterwards."""
    return notes.get("layerType") == "Transpose" and notes.get("primitiveType", "").lower() == "unknown_f16"


def _key(name: str) -> str | int:
    """A port's name, or its place where it is called ``#1``, as in models from elsewhere whose ports have no names."""
    return int(name[1:]) if name.startswith("#") else name


def _missing_nncf() -> str | None:
    return not_installed("nncf", "building ov-int8", "int8")


def _declared(name: str, about: str, precision: str, **more: Any) -> Target:
    return Target(
        name=name,
        about=about,
        precision=precision,
        extra=EXTRA,
        packages=("openvino", "nncf"),
        rewriting="openvino",
        missing=missing,
        builder=_build,
        opener=_open,
        options=OpenVinoOptions,
        takes=_takes,
        describe=describe,
        join=join,
        caches=True,
        batches=(4,),  # a YOLO12-n of 320 pixels gains a fifth in images a second
        servers={layout: Served("openvino", (MODEL, "model.bin")) for layout in ("triton", "ovms")},
        **more,
    )


TARGETS = (
    _declared("ov-fp32", "OpenVINO, float32 executed", "fp32"),
    _declared("ov-fp16", "OpenVINO, half-precision weights", "fp16", widens=True),
    _declared(
        "ov-int8",
        "OpenVINO, INT8 around attention in floating point",
        "int8",
        narrowing="ir",
        floats=("ov-fp32", "ov-fp16"),
        missing_to_build=_missing_nncf,
    ),
)
