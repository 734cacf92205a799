"""What TensorRT and TensorRT-RTX share: how their versions differ, and what can be asked of a build.

| | 8.6 | 10.x | 11.x | RTX >= 1.4 |
|---|---|---|---|---|
| networks | precision by flags | strongly typed if asked | strongly typed | strongly typed |
| ONNX opset | 17 | 20 and later | 25 | 23 and later |
| ``Attention`` operator | no | from 10.14 | yes | yes |
| builds for | the GPU here | the GPU here | the GPU here | any of its list, without a GPU |
| weights out of the engine | no | yes | yes | yes |
| DLA, timing cache, hardware compatibility | yes | yes | yes | no |

Sources: the public headers ``NvInfer.h`` of NVIDIA/TensorRT at v8.6.0, v10.13.0 and v11.1 (flags and enumerations);
the release notes of TensorRT 10.14 (``IAttention``, ONNX ``Attention``); "ONNX Opset Guide" of TensorRT 11; "CPU-Only
AOT and TensorRT-RTX Engines" and the support matrices of TensorRT-RTX 1.4 to 1.5.

    options = TensorRTOptions.parse({"sm": "75,86", "workspace": "2048"})
    generation_of("tensorrt", "10.3.0").attention      # False
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import InputError, UsageError
from edgekit.runtime.fields import option
from edgekit.runtime.versions import version
from edgekit.spec import Json
from edgekit.targets._target import TargetOptions

MODEL = "model.onnx"  # the graph that went into the builder travels with the engines


@dataclass(frozen=True)
class Generation:
    """One column of the table above.

    Attributes:
        name: as NVIDIA calls it.
        sdk: the Python module.
        least, below: the versions meant, the second exclusive.
        typing: ``flags`` (FP16 and INT8 are permitted to the builder), ``asked`` (a creation flag) or ``always``.
        opset: the newest that its ONNX parser is known to read.
        attention: whether it reads ONNX ``Attention`` into a fused layer.
        strips: whether engines can be built without weights.
        here: whether an engine is built for the GPU at hand, and timed on it.
    """

    name: str
    sdk: str
    least: tuple[int, ...]
    below: tuple[int, ...]
    typing: str
    opset: int
    attention: bool
    strips: bool
    here: bool = True


_NEVER = (1 << 16,)
GENERATIONS = (
    Generation("TensorRT 8.6", "tensorrt", (8, 6), (9,), "flags", 17, False, False),
    Generation("TensorRT 10", "tensorrt", (10,), (10, 14), "asked", 20, False, True),
    Generation("TensorRT 10.14 and later", "tensorrt", (10, 14), (11,), "asked", 23, True, True),
    Generation("TensorRT 11", "tensorrt", (11,), (12,), "always", 25, True, True),
    Generation("TensorRT-RTX", "tensorrt_rtx", (1, 4), _NEVER, "always", 23, True, True, here=False),
)

# Driver branches that run what was built against a CUDA major version, by "CUDA Compatibility", table 1.
DRIVER_FLOORS = {11: "450", 12: "525", 13: "580"}


def generation_of(sdk: str, text: str) -> Generation:
    """The generation of version ``text`` of ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        InputError: one edgekit does not know.
    """
    number = tuple(int(part) for part in text.split(".") if part.isdigit())
    for generation in GENERATIONS:
        if generation.sdk == sdk and generation.least <= number < generation.below:
            return generation
    known = ", ".join(g.name for g in GENERATIONS if g.sdk == sdk)
    raise InputError(f"{sdk} {text} is installed, but edgekit builds with {known}; install one of those")


def cuda_major(sdk: str) -> int | None:
    """The CUDA major version an SDK from pip is made for, by its packages' names; None for one of the system's."""
    names = ("tensorrt_rtx_cu{}_libs",) if sdk == "tensorrt_rtx" else ("tensorrt_cu{}_libs", "tensorrt_cu{}")
    return next((major for major in sorted(DRIVER_FLOORS) for name in names if version(name.format(major))), None)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _below(limit: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        return range(limit).index(int(text))

    return parse


def _architectures(text: str) -> tuple[int, ...]:
    return tuple(
        sorted({_positive(part.strip().lower().removeprefix("sm").replace(".", "")) for part in text.split(",")})
    )


def _batches(text: str) -> tuple[int, int, int]:
    least, best, most = (_positive(part) for part in text.split(","))
    if not least <= best <= most:
        raise ValueError
    return least, best, most


def _folder(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


@dataclass(frozen=True)
class TensorRTOptions(TargetOptions):
    """What can be asked of a build."""

    FLAGS = ("sm", "workspace", "timing-cache")

    sm: tuple[int, ...] = option((), parse=_architectures, means="architectures by commas, such as 75,86,89,120")
    """Architectures to build for (TensorRT-RTX; TensorRT builds for the GPU at hand)."""
    workspace: int | None = option(None, parse=_positive, means="megabytes, 1 or more")
    """Most megabytes of GPU memory a layer may use for scratch; the SDK's own limit by default."""
    builder_level: int | None = option(None, parse=_below(6), means="0 (quickest to build) to 5 (all kernels tried)")
    """How long the builder looks for faster kernels; 3 by default."""
    timing_cache: Path | None = option(None, parse=_folder, means="a folder")
    """Measured kernel times, a file for each GPU and version, read and written. Experimental."""
    hardware: str = option("same", choices=("same", "same-sm", "ampere+"), means="same, same-sm or ampere+")
    """The same GPU model, every GPU of that architecture, or Ampere and later (slower anywhere). Experimental."""
    version_compatible: bool = False
    """Let later versions of TensorRT load the engine. Experimental."""
    sparsity: bool = False
    """Use 2:4 sparse kernels where the weights are. Experimental."""
    dla: int | None = option(None, parse=_below(8), means="the number of a DLA core")
    """Run what it can on this core of Jetson's accelerator. Experimental."""
    gpu_fallback: bool = True
    """Let layers the accelerator cannot take run on the GPU; the engine's record lists them. Experimental."""
    batches: tuple[int, int, int] = option(
        (1, 4, 16), parse=_batches, means="the least, the best and the greatest batch by commas, such as 1,4,16"
    )
    """Least, best and greatest batch of a graph with a dynamic one."""
    strip_weights: bool = False
    """Leave the weights out; they are read from ``model.onnx`` when the engine is loaded. Experimental."""
    engine: bool = True
    """No packs the graph alone, to be built on the machine it is for."""
    layer_names: str = option("detailed", choices=("none", "names", "detailed"), means="none, names or detailed")
    """What the engine keeps of its layers: ``detailed`` shows which kernels they became."""

    @property
    def complete(self) -> bool:
        return self.engine

    def changed(self) -> Json:
        """Fields that are not at their defaults, JSON-ready, as an engine's record keeps them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        values.pop("sm", None)
        values.pop("timing_cache", None)  # a place on the machine of the build
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def spelt(changed: Json) -> list[str]:
    """What ``TensorRTOptions.changed`` gave, as it is typed."""
    words = []
    for field, value in changed.items():
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        if isinstance(value, list):
            text = ",".join(map(str, value))
        name = field.replace("_", "-")
        words.append(f"--{name} {text}" if name in TensorRTOptions.FLAGS else f"--{'option'} {name}={text}")
    return words


def check(options: TensorRTOptions, generation: Generation) -> None:
    """Refuse what this generation cannot do.

    Raises:
        UsageError: naming the option.
    """
    if not generation.here:
        for name in ("hardware", "version_compatible", "dla", "timing_cache"):
            if getattr(options, name) != getattr(TensorRTOptions(), name):
                named = options.named(name.replace("_", "-")).strip("= ")
                raise UsageError(f"{named}: TensorRT-RTX has no such thing; trt-* targets do")
    elif options.sm:
        raise UsageError(
            "`sm`: TensorRT builds for the GPU of the machine it runs on; only trt-rtx-* targets are built for others"
        )
    if options.strip_weights and not generation.strips:
        raise UsageError(f"`option` strip-weights: {generation.name} cannot; TensorRT 10 and later can")
    if options.hardware == "same-sm" and generation.least < (10,):
        raise UsageError(f"`option` hardware=same-sm: {generation.name} has only same and ampere+")
    if options.hardware != "same" and options.dla is not None:
        raise UsageError("`option` dla: an engine for a DLA runs on that Jetson alone; leave `option` hardware out")
