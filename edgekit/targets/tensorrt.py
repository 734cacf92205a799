"""TensorRT 8.6, 10 and 11: an engine for the GPU of the machine it is built on, Jetson included.

    target = targets.get("trt-fp16")
    parts = target.build(graph, folder, TensorRTOptions(workspace=2048, timing_cache=Path("timings")))
    session = target.open(folder, info)

On a Jetson TensorRT comes with JetPack, elsewhere from pip or NVIDIA's packages. The folder holds one engine,
``model.sm87.engine``, say, and ``model.onnx``, the graph it is of. Unchecked on hardware: the shared builder was run
with TensorRT-RTX, whose API is that of TensorRT 11, and with a stand-in for 8.6 and 10.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, UsageError, command_line, not_installed
from edgekit.runtime.versions import version
from edgekit.spec import Graph, Json, ModelInfo, Session
from edgekit.targets import _tensorrt_builder as builder
from edgekit.targets import _tensorrt_engines as engines
from edgekit.targets._cuda import Gpu, find_gpu
from edgekit.targets._target import Opening, Served, Target
from edgekit.targets._tensorrt_common import MODEL, Generation, TensorRTOptions, check, generation_of
from edgekit.targets._tensorrt_session import open_engine

EXTRA = "tensorrt"

_WITHOUT = (
    f"without it, trt-rtx-* targets are built anywhere, and `{command_line('build', no_engine=True)}` packs the "
    f"graph for `{command_line('build', rebuild=True)}` on a machine that has it"
)


def missing() -> str | None:
    """Why these targets cannot be built here, or None."""
    reason = not_installed("tensorrt", "trt-fp16 and trt-int8", EXTRA)
    return reason and (
        f"{reason} (on a Jetson: apt install tensorrt, and a virtual environment with --system-site-packages); "
        f"{_WITHOUT}"
    )


def _sdk(target: str) -> Any:
    try:
        import tensorrt
    except Exception as error:  # its shell on PyPI raises RuntimeError where NVIDIA's packages did not come along
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{missing() or f'{target}: TensorRT is installed but cannot be loaded ({why}); {_WITHOUT}'}"
        ) from error
    if not hasattr(tensorrt, "Builder"):
        raise InputError(
            f"{target}: the TensorRT installed here has no builder (its lean runtime, perhaps); {_WITHOUT}"
        )
    return tensorrt


def installed() -> str | None:
    """The version installed, by whichever of its names on PyPI it came; None without one."""
    names = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
    return next((found for name in names if (found := version(name))), None)


def _rewriting() -> str:
    """The recipe of graphs to build from: with the ``Attention`` operator where the TensorRT here reads it, and the
    decomposed one, which all do, otherwise."""
    found = installed()
    try:
        reads = found is not None and generation_of("tensorrt", found).attention
    except InputError:
        reads = False
    return "operator" if reads else "older"


def _narrowing() -> str:
    """Of INT8: TensorRT 8.6 reads no Q/DQ of FP16; its own flags do the rest."""
    return "qdq-symmetric" if (installed() or "").startswith("8.") else "qdq-fp16"


def prepare(target: Target, options: TensorRTOptions) -> tuple[Any, Generation, Gpu]:
    """What engines are built with here: the SDK's module, its generation, and the GPU.

    Raises:
        UsageError, InputError: there is no GPU, or this version does not do what is asked for.
    """
    trt = _sdk(target.name)
    generation = generation_of("tensorrt", trt.__version__)
    check(options, generation)
    try:
        gpu = find_gpu()
    except InputError as error:
        raise InputError(
            f"{target.name}: TensorRT builds on the GPU that will run the engine, and {error}; {_WITHOUT}"
        ) from error
    if options.hardware == "ampere+" and gpu.sm < 80:
        raise UsageError(f"`option` hardware=ampere+: {gpu.name} is SM {gpu.sm}; such engines are built from SM 80 on")
    return trt, generation, gpu


def _build(target: Target, graph: Graph, folder: Path, options: TensorRTOptions) -> Json:
    """An engine for the first GPU here, and the graph beside it.

    Raises:
        UsageError, InputError: there is no GPU, or an option or the graph is not what TensorRT takes.
    """
    if graph.path != folder / MODEL:
        shutil.copyfile(graph.path, folder / MODEL)
    if not options.engine:
        return {"engines": []}
    trt, generation, gpu = prepare(target, options)
    built = builder.build(trt, generation, folder / MODEL, graph.info, options, gpu=gpu)
    return {"engines": engines.write(folder, generation, trt.__version__, built, options, gpu)}


def _runs_here(target: Target, folder: Path) -> str | None:
    """Why the engines in ``folder`` cannot be run on this machine, or None."""
    return engines.refusal(_sdk, "tensorrt", target.name, folder)


def _open(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    return open_engine(_sdk, "tensorrt", target.name, place, info, opening.device, count)


_HALF = Target(
    name="trt-fp16",
    about="TensorRT, half precision",
    precision="fp16",
    narrowing="fp16",
    extra=EXTRA,
    packages=("tensorrt",),
    rewriting=_rewriting,
    missing=missing,
    builder=_build,
    opener=_open,
    prepare=prepare,
    runs_here=_runs_here,
    servers={"triton": Served("tensorrt", gpu=True), "deepstream": Served("nvinfer", (MODEL,), gpu=True)},
    **engines.COMMON,
)

TARGETS = (
    _HALF,
    replace(
        _HALF,
        name="trt-int8",
        about="TensorRT, int8 and half precision",
        precision="int8",
        narrowing=_narrowing,
        servers={**_HALF.servers, "deepstream": Served("nvinfer", gpu=True)},  # it builds none with Q/DQ, loads engines
    ),
)
