"""TensorRT INT8 of the shipped detector: calibrated, judged on its set by accuracy, timed beside FP16."""

from __future__ import annotations

from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job


def run(job: Job) -> None:
    """Build (which judges accuracy on the engine itself), then times beside FP16 of the same network."""
    bundle = trials.built(job, job.needs("model"), "trt-int8", "shipped-int8", trials.dataset(job))
    with job.part("shipped INT8: what the build proved"):
        trials.told(job, bundle, "shipped INT8")
    with job.part("INT8 beside FP16"):
        half = load(trials.built(job, job.needs("model"), "trt-fp16", "shipped"))
        narrow = load(bundle)
        calls = {"INT8": narrow.session.run, "FP16": half.session.run}
        trials.timed(job, "INT8 beside FP16", calls, trials.batch_for(half))  # type: ignore[arg-type]
