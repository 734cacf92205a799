"""TensorRT-RTX: engines for GeForce and RTX cards, built on any x86-64 machine, with or without a GPU.

    target = targets.get("trt-rtx-fp16")
    parts = target.build(graph, folder, TensorRTOptions(sm=(75, 86, 89, 120)))
    parts["engines"][1]["attention"]                      # {'source': "builder's log", 'of': 8, 'fused': 8, …}
    session = target.open(folder, info)                   # needs such a card

The folder holds ``model.sm86.engine`` and so on, one file an architecture, and ``model.onnx``, the graph they are of.
Building was tried with 1.7 on machines without a GPU; running is unchecked on hardware.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, not_installed, optional
from edgekit.spec import Graph, Json, ModelInfo, Session
from edgekit.targets import _tensorrt_builder as builder
from edgekit.targets import _tensorrt_engines as engines
from edgekit.targets._cuda import Gpu, find_gpu
from edgekit.targets._target import Opening, Target
from edgekit.targets._tensorrt_common import MODEL, Generation, TensorRTOptions, check, generation_of
from edgekit.targets._tensorrt_session import open_engine

EXTRA = "tensorrt-rtx"
DEFAULT_SMS = (75, 86, 89, 120)  # Turing, Ampere, Ada Lovelace, Blackwell: the RTX cards


def missing() -> str | None:
    """Why these targets cannot be built here, or None."""
    return not_installed("tensorrt_rtx", "trt-rtx-fp16 and trt-rtx-int8", EXTRA)


def _sdk(target: str) -> Any:
    with optional(target, EXTRA):
        import tensorrt_rtx
    return tensorrt_rtx


def architectures() -> tuple[int, ...]:
    """What the installed version builds for, such as (75, 80, 86, 89, 120, 121)."""
    names = _sdk("trt-rtx").ComputeCapability.__members__
    return tuple(sorted(int(name[2:]) for name in names if name[:2] == "SM" and name[2:].isdigit()))


def prepare(target: Target, options: TensorRTOptions) -> tuple[Any, Generation, tuple[int, ...]]:
    """What engines are built with: the SDK's module, its generation, and the architectures.

    Raises:
        UsageError, InputError: this version does not do what is asked for.
    """
    trt = _sdk(target.name)
    generation = generation_of("tensorrt_rtx", trt.__version__)
    check(options, generation)
    sms = options.sm or DEFAULT_SMS
    engines.check_architectures(sms, architectures(), f"TensorRT-RTX {trt.__version__}")
    return trt, generation, sms


def _build(target: Target, graph: Graph, folder: Path, options: TensorRTOptions) -> Json:
    """An engine for each architecture of ``options.sm`` (Turing to Blackwell by default), and the graph beside them.

    Raises:
        UsageError, InputError: an option, an architecture or the graph that TensorRT-RTX does not take.
    """
    if graph.path != folder / MODEL:
        shutil.copyfile(graph.path, folder / MODEL)
    if not options.engine:
        return {"engines": []}
    trt, generation, sms = prepare(target, options)
    built = builder.build(trt, generation, folder / MODEL, graph.info, options, sms, _gpu())
    return {"engines": engines.write(folder, generation, trt.__version__, built, options, None)}


def _gpu() -> Gpu | None:
    """The GPU here, if there is one: engines for its architecture can be looked into."""
    try:
        return find_gpu()
    except InputError:
        return None


def _runs_here(target: Target, folder: Path) -> str | None:
    """Why the engines in ``folder`` cannot be run on this machine, or None."""
    return engines.refusal(_sdk, "tensorrt_rtx", target.name, folder)


def _open(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    return open_engine(_sdk, "tensorrt_rtx", target.name, place, info, opening.device, count)


_HALF = Target(
    name="trt-rtx-fp16",
    about="TensorRT-RTX, half precision",
    precision="fp16",
    narrowing="fp16",
    extra=EXTRA,
    packages=("tensorrt-rtx",),
    rewriting="operator",
    missing=missing,
    builder=_build,
    opener=_open,
    prepare=prepare,
    runs_here=_runs_here,
    **engines.COMMON,
)

TARGETS = (
    _HALF,
    replace(
        _HALF,
        name="trt-rtx-int8",
        about="TensorRT-RTX, int8 and half precision",
        precision="int8",
        narrowing="qdq-fp16",
    ),
)
