"""A TensorRT engine that answers: pinned staging, asynchronous copies, the whole run replayed as one CUDA graph.

    session = open_contexts(trt, folder, row, info, target, gpu, count=1)[0]
    session.run(batch)["boxes"]                              # host in, host out
    session.run_device(tensor, stream)["boxes"]              # GPU in, GPU out, nothing copied, nothing waited for
    session.run_image(picture, stream)["keep"]               # letterbox and suppression on the GPU too

Unchecked on hardware: written against the API of TensorRT-RTX 1.7 and the public headers of TensorRT 8.6 to 11, and
tested with stand-ins for the SDK and for CUDA.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import EdgekitError, GateError, InputError, UsageError
from edgekit.spec import Json, ModelInfo, Session
from edgekit.targets._cuda import Cuda, DeviceArray, Gpu, view
from edgekit.targets._cuda_kernels import Kernels
from edgekit.targets._tensorrt_builder import Lines, new_log
from edgekit.targets._tensorrt_common import MODEL
from edgekit.targets._tensorrt_engines import choose, gpu_for, rebuild_command
from edgekit.targets._tensorrt_layers import Layer, from_inspector

if TYPE_CHECKING:
    import tensorrt
    from cuda.bindings import runtime as cudart

_PRECISIONS = {"Float": "f32", "Half": "f16", "BFloat16": "bf16", "Int8": "i8", "FP32": "f32", "FP16": "f16"}


@dataclass(frozen=True)
class Engine:
    """An engine that sessions share: the SDK's module, its objects, its file, and the context and GPU it lives in."""

    trt: ModuleType
    runtime: tensorrt.Runtime
    engine: tensorrt.ICudaEngine
    log: tensorrt.ILogger
    path: Path
    cuda: Cuda
    gpu: Gpu


def open_contexts(
    trt: ModuleType, folder: Path, row: Json, info: ModelInfo, target: str, gpu: Gpu, count: int
) -> list[Session]:
    """``count`` sessions that share one engine's weights.

    Args:
        row: the engine's record, already chosen for this machine (``_tensorrt_engines.choose``).

    Raises:
        MissingPackageError: cuda-bindings is not installed.
        GateError: the SDK refuses the file.
        InputError: CUDA fails, for want of memory, say.
    """
    cuda = Cuda(gpu)
    log = new_log(trt)
    path = folder / row["file"]
    with cuda.current():
        runtime = trt.Runtime(log)
        if row.get("options", {}).get("version_compatible"):
            runtime.engine_host_code_allowed = True  # such engines bring the lean runtime along
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            said = (log.lines.errors or ["it gives no reason"])[-1]
            raise GateError(f"{path}: cannot be loaded ({said}); rebuild with: {rebuild_command(folder, target, row)}")
        if row.get("options", {}).get("strip_weights"):
            _refit(trt, engine, log, folder / MODEL)
        shared = Engine(trt, runtime, engine, log, path, cuda, gpu)
        sessions: list[Session] = []
        try:
            for _ in range(count):
                sessions.append(TensorRTSession(shared, info, target))
        except EdgekitError:
            for session in sessions:
                session.close()
            raise
        return sessions


def open_engine(
    sdk: Callable[[str], ModuleType],
    package: str,
    target: str,
    folder: Path,
    info: ModelInfo,
    device: str | None,
    count: int,
) -> list[Session]:
    """``count`` sessions, each with a context and a stream of its own, of the engine in ``folder`` that is for
    ``device`` (``cuda:0`` by default). ``sdk(target)`` is the vendor's module, ``package`` what engines record as its
    name.

    Raises:
        GateError, InputError: no engine here is for that GPU or this version; what ``open_contexts`` raises.
    """
    gpu = gpu_for(folder, device)
    trt = sdk(target)
    row = choose(folder, target, gpu, package, trt.__version__)
    return open_contexts(trt, folder, row, info, target, gpu, count)


def _refit(trt: ModuleType, engine: tensorrt.ICudaEngine, log: tensorrt.ILogger, graph: Path) -> None:
    """Put the graph's weights into an engine that was built without them."""
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
        raise GateError(f"{graph}: its weights do not fit the engine beside it; copy the whole bundle again")


class TensorRTSession(Session):
    """One execution context with buffers and a stream of its own; used by one thread at a time.

    Attributes:
        replay: whether runs are recorded and replayed as CUDA graphs; off before the first run only to compare.
    """

    gpu = True
    replay = True

    def __init__(self, shared: Engine, info: ModelInfo, target: str) -> None:
        self.info, self.target, self.path, self._gpu = info, target, shared.path, shared.gpu
        self._trt, self._log, self._cuda = shared.trt, shared.log, shared.cuda
        self._runtime, self._engine = shared.runtime, shared.engine
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise InputError(f"{self.path}: no memory on the GPU for it ({'; '.join(self._log.lines.errors[-1:])})")
        self._context.nvtx_verbosity = (
            self._trt.ProfilingVerbosity.NONE
        )  # marking every layer for a profiler costs time
        self._graphs: dict[tuple[int, ...], cudart.cudaGraphExec_t | None] = {}
        # A caller's stream, the end of what was last queued on it, and the array that is read there.
        self._last: tuple[int, cudart.cudaEvent_t, DeviceArray] | None = None
        self._input = info.inputs[0].name
        engine = self._engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        absent = [port.name for port in (*info.inputs, *info.outputs) if port.name not in names]
        if absent:
            raise GateError(
                f"{self.path}: the engine has no tensor {absent[0]!r}, which the manifest lists; rebuild it"
            )
        self._types = {name: np.dtype(self._trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        self._device: dict[str, int] = {}
        self._pinned: dict[str, tuple[int, np.ndarray]] = {}
        self._stream = self._cuda.stream()
        try:
            self._allocate(self._largest())
        except EdgekitError:  # no memory for it: what there was is given back
            self.close()
            raise

    def _largest(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape at the greatest batch."""
        if self.info.batch is None:
            self._set_shape(tuple(self._engine.get_tensor_profile_shape(self._input, 0)[2]))
        return {name: tuple(self._context.get_tensor_shape(name)) for name in self._types}

    def _allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name, shape in shapes.items():
            size = math.prod(shape) * self._types[name].itemsize
            self._device[name] = self._cuda.device_memory(size)
            self._pinned[name] = self._cuda.host_memory(size)
            self._context.set_tensor_address(name, self._device[name])

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(self._input, shape):
            raise UsageError(f"{self.path}: it was not built for inputs of shape {list(shape)}; see `option` batches")

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` float32 in 0..1 -> one array per role, valid until the next call.

        The first call for a batch runs once to warm up and once to be recorded; later ones replay the recording: the
        copy in, the network, and the copies out.
        """
        shape = tuple(batch.shape)
        with self._cuda.current():
            self._follow(self._stream)
            if shape not in self._graphs:
                self._use(shape)
            self._context.set_tensor_address(self._input, self._device[self._input])  # run_device() gave it another
            np.copyto(self._on_host(self._input, shape), batch)
            if shape not in self._graphs:
                self._graphs[shape] = self._record() if self.replay else None
            graph = self._graphs[shape]
            if graph is None:
                self._queue()
            else:
                self._cuda.launch(graph, self._stream)
            self._cuda.synchronize(self._stream)
            return {port.role: self._answer(port.name, port.dtype) for port in self.info.outputs}

    def _use(self, shape: tuple[int, ...]) -> None:
        """Prepare for inputs of this shape, or refuse it."""
        if self.info.batch is None:
            self._release_graphs()  # recorded for another shape
            self._set_shape(shape)
        elif shape != tuple(self.info.inputs[0].shape):
            raise UsageError(f"{self.path}: takes {list(self.info.inputs[0].shape)}, got {list(shape)}")

    def _record(self) -> cudart.cudaGraphExec_t | None:
        self._queue()  # kernels are loaded (RTX: compiled) on first use, which cannot be recorded
        self._cuda.synchronize(self._stream)
        return self._cuda.capture(self._stream, self._queue)

    def _queue(self) -> None:
        """The copy in, the network and the copies out, on the stream."""
        device, host = self._device[self._input], self._pinned[self._input][0]
        self._cuda.copy(device, host, self._size(self._input), self._stream)
        self._enqueue(self._stream)
        for port in self.info.outputs:
            host, size = self._pinned[port.name][0], self._size(port.name)
            self._cuda.copy(host, self._device[port.name], size, self._stream)

    def _enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise InputError(f"{self.path}: the run failed ({'; '.join(self._log.lines.errors[-1:])})")

    def _size(self, name: str) -> int:
        size: int = math.prod(self._context.get_tensor_shape(name)) * self._types[name].itemsize
        return size

    def _on_host(self, name: str, shape: Sequence[int]) -> np.ndarray:
        raw: np.ndarray = self._pinned[name][1]
        dtype = self._types[name]
        array: np.ndarray = raw[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return array

    def _answer(self, name: str, dtype: str) -> np.ndarray:
        """An output as the manifest describes it: TensorRT 8.6 has no int64 and gives labels as int32."""
        return self._on_host(name, tuple(self._context.get_tensor_shape(name))).astype(dtype, copy=False)

    def run_device(self, images: object, stream: object = None) -> dict[str, DeviceArray]:
        """Answer an input that is on the GPU already, without copying it and without waiting.

        Args:
            images: ``[B, 3, H, W]`` of the engine's type, C-contiguous: an array of PyTorch, CuPy or PyCUDA, or
                anything with ``__cuda_array_interface__`` or ``__dlpack__``.
            stream: the caller's CUDA stream (a number, or an object of PyTorch's, CuPy's or PyCUDA's); what reads the
                answers must be queued on it, or wait for it. The session's own by default, which is synchronized then.

        Returns:
            Role -> array in the GPU's memory, valid until the next call.

        Raises:
            UsageError: another shape, type or place than the engine takes.
        """
        handle = _handle(stream)
        queue = self._stream if handle is None else handle
        with self._cuda.current():
            array = view(images, queue)
            wanted = self._types[self._input]
            if array.dtype != wanted:
                raise UsageError(f"{self.path}: takes {wanted} images, got {array.dtype}; convert them")
            self._follow(queue)
            self._use(array.shape)
            if array.stream is not None and array.stream != queue:
                self._cuda.wait_for(array.stream, queue)
            self._context.set_tensor_address(self._input, array.pointer)
            self._enqueue(queue)
            self._leave(handle, array)
            return {port.role: self._on_device(port.name, handle) for port in self.info.outputs}

    def _follow(self, queue: int) -> None:
        """Come after what was last queued on another stream: a context does one thing at a time."""
        if self._last is not None:
            if self._last[0] != queue:
                self._cuda.wait(self._last[1], queue)
            self._cuda.drop(self._last[1])
            self._last = None

    def _leave(self, handle: int | None, array: DeviceArray) -> None:
        """Wait for the own stream; remember where a caller's stands, and keep what it reads."""
        if handle is None:
            self._cuda.synchronize(self._stream)
        else:
            self._last = (handle, self._cuda.mark(handle), array)

    def run_image(
        self, image: object, stream: object = None, conf: float = 0.25, iou: float = 0.7, agnostic: bool = False
    ) -> dict[str, DeviceArray]:
        """Letterbox, network and suppression of duplicates for one image, all on the GPU.

        Args:
            image: uint8 BGR ``[h, w, 3]`` in the GPU's memory, as for ``run_device``.
            stream: as for ``run_device``.
            conf, iou, agnostic: of the suppression, as ``edgekit.runtime.postprocess.Options`` has them.

        Returns:
            Role -> array, boxes on the canvas (``_cuda_kernels.placement`` says where the image lies on it); and of a
            topk head with boxes ``keep``: uint8 ``[1, K]``, 1 for the candidates that stay.

        Raises:
            UsageError: a model without letterbox or of another batch than 1, or no such image.
        """
        if self.info.preprocess.mode != "letterbox" or self.info.batch != 1:
            raise UsageError(
                f"{self.path}: run_image() is for letterboxed models of batch 1; use run() or run_device()"
            )
        handle = _handle(stream)
        queue = self._stream if handle is None else handle
        with self._cuda.current():
            picture = view(image, queue)
            if picture.dtype != np.uint8 or len(picture.shape) != 3 or picture.shape[2] != 3:
                raise UsageError(f"an image is uint8 [h, w, 3], got {picture.dtype} {list(picture.shape)}")
            self._follow(queue)
            if picture.stream is not None and picture.stream != queue:
                self._cuda.wait_for(picture.stream, queue)
            planes = self._device[self._input]
            self._kernels.letterbox(picture, planes, self.info.imgsz, self.info.preprocess, queue)
            self._context.set_tensor_address(self._input, planes)
            self._enqueue(queue)
            found = {port.role: self._on_device(port.name, handle) for port in self.info.outputs}
            if {"boxes", "scores", "labels"} <= found.keys():
                found["keep"] = self._suppress(found, (conf, iou, agnostic), queue, handle)
            self._leave(handle, picture)
            return found

    @functools.cached_property
    def _kernels(self) -> Kernels:
        return Kernels(self._gpu.sm)

    def _suppress(
        self, found: dict[str, DeviceArray], options: tuple[float, float, bool], queue: int, handle: int | None
    ) -> DeviceArray:
        count = found["labels"].shape[1]
        if "keep" not in self._device:
            self._device["keep"], self._pinned["keep"] = self._cuda.device_memory(count), self._cuda.host_memory(count)
        boxes, scores, labels = (found[role] for role in ("boxes", "scores", "labels"))
        self._kernels.suppress(boxes, scores, labels, self._device["keep"], options, queue)
        return DeviceArray(self._device["keep"], (1, count), np.dtype("uint8"), handle, self)

    def _on_device(self, name: str, stream: int | None) -> DeviceArray:
        shape = tuple(self._context.get_tensor_shape(name))
        return DeviceArray(self._device[name], shape, self._types[name], stream, self)

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Nothing: an engine keeps no values but its outputs."""
        return {}

    def layers(self) -> list[Layer]:
        """The engine's kernels, with the graph's nodes in each if it was built with details."""
        inspector = self._engine.create_engine_inspector()
        return from_inspector(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def devices(self) -> tuple[str, ...]:
        """The GPU."""
        return (f"cuda:{self._gpu.index}",)

    def drivers(self) -> dict[str, str]:
        """The GPU's name and architecture, and versions of its driver."""
        told = Path("/proc/driver/nvidia/version")
        said = {"gpu": self._gpu.name, "sm": str(self._gpu.sm), "cuda": str(self._gpu.cuda)}
        return said | ({"driver": told.read_text(encoding="utf-8").partition("\n")[0]} if told.is_file() else {})

    def precision_by_type(self) -> dict[str, int]:
        """Kernels by the type of what they put out, as the engine's inspector says; ``none`` where it says nothing."""
        counts: dict[str, int] = {}
        for layer in self.layers():
            kind = _PRECISIONS.get(layer.precision, "none")
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def _release_graphs(self) -> None:
        graphs, self._graphs = [g for g in self._graphs.values() if g is not None], {}
        self._cuda.destroy(graphs)

    def close(self) -> None:
        """Release memory, graphs and stream; the engine goes with the last session of it."""
        if self._context is None:
            return
        with self._cuda.current():
            self._follow(self._stream)
            self._cuda.synchronize(self._stream)
            self._release_graphs()
            for device in self._device.values():
                self._cuda.free(device=device)
            for host, _ in self._pinned.values():
                self._cuda.free(host=host)
            self._device, self._pinned = {}, {}
            self._cuda.destroy_stream(self._stream)
            self._context = self._engine = self._runtime = None
            self._log.lines = Lines()


def _handle(stream: object) -> int | None:
    """A stream's number: PyTorch calls it ``cuda_stream``, CuPy ``ptr``, PyCUDA ``handle``."""
    if stream is None or isinstance(stream, int):
        return stream
    for name in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise UsageError(f"a {type(stream).__name__} is no CUDA stream: give its number, or one of PyTorch, CuPy or PyCUDA")
