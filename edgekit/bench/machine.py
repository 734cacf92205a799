"""What machine the figures were measured on, without saying whose machine it is.

``describe`` gathers what changes speed: processor and instruction sets, cores this process may use, frequency
governor, container limits, load, GPU, versions and environment settings. Results are published, so it holds no host
name, user name or path. What a system does not tell is None. ``same_machine`` lists what makes figures of two
descriptions incomparable.

    describe()["cpu"]["model"]                          # 'AMD EPYC 7763'
    same_machine(old["machine"], new["machine"])        # ["CPU model: 'AMD EPYC 7763' then, 'Apple M2' now"]
"""

from __future__ import annotations

import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import IO, Any

# Flags of /proc/cpuinfo (x86 "flags", ARM "Features") that decide which kernels a runtime picks.
INSTRUCTION_SETS = (
    "sse4_2 avx f16c fma avx2 avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 "
    "amx_tile amx_int8 amx_bf16 amx_fp16 "
    "asimd neon asimdhp asimddp bf16 i8mm sve sve2 svei8mm svebf16 sme sme2"
).split()
# How runtimes name the instruction set of a kernel, most special first: jit_avx512_amx_I8, brgconv_avx2, acl_FP32.
_KERNEL_SETS = "amx avx512 avx2 avx sse42 sse41 sve512 sve256 sve128 sve asimd neon acl gemm mlas ref".split()
PACKAGES = "edgekit numpy opencv-python-headless opencv-python onnx onnxruntime onnxruntime-gpu openvino nncf torch "
PACKAGES += "tensorrt tensorrt-rtx"
_ENVIRONMENT = re.compile(
    r"(?!\w*(KEY|TOKEN|SECRET|PASS|USER|HOST))((OMP|KMP|GOMP|MKL|OPENBLAS|ONEDNN|DNNL|TBB|MALLOC|OV|OPENVINO|ORT|TRT)_\w+"
    r"|CUDA_(VISIBLE_DEVICES|MODULE_LOADING|LAUNCH_BLOCKING)|NVIDIA_TF32_OVERRIDE|OPENCV_FOR_THREADS_NUM|LD_PRELOAD)"
)
# ARM's own part numbers (Main ID Register), as far as boards that run detectors use them.
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
}  # fmt: skip
_GPU_FIELDS = {
    "model": "name", "driver": "driver_version", "compute_capability": "compute_cap", "sm_mhz": "clocks.sm",
    "sm_mhz_max": "clocks.max.sm", "memory_mhz": "clocks.mem", "memory_mib": "memory.total", "power_w": "power.draw",
    "power_limit_w": "power.limit", "temperature_c": "temperature.gpu", "persistence": "persistence_mode",
}  # fmt: skip
_GPU_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")  # new and old name of one field


def describe() -> dict[str, Any]:
    """The machine and the software on it, JSON-ready; takes some milliseconds, more where there is a GPU to ask."""
    return {
        "cpu": cpu(),
        "memory": memory(),
        "cgroup": cgroup_limits(),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "virtual": virtualisation(),
        "os": {"system": platform.system(), "release": platform.release(), "libc": " ".join(platform.libc_ver())},
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "packages": packages(),
        "gpus": gpus(),
        "environment": environment(os.environ),
    }


def same_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences about what makes speeds under two descriptions incomparable; empty if nothing known does.

    Versions of software are not among them: whether a new version is slower is what one may want to find out.
    """
    differences = []
    for what, path in {
        "CPU model": ("cpu", "model"),
        "CPU architecture": ("cpu", "architecture"),
        "instruction sets": ("cpu", "instruction_sets"),
        "cores this process may use": ("cpu", "usable"),
        "frequency governor": ("cpu", "governor"),
        "CPU quota in cores": ("cgroup", "cpus"),
        "virtual machine": ("virtual", "hypervisor"),
        "operating system": ("os", "system"),
        "GPUs": ("gpus",),
        "environment settings": ("environment",),
    }.items():
        before, now = (_at(description, path) for description in (old, new))
        if path == ("gpus",):
            before, now = ([_at(gpu, ("model",)) for gpu in value or []] for value in (before, now))
        if before != now:
            differences.append(f"{what}: {_short(before)} then, {_short(now)} now")
    return differences


def changed_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs in software between two descriptions: ``openvino 2026.3 then, 2026.4 now``."""
    before, now = ({**(_at(d, ("packages",)) or {}), "python": _at(d, ("python", "version"))} for d in (old, new))
    names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    return [f"{n} {before.get(n) or 'absent'} then, {now.get(n) or 'absent'} now" for n in names]


def cpu() -> dict[str, Any]:
    """Model, cores, instruction sets, governor and clock."""
    info = cpuinfo(read_text("/proc/cpuinfo") or "")
    cpus = affinity()
    folder = Path(f"/sys/devices/system/cpu/cpu{min(cpus)}/cpufreq")
    mhz = {name: _integer(read_text(folder / f"{name}_freq")) for name in ("scaling_cur", "scaling_max", "cpuinfo_max")}
    model, physical = info["model"], info["physical"]
    if sys.platform == "darwin":
        model, physical = _sysctl("machdep.cpu.brand_string"), _integer(_sysctl("hw.physicalcpu"))
    turbo = read_text("/sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = read_text("/sys/devices/system/cpu/cpufreq/boost")
    return {
        "model": model or platform.processor() or platform.machine() or None,
        "vendor": info["vendor"],
        "board": _clean(read_text("/proc/device-tree/model")),
        "architecture": platform.machine(),
        "logical": os.cpu_count(),
        "physical": physical,
        "usable": len(cpus),
        "instruction_sets": info["instruction_sets"],
        "governor": _clean(read_text(folder / "scaling_governor")),
        "mhz": {name: value / 1e3 for name, value in mhz.items() if value} or info["mhz"],
        "boost": turbo.strip() == "0" if turbo else boost.strip() == "1" if boost else None,
        "smt": _smt(read_text("/sys/devices/system/cpu/smt/active")),
    }


def cpuinfo(text: str) -> dict[str, Any]:
    """``model vendor physical instruction_sets mhz`` from the text of ``/proc/cpuinfo``, x86 or ARM."""
    blocks = [dict(_field(line) for line in block.splitlines() if ":" in line) for block in text.split("\n\n")]
    first = next((b for b in blocks if b.get("flags") or b.get("Features")), {})
    present = set((first.get("flags") or first.get("Features") or "").split())
    parts = {b["CPU part"] for b in blocks if "CPU part" in b}
    model = first.get("model name")
    if parts and first.get("CPU implementer") == "0x41":
        model = " + ".join(_ARM_PARTS.get(part, f"ARM part {part}") for part in sorted(parts))
    places = {(b["physical id"], b["core id"]) for b in blocks if "physical id" in b and "core id" in b}
    clocks = [float(b["cpu MHz"]) for b in blocks if "cpu MHz" in b]
    return {
        "model": model,
        "vendor": first.get("vendor_id") or first.get("CPU implementer"),
        "physical": len(places) or None,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in present],
        "mhz": {"reported": max(clocks)} if clocks else None,
    }


def executed_sets(kernels: Iterable[str]) -> dict[str, int]:
    """How many kernels ran with each instruction set, by the names a runtime gives them.

    Args:
        kernels: one name an executed operator, such as OpenVINO's ``primitiveType``: ``brgconv_avx512_amx_I8``.
    """
    counts: Counter[str] = Counter()
    for name in kernels:
        words = name.lower().split("_")
        counts[next((isa for isa in _KERNEL_SETS if isa in words), "other")] += 1
    return dict(counts.most_common())


def affinity() -> frozenset[int]:
    """The CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def memory() -> dict[str, int | None]:
    """``total_mib`` of the machine and ``available_mib`` now; None where it does not say."""
    found = dict(_field(line) for line in (read_text("/proc/meminfo") or "").splitlines())
    total, available = (_integer(found.get(key, "").split(" ")[0]) for key in ("MemTotal", "MemAvailable"))
    if total is None and sys.platform == "darwin":
        total = (_integer(_sysctl("hw.memsize")) or 0) // 1024 or None
    return {"total_mib": total and total // 1024, "available_mib": available and available // 1024}


def process_memory() -> dict[str, float | None]:
    """``resident_mib`` of this process now and its ``peak_mib`` so far; None where the system does not say."""
    found = dict(_field(line) for line in (read_text("/proc/self/status") or "").splitlines())
    resident, peak = (_integer(found.get(key, "").split(" ")[0]) for key in ("VmRSS", "VmHWM"))
    if resident is not None:
        return {"resident_mib": resident / 1024, "peak_mib": (peak or resident) / 1024}
    if sys.platform == "win32":
        return {"resident_mib": None, "peak_mib": None}
    import resource

    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, others kilobytes
    return {"resident_mib": None, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def cgroup_folders(controller: str) -> list[Path]:
    """This process's folders of a cgroup controller, its own first, then every parent; version 2 or 1."""
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        mount = Path("/sys/fs/cgroup") / controller if names else Path("/sys/fs/cgroup")
        if controller in names.split(",") or (not names and (mount / "cgroup.controllers").exists()):
            own = mount / path.lstrip("/")
            folders = [own, *own.parents]
            # A container often sees its own group mounted as the root, while the path still is the host's.
            return [f for f in folders if f.is_relative_to(mount) and f.is_dir()]
    return []


def cgroup_limits() -> dict[str, Any]:
    """``cpus`` (quota in cores) and ``memory_mib``, the tightest of this process's groups; None: no limit."""
    cpus, limits = [], []
    for folder in cgroup_folders("cpu"):
        quota, period = (read_text(folder / "cpu.max") or "max 0").split()[:2]
        if quota == "max":
            quota = _clean(read_text(folder / "cpu.cfs_quota_us")) or "-1"
            period = _clean(read_text(folder / "cpu.cfs_period_us")) or "0"
        if int(quota) > 0 and int(period) > 0:
            cpus.append(int(quota) / int(period))
    for folder in cgroup_folders("memory"):
        limit = _integer(read_text(folder / "memory.max")) or _integer(read_text(folder / "memory.limit_in_bytes"))
        if limit and limit < 1 << 60:  # version 1 says "no limit" with a number near 2^63
            limits.append(limit // (1 << 20))
    return {"cpus": min(cpus, default=None), "memory_mib": min(limits, default=None)}


def virtualisation() -> dict[str, str | None]:
    """A hint at ``hypervisor`` and ``container``; None: no sign of one."""
    hypervisor = None
    if " hypervisor " in f" {read_text('/proc/cpuinfo') or ''} ".replace("\n", " "):
        vendor = _clean(read_text("/sys/class/dmi/id/sys_vendor"))
        hypervisor = _clean(read_text("/sys/hypervisor/type")) or vendor or "unknown"
    marks = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
    container = next((name for mark, name in marks.items() if os.path.exists(mark)), None)
    if container is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        container = "kubernetes"
    return {"hypervisor": hypervisor, "container": container}


def packages(names: Iterable[str] = PACKAGES.split()) -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Settings that change speed; of a value that holds a path, only that it does."""
    kept = {k: v for k, v in sorted(variables.items()) if _ENVIRONMENT.fullmatch(k)}
    return {k: "(a path)" if "/" in v or "\\" in v else v for k, v in kept.items()}


def gpus() -> list[dict[str, Any]]:
    """What ``nvidia-smi`` says about each GPU; empty without one. Clocks and power are those of this moment."""
    return next(filter(None, map(_rows, _gpu_queries())), [])


class GpuLog:
    """The states of all GPUs twice a second between ``start`` and ``stop``, noted by one ``nvidia-smi`` beside us.

    Asking once before or after would find the GPU idle; asking from the timed process would disturb it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def start(self) -> None:
        for command in _gpu_queries():
            if _rows(command):
                self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop
                self._process = subprocess.Popen([*command, "--loop-ms=500"], stdout=self._output)
                return

    def stop(self) -> list[dict[str, Any]]:
        if self._process is None or self._output is None:
            return []
        self._process.terminate()
        self._process.wait()
        with self._output as output:
            output.seek(0)
            return parse_gpus(output.read().decode("utf-8", "replace"))


def _gpu_queries() -> list[list[str]]:
    """Commands to try in turn; none where there is no ``nvidia-smi``."""
    program = shutil.which("nvidia-smi")
    fields = ",".join(_GPU_FIELDS.values())
    options = "--format=csv,noheader,nounits"
    return [[program, f"--query-gpu={fields},{reasons}", options] for reasons in _GPU_REASONS] if program else []


def _rows(command: list[str]) -> list[dict[str, Any]]:
    """One answer of ``nvidia-smi``; empty where it fails, as it does for a field that the driver does not know."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def parse_gpus(text: str) -> list[dict[str, Any]]:
    """Rows of ``nvidia-smi --format=csv,noheader,nounits`` as ``gpus`` asks for them; ``[N/A]`` becomes None."""
    found = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(_GPU_FIELDS) + 1:
            continue
        values = [None if cell.strip("[] ").lower() in ("", "n/a", "not supported") else cell.strip() for cell in row]
        gpu: dict[str, Any] = dict(zip(_GPU_FIELDS, values, strict=False))
        for key in gpu.keys() - {"model", "driver", "compute_capability", "persistence"}:
            gpu[key] = None if gpu[key] is None else float(gpu[key])
        gpu["throttle_reasons"] = None if values[-1] is None else int(values[-1], 0)
        found.append(gpu)
    return found


def read_text(path: str | Path) -> str | None:
    """A small system file's text, or None where there is no such file or it may not be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _field(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _clean(text: str | None) -> str | None:
    return (text or "").strip("\0 \n") or None


def _integer(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isdigit() else None


def _smt(text: str | None) -> bool | None:
    return None if text is None else text.strip() == "1"


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _clean(done.stdout)


def _at(description: Any, path: tuple[str, ...]) -> Any:
    value = description
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    text = "not stated" if value is None else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
