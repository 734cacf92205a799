"""The GPU as a session needs it: which one is there, its memory, its streams, its graphs, other people's arrays.

    gpu = find_gpu("cuda:0")                   # Gpu(index=0, name='Tesla T4', sm=75, cuda=12040); one sentence if none
    cuda = Cuda(gpu)                           # needs cuda-core and cuda-bindings
    stream = cuda.stream()
    view(torch_tensor, stream)                 # DeviceArray: pointer, shape and dtype, nothing copied

``find_gpu`` asks the driver itself (``libcuda``) and needs no package, so that a missing driver gets its sentence
before anything of a vendor's SDK is touched.

Arrays that offer DLPack are read by cuda-core, which also compiles and launches kernels (``_cuda_kernels``). Its
streams and memory are of a GPU's primary context, which it makes current in place of the thread's; a session works in
the context it finds, PyCUDA's, say, so those calls are made through cuda-bindings.

Unchecked on hardware: written against cuda-core 1.2 and cuda-bindings 13.5, and tested with stand-ins for both, on
machines without a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import InputError, UsageError, optional

if TYPE_CHECKING:
    from cuda.bindings import driver, runtime

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_ON_GPU = (2, 13)  # kDLCUDA and kDLCUDAManaged of dlpack.h
_LEGACY_STREAM = 1  # of both protocols


@dataclass(frozen=True)
class Gpu:
    """A GPU the driver shows: its ``index``, ``name``, architecture (``sm`` 86 is 8.6) and the newest ``cuda`` version
    its driver runs (12040 is 12.4). ``pci`` is its address, by which NVIDIA's management library knows it; "" where the
    driver does not say."""

    index: int
    name: str
    sm: int
    cuda: int
    pci: str = ""


def find_gpu(device: str | None = None) -> Gpu:
    """The GPU called ``device`` (``cuda:1``, ``gpu:1`` or ``1``; the first by default).

    Raises:
        UsageError: not a name of a GPU, or there are not so many.
        InputError: there is no NVIDIA driver or no GPU here.
    """
    index = _index(device)
    library = _driver()
    if library is None:
        raise InputError("there is no NVIDIA driver here (libcuda is not installed)")
    if library.cuInit(0) != 0:
        raise InputError("the NVIDIA driver finds no GPU here; `nvidia-smi` says more")
    count, version, handle = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    if index >= count.value:
        raise UsageError(f"`device` {device or index}: the driver shows {count.value} GPU(s), counted from 0")
    library.cuDriverGetVersion(ctypes.byref(version))
    library.cuDeviceGet(ctypes.byref(handle), index)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), handle)
    parts = [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, (_MAJOR, _MINOR), strict=True):
        library.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle)
    sm = 10 * parts[0].value + parts[1].value
    pci = ctypes.create_string_buffer(32)
    library.cuDeviceGetPCIBusId(pci, len(pci), handle)
    return Gpu(index, name.value.decode("utf-8", "replace"), sm, version.value, pci.value.decode("ascii", "replace"))


def _index(device: str | None) -> int:
    text = (device or "cuda:0").lower().removeprefix("cuda").removeprefix("gpu").removeprefix(":") or "0"
    if not text.isdigit():
        raise UsageError(f"`device` {device}: TensorRT runs on NVIDIA GPUs; give cuda:0, cuda:1, …")
    return int(text)


def _driver() -> ctypes.CDLL | None:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


class Cuda:
    """The calls of CUDA's runtime that a session makes, each checked.

    Everything happens in the context that is current in the calling thread when this is made (PyCUDA's own, say), or in
    the GPU's primary context where there is none, or one of another GPU. Unchecked on hardware.

    Raises:
        MissingPackageError: cuda-bindings is not installed.
        InputError: the GPU cannot be used.
    """

    def __init__(self, gpu: Gpu) -> None:
        with optional("running an engine", "cuda", package="cuda-bindings"):
            from cuda.bindings import driver, runtime
        self._driver, self._runtime = driver, runtime
        found = self._current()
        if int(found) and int(self._call(driver.cuCtxGetDevice)) == gpu.index:
            self._context = found
            return
        self._call(runtime.cudaSetDevice, gpu.index)
        self._call(runtime.cudaFree, 0)  # makes the primary context
        self._context = self._current()
        if int(found):  # of another GPU, and whoever made it goes on with it
            self._call(driver.cuCtxSetCurrent, found)

    def _current(self) -> driver.CUcontext:
        self._call(self._driver.cuInit, 0)
        return self._call(self._driver.cuCtxGetCurrent)

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
        """The value behind the error code that every function of cuda-bindings returns first."""
        code, *values = function(*arguments)
        if int(code) != 0:
            raise InputError(f"CUDA: {function.__name__} failed with {code.name}")
        return values[0] if values else None

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the session's context the thread's, where it is not: threads begin without one."""
        if int(self._current()) == int(self._context):
            yield
            return
        self._call(self._driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._driver.cuCtxPopCurrent)

    def stream(self) -> int:
        """A new stream that does not wait for the default one."""
        return int(self._call(self._runtime.cudaStreamCreateWithFlags, self._runtime.cudaStreamNonBlocking))

    def synchronize(self, stream: int) -> None:
        self._call(self._runtime.cudaStreamSynchronize, stream)

    def mark(self, stream: int) -> runtime.cudaEvent_t:
        """An event: the moment when what is queued on ``stream`` now is done, for ``wait`` and ``drop``."""
        event = self._call(self._runtime.cudaEventCreateWithFlags, self._runtime.cudaEventDisableTiming)
        self._call(self._runtime.cudaEventRecord, event, stream)
        return event

    def wait(self, event: runtime.cudaEvent_t, stream: int) -> None:
        """What ``stream`` does from here on comes after ``event``; the host does not wait."""
        self._call(self._runtime.cudaStreamWaitEvent, stream, event, 0)

    def drop(self, event: runtime.cudaEvent_t) -> None:
        self._call(self._runtime.cudaEventDestroy, event)

    def wait_for(self, producer: int, stream: int) -> None:
        """What ``stream`` does from here on comes after what is queued on ``producer`` now; the host does not wait."""
        event = self.mark(producer)
        self.wait(event, stream)
        self.drop(event)

    def device_memory(self, size: int) -> int:
        return int(self._call(self._runtime.cudaMalloc, max(size, 1)))

    def host_memory(self, size: int) -> tuple[int, np.ndarray]:
        """Pinned memory, which copies can be made from while the host goes on: its address and its bytes."""
        address = int(self._call(self._runtime.cudaMallocHost, max(size, 1)))
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * max(size, 1)).from_address(address))

    def free(self, device: int = 0, host: int = 0) -> None:
        if device:
            self._call(self._runtime.cudaFree, device)
        if host:
            self._call(self._runtime.cudaFreeHost, host)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        """Between pinned and the GPU's memory, either way; addresses tell which is which."""
        either = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call(self._runtime.cudaMemcpyAsync, to, source, size, either, stream)

    def capture(self, stream: int, work: Callable[[], None]) -> runtime.cudaGraphExec_t | None:
        """What ``work()`` queues on ``stream`` as a graph to ``launch``; None where it cannot be captured."""
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(runtime.cudaStreamBeginCapture, stream, mode)
        queued = True
        try:
            work()
        except InputError:  # something in it may not happen during a capture
            queued = False
        finally:
            code, graph = runtime.cudaStreamEndCapture(stream)
        if int(code) != 0 or not queued:
            return None
        ready = self._call(runtime.cudaGraphInstantiate, graph, 0)
        self._call(runtime.cudaGraphDestroy, graph)
        return ready

    def launch(self, graph: runtime.cudaGraphExec_t, stream: int) -> None:
        self._call(self._runtime.cudaGraphLaunch, graph, stream)

    def destroy(self, graphs: list[runtime.cudaGraphExec_t]) -> None:
        for graph in graphs:
            self._call(self._runtime.cudaGraphExecDestroy, graph)

    def destroy_stream(self, stream: int) -> None:
        self._call(self._runtime.cudaStreamDestroy, stream)


@dataclass(frozen=True)
class DeviceArray:
    """An array in a GPU's memory, C-contiguous. PyTorch, CuPy, Numba and PyCUDA read it through
    ``__cuda_array_interface__`` without a copy; ``owner`` keeps its memory alive.

    Attributes:
        pointer: address in the GPU's memory.
        shape, dtype: as NumPy's.
        stream: where what fills it is queued; None where it is complete.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: int | None = None
    owner: object = None

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3 of Numba's protocol, in which the default stream is 1: 0 could be either of two."""
        return {
            "version": 3,
            "data": (self.pointer, False),
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
            "stream": _LEGACY_STREAM if self.stream == 0 else self.stream,
        }


def view(array: object, stream: int | None = None) -> DeviceArray:
    """What an array of PyTorch, CuPy, PyCUDA, JAX, … points at, through ``__cuda_array_interface__`` or DLPack.

    Args:
        stream: the one it will be read on; DLPack's producer is told, so that it has what is queued done by then.

    Raises:
        MissingPackageError: cuda-core, which reads DLPack, is not installed.
        UsageError: it is neither, not on a GPU, or not contiguous.
    """
    try:
        found = getattr(array, "__cuda_array_interface__", None)
    except RuntimeError as error:  # PyTorch, of a tensor that a gradient is wanted of
        raise UsageError(f"the array cannot be read: {error}") from error
    if found is not None:
        seen = DeviceArray(
            int(found["data"][0]), tuple(found["shape"]), np.dtype(found["typestr"]), found.get("stream"), array
        )
        _contiguous(seen, found.get("strides"))
        return seen
    if hasattr(array, "__dlpack__"):
        return _from_dlpack(array, stream)
    raise UsageError(
        f"a {type(array).__name__} is no array in a GPU's memory: give one of PyTorch, CuPy or PyCUDA, or any with "
        "__cuda_array_interface__ or __dlpack__; images on the host go through run() and predict()"
    )


def _from_dlpack(array: Any, stream: int | None) -> DeviceArray:
    with optional("reading an array through DLPack", "cuda", package="cuda-core"):
        from cuda.core.utils import StridedMemoryView
    if int(array.__dlpack_device__()[0]) not in _ON_GPU:  # whose producers refuse a stream
        raise UsageError("the array given is in the host's memory; images on the host go through run() and predict()")
    found = StridedMemoryView.from_dlpack(array, stream or _LEGACY_STREAM)  # 0 could mean two streams there
    seen = DeviceArray(found.ptr, tuple(found.shape), found.dtype, None, (found, array))
    _contiguous(seen, [stride * seen.dtype.itemsize for stride in found.strides or ()])
    return seen


def _contiguous(array: DeviceArray, strides: Sequence[int] | None) -> None:
    expected = array.dtype.itemsize
    for size, stride in zip(reversed(array.shape), reversed(strides or ()), strict=False):
        if size > 1 and stride != expected:
            raise UsageError(f"the array of shape {list(array.shape)} is not contiguous; copy it into one that is")
        expected *= size
