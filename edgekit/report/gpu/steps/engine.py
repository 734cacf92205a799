"""TensorRT FP16 of the shipped detector: its build and proof, times, and everything around the network on the GPU."""

from __future__ import annotations

from typing import cast

import numpy as np

from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job
from edgekit.runtime.boxes import box_iou
from edgekit.runtime.predictor import Predictor
from edgekit.targets._tensorrt_session import TensorRTSession

ALIKE = 0.9  # of two boxes' overlap, from which they are the same object
UNSURE = 0.05  # that a score moves by when a pixel is a grey level off
CONF, IOU = 0.25, 0.7


def run(job: Job) -> None:
    """Build, parity, attention; CUDA graphs or not; letterbox and suppression on the GPU."""
    bundle = trials.built(job, job.needs("model"), "trt-fp16", "shipped")
    with job.part("shipped: what the build proved"):
        trials.told(job, bundle, "shipped")
    with job.part("CUDA graphs"):
        _graphs(job, load(bundle), load(bundle))
    with job.part("pre and post on the GPU"):
        _around(job, load(bundle, conf=CONF, iou=IOU))


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
    device = trials.torch_device()
    import torch

    session, image = cast(TensorRTSession, predictor.session), trials.picture()
    on_gpu = torch.from_numpy(image).to(device)
    answers = session.run_image(on_gpu, conf=CONF, iou=IOU)
    found = {role: torch.as_tensor(array, device=device)[0].cpu().numpy() for role, array in answers.items()}
    keep = found["keep"].astype(bool)
    [host] = predictor(image)
    _, [geometry] = predictor.preprocess([image])
    theirs = np.asarray(host.boxes), np.asarray(host.scores)
    ours = geometry.boxes_to_image(found["boxes"][keep]), found["scores"][keep]
    alone = [_alone(*theirs, ours[0]), _alone(*ours, theirs[0])]
    says = (
        f"of {len(theirs[0])} objects by the host's letterbox and suppression {alone[0]} have no counterpart by the "
        f"GPU's, of whose {len(ours[0])} {alone[1]} have none by the host's"
    )
    job.holds("pre and post on the GPU", len(theirs[0]) > 0 and not any(alone), says)

    def whole(_: object) -> None:
        session.run_image(on_gpu)

    calls = {"on the GPU": whole, "on the host": lambda picture: predictor(picture)}
    trials.timed(job, "pre and post: times", calls, image)
    predictor.close()


def _alone(boxes: np.ndarray, scores: np.ndarray, others: np.ndarray) -> int:
    """How many ``boxes`` lie on none of ``others``, but for those whose score may be on either side of ``CONF``."""
    sure = boxes[scores > CONF + UNSURE]
    return int((box_iou(sure, others).max(1) < ALIKE).sum()) if len(sure) and len(others) else len(sure)
