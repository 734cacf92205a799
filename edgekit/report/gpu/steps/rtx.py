"""TensorRT-RTX engines that were built without a GPU, run on one: the claim "built anywhere" is proved or refuted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgekit import targets
from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.targets._cuda import find_gpu
from edgekit.verify import parity

TARGET = "trt-rtx-fp16"


def run(job: Job) -> None:
    """Load, run, compare with the graph that the engine was built from; times."""
    bundle = Path(job.request.rtx) if job.request.rtx else _built(job)
    rows = read_bundle(bundle).manifest["engines"]
    where = "elsewhere, as it was given" if job.request.rtx else "here, by a process that saw no GPU"
    sms = [row["sm"] for row in rows]
    predictor = load(bundle)
    says = f"TensorRT-RTX takes the engine that {rows[0]['sdk_version']} built {where}"
    job.holds("loaded", True, says, sms=sms)
    with job.part("parity with the graph"):
        reference = targets.reference().open(bundle / "model.onnx", predictor.info)
        batches = [parity.batch_of(image, predictor.info) for image in parity.generated_images()]
        report = parity.compare(reference, predictor.session, batches, "f16")
        worst = {role: row["max_abs"] for role, row in report.items()}
        fine = all(row["pass"] for row in report.values())
        job.holds("parity with the graph", fine, f"differs by at most {worst}", parity=report)
    with job.part("times"):
        calls = {"network": predictor.session.run}
        trials.timed(job, "times", calls, trials.batch_for(predictor))  # type: ignore[arg-type]


def _built(job: Job) -> Path:
    """A bundle built by a process that sees no GPU."""
    out = job.work / "bundles" / "rtx"
    if is_bundle(out):
        return out
    missing = targets.get(TARGET).missing()
    if missing:
        raise Lacking(missing)
    from edgekit.targets.tensorrt_rtx import architectures

    gpu = find_gpu()
    if gpu.sm not in architectures():
        known = ", ".join(map(str, architectures()))
        raise Lacking(f"TensorRT-RTX builds for SM {known}, and {gpu.name} is SM {gpu.sm}; TensorRT serves it")
    out.parent.mkdir(exist_ok=True)
    words = trials.flags(target=TARGET, sm=gpu.sm, imgsz=trials.SIDE, out=out)
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "edgekit", "build", str(job.needs("model")), *words]
    subprocess.run(command, check=True, env=hidden, stdout=subprocess.DEVNULL)
    return out
