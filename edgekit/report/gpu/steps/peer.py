"""Ultralytics' own ONNX through the same TensorRT, in turns with ours: what the rewrites are worth on a GPU.

The peer exports in an environment of its own, in a process; nothing of it is imported here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgekit import targets
from edgekit.bundle.external import models
from edgekit.bundle.loading import load
from edgekit.report.gpu import trials
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.runtime.predictor import Predictor
from edgekit.spec import Graph, sha256_file

NETWORK = "yolo12n"
_EXPORT = """
import sys
from ultralytics import YOLO
print("\\nEXPORTED", YOLO(sys.argv[1]).export(format="onnx", imgsz=int(sys.argv[2]), half=True, device=0))
"""


def run(job: Job) -> None:
    """Both engines of yolo12n, untrained: the network alone, then the whole call."""
    python = trials.peer(job)
    folder = job.work / "peer"
    folder.mkdir(exist_ok=True)
    exported = _export(python, folder)
    job.holds("exported by the peer", True, f"{exported.stat().st_size >> 20} MiB of ONNX in half precision")
    theirs = _engine(exported, folder / "engine")
    job.holds("the peer's graph builds", True, "TensorRT takes it with our builder's options")
    ours = load(trials.built(job, trials.untrained(job, NETWORK), "trt-fp16", f"{NETWORK}-untrained"))
    with job.part("network alone"):
        sessions = {"edgekit": ours.session, "peer's graph": theirs.session}
        calls = {name: session.run for name, session in sessions.items()}
        trials.timed(job, "network alone", calls, trials.batch_for(ours))  # type: ignore[arg-type]
    with job.part("whole call"):
        whole = {"edgekit": lambda image: ours(image), "peer's graph": lambda image: theirs(image)}
        trials.timed(job, "whole call", whole, trials.picture())


def _export(python: Path, folder: Path) -> Path:
    words = [str(python), "-c", _EXPORT, f"{NETWORK}.yaml", str(trials.SIDE)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    trials.say(done.stdout[-2000:] + done.stderr[-2000:])
    files = sorted(folder.rglob("*.onnx"))
    if done.returncode or not files:
        raise Lacking(f"the peer's export does not work here ({trials.last_line(done.stderr)})")
    return files[0]


def _engine(exported: Path, folder: Path) -> Predictor:
    model = models.read(exported)
    folder.mkdir(exist_ok=True)
    target = targets.get("trt-fp16")
    target.build(Graph(exported, model.inner, sha256_file(exported)), folder)
    return Predictor(model.wrap(target.open(folder, model.inner)))
