"""Whether eight-bit products are added exactly, from what processors say of themselves."""

from __future__ import annotations

import pytest

from edgekit.processor import adds_exactly, saturation

HASWELL = "processor\t: 0\nmodel name\t: Intel Core i7-4770\nflags\t\t: fpu sse4_2 avx f16c fma avx2\n"
CASCADE_LAKE = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512vl avx512_vnni\n"
ALDER_LAKE = "flags\t\t: fpu avx2 avx_vnni\n"
SKYLAKE_SERVER = "flags\t\t: fpu avx2 avx512f avx512bw avx512vl\nvmx flags\t: vnmi\n"
PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
PI_5 = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n"


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (HASWELL, False),
        (CASCADE_LAKE, True),
        (ALDER_LAKE, True),
        (SKYLAKE_SERVER, False),
        (PI_4, False),
        (PI_5, True),
        ("", None),
    ],
)
def test_processors(text: str, exact: bool | None) -> None:
    assert adds_exactly(text) is exact


def test_only_eight_bits_on_a_cpu_without_vnni_are_worth_a_word() -> None:
    assert "--weight-bits 7" in str(saturation(8, cpuinfo=HASWELL))
    assert "--weight-bits 7" in str(saturation(8, "CPU", HASWELL))
    assert saturation(7, cpuinfo=HASWELL) is saturation(None, cpuinfo=HASWELL) is None
    assert saturation(8, "GPU", HASWELL) is saturation(8, cpuinfo=ALDER_LAKE) is saturation(8, cpuinfo="") is None
