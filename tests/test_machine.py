"""The machine's description: texts of several systems with known content, and this system against other sources."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from edgekit import targets
from edgekit.bench import machine
from edgekit.bench.cold import process_memory
from edgekit.bench.noise import NoiseMonitor

XEON = "\n\n".join(
    f"""processor	: {n}
vendor_id	: GenuineIntel
model name	: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
cpu MHz		: {2700 + n}.125
physical id	: 0
core id		: {n // 2}
flags		: fpu sse4_2 avx f16c fma avx2 avx512f avx512_vnni amx_bf16 amx_tile amx_int8 hypervisor"""
    for n in range(4)
)
RASPBERRY = "\n\n".join(
    f"""processor	: {n}
Features	: fp asimd evtstrm aes asimdhp asimddp
CPU implementer	: 0x41
CPU part	: 0xd0b"""
    for n in range(4)
)


class Nvml(ModuleType):
    """A stand-in for NVIDIA's library on a machine with two GPUs, of which one tells less."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    T4: ClassVar[dict[str, Any]] = {
        "Name": "Tesla T4", "CudaComputeCapability": (7, 5), "MemoryInfo": SimpleNamespace(total=15360 << 20),
        "ClockInfo": {1: 1590, 2: 5000}, "MaxClockInfo": {1: 1590}, "PowerUsage": 68310,
        "PowerManagementLimit": 70000, "Temperature": {0: 81}, "PersistenceMode": 1, "CurrentClocksEventReasons": 0x24,
    }  # fmt: skip
    OTHER: ClassVar[dict[str, Any]] = {"Name": "NVIDIA Graphics", "MaxClockInfo": {1: 2100}, "PersistenceMode": 0}

    def __init__(self, *gpus: dict[str, Any]) -> None:
        super().__init__("pynvml")
        self.every = gpus

    def nvmlInit(self) -> None:
        if not self.every:
            raise self.NVMLError

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54.15"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.every)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.every[index]

    def __getattr__(self, name: str) -> Any:
        def get(gpu: dict[str, Any], kind: int | None = None) -> Any:
            if (key := name.removeprefix("nvmlDeviceGet")) not in gpu:
                raise self.NVMLError
            return gpu[key] if kind is None else gpu[key][kind]

        return get


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(Nvml.T4, Nvml.OTHER))


def test_x86() -> None:
    info = machine.cpuinfo(XEON)
    assert info["model"] == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert info["vendor"] == "GenuineIntel"
    assert info["mhz"] == {"reported": 2703.125}
    assert info["instruction_sets"] == "sse4_2 avx f16c fma avx2 avx512f avx512_vnni amx_tile amx_int8 amx_bf16".split()


def test_arm() -> None:
    info = machine.cpuinfo(RASPBERRY)
    assert info["model"] == "Cortex-A76"
    assert info["instruction_sets"] == ["asimd", "asimdhp", "asimddp"]
    mixed = RASPBERRY + "\n\n" + RASPBERRY.replace("0xd0b", "0xd05")
    assert machine.cpuinfo(mixed)["model"] == "Cortex-A55 + Cortex-A76"


def test_no_cpuinfo() -> None:
    info = machine.cpuinfo("")
    assert info == {"model": None, "vendor": None, "instruction_sets": [], "mhz": None}


@pytest.mark.usefixtures("two_gpus")
def test_gpus() -> None:
    t4, other = machine.gpus()
    assert t4["model"] == "Tesla T4"
    assert (t4["sm_mhz"], t4["sm_mhz_max"], t4["power_w"], t4["temperature_c"]) == (1590.0, 1590.0, 68.31, 81.0)
    assert (t4["memory_mhz"], t4["memory_mib"], t4["power_limit_w"]) == (5000.0, 15360.0, 70.0)
    assert t4["throttle_reasons"] == 0x24
    assert (t4["compute_capability"], t4["driver"], t4["persistence"]) == ("7.5", "550.54.15", "Enabled")
    assert (other["sm_mhz_max"], other["persistence"]) == (2100.0, "Disabled")
    assert other["power_w"] is other["sm_mhz"] is other["memory_mib"] is other["throttle_reasons"] is None
    json.dumps([t4, other])


def test_an_older_driver_is_asked_by_the_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {k: v for k, v in Nvml.T4.items() if k != "CurrentClocksEventReasons"} | {"CurrentClocksThrottleReasons": 4}
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(older))
    assert [gpu["throttle_reasons"] for gpu in machine.gpus()] == [4]


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_held_back_is_a_disturbance() -> None:
    with NoiseMonitor(gpu=True) as watch:
        time.sleep(0.3)
        watch.tick()
    assert len(watch.gpu_states) == 4
    assert "the GPU Tesla T4 was held back by power cap for 100% of the run" in watch.disturbances()


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    assert machine.gpus() == []
    with NoiseMonitor(gpu=True) as watch:
        pass
    assert watch.gpu_states == []


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no such library for macOS")
def test_the_library_has_what_is_asked_of_it() -> None:
    nvml = pytest.importorskip("pynvml")
    asked = [*Nvml.T4, "CurrentClocksThrottleReasons", "Count", "HandleByIndex"]
    assert [name for name in asked if not callable(getattr(nvml, f"nvmlDeviceGet{name}", None))] == []
    assert (nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM, nvml.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert issubclass(nvml.NVMLError, Exception) and callable(nvml.nvmlSystemGetDriverVersion)


def test_cgroup_limits_are_the_tightest_of_all_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "parent" / "own"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own / "memory.max").write_text("max\n")
    (own.parent / "cpu.max").write_text("150000 100000\n")
    (own.parent / "memory.max").write_text(f"{4 << 30}\n")
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [own, own.parent, tmp_path])
    assert machine.cgroup_limits() == {"cpus": 1.5, "memory_mib": 4096}


def test_cgroup_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text("250000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [tmp_path])
    assert machine.cgroup_limits() == {"cpus": 2.5, "memory_mib": None}
    (tmp_path / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.cgroup_limits()["cpus"] is None


def test_environment_keeps_settings_and_no_secrets() -> None:
    kept = machine.environment(
        {
            "OMP_NUM_THREADS": "4",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "KMP_AFFINITY": "granularity=fine,compact,1,0",
            "LD_PRELOAD": "/home/jane/lib/libjemalloc.so",
            "OPENVINO_INSTALL_DIR": "C:\\Users\\jane\\openvino",
            "ORT_API_TOKEN": "secret",
            "HOME": "/home/jane",
            "PATH": "/usr/bin",
        }
    )
    assert kept == {
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "LD_PRELOAD": "(a path)",
        "OMP_NUM_THREADS": "4",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENVINO_INSTALL_DIR": "(a path)",
    }


def test_this_machine() -> None:
    described = machine.describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["cpu"]["model"]
    assert 1 <= described["cpu"]["usable"] <= described["cpu"]["logical"] == os.cpu_count()
    assert described["packages"]["numpy"] == metadata.version("numpy")
    installed = {found.metadata["Name"].lower() for found in metadata.distributions()}
    runtimes = {name for target in targets.every() for name in target.packages}
    assert runtimes & installed <= set(described["packages"]), "what a target runs with decides its speed"
    assert described["python"]["version"] == platform.python_version()
    if sys.platform == "linux":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1 << 20)
        assert described["memory"]["total_mib"] == pytest.approx(pages, rel=0.01)
        assert 0 < described["memory"]["available_mib"] < described["memory"]["total_mib"]
        assert 1 <= described["cpu"]["physical"] <= described["cpu"]["logical"]


def test_nothing_personal_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "jane-doe-the-user")
    monkeypatch.setenv("HOSTNAME", "janes-own-computer")
    text = json.dumps(machine.describe())
    assert "jane" not in text
    for private in (str(Path.home()), str(Path.cwd()), platform.node()):
        assert len(private) < 6 or private not in text


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_text", lambda path: None)
    described = machine.describe()
    assert described["cgroup"] == {"cpus": None, "memory_mib": None}
    assert described["cpu"]["instruction_sets"] == []
    assert described["cpu"]["governor"] is None
    json.dumps(described)


def test_same_machine() -> None:
    here = machine.describe()
    assert machine.same_machine(here, json.loads(json.dumps(here))) == []
    other = json.loads(json.dumps(here))
    other["cpu"]["model"] = "Apple M2"
    other["cgroup"]["cpus"] = 1.5
    other["load"], other["memory"]["available_mib"] = [9.0, 9.0, 9.0], 1
    other["packages"]["numpy"] = "0.1"
    assert machine.same_machine(here, other) == [
        f"CPU model: {here['cpu']['model']!r} then, 'Apple M2' now",
        f"CPU quota in cores: {here['cgroup']['cpus'] or 'not stated'} then, 1.5 now",
    ]
    assert machine.changed_versions(here, other) == [f"numpy {metadata.version('numpy')} then, 0.1 now"]


@pytest.mark.usefixtures("two_gpus")
def test_same_machine_compares_gpus_by_model_not_by_temperature() -> None:
    here = machine.describe()
    warmer = json.loads(json.dumps(here))
    warmer["gpus"][0]["temperature_c"] = 60.0
    assert machine.same_machine(here, warmer) == []
    warmer["gpus"].pop()
    assert machine.same_machine(here, warmer)[0].startswith("GPUs: ['Tesla T4', 'NVIDIA Graphics'] then")


def test_same_machine_of_incomplete_descriptions() -> None:
    assert machine.same_machine({}, {}) == []
    assert machine.same_machine({}, {"cpu": {"model": "M2"}}) == ["CPU model: not stated then, 'M2' now"]


def test_executed_instruction_sets() -> None:
    names = ["brgconv_avx512_amx_I8", "jit_avx512_FP32", "jit_avx2_FP32", "brgconv_avx2_f32", "jit_asimd_FP32", "undef"]
    assert machine.executed_sets(names) == {"avx2": 2, "amx": 1, "avx512": 1, "asimd": 1, "other": 1}


def test_memory_of_this_process_grows() -> None:
    before = process_memory()
    if before["peak_mib"] is None:
        pytest.skip("this system does not tell")
    block = bytearray(os.urandom(1 << 20)) * 256
    after = process_memory()
    assert len(block) == 1 << 28
    assert after["peak_mib"] is not None
    assert after["peak_mib"] >= before["peak_mib"]
    if before["resident_mib"] is not None and after["resident_mib"] is not None:
        assert after["resident_mib"] - before["resident_mib"] == pytest.approx(256, rel=0.2)
        assert after["peak_mib"] >= after["resident_mib"] * 0.99
