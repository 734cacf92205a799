"""CUDA itself: a context, a stream, pinned memory, a recorded graph, our two kernels, arrays of PyTorch."""

from __future__ import annotations

import numpy as np

from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job
from edgekit.runtime import boxes, image
from edgekit.spec import Preprocess
from edgekit.targets._cuda import Cuda, DeviceArray, find_gpu, view
from edgekit.targets._cuda_kernels import Kernels
from edgekit.verify import parity

SIZE = (320, 384)
SHAPES = ((480, 640), (300, 200), (37, 91), (320, 384), (2, 500))
COUNT = 1100  # candidates: more than a block has threads
CONF, IOU = 0.1, 0.3


def run(job: Job) -> None:
    """Each of them, beside what the host computes."""
    gpu = find_gpu()
    cuda = Cuda(gpu)
    with cuda.current():
        stream = cuda.stream()
        job.holds("context and stream", True, f"made on {gpu.name}, SM {gpu.sm}, CUDA {gpu.cuda}")
        with job.part("pinned memory"):
            _memory(job, cuda, stream)
        with job.part("CUDA graph"):
            _graph(job, cuda, stream)
        with job.part("kernels"):
            kernels = Kernels(gpu.sm)
            job.holds("kernels", True, f"NVRTC compiles both for SM {gpu.sm}")
            with job.part("letterbox"):
                _letterbox(job, cuda, kernels, stream)
            with job.part("suppression"):
                _suppression(job, cuda, kernels, stream)
        with job.part("zero-copy from PyTorch"):
            _zero_copy(job, stream)


class Buffers:
    """Arrays on the GPU for a while, each with pinned memory of its size."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self._cuda, self._stream = cuda, stream
        self._held: list[tuple[int, int]] = []

    def up(self, array: np.ndarray) -> DeviceArray:
        """A copy of ``array`` in the GPU's memory."""
        device, host = self._cuda.device_memory(array.nbytes), self._cuda.host_memory(array.nbytes)
        self._held.append((device, host[0]))
        host[1][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        self._cuda.copy(device, host[0], array.nbytes, self._stream)
        self._cuda.synchronize(self._stream)
        return DeviceArray(device, array.shape, array.dtype)

    def down(self, array: DeviceArray) -> np.ndarray:
        """What is there now, once what is queued is done."""
        size = int(np.prod(array.shape)) * array.dtype.itemsize
        address, raw = self._cuda.host_memory(size)
        self._held.append((0, address))
        self._cuda.copy(address, array.pointer, size, self._stream)
        self._cuda.synchronize(self._stream)
        return raw[:size].view(array.dtype).reshape(array.shape).copy()

    def close(self) -> None:
        for device, host in self._held:
            self._cuda.free(device, host)
        self._held = []


def _memory(job: Job, cuda: Cuda, stream: int) -> None:
    buffers = Buffers(cuda, stream)
    sent = np.random.default_rng(0).integers(0, 255, 1 << 20, dtype=np.uint8)
    same = bool(np.array_equal(buffers.down(buffers.up(sent)), sent))
    buffers.close()
    job.holds("pinned memory", same, "a megabyte came back " + ("as it went" if same else "changed"))


def _graph(job: Job, cuda: Cuda, stream: int) -> None:
    """A recorded copy that carries what is in the pinned memory at each launch."""
    device, (to, sent), (back, found) = cuda.device_memory(4), cuda.host_memory(4), cuda.host_memory(4)

    def copies() -> None:
        cuda.copy(device, to, 4, stream)
        cuda.copy(back, device, 4, stream)

    recorded = cuda.capture(stream, copies)
    if recorded is None:
        job.holds("CUDA graph", False, "two copies could not be recorded")
        return
    right = []
    for value in (7, 9):
        sent[:4] = value
        cuda.launch(recorded, stream)
        cuda.synchronize(stream)
        right.append(bool((found[:4] == value).all()))
    cuda.destroy([recorded])
    for each in ((device, 0), (0, to), (0, back)):
        cuda.free(*each)
    job.holds("CUDA graph", all(right), f"{sum(right)} of 2 replays carried the new values")


def _letterbox(job: Job, cuda: Cuda, kernels: Kernels, stream: int) -> None:
    worst = 0.0
    for height, width in SHAPES:
        picture = parity.generated_images(1, side=max(height, width))[0][:height, :width].copy()
        canvas, _ = image.letterbox(picture, SIZE)
        buffers = Buffers(cuda, stream)
        planes = buffers.up(np.zeros((3, *SIZE), np.float32))
        kernels.letterbox(buffers.up(picture), planes.pointer, SIZE, Preprocess(), stream)
        gap = np.abs(buffers.down(planes) - image.to_input([canvas])[0]) * 255
        worst = max(worst, float(gap.max()))
        buffers.close()
    says = f"{len(SHAPES)} pictures differ from the host's by {worst:.3g} grey levels at most; 1 is allowed"
    job.holds("letterbox", worst <= 1.01, says, levels=worst)


def _suppression(job: Job, cuda: Cuda, kernels: Kernels, stream: int) -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 600, (COUNT, 2))
    found = np.concatenate([corners, corners + rng.uniform(10, 90, (COUNT, 2))], 1).astype(np.float32)
    scores = np.sort(rng.random(COUNT).astype(np.float32))[::-1].copy()
    for kind in (np.int64, np.int32):
        for agnostic in (False, True):
            labels = rng.integers(0, 3, COUNT).astype(kind)
            buffers = Buffers(cuda, stream)
            keep = buffers.up(np.zeros(COUNT, np.uint8))
            first, second, third = (buffers.up(array[None]) for array in (found, scores, labels))
            kernels.suppress(first, second, third, keep.pointer, (CONF, IOU, agnostic), stream)
            kept = np.flatnonzero(buffers.down(keep)).tolist()
            buffers.close()
            above = scores > CONF
            wanted = boxes.nms(found[above], None if agnostic else labels[above], IOU, COUNT).tolist()
            says = f"keeps {len(kept)} of {COUNT}, the host {len(wanted)}"
            which = f"suppression, {np.dtype(kind).name}, {'over' if agnostic else 'within'} classes"
            job.holds(which, kept == wanted, says, differ=len({*kept} ^ {*wanted}))


def _zero_copy(job: Job, stream: int) -> None:
    """PyTorch's array read where it is, and ours by PyTorch."""
    device = trials.torch_device()
    import torch

    tensor = torch.arange(24, dtype=torch.float32, device=device).reshape(1, 4, 6)
    seen = view(tensor, stream)
    same = seen.pointer == tensor.data_ptr() and seen.shape == (1, 4, 6)
    job.holds("zero-copy from PyTorch", same, "the array is read where PyTorch keeps it" if same else "it was moved")
    back = torch.as_tensor(seen, device=device)
    same = back.data_ptr() == tensor.data_ptr() and bool((back == tensor).all())
    job.holds("zero-copy to PyTorch", same, "PyTorch reads ours where it is" if same else "PyTorch copied it")
    with job.part("zero-copy by DLPack"):

        class Bare:  # without the older protocol, which is looked for first
            __dlpack__, __dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__

        found = view(Bare(), stream)
        job.holds("zero-copy by DLPack", found.pointer == tensor.data_ptr(), "read through cuda-core")
