"""The steps of ``gpu-check``, most valuable first, and the most seconds each may take. Standard library only.

    [step.name for step in STEPS]        # ['basics', 'engine', 'rtx', 'peer', …]

The first five may take 9 minutes together, all of them 33.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step: its ``name``, what it ``shows``, the module whose ``run(job)`` does it, and the ``seconds`` it has."""

    name: str
    shows: str
    module: str
    seconds: float


_HERE = "edgekit.report.gpu.steps"

STEPS = (
    Step("basics", "context, stream, pinned memory, our kernels, arrays of PyTorch", f"{_HERE}.basics", 60),
    Step("engine", "TensorRT FP16 of the shipped detector: build, parity, attention, times", f"{_HERE}.engine", 180),
    Step("rtx", "TensorRT-RTX engines built without a GPU: load, run, parity", f"{_HERE}.rtx", 60),
    Step("peer", "Ultralytics' ONNX through the same TensorRT, interleaved", f"{_HERE}.peer", 120),
    Step("int8", "TensorRT INT8 of the shipped detector", f"{_HERE}.int8", 120),
    Step("tasks", "TensorRT FP16 of the five tasks", f"{_HERE}.tasks", 240),
    Step("scales", "TensorRT FP16 of n, s and m", f"{_HERE}.scales", 240),
    Step("cpp", "the C++ library's TensorRT backend: compile, conformance, times", f"{_HERE}.cpp", 180),
    Step("training", "AMP, losses beside the CPU's, compile, resume, NCCL, images a second", f"{_HERE}.training", 420),
    Step("loader", "the loader beside what the GPU eats, and beside PyTorch's", f"{_HERE}.loader", 90),
    Step("failures", "other SM, old driver, full memory, a lost context", f"{_HERE}.failures", 90),
    Step("experimental", "what is marked as experimental, each option built and run", f"{_HERE}.experimental", 180),
)
