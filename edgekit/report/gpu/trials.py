"""What several steps do: a bundle built and looked into, sessions timed side by side, a network or a set to try on.

path = built(job, checkpoint, "trt-fp16", "shipped")
told(job, path, "shipped")                            # parity, attention
timed(job, "CUDA graphs", {"replayed": a, "queued": b}, batch)
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from edgekit import targets
from edgekit.bench.clock import WHOLE, ClockOptions, measure
from edgekit.bundle.build import build
from edgekit.bundle.options import BuildOptions
from edgekit.checkpoint import catalog
from edgekit.errors import optional
from edgekit.quantize.options import QuantizeOptions
from edgekit.report.gpu.findings import Job, Lacking
from edgekit.runtime.manifest import is_bundle, read_bundle
from edgekit.runtime.predictor import Predictor
from edgekit.verify import parity

SIDE = 640  # pixels, of everything that is timed
TIMED_S = 8.0  # seconds that contestants are timed for
FEW, MANY = 64, 512  # images of the set that is drawn: to learn from, and to measure how fast
_DRAW = "import pathlib, sys, benchmarks.shapeset as s; s.make_set(pathlib.Path(sys.argv[1]), int(sys.argv[2]), 16)"


def torch_device() -> str:
    """The GPU as PyTorch calls it.

    Raises:
        MissingPackageError, Lacking: there is no PyTorch, or one without CUDA.
    """
    with optional("what PyTorch does on the GPU", "train"):
        import torch
    if not torch.cuda.is_available():
        raise Lacking("the PyTorch here has no CUDA; install a build that has (pytorch.org)")
    return "cuda:0"


def say(line: str) -> None:
    """Into the step's log."""
    sys.stderr.write(line + "\n")


def built(
    job: Job, source: Path, target: str, name: str, data: Path | None = None, own: Mapping[str, str] | None = None
) -> Path:
    """The bundle ``name`` of ``source``, proved against PyTorch as every build is; one that a step before this one made
    is taken as it is. ``own`` are the target's options.

    Raises:
        Lacking: the SDK is not installed.
        EdgekitError: what the build refuses.
    """
    out = job.work / "bundles" / name
    if is_bundle(out):
        return out
    missing = targets.get(target).missing()
    if missing:
        raise Lacking(missing)
    out.parent.mkdir(exist_ok=True)
    quantize = QuantizeOptions(data=data, timing_s=0) if data else QuantizeOptions()
    build(source, target, out, BuildOptions(imgsz=(SIDE, SIDE), target=own or {}, quantize=quantize), say)
    return out


def told(job: Job, bundle: Path, name: str) -> None:
    """Findings on what the bundle's manifest says: that the engine itself ran, its parity, its attentions. An INT8
    engine is held to its own graph; what eight bits change is judged by accuracy."""
    manifest = read_bundle(bundle, verify=False).manifest
    instead = manifest.get("evaluated")
    against = "its graph" if "engine_parity" in manifest else "PyTorch"
    roles = manifest.get("engine_parity") or manifest.get("parity") or {}
    worst = {role: row["max_abs"] for role, row in roles.items()}
    fine = instead is None and bool(roles) and all(row["pass"] for row in roles.values())
    engine = manifest["engines"][0]
    job.holds(
        f"{name}: parity with {against}",
        fine,
        instead or f"differs by at most {worst}",
        seconds=engine.get("seconds"),
        bytes=engine["bytes"],
        parity=roles,
        accuracy=manifest.get("accuracy"),
    )
    found = engine["attention"]
    if found["fused"] is None:
        raise Lacking("the engine's inspector names no nodes, so nothing is known of its attentions")
    says = f"{found['fused']} of {found['of']} attentions are one kernel, by the {found['source']}"
    job.holds(f"{name}: attention fused", found["fused"] == found["of"], says, **found)


def timed(job: Job, name: str, contestants: Mapping[str, Callable[[object], object]], item: object) -> None:
    """A finding with the milliseconds of each contestant, in turns, and the first one's ratio to the others."""
    baseline = list(contestants)[-1]
    result = measure(contestants, [item], baseline=baseline, options=ClockOptions(budget_s=TIMED_S))
    rows = {each: stages[WHOLE] for each, stages in result.stages.items()}
    figures: dict[str, object] = {}
    for each, row in rows.items():
        figures |= {f"{each} p50 ms": row["p50"], f"{each} p99 ms": row["p99"]}
    for each, ratios in result.ratios.items():
        figures |= {f"{each} over {baseline}": ratios[WHOLE]["ratio"]} if each != baseline else {}
    says = ", ".join(f"{each} {row['p50']:.3f} ms (p99 {row['p99']:.3f})" for each, row in rows.items())
    job.holds(name, True, says, **figures, disturbances=list(result.disturbances))


def flags(**values: object) -> list[str]:
    """Options of another program, as its command line takes them."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def picture() -> np.ndarray:
    """A generated picture, uint8 BGR ``[480, 640, 3]`` or near it."""
    return parity.generated_images(1, side=SIDE)[0]


def batch_for(predictor: Predictor) -> np.ndarray:
    """A generated picture as ``predictor``'s session takes it, with the batch first."""
    return parity.batch_of(picture(), predictor.info)


def peer(job: Job) -> Path:
    """Python of the environment to compare with.

    Raises:
        Lacking: there is none.
    """
    python = job.needs("peer") / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.is_file():
        raise Lacking(f"{python}: no Python there; give `peer`, a virtual environment with ultralytics")
    return python


def last_line(text: str) -> str:
    """What another program said last."""
    return (text.strip() or "it says nothing").splitlines()[-1]


def dataset(job: Job, images: int | None = None) -> Path:
    """The labelled set that was given, or one that the repository draws, of ``images`` (``FEW`` of them) to learn from.

    Raises:
        Lacking: there is neither.
    """
    if job.request.data:
        return Path(job.request.data)
    count = images or FEW
    folder = job.work / f"shapes-{count}"
    if not (folder / "data.yaml").is_file():
        repository = job.request.repository
        if repository is None:
            raise Lacking("there is no set to learn from: give `data`, or run this in a checkout of the repository")
        subprocess.run([sys.executable, "-c", _DRAW, str(folder), str(count)], cwd=repository, check=True)
    return folder / "data.yaml"


def untrained(job: Job, name: str) -> Path:
    """An untrained checkpoint whose answers depend on the image; it finds nothing, so its times are of the network."""
    from edgekit.report.table import random_checkpoint

    return random_checkpoint(catalog.spec(name), (SIDE, SIDE), job.work / f"{name}-untrained.pt")


def decided(job: Job, name: str) -> Path:
    """An untrained checkpoint that parity tells from a wrong one: its scores are 0.06 to 0.5, and far apart. Those of
    ``untrained`` are of 1e-4, where a difference of a fifth is a rounding error and no box is looked at."""
    from edgekit import checkpoint
    from edgekit.nn.boxhead import BoxBranches

    path = job.work / f"{name}-decided.pt"
    if not path.is_file():
        made = checkpoint.load(untrained(job, name))
        head = made.net.head
        if isinstance(head, BoxBranches):
            head.reset_biases(classes=5, imgsz=32)  # as if there were few cells, of which some see something
        checkpoint.save(made, path)
    return path
