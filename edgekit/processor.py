"""What the processor here does to sums of eight-bit products: the one thing an INT8 file's weights must fit.

    adds_exactly()          # True with VNNI, False on x86 without, None where it cannot be told

Without VNNI, x86 kernels add pairs of products in sixteen bits, which saturate (``vpmaddubsw``: 255 · 127 · 2); with
seven bits in the weights they cannot.
"""

from __future__ import annotations

import re
from pathlib import Path

_EXACT = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}  # products added in 32 bits: x86, then ARM


def adds_exactly(cpuinfo: str | None = None) -> bool | None:
    """Whether sums of eight-bit products are exact here.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; this machine's by default.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return None
    found = re.search(r"^(flags|Features)\s*:(.*)", cpuinfo, re.MULTILINE)
    if found is None:
        return None
    return not _EXACT.isdisjoint(found[2].split())


def is_cpu(device: str | None) -> bool:
    """Whether a ``--device`` means the processor: none given, ``cpu``, ``CPU``, ``cpu:0``."""
    return (device or "cpu").lower() in ("cpu", "cpu:0")


def saturation(weight_bits: object, device: str | None = None, cpuinfo: str | None = None) -> str | None:
    """A sentence where weights of so many bits would make sums saturate on this processor.

    Args:
        weight_bits: as a bundle's manifest has them, None where it says nothing.
        device: what the model runs on; only the CPU is known here.
    """
    if weight_bits != 8 or not is_cpu(device) or adds_exactly(cpuinfo) is not False:
        return None
    return (
        "its weights take eight bits, and this processor (without VNNI) adds their products in sixteen, which "
        "saturate: accuracy is lower than the manifest says; build it with --weight-bits 7"
    )
