"""What comes before and after the network, on the GPU: letterbox, and suppression of duplicates among the best.

    kernels = Kernels(cuda, sm=86)                                   # compiled here and now, by NVIDIA's NVRTC
    kernels.letterbox(image, height, width, target, (640, 640), preprocess, stream)
    kernels.suppress(boxes, scores, labels, True, keep, 1000, conf=0.25, iou=0.7, agnostic=False, stream=stream)

Both do what ``edgekit.image.letterbox`` and ``edgekit.boxes.nms`` do on the host. The sources were compiled as C++ and
compared with those on the CPU, and compiled by NVRTC 13.5 for SM 75 to 120; as kernels they are unchecked on hardware.
"""

from __future__ import annotations

import ctypes
from typing import Any

from edgekit.errors import InputError, MissingPackageError
from edgekit.spec import Preprocess
from edgekit.targets._cuda import Cuda

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
    """(top, left, h, w) of a ``height`` x ``width`` image on a canvas of ``size``, as ``edgekit.image.letterbox``."""
    ratio = min(size[0] / height, size[1] / width)
    w, h = max(round(width * ratio), 1), max(round(height * ratio), 1)
    return max(round((size[0] - h) / 2 - 0.1), 0), max(round((size[1] - w) / 2 - 0.1), 0), h, w


class Kernels:
    """The two kernels, compiled for one architecture in the current context. Unchecked on hardware.

    Raises:
        MissingPackageError: cuda-python is not installed.
        InputError: NVRTC, which compiles them, is missing or refuses.
    """

    def __init__(self, cuda: Cuda, sm: int) -> None:
        try:
            from cuda.bindings import nvrtc
        except ImportError as error:
            raise MissingPackageError("cuda-python", "running on the GPU", "cuda") from error
        self._cuda = cuda
        module = cuda.load_module(_compile(nvrtc, sm))
        self._letterbox, self._suppress = (cuda.function(module, name) for name in (b"letterbox", b"suppress"))

    def letterbox(
        self,
        image: int,
        height: int,
        width: int,
        planes: int,
        size: tuple[int, int],
        preprocess: Preprocess,
        stream: int,
    ) -> None:
        """Queue: uint8 BGR ``[height, width, 3]`` at ``image`` -> float32 RGB ``[3, H, W]`` at ``planes``."""
        numbers = (height, width, planes, *size, *placement(height, width, size))
        kinds = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, *(ctypes.c_int,) * 6)
        grid = (-(-size[1] // BLOCK), -(-size[0] // BLOCK), 1)
        self._cuda.launch_kernel(
            self._letterbox,
            grid,
            (BLOCK, BLOCK, 1),
            ((image, *numbers, float(preprocess.fill), float(preprocess.scale)),
             (ctypes.c_void_p, *kinds, ctypes.c_float, ctypes.c_float)),
            stream,
        )  # fmt: skip

    def suppress(
        self,
        boxes: int,
        scores: int,
        labels: int,
        wide: bool,
        keep: int,
        count: int,
        conf: float,
        iou: float,
        agnostic: bool,
        stream: int,
    ) -> None:
        """Queue: boxes float32 ``[count, 4]``, scores float32, labels int64 (``wide``) or int32, best first ->
        uint8 ``[count]`` at ``keep``."""
        values = (boxes, scores, labels, 2 if wide else 1, keep, count, conf, iou, int(agnostic))
        pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
        kinds = (pointer, pointer, pointer, number, pointer, number, real, real, number)
        threads = min(-(-count // 32) * 32, MOST)
        self._cuda.launch_kernel(self._suppress, (1, 1, 1), (threads, 1, 1), (values, kinds), stream)


def _compile(nvrtc: Any, sm: int) -> bytes:
    """``SOURCE`` compiled for ``sm``: machine code, since drivers refuse the PTX of a newer NVRTC than they know."""

    def call(function: Any, *arguments: Any) -> Any:
        code, *values = function(*arguments)
        if int(code) != 0:
            raise InputError(f"CUDA: {function.__name__} failed with {code.name}")
        return values[0] if values else None

    try:
        program = call(nvrtc.nvrtcCreateProgram, SOURCE.encode(), b"edgekit.cu", 0, [], [])
    except RuntimeError as error:  # cuda-python finds the library when it is first called
        raise InputError(f"CUDA's compiler NVRTC is not installed ({error}); pip install nvidia-cuda-nvrtc") from error
    options = [f"--gpu-architecture=sm_{sm}".encode(), b"--fmad=false"]
    call(nvrtc.nvrtcCompileProgram, program, len(options), options)
    image = b" " * int(call(nvrtc.nvrtcGetCUBINSize, program))
    call(nvrtc.nvrtcGetCUBIN, program, image)
    return image
