"""The machine's description: texts of several systems with known content, and this system against other sources."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from edgekit.bench import machine
from edgekit.bench.watch import Watch

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
SMI = (
    "Tesla T4, 550.54.15, 7.5, 1590, 1590, 5000, 15360, 68.31, 70.00, 81, Enabled, 0x0000000000000024\n"
    "NVIDIA Graphics, 550.54.15, 8.9, [N/A], 2100, 6000, 8188, [Not Supported], [N/A], 40, Disabled, [N/A]\n"
)


def test_x86() -> None:
    info = machine.cpuinfo(XEON)
    assert info["model"] == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    assert info["vendor"] == "GenuineIntel"
    assert info["physical"] == 2
    assert info["mhz"] == {"reported": 2703.125}
    assert info["instruction_sets"] == "sse4_2 avx f16c fma avx2 avx512f avx512_vnni amx_tile amx_int8 amx_bf16".split()


def test_arm() -> None:
    info = machine.cpuinfo(RASPBERRY)
    assert info["model"] == "Cortex-A76"
    assert info["instruction_sets"] == ["asimd", "asimdhp", "asimddp"]
    assert info["physical"] is None
    mixed = RASPBERRY + "\n\n" + RASPBERRY.replace("0xd0b", "0xd05")
    assert machine.cpuinfo(mixed)["model"] == "Cortex-A55 + Cortex-A76"


def test_no_cpuinfo() -> None:
    info = machine.cpuinfo("")
    assert info == {"model": None, "vendor": None, "physical": None, "instruction_sets": [], "mhz": None}


def test_gpus() -> None:
    t4, other = machine.parse_gpus(SMI)
    assert t4["model"] == "Tesla T4"
    assert (t4["sm_mhz"], t4["sm_mhz_max"], t4["power_w"], t4["temperature_c"]) == (1590.0, 1590.0, 68.31, 81.0)
    assert t4["throttle_reasons"] == 0x24
    assert t4["compute_capability"] == "7.5"
    assert other["power_w"] is other["sm_mhz"] is other["throttle_reasons"] is None
    assert machine.parse_gpus('Field "x" is not a valid field to query.\n') == []
    assert machine.parse_gpus("") == []


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_an_older_nvidia_smi_is_asked_by_the_older_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for an old driver: it refuses the new field's name, and prints twice a second when told to loop."""
    program = tmp_path / "nvidia-smi"
    row = SMI.splitlines()[0]
    program.write_text(
        f"""#!/bin/sh
case "$*" in *clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not valid'; exit 2;; esac
echo '{row}'
case "$*" in *--loop-ms*) echo '{row}'; exec sleep 60;; esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert [gpu["model"] for gpu in machine.gpus()] == ["Tesla T4"]
    with Watch(gpu=True) as watch:
        until = time.monotonic() + 20
        log = watch._gpu_log
        assert log is not None and log._output is not None
        while os.fstat(log._output.fileno()).st_size < 2 * len(row) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.15)
    assert len(watch.gpu_states) == 2
    assert "the GPU Tesla T4 was held back by power cap for 100% of the run" in watch.disturbances()


def test_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == []
    with Watch(gpu=True) as watch:
        pass
    assert watch.gpu_states == []


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
    assert described["python"]["version"] == platform.python_version()
    if sys.platform == "linux":
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // (1 << 20)
        assert described["memory"]["total_mib"] == pytest.approx(pages, rel=0.01)


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
    assert described["memory"]["available_mib"] is None
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


def test_same_machine_compares_gpus_by_model_not_by_temperature() -> None:
    here = {**machine.describe(), "gpus": machine.parse_gpus(SMI)}
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
    before = machine.process_memory()
    if before["peak_mib"] is None:
        pytest.skip("this system does not tell")
    block = bytearray(os.urandom(1 << 20)) * 256
    after = machine.process_memory()
    assert len(block) == 1 << 28
    assert after["peak_mib"] is not None
    assert after["peak_mib"] >= before["peak_mib"]
    if before["resident_mib"] is not None and after["resident_mib"] is not None:
        assert after["resident_mib"] - before["resident_mib"] == pytest.approx(256, rel=0.2)
        assert after["peak_mib"] >= after["resident_mib"] * 0.99
