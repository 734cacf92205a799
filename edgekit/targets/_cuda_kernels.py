"""What comes before and after the network, on the GPU: letterbox, and suppression of duplicates among the best.

    kernels = Kernels(sm=86)                                         # compiled here and now, by NVIDIA's NVRTC
    kernels.letterbox(image, planes, (640, 640), preprocess, stream)
    kernels.suppress(boxes, scores, labels, keep, (0.25, 0.7, False), stream)

Both do what ``runtime.image.letterbox`` and ``runtime.boxes.nms`` do on the host. The sources were compiled as C++ and
compared with those on the CPU, and compiled by NVRTC 13.5 for SM 75 to 120; as kernels they are unchecked on hardware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError, optional
from edgekit.spec import Preprocess
from edgekit.targets._cuda import DeviceArray

if TYPE_CHECKING:
    from cuda.core import Kernel

MOST = 1024  # threads of a block
BLOCK = 16

SOURCE = r"""
/* uint8 BGR [height, width, 3] -> float32 RGB planes [3, H, W]: bilinear into w x h at (left, top), grey around it.
   Values are rounded to whole grey levels, as the host's are. */
extern "C" __global__ void letterbox(const unsigned char* image, int height, int width, float* planes, int H, int W,
                                     int top, int left, int h, int w, float fill, float scale)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= W || y >= H) return;
    int inside = x >= left && x < left + w && y >= top && y < top + h;
    float u = fminf(fmaxf((x - left + 0.5f) * width / w - 0.5f, 0.0f), width - 1.0f);
    float v = fminf(fmaxf((y - top + 0.5f) * height / h - 0.5f, 0.0f), height - 1.0f);
    int x0 = (int)u, y0 = (int)v;
    int x1 = x0 + 1 < width ? x0 + 1 : x0, y1 = y0 + 1 < height ? y0 + 1 : y0;
    float a = u - x0, b = v - y0;
    for (int c = 0; c < 3; ++c) {
        float value = fill;
        if (inside) {
            float upper = image[(y0 * width + x0) * 3 + c] * (1 - a) + image[(y0 * width + x1) * 3 + c] * a;
            float lower = image[(y1 * width + x0) * 3 + c] * (1 - a) + image[(y1 * width + x1) * 3 + c] * a;
            value = rintf(upper * (1 - b) + lower * b);
        }
        planes[((2 - c) * H + y) * W + x] = value * scale;
    }
}

/* Greedy suppression of one image's candidates, best first: keep[i] is 1 for those that stay. One block, whose threads
   share the candidates out.
   Labels are int32 (step 1) or int64 (step 2: the lower half of each, little-endian). */
extern "C" __global__ void suppress(const float* boxes, const float* scores, const int* labels, int step,
                                    unsigned char* keep, int count, float conf, float iou, int agnostic)
{
    for (int j = threadIdx.x; j < count; j += blockDim.x) keep[j] = scores[j] > conf;
    for (int i = 0; i < count - 1; ++i) {
        __syncthreads();
        if (!keep[i]) continue;
        for (int j = threadIdx.x; j < count; j += blockDim.x) {
            if (j <= i || !keep[j] || (!agnostic && labels[i * step] != labels[j * step])) continue;
            const float *p = boxes + 4 * i, *q = boxes + 4 * j;
            float wide = fminf(p[2], q[2]) - fmaxf(p[0], q[0]), tall = fminf(p[3], q[3]) - fmaxf(p[1], q[1]);
            float shared = fmaxf(wide, 0.0f) * fmaxf(tall, 0.0f);
            float both = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - shared;
            if (shared > iou * both) keep[j] = 0;
        }
    }
}
"""


def placement(height: int, width: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, h, w) of a ``height`` x ``width`` image on a canvas of ``size``, as ``runtime.image.letterbox``."""
    ratio = min(size[0] / height, size[1] / width)
    w, h = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return max(round((size[0] - h) / 2 - 0.1), 0), max(round((size[1] - w) / 2 - 0.1), 0), h, w


class Kernels:
    """The two kernels, compiled for one architecture in the current context. Unchecked on hardware.

    Raises:
        MissingPackageError: cuda-core is not installed.
        InputError: NVRTC, which compiles them, is missing or refuses.
    """

    def __init__(self, sm: int) -> None:
        with optional("running on the GPU", "cuda", package="cuda-core"):
            from cuda import core
        self._core = core
        # Machine code for the very GPU: drivers refuse the PTX of a newer NVRTC than they know.
        options = core.ProgramOptions(arch=f"sm_{sm}", fma=False)
        try:
            code = core.Program(SOURCE, "c++", options).compile("cubin")
            self._letterbox, self._suppress = (code.get_kernel(name) for name in ("letterbox", "suppress"))
        except Exception as error:  # of several modules, for a library that is not found as for a driver that refuses
            raise InputError(
                f"CUDA's compiler NVRTC is missing or refuses ({error}); pip install nvidia-cuda-nvrtc"
            ) from error

    def letterbox(
        self, image: DeviceArray, planes: int, size: tuple[int, int], preprocess: Preprocess, stream: int
    ) -> None:
        """Queue: ``image``, uint8 BGR ``[height, width, 3]`` -> float32 RGB ``[3, *size]`` at ``planes``."""
        height, width = image.shape[:2]
        numbers = [np.int32(value) for value in (*size, *placement(height, width, size))]
        levels = np.float32(preprocess.fill), np.float32(preprocess.scale)
        grid, block = (-(-size[1] // BLOCK), -(-size[0] // BLOCK), 1), (BLOCK, BLOCK, 1)
        before = image.pointer, np.int32(height), np.int32(width), planes
        self._launch(self._letterbox, grid, block, stream, *before, *numbers, *levels)

    def suppress(
        self,
        boxes: DeviceArray,
        scores: DeviceArray,
        labels: DeviceArray,
        keep: int,
        limits: tuple[float, float, bool],
        stream: int,
    ) -> None:
        """Queue: boxes float32 ``[1, count, 4]``, scores float32, labels int64 or int32, best first -> uint8
        ``[count]`` at ``keep``. ``limits`` are conf, iou and agnostic."""
        count, (conf, iou, agnostic) = labels.shape[1], limits
        step = np.int32(labels.dtype.itemsize // 4)
        numbers = np.int32(count), np.float32(conf), np.float32(iou), np.int32(agnostic)
        threads = min(-(-count // 32) * 32, MOST)
        pointers = boxes.pointer, scores.pointer, labels.pointer
        self._launch(self._suppress, (1, 1, 1), (threads, 1, 1), stream, *pointers, step, keep, *numbers)

    def _launch(
        self,
        kernel: Kernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: int,
        *arguments: int | np.int32 | np.float32,
    ) -> None:
        """Queue a kernel; a plain int among its ``arguments`` is an address."""
        core = self._core
        # 1 is the default stream, for which 0 stands, too, but may stand for another.
        core.launch(core.Stream.from_handle(stream or 1), core.LaunchConfig(grid=grid, block=block), kernel, *arguments)
