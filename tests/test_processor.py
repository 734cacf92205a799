"""Whether eight-bit products are added exactly, from what processors say of themselves."""

from __future__ import annotations

import os
import sys

import cv2
import pytest

from edgekit.errors import UsageError
from edgekit.runtime import processor
from edgekit.runtime.processor import adds_exactly, check_environment, loaded_asleep, saturation

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
        (PI_4, True),
        (PI_5, True),
        ("", None),
    ],
)
def test_processors(text: str, exact: bool | None) -> None:
    assert adds_exactly(text) is exact


def test_only_eight_bits_on_a_cpu_without_vnni_are_worth_a_word() -> None:
    assert "`weight_bits` 7" in str(saturation(8, cpuinfo=HASWELL))
    assert "`weight_bits` 7" in str(saturation(8, "CPU", HASWELL))
    assert saturation(7, cpuinfo=HASWELL) is saturation(None, cpuinfo=HASWELL) is None
    assert saturation(8, "GPU", HASWELL) is saturation(8, cpuinfo=ALDER_LAKE) is saturation(8, cpuinfo="") is None


def test_what_arm_processors_have() -> None:
    assert processor.arm_features(PI_4) == {"dotprod": False, "i8mm": False, "fp16": False, "bf16": False}
    assert processor.arm_features(PI_5) == {"dotprod": True, "i8mm": False, "fp16": True, "bf16": False}
    graviton = "Features\t: fp asimd fphp asimdhp asimddp sve i8mm bf16\n"
    assert all(processor.arm_features(graviton).values())
    assert processor.arm_features(HASWELL) == processor.arm_features("") == {}
    here = processor.arm_features()
    assert bool(here) == (processor.is_arm() and sys.platform == "linux")
    if os.environ.get("EDGEKIT_TEST_CPU") == "cortex-a76":  # set by tests/arm.py
        assert here == processor.arm_features(PI_5)


SKYLAKE_CPUID = {"sse4_2": True, "avx2": True, "avx512f": True, "avx512_vnni": False}
HASWELL_CPUID = SKYLAKE_CPUID | {"avx512f": False}


@pytest.mark.parametrize(
    ("text", "cpuid", "exact"),
    [
        (CASCADE_LAKE, HASWELL_CPUID, False),  # an emulator shows its host's list
        (ALDER_LAKE, SKYLAKE_CPUID | {"avx2": False, "avx512f": False, "sse4_2": False}, False),
        ("flags\t: sse4_2 avx2 avx_vnni\n", HASWELL_CPUID, True),  # AVX-VNNI is in the list alone
        (HASWELL, SKYLAKE_CPUID | {"avx512_vnni": True}, True),
        ("", HASWELL_CPUID, None),  # as on Windows: AVX-VNNI cannot be told
        ("", HASWELL_CPUID | {"avx2": False}, False),
    ],
)
def test_what_the_processor_says_of_itself_counts_for_more(text: str, cpuid: dict, exact: bool | None) -> None:
    assert adds_exactly(text, cpuid) is exact
    assert bool(saturation(8, None, text, cpuid)) == (exact is False)


def test_openvino_int8_on_arm_is_said_to_be_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "FP16" in str(processor.remark("ov-int8", 7)) and "FP16" in str(processor.remark("ov-int8", 8, "CPU"))
    assert processor.remark("ov-int8", 7, "GPU") is processor.remark("ort-int8", 7) is None
    monkeypatch.setattr(processor, "arm_features", lambda: {"fp16": True})
    (said,) = processor.warnings()
    assert "ov-int8" in said and "ort-int8" in said
    monkeypatch.setattr(processor, "arm_features", lambda: {"fp16": False})
    assert [sentence for sentence in processor.warnings() if "ncnn-fp16" in sentence]


def test_doctor_says_what_the_processor_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.bench import doctor

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "adds_exactly", lambda *_: False)
    assert [w for w in doctor.examine()["warnings"] if "`weight_bits` 7" in w]
    monkeypatch.setattr(processor, "adds_exactly", lambda *_: True)
    assert not [w for w in doctor.examine()["warnings"] if "`weight_bits` 7" in w]


@pytest.mark.parametrize(
    ("name", "value", "lacks"),
    [
        ("ATEN_CPU_CAPABILITY", "avx512", "avx512f"),
        ("OPENBLAS_CORETYPE", "SkylakeX", "avx512f"),
        ("ATEN_CPU_CAPABILITY", "avx2", "avx2"),
    ],
)
def test_a_variable_that_asks_for_what_the_processor_lacks(name: str, value: str, lacks: str) -> None:
    """PyTorch and OpenBLAS obey without a look, and die of an illegal instruction."""
    lacking = {key: key == "sse4_2" for key in SKYLAKE_CPUID}
    with pytest.raises(UsageError, match=f"{name}={value}: this processor has no {lacks}"):
        check_environment({name: value}, lacking)
    check_environment({name: value}, dict.fromkeys(lacking, True))
    check_environment({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, lacking)


@pytest.mark.parametrize("value", ["AVX2", "avx512_core", "SSE41"])
def test_a_limit_of_onednn_is_one_of_openvino_alone(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(cv2, "checkHardwareSupport", lambda number: True)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # of a row of the matrix of processors
    assert processor.remark("ov-int8", 8) is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
    assert f"ONEDNN_MAX_CPU_ISA={value.upper()}" in str(processor.remark("ov-int8", 8))
    assert processor.remark("ov-int8", 7) is processor.remark("ort-int8", 8) is None
    assert processor.remark("ov-int8", 8, "GPU") is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert processor.remark("ov-int8", 8) is None


def test_threads_are_asleep_of_what_is_loaded_meanwhile_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with loaded_asleep():
        assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with loaded_asleep():
        assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["OMP_WAIT_POLICY"] == "active"
