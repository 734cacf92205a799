"""What must be refused in a sentence: an engine of another SM, an old driver, a full memory, a lost context."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from edgekit.bundle.loading import load
from edgekit.errors import EdgekitError, InputError
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job
from edgekit.runtime.manifest import MANIFEST, read_bundle, write_manifest
from edgekit.spec import Json
from edgekit.targets._cuda import Cuda, DeviceArray, find_gpu
from edgekit.targets._cuda_kernels import Kernels
from edgekit.targets._tensorrt_session import TensorRTSession

CHUNK = 1 << 26  # bytes; the memory is filled in pieces that halve
LEAST = 1 << 20


def run(job: Job) -> None:
    """Refusals by the record first; the lost context last, for nothing works after it."""
    bundle = trials.built(job, job.needs("model"), "trt-fp16", "shipped")
    sm = read_bundle(bundle, verify=False).manifest["engines"][0]["sm"]
    with job.part("engine of another SM"):
        other = _altered(job, bundle, "other-sm", {"sm": 75 if sm != 75 else 86})
        _refused(job, "engine of another SM", lambda: load(other))
    with job.part("driver too old"):
        newer = _altered(job, bundle, "old-driver", {"cuda": 99})
        _refused(job, "driver too old", lambda: load(newer))
    with job.part("damaged engine"):
        _refused(job, "damaged engine", lambda: load(_damaged(job, bundle)))
    with job.part("too little memory"):
        _full(job, bundle)
    with job.part("context lost"):
        _lost(job, bundle)


def _refused(job: Job, name: str, do: Callable[[], object]) -> None:
    try:
        do()
    except EdgekitError as error:
        job.holds(name, True, f"refused: {error}")
    else:
        job.holds(name, False, "it was taken")


def _copied(job: Job, bundle: Path, name: str) -> Path:
    out = job.work / "bundles" / name
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bundle, out)
    return out


def _altered(job: Job, bundle: Path, name: str, changes: Json) -> Path:
    """A copy whose record says something else of the engine."""
    out = _copied(job, bundle, name)
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    manifest["engines"][0] |= changes
    write_manifest(out, manifest)
    return out


def _damaged(job: Job, bundle: Path) -> Path:
    """A copy with an engine whose middle is zeros."""
    out = _copied(job, bundle, "damaged")
    [engine] = out.glob("*.engine")
    data = bytearray(engine.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    engine.write_bytes(bytes(data))
    return out


def _full(job: Job, bundle: Path) -> None:
    """With the memory filled a session is refused; once it is free, the next one answers."""
    cuda = Cuda(find_gpu())
    held: list[int] = []
    with cuda.current():
        size = CHUNK
        while size >= LEAST:
            try:
                held.append(cuda.device_memory(size))
            except InputError:
                size //= 2
        try:
            _refused(job, "too little memory", lambda: load(bundle))
        finally:
            for pointer in held:
                cuda.free(pointer)
    predictor = load(bundle)
    predictor(trials.picture())
    predictor.close()
    job.holds("memory free again", True, "the next session answers")


def _lost(job: Job, bundle: Path) -> None:
    """A kernel reads where nothing is, which CUDA answers by refusing everything from then on."""
    gpu = find_gpu()
    session = cast(TensorRTSession, load(bundle).session)
    batch = trials.batch_for(load(bundle))
    session.run(batch)
    cuda = Cuda(gpu)
    with cuda.current():
        stream = cuda.stream()
        nowhere = DeviceArray(16, (480, 640, 3), np.dtype("uint8"))
        Kernels(gpu.sm).letterbox(nowhere, 16, session.info.imgsz, session.info.preprocess, stream)
        _refused(job, "context lost: the faulting call", lambda: cuda.synchronize(stream))
    _refused(job, "context lost: the next run", lambda: session.run(batch))
