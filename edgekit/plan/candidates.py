"""What this machine can run: targets with their switches, and a sentence for each target that is left out.

    found, left_out = candidates(Wish("throughput"), data=True, batch=1, cores=4)
    [c.name for c in found]           # ['ort-fp32', 'ort-fp32, 2 streams', 'ort-fp32, 4 streams', 'ov-fp32', ...]
    left_out["trt-fp16"]              # 'no NVIDIA GPU is seen here'

For latency a target has one form: all cores for one image. For throughput it has as many streams as halve the cores
evenly, down to one core a stream; OpenVINO is also tried with four images a run (a YOLO12-n of 320 pixels gains a
fifth), engines for GPUs with eight.
"""

from __future__ import annotations

from edgekit import quantize, targets
from edgekit.bench import machine
from edgekit.plan import Candidate, Wish
from edgekit.quantize import INT8

# From the widest to the narrowest: who is first among those as fast and as good.
ORDER = (
    "ort-fp32",
    "ov-fp32",
    "trt-rtx-fp16",
    "trt-fp16",
    "ov-fp16",
    "ort-int8",
    "ov-int8",
    "trt-rtx-int8",
    "trt-int8",
)
GPU_BATCH = 8
CPU_BATCH = 4  # of OpenVINO


def candidates(
    wish: Wish, data: bool, batch: int = 1, cores: int | None = None
) -> tuple[list[Candidate], dict[str, str]]:
    """Candidates that can be built and run here, and the other targets with the reason.

    Args:
        data: whether there are images to calibrate INT8 on.
        batch: images a run.
        cores: CPU cores to use; those this process may use by default.
    """
    cores = cores or len(machine.affinity())
    found: list[Candidate] = []
    left_out: dict[str, str] = {}
    for target in sorted(targets.names(), key=lambda t: ORDER.index(t) if t in ORDER else len(ORDER)):
        reason = missing(target, data)
        if reason:
            left_out[target] = reason
        else:
            found += _forms(target, wish, batch, cores)
    return found, left_out


def missing(target: str, data: bool) -> str | None:
    """What building and running ``target`` lacks here and what to do about it, or None."""
    backend = targets.backend(target)
    reason: str | None = backend.missing()
    if reason:
        return reason
    if hasattr(backend, "runs_here") and not machine.gpus():
        return f"{target} runs on NVIDIA GPUs and none is seen here (nvidia-smi); use a machine with one"
    if target in INT8 and not data:
        return f"{target} is calibrated on images; give --data"
    return quantize.missing(target) if target in INT8 else None


def _forms(target: str, wish: Wish, batch: int, cores: int) -> list[Candidate]:
    on_gpu = hasattr(targets.backend(target), "runs_here")
    if wish.goal == "latency":
        return [Candidate(target, batch)]
    if on_gpu:
        return [Candidate(target, b, streams) for b in dict.fromkeys((batch, GPU_BATCH)) for streams in (1, 2, 4)]
    streams = [2**k for k in range(cores.bit_length()) if 2**k < cores] + [cores]
    batches = dict.fromkeys((batch, CPU_BATCH) if target.startswith("ov-") else (batch,))
    return [Candidate(target, b, s, None if s == 1 else cores) for b in batches for s in streams]
