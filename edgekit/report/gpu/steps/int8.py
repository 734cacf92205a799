"""TensorRT INT8 of the shipped detector: calibrated, the engine's accuracy beside its graph's, timed beside FP16."""

from __future__ import annotations

from edgekit.bundle.loading import load
from edgekit.data import open_dataset
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.predictor import Predictor
from edgekit.verify.evaluate import evaluate

POINTS = 2.0  # of mAP50-95 that engine and graph may lie apart: of the drawn set an object is 1.2


def run(job: Job) -> None:
    """Build (which judges the graph's accuracy), the engine's accuracy, times beside FP16 of the same network."""
    bundle = trials.built(job, job.needs("model"), "trt-int8", "shipped-int8", trials.dataset(job))
    with job.part("shipped INT8: what the build proved"):
        trials.told(job, bundle, "shipped INT8")
    narrow = load(bundle)
    with job.part("shipped INT8: accuracy of the engine"):
        _accuracy(job, narrow, read_bundle(bundle, verify=False).manifest["accuracy"]["after"])
    with job.part("INT8 beside FP16"):
        half = load(trials.built(job, job.needs("model"), "trt-fp16", "shipped"))
        calls = {"INT8": narrow.session.run, "FP16": half.session.run}
        trials.timed(job, "INT8 beside FP16", calls, trials.batch_for(half))  # type: ignore[arg-type]


def _accuracy(job: Job, predictor: Predictor, graph: float) -> None:
    """The build judged what ONNX Runtime makes of the graph; the engine rounds in other places."""
    data = open_dataset(str(trials.dataset(job)), "detect", "val", names=predictor.info.names)
    found = evaluate(predictor, data)
    engine = found.scores.metrics["map50_95"]
    says = f"mAP50-95 is {engine:.4f}, the graph's {graph:.4f}, on {found.images} images"
    job.holds("shipped INT8: accuracy of the engine", 100 * abs(engine - graph) <= POINTS, says)
