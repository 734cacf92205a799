"""What the processor here does otherwise than others, as far as answers depend on it.

    adds_exactly()          # True with VNNI, False on x86 without, None where it cannot be told
    remark("ov-int8", 8)    # a warning where this processor computes the bundle otherwise than it was judged

What differs between processors, and how far at most, is the table in ``edgekit/verify/rounding.py``. Without VNNI, x86
kernels add pairs of products in sixteen bits, which saturate (``vpmaddubsw``: 255 · 127 · 2; ONNX Runtime with AVX2,
and OpenVINO); with seven bits in the weights they cannot. Facts are asked of the processor itself, since an emulator
shows its host's ``/proc/cpuinfo``; that file is read for AVX-VNNI alone, where it agrees with the processor. On ARM
sums are exact with and without dot products (a Cortex-A72 and an A76, emulated, ONNX Runtime); what a processor has
there Linux tells every process (``getauxval``).
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgekit.errors import UsageError

# Largest difference of float32 from double precision, any runtime, any instruction set: measured by
# tests/test_processors.py on every row of `make test-processors`.
ROUNDING = {"boxes": 1e-3, "scores": 1e-5, "class_probabilities": 1e-5}

_EXACT = {"avx512_vnni", "avx_vnni", "asimd"}  # products added in 32 bits: x86, then ARM
# Linux's name, edgekit's, and where the kernel tells it: AT_HWCAP or AT_HWCAP2, and the bit.
_ARM = (("asimddp", "dotprod", 16, 20), ("i8mm", "i8mm", 26, 13), ("asimdhp", "fp16", 16, 10), ("bf16", "bf16", 26, 14))
_ONEDNN, _WITHOUT_VNNI = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"), {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
_OPENCV = {"sse4_2": 7, "avx2": 11, "avx512f": 13, "avx512_vnni": 23}  # Linux's names, OpenCV's numbers of CPUID bits
# What libraries obey without a look at the processor: they end in an illegal instruction.
_ASKS_FOR = {
    ("ATEN_CPU_CAPABILITY", "avx2"): "avx2",
    ("ATEN_CPU_CAPABILITY", "avx512"): "avx512f",
    ("OPENBLAS_CORETYPE", "haswell"): "avx2",
    ("OPENBLAS_CORETYPE", "zen"): "avx2",
    ("OPENBLAS_CORETYPE", "skylakex"): "avx512f",
    ("OPENBLAS_CORETYPE", "cooperlake"): "avx512f",
    ("OPENBLAS_CORETYPE", "sapphirerapids"): "avx512f",
}


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def is_arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64", "armv7l", "armv8l")


def asked() -> dict[str, bool]:
    """What an x86 processor says of itself (CPUID), by Linux's names of some instruction sets; empty elsewhere."""
    if not is_x86():
        return {}
    import cv2

    return {name: bool(cv2.checkHardwareSupport(number)) for name, number in _OPENCV.items()}


def listed(cpuinfo: str | None = None) -> set[str] | None:
    """The instruction sets in the text of ``/proc/cpuinfo`` (this machine's by default); None where there are none."""
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return None
    found = re.search(r"^(flags|Features)\s*:(.*)", cpuinfo, re.MULTILINE)
    return set(found[2].split()) if found else None


def arm_features(cpuinfo: str | None = None) -> dict[str, bool]:
    """What an ARM processor has of ``dotprod`` and ``i8mm`` (products of eight bits), ``fp16`` and ``bf16``
    (arithmetic); empty elsewhere and where it cannot be told.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; by default this processor is asked.
    """
    if cpuinfo is not None or not sys.platform.startswith("linux"):
        flags = listed(cpuinfo)
        return {name: flag in flags for flag, name, _, _ in _ARM} if flags and "asimd" in flags else {}
    if not is_arm():
        return {}
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return {name: bool(ask(key) >> bit & 1) for _, name, key, bit in _ARM}


def adds_exactly(cpuinfo: str | None = None, cpuid: Mapping[str, bool] | None = None) -> bool | None:
    """Whether sums of eight-bit products are exact here.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; this machine's by default.
        cpuid: as ``asked`` gives it; this processor's by default, and where a ``cpuinfo`` is given what that says.
    """
    if cpuinfo is None and is_arm():
        return True
    flags = listed(cpuinfo)
    if cpuid is None:
        cpuid = asked() if cpuinfo is None else {}
    if cpuid.get("avx512_vnni"):
        return True
    if flags is None:
        return False if cpuid and not cpuid["avx2"] else None  # AVX-VNNI cannot be told without the list
    if any(has != (name in flags) for name, has in cpuid.items()):
        return False  # an emulator's: the list is its host's
    return not _EXACT.isdisjoint(flags)


def model_name() -> str:
    """What the processor calls itself, with the instruction sets that it says it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model|CPU part)\s*:\s*(.*)", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return " ".join([name, *(flag for flag, has in asked().items() if has)])


def is_cpu(device: str | None) -> bool:
    """Whether a ``--device`` means the processor: none given, ``cpu``, ``CPU``, ``cpu:0``."""
    return (device or "cpu").lower() in ("cpu", "cpu:0")


def saturation(
    weight_bits: object, device: str | None = None, cpuinfo: str | None = None, cpuid: Mapping[str, bool] | None = None
) -> str | None:
    """A sentence where weights of so many bits would make sums saturate on this processor.

    Args:
        weight_bits: as a bundle's manifest has them, None where it says nothing.
        device: what the model runs on; only the CPU is known here.
        cpuinfo, cpuid: as in ``adds_exactly``.
    """
    if weight_bits != 8 or not is_cpu(device) or adds_exactly(cpuinfo, cpuid) is not False:
        return None
    return (
        "its weights take eight bits, and this processor (without VNNI) adds their products in sixteen, which "
        "saturate: accuracy is lower than the manifest says; build it with `weight_bits` 7"
    )


def remark(target: str, weight_bits: object, device: str | None = None) -> str | None:
    """A sentence where a bundle of ``target`` is computed otherwise on this processor than its manifest says."""
    if target == "ov-int8" and is_arm() and is_cpu(device):
        return (
            "OpenVINO has no INT8 on ARM and computes it in FP16: it is no faster than ov-fp16 and its accuracy is "
            "another than the manifest's; build for ort-int8 or ov-fp16"
        )
    limit = onednn_limit()
    if limit and weight_bits == 8 and target.startswith("ov-") and is_cpu(device):
        return (
            f"its weights take eight bits, and {limit} leaves OpenVINO without VNNI: sums of their products saturate, "
            "and accuracy is lower than the manifest says; unset it, or build with `weight_bits` 7"
        )
    return saturation(weight_bits, device)


def onednn_limit(environment: Mapping[str, str] | None = None) -> str | None:
    """The variable and its value that keep oneDNN, with which OpenVINO computes, from VNNI; None where none does."""
    environment = os.environ if environment is None else environment
    set_to = {name: environment[name].upper() for name in _ONEDNN if environment.get(name)}
    return next((f"{name}={value}" for name, value in set_to.items() if value in _WITHOUT_VNNI), None)


def warnings() -> list[str]:
    """What ``edgekit doctor`` says of this processor, a sentence each."""
    said = []
    if is_arm():
        said.append(
            "ov-int8 runs in FP16 on this processor (OpenVINO has no INT8 on ARM); build for ort-int8 or ov-fp16"
        )
        if arm_features().get("fp16") is False:
            said.append("this processor has no FP16 arithmetic: ncnn-fp16 runs in float32 on it")
    elif adds_exactly() is False:
        said.append(
            "this processor has no VNNI: sums of INT8 with weights of eight bits saturate; built here they take "
            "seven, bundles built elsewhere need `weight_bits` 7"
        )
    return said


def check_environment(environment: Mapping[str, str] | None = None, cpuid: Mapping[str, bool] | None = None) -> None:
    """Refuse variables that make a library use instructions which this processor lacks.

    Raises:
        UsageError: it names the variable, the value and the instruction set.
    """
    environment = os.environ if environment is None else environment
    for (name, value), needed in _ASKS_FOR.items():
        if environment.get(name, "").lower() == value and not (asked() if cpuid is None else cpuid).get(needed, False):
            raise UsageError(f"{name}={environment[name]}: this processor has no {needed}; unset {name}")


def wait_asleep() -> None:
    """Have threads of OpenMP, as PyTorch's, sleep where they wait for each other; to be called before they are made.

    They would spin, and beside other programs the thread that is waited for then gets no turn. Whoever has set the
    variable is obeyed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def loaded_asleep() -> Iterator[None]:
    """``wait_asleep`` for what is loaded meanwhile alone: OpenMP reads the variable when it is loaded."""
    given = "OMP_WAIT_POLICY" in os.environ
    wait_asleep()
    try:
        yield
    finally:
        if not given:
            os.environ.pop("OMP_WAIT_POLICY", None)


def usable_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
