"""TensorRT 8.6, 10 and 11: an engine for the GPU of the machine it is built on, Jetson included.

    parts = build(graph, "trt-fp16", folder, TensorRTOptions(workspace=2048, timing_cache=Path("timings")))
    session = open_session(folder, info, "trt-fp16")

On a Jetson TensorRT comes with JetPack, elsewhere from pip or NVIDIA's packages. The folder holds one engine,
``model.sm87.engine``, say, and ``model.onnx``, the graph it is of. Unchecked on hardware: the shared builder was run
with TensorRT-RTX, whose API is that of TensorRT 11, and with a stand-in for 8.6 and 10.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.spec import Graph, ModelInfo
from edgekit.targets import _tensorrt_builder as builder
from edgekit.targets import _tensorrt_engines as engines
from edgekit.targets._cuda import Gpu, find_gpu
from edgekit.targets._tensorrt_common import MODEL, Generation, TensorRTOptions, check, generation_of
from edgekit.targets._tensorrt_session import TensorRTSession, open_contexts
from edgekit.versions import version

TARGETS = {"trt-fp16": "TensorRT, half precision", "trt-int8": "TensorRT, int8 and half precision"}
EXTRA = "tensorrt"
OPTIONS = TensorRTOptions
HEADS = ("raw", "topk")
MOST_CANDIDATES = 3840  # that its TopK operator sorts

_WITHOUT = (
    "without it, trt-rtx-* targets are built anywhere, and `edgekit build --no-engine` packs the graph for "
    "`edgekit build --from` on a machine that has it"
)


def missing() -> str | None:
    """Why these targets cannot be built here, or None."""
    if importlib.util.find_spec("tensorrt") is None:
        return (
            "trt-fp16 and trt-int8 need TensorRT, which is not installed; run: pip install 'edgekit[tensorrt]' (on a "
            f"Jetson: apt install tensorrt, and a virtual environment with --system-site-packages); {_WITHOUT}"
        )
    return None


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


def graph_target(target: str) -> str:
    """The target whose form of graph is built from: with the ``Attention`` operator where the TensorRT here reads it,
    and the decomposed one, which all do, otherwise."""
    installed = version("tensorrt")
    try:
        reads = installed is not None and generation_of("tensorrt", installed).attention
    except InputError:
        reads = False
    return target.replace("trt-", "trt-rtx-") if reads else target


def prepare(target: str, options: TensorRTOptions) -> tuple[Any, Generation, Gpu]:
    """What engines are built with here: the SDK's module, its generation, and the GPU.

    Raises:
        UsageError, InputError: there is no GPU, or this version does not do what is asked for.
    """
    trt = _sdk(target)
    generation = generation_of("tensorrt", trt.__version__)
    check(options, generation)
    try:
        return trt, generation, find_gpu()
    except InputError as error:
        raise InputError(
            f"{target}: TensorRT builds on the GPU that will run the engine, and {error}; {_WITHOUT}"
        ) from error


def build(graph: Graph, target: str, folder: Path, options: TensorRTOptions | None = None) -> dict[str, Any]:
    """An engine for the first GPU here, and the graph beside it.

    Raises:
        UsageError, InputError: there is no GPU, or an option or the graph is not what TensorRT takes.
    """
    options = options or TensorRTOptions()
    if graph.path != folder / MODEL:
        shutil.copyfile(graph.path, folder / MODEL)
    if not options.engine:
        return {"engines": []}
    trt, generation, gpu = prepare(target, options)
    built = builder.build(trt, generation, folder / MODEL, graph.info, options, gpu=gpu)
    return {"engines": engines.write(folder, generation, trt.__version__, built, options, gpu)}


def reproduce(engine: dict[str, Any], info: ModelInfo) -> str:
    """The vendor's command line that builds the engine of this record (of the manifest's ``engines``) again."""
    return engines.reproduce(engine, info)


def runs_here(folder: Path, target: str) -> str | None:
    """Why the engine in ``folder`` cannot be run on this machine, or None."""
    try:
        engines.choose(folder, target, engines.gpu_for(folder, None), "tensorrt", _sdk(target).__version__)
    except InputError as error:
        return str(error)
    return None


def open_session(
    folder: Path, info: ModelInfo, target: str, device: str | None = None, threads: int | None = None
) -> TensorRTSession:
    """Load the engine for ``device`` (``cuda:0`` by default). ``threads`` are the CPU's and mean nothing here."""
    return open_streams(folder, info, target, 1, device)[0]


def open_streams(
    folder: Path, info: ModelInfo, target: str, count: int, device: str | None = None, threads: int | None = None
) -> list[TensorRTSession]:
    """``count`` sessions of one engine, each with a context and a stream of its own, for as many threads."""
    gpu = engines.gpu_for(folder, device)
    trt = _sdk(target)
    row = engines.choose(folder, target, gpu, "tensorrt", trt.__version__)
    return open_contexts(trt, folder, row, info, target, gpu, count)
