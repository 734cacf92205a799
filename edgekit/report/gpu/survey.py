"""The machine before anything is tried: its GPU, driver and SDKs, and what makes a check pointless.

look("cuda:0")["installed"]          # {'tensorrt': '10.14.1.48', 'torch': '2.13.0'}
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import edgekit
from edgekit.errors import InputError
from edgekit.report.gpu.findings import Request
from edgekit.report.gpu.options import GpuOptions
from edgekit.runtime.versions import version
from edgekit.spec import Json
from edgekit.targets._cuda import Gpu, find_gpu

OLDEST_SM = 75
LEAST_MIB = 2048  # of the GPU's memory: less and failures are of memory, not of what is checked
_PACKAGES = (
    "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx", "torch", "cuda-core", "cuda-bindings",
    "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "onnx",
)  # fmt: skip
_TOOLS = ("cmake", "g++", "nvcc")


def look(device: str) -> Json:
    """What is here.

    Returns:
        ``name``, ``sm``, ``cuda`` (newest version the driver runs, as 12040), ``driver``, ``memory_mib`` and
        ``free_mib`` (None where NVIDIA's management library does not say), ``installed`` (package -> version),
        ``tools`` (those found) and ``notes`` (sentences about what limits the figures).

    Raises:
        InputError: no driver, no GPU, one before Turing, a GPU cut into slices of which none is visible, or one whose
            memory others fill.
        UsageError: ``device`` is not a GPU here.
    """
    sliced = _mig_mode()
    try:
        gpu = find_gpu(device)
    except InputError as error:
        if sliced:
            raise InputError(
                "the GPU is in MIG mode and no slice of it is visible: set CUDA_VISIBLE_DEVICES to a slice's UUID "
                "(`nvidia-smi -L` lists them)"
            ) from error
        raise
    if gpu.sm < OLDEST_SM:
        raise InputError(
            f"{gpu.name} is SM {gpu.sm}: edgekit supports GPUs from Turing (SM {OLDEST_SM}) on; use an ort-* or ov-* "
            "target on this machine"
        )
    state = memory_of(gpu)
    if state["free_mib"] is not None and state["free_mib"] < LEAST_MIB:
        raise InputError(
            f"{gpu.name} has {state['free_mib']} of {state['memory_mib']} MiB free, and checking takes {LEAST_MIB}: "
            f"{state['processes'] or 'other'} process(es) hold the rest; end them, or give another `device`"
        )
    notes = []
    if sliced:
        notes.append("the GPU is in MIG mode: times are those of a slice, not of the GPU")
    if state["processes"]:
        notes.append(f"{state['processes']} other process(es) use the GPU: times are not to be trusted")
    found = {name: found for name in _PACKAGES if (found := version(name))}
    about = {"name": gpu.name, "sm": gpu.sm, "cuda": gpu.cuda, "installed": found, "notes": notes}
    return about | state | {"tools": [tool for tool in _TOOLS if shutil.which(tool)]}


def _nvml() -> ModuleType | None:
    """NVIDIA's management library, initialised; None where there is none."""
    if sys.platform == "darwin":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml  # type: ignore[no-any-return]


def _mig_mode() -> bool:
    """Whether any GPU here is cut into slices."""
    nvml = _nvml()
    if nvml is None:
        return False
    for place in range(nvml.nvmlDeviceGetCount()):
        try:
            if nvml.nvmlDeviceGetMigMode(nvml.nvmlDeviceGetHandleByIndex(place))[0]:
                return True
        except nvml.NVMLError:  # not of this GPU
            continue
    return False


def memory_of(gpu: Gpu) -> Json:
    """``driver``, ``memory_mib``, ``free_mib`` and ``processes`` (others on it); None where nobody says."""
    nvml = _nvml()
    if nvml is None or not gpu.pci:
        return {"driver": None, "memory_mib": None, "free_mib": None, "processes": None}
    try:
        handle = nvml.nvmlDeviceGetHandleByPciBusId(gpu.pci.encode())
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        others = [p for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid != os.getpid()]
        driver = nvml.nvmlSystemGetDriverVersion()
    except nvml.NVMLError:
        return {"driver": None, "memory_mib": None, "free_mib": None, "processes": None}
    sizes = {"memory_mib": int(memory.total >> 20), "free_mib": int(memory.free >> 20)}
    return {"driver": driver, **sizes, "processes": len(others)}


def visible(device: str) -> str:
    """``CUDA_VISIBLE_DEVICES`` with which ``device`` is the only GPU there is, so that every library takes it."""
    index = find_gpu(device).index
    here = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return here.split(",")[index].strip() if here else str(index)


def check_writable(out: Path) -> None:
    """Refuse a results file that cannot be written, before the minutes are spent.

    Raises:
        InputError: it cannot.
    """
    folder = out.parent
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if out.is_dir() else f"cannot be written, for {folder} is no folder that can be written to"
        raise InputError(f"`out` {out}: {why}; give a file in a folder that can")


def request_of(options: GpuOptions, work: Path) -> Request:
    """What the steps are told, with what the repository and the environment offer where nothing was given.

    Raises:
        InputError: something was given and is not there.
    """
    for name in ("model", "data", "rtx", "peer"):
        given = getattr(options, name)
        if given is not None and not given.exists():
            raise InputError(f"`{name}` {given}: there is no such file or folder")
    repository = Path(edgekit.__file__).resolve().parents[1]
    here = repository if (repository / "benchmarks").is_dir() and (repository / "tests").is_dir() else None
    shipped = here / "models" / "shapes.pt" if here else None
    model = options.model or (shipped if shipped and shipped.is_file() else None)
    peer = options.peer or (Path(os.environ["EDGEKIT_PEER"]) if os.environ.get("EDGEKIT_PEER") else None)
    paths = {"model": model, "data": options.data, "rtx": options.rtx, "peer": peer, "repository": here}
    told: Json = {name: str(path.absolute()) if path else None for name, path in paths.items()}
    return Request(str(work), **told)
