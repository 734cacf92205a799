"""What rounding may change, from processor to processor and precision to precision: the facts, and the bounds.

| what differs | where | bound |
|---|---|---|
| order of float32 sums | every instruction set, kernel and number of threads | ``f32`` |
| half-precision weights, float32 executed | ``ov-fp16`` on x86 without AVX512-BF16 and AMX | ``w16`` |
| bf16 executed | ``ov-fp16``, and what ``ov-int8`` leaves in float, on x86 with AVX512-BF16 or AMX | ``bf16`` |
| heads taken for tokens in bf16, as many of both | OpenVINO | none: ``attention_operator.py`` writes those otherwise |
| f16 executed | ``trt-*`` | ``f16`` |
| f16 executed and added up in f16 | ``ncnn-fp16``, ``ov-fp16``, floating point in ``ov-int8``, on ARM | ``bf16`` |
| the first convolution, stored times ``PIXELS`` | ``ov-*`` that take pixels | none: the reference is rounded so too |
| order of candidates with nearly equal scores | everywhere | none: they are paired by label and place |
| FP16 executed instead of INT8 | ``ov-int8`` on ARM | that of INT8 |
| sums of products in INT8 | x86 without VNNI: 8 bits saturate, 7 are exact | none: ``runtime/processor.py`` warns |
| ``cv2.resize(INTER_LINEAR)`` | aarch64, in a third of the values | none: ``runtime/resize.py`` does as x86 |

| bound | ``FACTORS`` times |
|---|---|
| ``f32`` | what float32 loses against float64 |
| ``w16`` | what rounding the weights to half changes; executed in float32 they are also held to ``f32`` of just that |
| ``f16``, ``bf16`` | what rounding the weights and every operator's output changes |

or ``FLOORS``, in *this* network on these images (``verify/rounded.py`` makes the networks).

Sums of hundreds of products in half precision lose what rounding every operator's output to half does not show, about
as much as rounding it to bf16, which is eight times as coarse; the transforms of Winograd's convolutions in half
precision, which ncnn has, lose more than the sums.

A precision is checked by distribution: root mean square and 99th percentile stay within ``FACTORS`` times what rounding
itself makes of them, and the largest difference, which is one cell of thousands, within twice that. What an application
sees is matched object by object. Measured on five trained networks at 320 and 640 px, root mean squares: float32 of
ONNX Runtime and OpenVINO is 0.7 to 5.9 times as far from PyTorch's float32 as that is from float64, and half-precision
weights executed in float32 0.7 to 7.2 times (classifiers most, all of it below ``FLOORS``); executed bf16 is 0.15 to
1.4 times as far as rounding predicts.
"""

from __future__ import annotations

from typing import NamedTuple


class Precision(NamedTuple):
    """What weights and every operator's output are rounded to: ``f16``, ``bf16``, or None where they are not."""

    weights: str | None
    values: str | None


PRECISIONS = {
    "f32": Precision(None, None),
    "w16": Precision("f16", None),
    "f16": Precision("f16", "f16"),
    "bf16": Precision("bf16", "bf16"),
}
FACTORS = {"f32": 30.0, "w16": 4.0, "f16": 4.0, "bf16": 4.0}
# Differences that are none to anyone, as root mean squares: pixels; scores and probabilities; mask values.
FLOORS = {"geometry": 1e-3, "scores": 1e-5, "masks": 1e-4}
TIMES = {"rms": 1.0, "p99": 3.0, "max": 10.0}  # of a floor
PEAK = 2.0  # of a factor, for the largest difference
# A bundle's self-test (``selftest.py``) has a few dozen values where parity has thousands, so what rounding does to
# them is known less well: factors are twice those of parity. Of INT8 what quantization itself changed is the measure:
# bf16 or float32 for what is not quantized differs by about as much (0.7 to 1 times in root mean square, a trained
# detector at 320 px on photographs), sums that saturate by ten times as much.
SELF_TEST = {"f32": 30.0, "w16": 8.0, "f16": 8.0, "bf16": 8.0, "int8": 3.0}
ANGLES = 1e-4  # a floor, radians
# Numbers of a role that tell what float32 loses: from one picture to the next that is much the same, where what half
# precision does depends on how sure the network is of what it sees.
ENOUGH = 1000
FEW = 10  # so many values tell half as much of a distribution: two classes of three images, one box
