"""What this machine can run: targets with their switches, and a sentence for each target that is left out.

    found, left_out = candidates(Wish("throughput"), data=True, batch=1, cores=4)
    [c.name for c in found]           # ['ort-fp32', 'ort-fp32, 2 streams', 'ort-fp32, 4 streams', 'ov-fp32', ...]
    left_out["trt-fp16"]              # 'no NVIDIA GPU is seen here'

For latency a target has one form: all cores for one image. For throughput it has as many streams as halve the cores
evenly, down to one core a stream (on a GPU one, two and four streams), and runs the batches that its record names.
"""

from __future__ import annotations

from edgekit import quantize, targets
from edgekit.autotune import Candidate, Objective
from edgekit.bench import machine
from edgekit.runtime.processor import remark
from edgekit.targets import Target
from edgekit.targets._target import PRECISIONS

GPU_STREAMS = (1, 2, 4)


def order() -> list[str]:
    """Targets from the widest to the narrowest precision: who is first among those as fast and as good."""
    return [target.name for target in sorted(targets.every(), key=lambda t: PRECISIONS.index(t.precision))]


def candidates(
    wish: Objective, data: bool, batch: int = 1, cores: int | None = None
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
    for name in order():
        reason = missing(name, data) or targets.get(name).refused_batch(batch)
        if reason:
            left_out[name] = reason
        else:
            found += _forms(targets.get(name), wish, batch, cores)
    return found, left_out


def missing(name: str, data: bool) -> str | None:
    """What building and running the target ``name`` lacks here and what to do about it, or None."""
    target = targets.get(name)
    reason = target.missing()
    if reason:
        return reason
    if target.gpu and not machine.gpus():
        return f"{name} runs on NVIDIA GPUs and none is seen here (nvidia-smi); use a machine with one"
    if otherwise := remark(name, None):  # whatever its weights
        return f"{name}: {otherwise}"
    if target.int8 and not data:
        return f"{name} is calibrated on images; give `data`"
    return quantize.missing(target) if target.int8 else target.missing_to_build()


def _forms(target: Target, wish: Objective, batch: int, cores: int) -> list[Candidate]:
    if wish.goal == "latency":
        return [Candidate(target.name, batch)]
    batches = dict.fromkeys((batch, *target.batches))
    if target.gpu:
        return [Candidate(target.name, b, streams) for b in batches for streams in GPU_STREAMS]
    streams = [2**k for k in range(cores.bit_length()) if 2**k < cores] + [cores]
    return [Candidate(target.name, b, s, None if s == 1 else cores) for b in batches for s in streams]
