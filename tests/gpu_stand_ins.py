"""Stand-ins for a GPU: CUDA whose device memory is the host's, and a TensorRT whose engines compute something simple.

They keep the order of things honest: what is queued on a stream happens when the stream is synchronized, in order, a
recorded graph replays what was queued while it was recorded, and freed memory cannot be used.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class _Code(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


OK = _Code.cudaSuccess


class FakeRuntime:
    """``cuda.bindings.runtime`` as far as edgekit calls it. Every function returns (code, values…)."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.waits: list[tuple[int, int]] = []
        self.launches = self.events = 0
        self.unsupported = _Code.cudaErrorStreamCaptureUnsupported
        self.driver: Any = None
        self.most = 1 << 30
        self.capture_fails = False

    def _allocate(self, size: int) -> Any:
        if size > self.most:
            return (_Code.cudaErrorMemoryAllocation, 0)
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return (OK, ctypes.addressof(buffer))

    def cudaMalloc(self, size: int) -> Any:
        return self._allocate(size)

    def cudaMallocHost(self, size: int) -> Any:
        return self._allocate(size)

    def cudaFree(self, pointer: int) -> Any:
        if pointer:
            del self.memory[pointer]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaSetDevice(self, index: int) -> Any:
        self.driver.stack[-1] = self.driver.primary
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        handle = 1000 + len(self.queues)
        self.queues[handle] = []
        return (OK, handle)

    def cudaStreamDestroy(self, stream: int) -> Any:
        del self.queues[stream]
        return (OK,)

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        (self.recording if stream in self.recording else self.queues).setdefault(stream, []).append(work)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> Any:
        self.queue(stream, lambda: ctypes.memmove(to, source, size))
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        work, self.queues[stream] = self.queues.get(stream, []), []
        for step in work:
            step()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        self.recording[stream] = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        steps = self.recording.pop(stream)
        if self.capture_fails:
            return (_Code.cudaErrorStreamCaptureInvalidated, None)
        self.graphs[len(self.graphs) + 1] = steps
        return (OK, len(self.graphs))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> Any:
        return (OK, graph)

    def cudaGraphDestroy(self, graph: int) -> Any:
        return (OK,)

    def cudaGraphExecDestroy(self, graph: int) -> Any:
        self.graphs[graph] = []
        return (OK,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> Any:
        self.launches += 1
        for step in self.graphs[graph]:
            self.queue(stream, step)
        return (OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        self.events += 1
        return (OK, SimpleNamespace(stream=None))

    def cudaEventRecord(self, event: Any, stream: int) -> Any:
        event.stream = stream
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: Any, flags: int) -> Any:
        self.waits.append((stream, event.stream))
        self.queue(stream, lambda: self.cudaStreamSynchronize(event.stream))
        return (OK,)

    def cudaEventDestroy(self, event: Any) -> Any:
        self.events -= 1
        return (OK,)


class FakeDriver:
    """``cuda.bindings.driver``: a stack of contexts. ``primary`` becomes current when the runtime is first used."""

    def __init__(self, current: int = 0) -> None:
        self.stack, self.devices = [current], {current: 0}
        self.runtime: Any = None
        self.pushed: list[int] = []
        self.primary = 9  # context of GPU 0

    def cuInit(self, flags: int) -> Any:
        return (OK,)

    def cuCtxGetCurrent(self) -> Any:
        return (OK, self.stack[-1])

    def cuCtxGetDevice(self) -> Any:
        return (OK, self.devices[self.stack[-1]])

    def cuCtxSetCurrent(self, context: int) -> Any:
        self.stack[-1] = context
        return (OK,)

    def cuCtxPushCurrent(self, context: int) -> Any:
        self.pushed.append(context)
        self.stack.append(context)
        return (OK,)

    def cuCtxPopCurrent(self) -> Any:
        return (OK, self.stack.pop())


class FakeCore:
    """``cuda.core`` as far as edgekit calls it: ``launch`` queues the counterpart for the CPU (``kernels``, by name) of
    a kernel, with its arguments as C takes them and the number of threads."""

    LaunchConfig = SimpleNamespace
    Stream = SimpleNamespace(from_handle=lambda handle: handle)

    def __init__(self, runtime: FakeRuntime) -> None:
        self.runtime = runtime
        self.kernels: dict[str, Callable[..., Any]] = {}
        self.utils = SimpleNamespace(StridedMemoryView=FakeView)

    def ProgramOptions(self, arch: str, fma: bool) -> None:
        assert arch.startswith("sm_") and not fma

    def Program(self, source: str, kind: str, options: None) -> Any:
        assert kind == "c++"
        code = SimpleNamespace(get_kernel=lambda name: name)
        return SimpleNamespace(compile=lambda form: {"cubin": code}[form])

    def launch(self, stream: int, config: Any, name: str, *arguments: Any) -> None:
        kinds = {int: ctypes.c_void_p, np.int32: ctypes.c_int, np.float32: ctypes.c_float}
        converted = [kinds[type(value)](value if type(value) is int else value.item()) for value in arguments]
        threads = int(np.prod(config.block))
        self.runtime.queue(stream, lambda: self.kernels[name](*converted, threads))


class FakeView:
    """``cuda.core.utils.StridedMemoryView`` by NumPy, of arrays that are the host's whatever they say."""

    def __init__(self, array: np.ndarray) -> None:
        self.ptr, self.shape, self.dtype = array.ctypes.data, array.shape, array.dtype
        self.strides = tuple(step // array.itemsize for step in array.strides)

    @classmethod
    def from_dlpack(cls, obj: Any, stream_ptr: int) -> FakeView:
        capsule = obj.__dlpack__(stream=stream_ptr)
        return cls(np.from_dlpack(SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))))


class Names:
    """An enumeration with whatever members are asked for, in the order given."""

    def __init__(self, *names: str) -> None:
        self.__members__ = {name: place for place, name in enumerate(names)}
        for name, place in self.__members__.items():
            setattr(self, name, place)


class FakeContext:
    """Puts out, for every output, the sum of its input in every element: wrong order of things shows in the numbers."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.addresses, self.shape = engine, {}, engine.shapes[engine.names[0]]
        self.nvtx_verbosity = None

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = all(
            low <= side <= high for low, side, high in zip(self.engine.least, shape, self.engine.most, strict=True)
        )
        if fits:
            self.shape = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape if name == self.engine.names[0] else (self.shape[0], *self.engine.shapes[name][1:])

    def execute_async_v3(self, stream: int) -> bool:
        addresses, shapes = dict(self.addresses), {name: self.get_tensor_shape(name) for name in self.engine.names}

        def array(name: str) -> np.ndarray:
            dtype = np.dtype(self.engine.types[name])
            size = int(np.prod(shapes[name])) * dtype.itemsize
            raw = (ctypes.c_uint8 * size).from_address(addresses[name])
            return np.frombuffer(raw, dtype).reshape(shapes[name])

        def compute() -> None:
            total = array(self.engine.names[0]).sum()
            for name in self.engine.names[1:]:
                array(name)[:] = total

        self.engine.runtime.queue(stream, compute)
        return True


class FakeEngine:
    """One input and some outputs, given as name -> (shape, dtype); the first is the input."""

    def __init__(
        self, runtime: FakeRuntime, tensors: dict[str, tuple[tuple[int, ...], str]], batches: Any = None
    ) -> None:
        self.runtime, self.names = runtime, list(tensors)
        self.shapes = {name: shape for name, (shape, _) in tensors.items()}
        self.types = {name: dtype for name, (_, dtype) in tensors.items()}
        side = self.shapes[self.names[0]]
        low, high = (batches or (side[0], side[0]))[0], (batches or (side[0], side[0]))[-1]
        self.least, self.most = (low, *side[1:]), (high, *side[1:])
        self.num_io_tensors = len(self.names)
        self.contexts = 0

    def get_tensor_name(self, place: int) -> str:
        return self.names[place]

    def get_tensor_dtype(self, name: str) -> str:
        return self.types[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.least, self.least, self.most

    def create_execution_context(self) -> FakeContext:
        self.contexts += 1
        return FakeContext(self)


def fake_sdk(version: str, engine: FakeEngine | None = None, refuses: str = "") -> Any:
    """A module like ``tensorrt``, whose runtime gives ``engine``, or refuses with these words."""

    class ILogger:
        def __init__(self) -> None:
            pass

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> FakeEngine | None:
            if refuses:
                self.log.log("Severity.ERROR", refuses)
                return None
            return engine

    return SimpleNamespace(
        __name__="tensorrt",
        __version__=version,
        ILogger=ILogger,
        Runtime=Runtime,
        nptype=np.dtype,
        ProfilingVerbosity=Names("LAYER_NAMES_ONLY", "DETAILED", "NONE"),
    )
