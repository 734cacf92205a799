"""TensorRT FP16 of n, s and m, untrained: parity, and times side by side."""

from __future__ import annotations

from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job

NETWORKS = ("yolo12n", "yolo12s", "yolo12m")


def run(job: Job) -> None:
    """A build each, which proves it, then all of them in turns."""
    opened = {}
    for name in NETWORKS:
        with job.part(name):
            bundle = trials.built(job, trials.decided(job, name), "trt-fp16", name)
            trials.told(job, bundle, name)
            opened[name] = load(bundle)
    with job.part("times of the scales"):
        [first, *_] = opened.values()
        calls = {name: each.session.run for name, each in opened.items()}
        trials.timed(job, "times of the scales", calls, trials.batch_for(first))  # type: ignore[arg-type]
