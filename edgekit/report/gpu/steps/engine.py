"""TensorRT FP16 of the shipped detector: its build and proof, times, and everything around the network on the GPU."""

from __future__ import annotations

from typing import cast

import numpy as np

from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.predictor import Predictor
from edgekit.targets._tensorrt_session import TensorRTSession

ALIKE = 0.9  # of two boxes' overlap, from which they are the same object
NEEDED = 0.95  # of the objects, that both find


def run(job: Job) -> None:
    """Build, parity, attention; CUDA graphs or not; letterbox and suppression on the GPU."""
    bundle = trials.built(job, job.needs("model"), "trt-fp16", "shipped")
    with job.part("shipped: what the build proved"):
        trials.told(job, bundle, "shipped")
    with job.part("CUDA graphs"):
        _graphs(job, load(bundle), load(bundle))
    with job.part("pre and post on the GPU"):
        _around(job, load(bundle, conf=0.25, iou=0.7))


def _graphs(job: Job, replayed: Predictor, queued: Predictor) -> None:
    cast(TensorRTSession, queued.session).replay = False
    batch = trials.batch_for(replayed)
    answers = [{k: np.array(v) for k, v in each.session.run(batch).items()} for each in (replayed, replayed, queued)]
    same = all(np.array_equal(answers[0][role], other[role]) for other in answers[1:] for role in answers[0])
    job.holds("CUDA graphs: same answers", same, "replayed or queued, bit for bit" if same else "they differ")
    calls = {"replayed": replayed.session.run, "queued": queued.session.run}
    trials.timed(job, "CUDA graphs: times", calls, batch)  # type: ignore[arg-type]
    replayed.close()
    queued.close()


def _around(job: Job, predictor: Predictor) -> None:
    import torch

    if not torch.cuda.is_available():
        raise Lacking("the PyTorch here has no CUDA; install a build that has (pytorch.org)")
    session, image = cast(TensorRTSession, predictor.session), trials.picture()
    on_gpu = torch.from_numpy(image).to(job.request.device)
    found = session.run_image(on_gpu)
    keep = torch.as_tensor(found["keep"], device="cuda")[0].bool().cpu().numpy()
    canvas = torch.as_tensor(found["boxes"], device="cuda")[0].cpu().numpy()[keep]
    [expected] = predictor(image)
    _, [geometry] = predictor.preprocess([image])
    theirs, ours = np.asarray(expected.boxes), geometry.points_to_image(canvas.reshape(-1, 2, 2)).reshape(-1, 4)
    alike = int((box_iou(theirs, ours).max(1) > ALIKE).sum()) if len(theirs) and len(ours) else 0
    most = max(len(theirs), len(ours))
    says = f"{alike} of {most} objects are those that the host's letterbox and suppression give"
    job.holds("pre and post on the GPU", alike >= NEEDED * most, says, host=len(theirs), gpu=len(ours))

    def whole(_: object) -> None:
        session.run_image(on_gpu)

    calls = {"on the GPU": whole, "on the host": lambda picture: predictor(picture)}
    trials.timed(job, "pre and post: times", calls, image)
    predictor.close()
