"""What machine the figures were measured on, without saying whose machine it is.

``describe`` gathers what changes speed: processor and instruction sets, cores this process may use, frequency
governor, container limits, load, GPU, versions and environment settings. Results are published, so it holds no host
name, user name or path. What a system does not tell is None. ``same_machine`` lists what makes figures of two
descriptions incomparable.

    describe()["cpu"]["model"]                          # 'AMD EPYC 7763'
    same_machine(old["machine"], new["machine"])        # ["CPU model: 'AMD EPYC 7763' then, 'Apple M2' now"]
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from edgekit import targets
from edgekit.runtime import processor
from edgekit.spec import Json, JsonView

# Flags of /proc/cpuinfo (x86 "flags", ARM "Features") that decide which kernels a runtime picks.
INSTRUCTION_SETS = (
    "sse4_2 avx f16c fma avx2 avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 "
    "amx_tile amx_int8 amx_bf16 amx_fp16 "
    "asimd neon asimdhp asimddp bf16 i8mm sve sve2 svei8mm svebf16 sme sme2"
).split()
# How runtimes name the instruction set of a kernel, most special first: jit_avx512_amx_I8, brgconv_avx2, acl_FP32.
_KERNEL_SETS = "amx avx512 avx2 avx sse42 sse41 sve512 sve256 sve128 sve asimd neon acl gemm mlas ref".split()
# Beside those that targets name.
PACKAGES = "edgekit numpy opencv-python-headless opencv-python onnx onnxruntime-gpu torch"
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


def describe() -> Json:
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


def same_machine(old: JsonView, new: JsonView) -> list[str]:
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


def changed_versions(old: JsonView, new: JsonView) -> list[str]:
    """What differs in software between two descriptions: ``openvino 2026.3 then, 2026.4 now``."""
    before, now = ({**(_at(d, ("packages",)) or {}), "python": _at(d, ("python", "version"))} for d in (old, new))
    names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
    return [f"{n} {before.get(n) or 'absent'} then, {now.get(n) or 'absent'} now" for n in names]


def cpu() -> Json:
    """Model, cores, instruction sets, governor and clock."""
    info = cpuinfo(read_text("/proc/cpuinfo") or "")
    arm = [name for name, has in processor.arm_features().items() if has]
    cpus = affinity()
    folder = Path(f"/sys/devices/system/cpu/cpu{min(cpus)}/cpufreq")
    mhz = {name: _integer(read_text(folder / f"{name}_freq")) for name in ("scaling_cur", "scaling_max", "cpuinfo_max")}
    turbo = read_text("/sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = read_text("/sys/devices/system/cpu/cpufreq/boost")
    return {
        "model": info["model"] or _mac_model() or platform.processor() or platform.machine() or None,
        "vendor": info["vendor"],
        "board": _clean(read_text("/proc/device-tree/model")),
        "architecture": platform.machine(),
        "logical": os.cpu_count(),
        "physical": psutil.cpu_count(logical=False),
        "usable": len(cpus),
        "instruction_sets": arm or info["instruction_sets"],
        "governor": _clean(read_text(folder / "scaling_governor")),
        "mhz": {name: value / 1e3 for name, value in mhz.items() if value} or info["mhz"],
        "boost": turbo.strip() == "0" if turbo else boost.strip() == "1" if boost else None,
        "smt": _smt(read_text("/sys/devices/system/cpu/smt/active")),
    }


def cpuinfo(text: str) -> Json:
    """``model vendor instruction_sets mhz`` from the text of ``/proc/cpuinfo``, x86 or ARM."""
    blocks = [dict(_field(line) for line in block.splitlines() if ":" in line) for block in text.split("\n\n")]
    first = next((b for b in blocks if b.get("flags") or b.get("Features")), {})
    present = set((first.get("flags") or first.get("Features") or "").split())
    parts = {b["CPU part"] for b in blocks if "CPU part" in b}
    model = first.get("model name")
    if parts and first.get("CPU implementer") == "0x41":
        model = " + ".join(_ARM_PARTS.get(part, f"ARM part {part}") for part in sorted(parts))
    clocks = [float(b["cpu MHz"]) for b in blocks if "cpu MHz" in b]
    return {
        "model": model,
        "vendor": first.get("vendor_id") or first.get("CPU implementer"),
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
    own = psutil.Process()
    return frozenset(own.cpu_affinity() if hasattr(own, "cpu_affinity") else range(os.cpu_count() or 1))  # not on macOS


def memory() -> dict[str, int]:
    """``total_mib`` of the machine and ``available_mib`` now."""
    found = psutil.virtual_memory()
    return {"total_mib": found.total >> 20, "available_mib": found.available >> 20}


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


def cgroup_limits() -> Json:
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


def packages() -> dict[str, str]:
    """Versions of the packages that are installed, without importing them."""
    found = {}
    runtimes = (name for target in targets.every() for name in target.packages)
    for name in dict.fromkeys((*PACKAGES.split(), *runtimes)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Settings that change speed; of a value that holds a path, only that it does."""
    kept = {k: v for k, v in sorted(variables.items()) if _ENVIRONMENT.fullmatch(k)}
    return {k: "(a path)" if "/" in v or "\\" in v else v for k, v in kept.items()}


def gpus() -> list[Json]:
    """What NVIDIA's management library (NVML) says about each GPU; empty without one, None where it does not say.

    Clocks and power are those of this moment. Takes a millisecond a GPU, the first time some tens.
    """
    if sys.platform == "darwin":
        return []
    import pynvml as nvml

    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    return [_gpu(nvml, handle) for handle in handles]


def _gpu(nvml: Any, handle: object) -> Json:
    def ask(what: str, *more: object) -> Any:
        try:
            return getattr(nvml, f"nvmlDeviceGet{what}")(handle, *more)
        except nvml.NVMLError:  # not supported by this GPU or driver
            return None

    def number(what: str, *more: object, unit: float = 1.0) -> float | None:
        value = ask(what, *more)
        return None if value is None else value / unit

    capability, memory, persistence = ask("CudaComputeCapability"), ask("MemoryInfo"), ask("PersistenceMode")
    reasons = ask("CurrentClocksEventReasons")
    return {
        "model": ask("Name"),
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "compute_capability": capability and ".".join(map(str, capability)),
        "sm_mhz": number("ClockInfo", nvml.NVML_CLOCK_SM),
        "sm_mhz_max": number("MaxClockInfo", nvml.NVML_CLOCK_SM),
        "memory_mhz": number("ClockInfo", nvml.NVML_CLOCK_MEM),
        "memory_mib": memory and float(memory.total >> 20),
        "power_w": number("PowerUsage", unit=1e3),
        "power_limit_w": number("PowerManagementLimit", unit=1e3),
        "temperature_c": number("Temperature", nvml.NVML_TEMPERATURE_GPU),
        "persistence": None if persistence is None else "Enabled" if persistence else "Disabled",
        # The older of its two names, for drivers before 535.
        "throttle_reasons": ask("CurrentClocksThrottleReasons") if reasons is None else reasons,
    }


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


def _mac_model() -> str | None:
    if sys.platform != "darwin":
        return None
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _clean(done.stdout)


def _at(description: object, path: tuple[str, ...]) -> Any:
    value = description
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _short(value: object) -> str:
    text = "not stated" if value is None else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
