"""Accuracy of a model on a labelled set: every image through the very call applications make, then the task's metrics.

    evaluation = evaluate(predictor, dataset)
    evaluation.scores.metrics["map50_95"], evaluation.seconds["network"]

Reading and letterboxing, the network, and post-processing overlap: images are read ahead by threads, and the answers
are worked up by another while the network is busy with the next batches, as many at once as its session has streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from edgekit import metrics, tasks
from edgekit.data.dataset import Dataset, Sample
from edgekit.errors import InputError
from edgekit.metrics.coco import evaluator_package
from edgekit.metrics.limits import crowded
from edgekit.runtime.garbage import no_garbage_collection
from edgekit.runtime.image import Geometry, read_image
from edgekit.runtime.options import Options
from edgekit.runtime.postprocess import postprocess, truncation
from edgekit.runtime.predictor import Predictor
from edgekit.runtime.shaped import Shaped
from edgekit.spec import MAX_DET, ModelInfo, Session

CONF, IOU = 0.001, 0.7  # the published protocol, with MAX_DET
READERS = 2
AHEAD = 4  # batches read before they are needed

Rows = list[dict[str, Any]]


class Answer(NamedTuple):
    """What is kept of one image: COCO result rows, and which limits may have kept objects out of them."""

    rows: Rows
    truncated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        scores: the task's metrics, per class, and how they were computed.
        predictions: COCO result dicts (for classification ``image_id`` and ``probs``), by image.
        images: images scored.
        seconds: ``whole``, and the busy time of its overlapping parts, all their threads together: ``read``, ``pre``,
            ``network``, ``post``, and ``score`` after them.
        skipped: a sentence for each image that could not be read; those are not scored.
        protocol: confidence, suppression, head form, image size and metric in a sentence or two.
        notes: sentences on what limits kept out: objects that cannot be found, candidates that the head cut off.
    """

    scores: metrics.Scores
    predictions: Rows
    images: int
    seconds: dict[str, float]
    skipped: list[str]
    protocol: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The document of ``val --json`` but for what the command adds."""
        return {
            "metrics": self.scores.to_dict(),
            "images": self.images,
            "seconds": self.seconds["whole"],
            "stages": self.seconds,
            "skipped": self.skipped,
            "protocol": self.protocol,
            "notes": self.notes,
        }


@dataclass
class _Batch:
    """What a reader hands over."""

    samples: list[Sample] = field(default_factory=list)
    session: Session | None = None  # of the input size that these images go to
    tensor: np.ndarray | None = None
    geometries: Sequence[Geometry] = ()
    skipped: list[str] = field(default_factory=list)
    read_s: float = 0.0
    pre_s: float = 0.0


# Thousands of rows are kept and none of them is garbage; looking through them again and again took a third of the time
# beside the network.
@no_garbage_collection()
def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    scoring: metrics.Options | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score ``predictor`` on ``dataset`` (whose labels are in the model's class order).

    Args:
        predictor: its batch decides how many images go through the network at once; its detection options are
            replaced by those of the protocol (confidence 0.001, NMS IoU 0.7 per class, 300 detections or as many as
            ``scoring.max_det``).
        scoring: protocol of the metric.
        progress: called with the number of images done.

    Raises:
        InputError: no image of the set can be read.
        UsageError: ``scoring.max_det`` is more than the model's head can give.
        MissingPackageError: faster-coco-eval is needed and not installed.
    """
    start = perf_counter()
    scoring = replace(scoring or metrics.Options(), imgsz=predictor.info.imgsz)
    options = protocol_options(predictor, scoring.protocol, scoring.max_det)
    options.check(predictor.info)
    if scoring.protocol == "coco" and any(port.role == "boxes" for port in predictor.info.outputs):
        evaluator_package()
    seconds = dict.fromkeys(("read", "pre", "network", "post"), 0.0)
    answers: dict[int, Answer] = {}
    skipped: list[str] = []
    progress(0)
    streams = predictor.session.streams
    with (
        ThreadPoolExecutor(READERS) as readers,
        ThreadPoolExecutor(streams) as networks,
        ThreadPoolExecutor(1) as workers,
    ):
        pending: deque[Future[dict[int, Answer]]] = deque()
        for batch in _read_ahead(readers, predictor, dataset.samples):
            skipped += batch.skipped
            seconds["read"] += batch.read_s
            seconds["pre"] += batch.pre_s
            if batch.tensor is not None and batch.session is not None:
                answer = networks.submit(_run, batch.session, batch.tensor)
                pending.append(workers.submit(_work_up, answer, batch, options, dataset, seconds))
            while pending and (pending[0].done() or len(pending) > AHEAD + streams):
                answers.update(pending.popleft().result())
                progress(len(answers) + len(skipped))
        while pending:
            answers.update(pending.popleft().result())
            progress(len(answers) + len(skipped))
    if not answers:
        raise InputError(f"{dataset.source}: none of its {len(dataset)} images can be read ({skipped[0]})")
    scored = replace(dataset, samples=tuple(s for s in dataset.samples if s.image_id in answers))
    predictions = [row for sample in scored.samples for row in answers[sample.image_id].rows]
    began = perf_counter()
    scores = score(scored, predictions, scoring)
    seconds["score"] = perf_counter() - began
    seconds["whole"] = perf_counter() - start
    protocol = f"{_protocol(predictor, options)} {scores.protocol}"
    notes = [*crowded(scored, options.max_det, scoring), *_cut_off(answers, predictor.info, options)]
    return Evaluation(scores, predictions, len(scored), seconds, skipped, protocol, notes)


def score(
    dataset: Dataset, predictions: Sequence[metrics.Prediction], options: metrics.Options | None = None
) -> metrics.Scores:
    """The task's metrics of ``predictions`` (COCO result dicts) on the split that ``dataset`` holds.

    Raises:
        InputError: predictions that do not belong to the set or lack what the task needs.
        MissingPackageError: faster-coco-eval is needed and not installed.
    """
    scores: metrics.Scores = (
        tasks.get(dataset.task).part("labels").score(dataset, predictions, options or metrics.Options())
    )
    return scores


def _cut_off(answers: Mapping[int, Answer], info: ModelInfo, options: Options) -> Iterator[str]:
    images = sum("candidates" in answer.truncated for answer in answers.values())
    if images:
        yield f"in {images} of {len(answers)} images {truncation('candidates', info, options)}"


def labels_for(session: Session, dataset: Dataset) -> Dataset:
    """``dataset`` in the order of the model's classes, as ``evaluate`` wants it. A model that does not name its classes
    is taken to have the set's, in its order.

    Raises:
        InputError: the set lacks classes of the model, or has not as many.
    """
    names = session.info.names
    ordered = dataset.with_names(names) if session.named else dataset
    if len(ordered.names) != len(names):
        raise InputError(f"{session.path} has {len(names)} classes, {dataset.source} has {len(dataset.names)}")
    return ordered


def protocol_options(predictor: Predictor, protocol: str = "coco", max_det: int | None = None) -> Options:
    """The detection options that accuracy is measured with."""
    oriented = any(port.role == "rotated_boxes" for port in predictor.info.outputs)
    conf = 0.01 if protocol == "ultralytics" and oriented else CONF
    return Options(conf=conf, iou=IOU, max_det=max_det or MAX_DET, multi_label=True, clip=False)


def _protocol(predictor: Predictor, options: Options) -> str:
    info = predictor.info
    size = f"{info.imgsz[0]}x{info.imgsz[1]} px, {predictor.session.target}"
    if not any(port.role == "scores" for port in info.outputs):
        return f"{size}: short side resized, centre crop."
    return (
        f"{size}, {info.head} head, letterbox; confidence {options.conf}, NMS IoU {options.iou} per class, "
        f"{options.max_det} detections, boxes not clipped to the image."
    )


def _read_ahead(readers: ThreadPoolExecutor, predictor: Predictor, samples: Sequence[Sample]) -> Iterator[_Batch]:
    """Batches in order, ``AHEAD`` of them in the making; of one image each where images go to several input sizes."""
    size = 1 if isinstance(predictor.session, Shaped) else predictor.batch
    groups = (samples[i : i + size] for i in range(0, len(samples), size))
    coming: deque[Future[_Batch]] = deque()
    for group in groups:
        coming.append(readers.submit(_read, group, predictor))
        if len(coming) > AHEAD:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _read(samples: Sequence[Sample], predictor: Predictor) -> _Batch:
    batch, images, start = _Batch(), [], perf_counter()
    for sample in samples:
        try:
            images.append(read_image(sample.path))
            batch.samples.append(sample)
        except InputError as error:
            batch.skipped.append(str(error))
    ready = perf_counter()
    if images:
        batch.session = predictor.session.fitting(*images[0].shape[:2])
        batch.tensor, batch.geometries = predictor.preprocess(images)
    batch.read_s, batch.pre_s = ready - start, perf_counter() - ready
    return batch


def _run(session: Session, tensor: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
    """A batch's outputs, which stay as they are when the session is called again, and the seconds it took."""
    start = perf_counter()
    outputs = session.run(tensor)
    took = perf_counter() - start
    return {role: np.array(value) for role, value in outputs.items()}, took


def _work_up(
    answer: Future[tuple[dict[str, np.ndarray], float]],
    batch: _Batch,
    options: Options,
    dataset: Dataset,
    seconds: dict[str, float],
) -> dict[int, Answer]:
    """One batch's outputs as COCO rows by image id. Runs in one thread only, which alone adds to ``network`` and
    ``post``."""
    outputs, took = answer.result()
    seconds["network"] += took
    start = perf_counter()
    assert batch.session is not None
    results = postprocess(outputs, batch.session.info, batch.geometries, options)
    answers = {}
    for sample, result in zip(batch.samples, results, strict=True):
        if result.probs is not None:
            answers[sample.image_id] = Answer([{"image_id": sample.image_id, "probs": result.probs.tolist()}])
        else:
            rows = result.to_coco(sample.image_id, dataset.category_ids)
            answers[sample.image_id] = Answer(rows, result.truncated)
    seconds["post"] += perf_counter() - start
    return answers
