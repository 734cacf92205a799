"""TensorRT FP16 of the five tasks, untrained: parity says whether every head is computed as in PyTorch."""

from __future__ import annotations

from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job

NETWORKS = ("yolo12n", "yolo12n-seg", "yolo12n-pose", "yolo12n-obb", "yolo12n-cls")


def run(job: Job) -> None:
    """A build each, which proves it."""
    for name in NETWORKS:
        with job.part(name):
            trials.told(job, trials.built(job, trials.decided(job, name), "trt-fp16", name), name)
