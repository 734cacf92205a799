"""Engine files in a bundle: written with a record each, chosen and checked before one is loaded.

    rows = write(folder, generation, trt.__version__, built, options, gpu)     # the manifest's `engines`
    row = choose(folder, target, find_gpu(), "tensorrt_rtx", "1.7.1.116")      # or one sentence

An engine is a plain file that any application of the same SDK loads. It fits one architecture, one version of the SDK,
and drivers from some branch on; what is wrong is said here, before the SDK sees the file, with the command that
builds another from the ``model.onnx`` beside it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import GateError, InputError, command_line
from edgekit.runtime.atomic import replacing
from edgekit.runtime.manifest import MANIFEST, is_bundle, read_bundle
from edgekit.spec import Json, ModelInfo, sha256_file
from edgekit.targets._cuda import Gpu, find_gpu
from edgekit.targets._tensorrt_builder import Built
from edgekit.targets._tensorrt_common import (
    DRIVER_FLOORS,
    GENERATIONS,
    MODEL,
    Generation,
    TensorRTOptions,
    cuda_major,
    spelt,
)

# Why TensorRT-RTX does not build for an architecture, and what does.
_ELSEWHERE = {
    87: "Jetson Orin takes engines of its own TensorRT: build trt-fp16 or trt-int8 on the Jetson",
    90: "H100, H200 and GH200 take engines of TensorRT: build trt-fp16 or trt-int8 on a machine that has one",
    100: "B100, B200 and GB200 take engines of TensorRT: build trt-fp16 or trt-int8 on a machine that has one",
    103: "B300 takes engines of TensorRT: build trt-fp16 or trt-int8 on a machine that has one",
    110: "Jetson Thor takes engines of its own TensorRT: build trt-fp16 or trt-int8 on the Jetson",
}
# Major versions whose version-compatible engines run on the next one, by the "Support Matrix" of TensorRT 11.4.
_NEXT = (((8,), (10,)), ((10,), (11,)))
_BEFORE_TURING = (
    "GPUs before Turing (75) take engines of TensorRT 8.6 or, from 70 on, 10: build trt-fp16 on the machine"
)


def check_architectures(sms: tuple[int, ...], known: tuple[int, ...], name: str) -> None:
    """Refuse architectures an SDK does not build for.

    Raises:
        InputError: saying what to use instead.
    """
    for sm in sms:
        if sm not in known:
            instead = _ELSEWHERE.get(sm) or (_BEFORE_TURING if sm < 75 else "give one of those")
            raise InputError(f"`sm` {sm}: {name} builds for {', '.join(map(str, known))}; {instead}")


def write(
    folder: Path,
    generation: Generation,
    sdk_version: str,
    built: Mapping[int, Built],
    options: TensorRTOptions,
    gpu: Gpu | None,
) -> list[Json]:
    """Write engines into ``folder`` and return their records, which become the manifest's ``engines``.

    A record says ``file``, ``bytes`` and ``sha256``; ``sm``, and the ``gpu`` it was built on (None: on none);
    ``sdk``, ``sdk_version``, ``cuda`` (major version) and ``driver`` (the branch that is needed at least; None where
    the SDK is the system's); ``platform``; ``onnx_sha256`` of the graph; ``options``; and what the builder reported.
    """
    major = cuda_major(generation.sdk)
    rows = []
    for sm, made in built.items():
        path = folder / f"model.sm{sm}.engine"
        with replacing(path) as partial:
            partial.write_bytes(made.engine)
        rows.append(
            {
                "file": path.name,
                "bytes": len(made.engine),
                "sha256": sha256_file(path),
                "gpu": gpu.name if gpu else None,
                "sdk": generation.sdk,
                "sdk_version": sdk_version,
                "cuda": major,
                "driver": DRIVER_FLOORS.get(major) if major else None,
                "platform": _platform(),
                "onnx_sha256": sha256_file(folder / MODEL),
                "options": options.changed(),
                **made.record,
            }
        )
    return rows


def rows_of(folder: Path) -> list[Json]:
    """The records of a bundle's engines; of a folder that is none yet, what its file names say.

    Raises:
        InputError: the manifest's records are damaged.
    """
    if not is_bundle(folder):
        files = sorted(folder.glob("model.sm*.engine"))
        return [{"file": f.name, "bytes": f.stat().st_size, "sm": int(f.name.split(".")[1][2:])} for f in files]
    manifest = read_bundle(folder, verify=False).manifest
    rows = manifest.get("engines", [])
    if not isinstance(rows, list) or not all(
        isinstance(r, dict) and isinstance(r.get("file"), str) and isinstance(r.get("sm"), int) for r in rows
    ):
        raise InputError(f"{folder / MANIFEST}: its list of engines is damaged; rebuild the bundle")
    for row in rows:
        if row["file"] not in manifest["files"]:
            raise InputError(f"{folder / MANIFEST}: the engine {row['file']!r} is none of its files; rebuild it")
    return rows


def gpu_for(folder: Path, device: str | None) -> Gpu:
    """The GPU to run a bundle's engines on.

    Raises:
        InputError: there is none; the sentence says what the engines are for.
        UsageError: no such device.
    """
    try:
        return find_gpu(device)
    except InputError as error:
        has = " or ".join(f"SM {row['sm']}" for row in rows_of(folder)) or "one"
        raise InputError(f"{folder}: its engines run on an NVIDIA GPU of {has}, and {error}") from error


def choose(folder: Path, target: str, gpu: Gpu, sdk: str, sdk_version: str) -> Json:
    """The record of the engine that fits this machine.

    Args:
        gpu: the one to run on.
        sdk, sdk_version: what is installed.

    Raises:
        InputError: no engine for the architecture or the version, or the driver is too old.
        GateError: the file is not whole.
    """
    rows = rows_of(folder)
    again = rebuild_command(folder, target, rows[0] if rows else {})
    if not rows:
        raise InputError(f"{folder}: it holds the graph but no engine; build one here with: {again}")
    fitting = [row for row in rows if _runs_on(row, gpu.sm)]
    if not fitting:
        has = ", ".join(f"SM {row['sm']}" for row in rows)
        raise InputError(f"{folder}: its engines are for {has}, and {gpu.name} is SM {gpu.sm}; rebuild with: {again}")
    row = fitting[0]
    wrong = _version_trouble(row, sdk, sdk_version)
    if wrong:
        raise InputError(f"{folder / row['file']}: {wrong}; rebuild with: {again}")
    major = row.get("cuda")
    if isinstance(major, int) and gpu.cuda // 1000 < major:
        raise InputError(
            f"{folder / row['file']}: built for CUDA {major}, but the driver here runs CUDA {gpu.cuda // 1000}."
            f"{gpu.cuda % 1000 // 10} at most; install driver {row.get('driver') or 'of a newer branch'} or newer, or "
            f"rebuild with an SDK for this one: {again}"
        )
    size = (folder / row["file"]).stat().st_size
    if size != row.get("bytes", size):
        raise GateError(
            f"{folder / row['file']}: {size} of {row['bytes']} bytes are there, so it was cut off or altered; "
            f"copy it again, or rebuild with: {again}"
        )
    return row


def _runs_on(row: Json, sm: int) -> bool:
    """Engines run on the architecture they are for; those for Ampere and later on newer ones too."""
    ampere = row.get("options", {}).get("hardware") == "ampere+" and min(row["sm"], sm) >= 80
    return bool(row["sm"] == sm or ampere)


def _version_trouble(row: Json, sdk: str, sdk_version: str) -> str | None:
    built = str(row.get("sdk_version", sdk_version))
    if row.get("sdk", sdk) != sdk:
        return f"an engine of {row['sdk']}, which {sdk} cannot load"
    here = _platform()
    if sdk == "tensorrt" and row.get("platform", here) != here:  # those of TensorRT-RTX are for Linux and Windows alike
        return f"built on {row['platform']}, and this is {here}"
    majors = (_number(built)[:1], _number(sdk_version)[:1])
    later = row.get("options", {}).get("version_compatible") and (majors[0] == majors[1] or majors in _NEXT)
    if built == sdk_version or (later and _number(built) <= _number(sdk_version)):
        return None
    return f"built with {sdk} {built}, and {sdk_version} is installed here; an engine runs with its own version only"


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def rebuild_command(folder: Path, target: str, row: Json) -> str:
    """What makes the same bundle anew, with the options of the engine ``row``, for the machine it is typed on."""
    again = command_line("build", rebuild=folder, target=target, out=f"{folder}-here")
    return " ".join([again, *spelt(row.get("options", {}))])


def reproduce(row: Json, info: ModelInfo) -> str:
    """The vendor's own command line for the build of one engine (``trtexec``, or ``tensorrt_rtx``).

    Options as in ``sampleOptions.cpp`` of NVIDIA/TensorRT at v8.6.0, v10.13.0 and v11.1, and the documentation of
    TensorRT-RTX's command line.
    """
    options = row.get("options", {})
    rtx = row["sdk"] == "tensorrt_rtx"
    words = ["tensorrt_rtx" if rtx else "trtexec", f"--onnx={MODEL}", f"--saveEngine={row['file']}"]
    if rtx:
        words.append(f"--computeCapabilities={row['sm']}")
    typing = next((g.typing for g in GENERATIONS if g.sdk == row["sdk"] and _within(g, row["sdk_version"])), "always")
    if typing == "flags":
        words += ["--fp16", *(["--int8"] if row.get("int8") else []), *_pinned(row.get("float32", {}))]
    elif typing == "asked":
        words.append("--stronglyTyped")
    theirs = {
        "workspace": "--memPoolSize=workspace:{}",
        "builder_level": "--builderOptimizationLevel={}",
        "version_compatible": "--versionCompatible",
        "sparsity": "--sparsity=enable",
        "dla": "--useDLACore={}",
        "strip_weights": "--stripWeights",
    }
    words += [theirs[name].format(value) for name, value in options.items() if name in theirs]
    if "dla" in options and options.get("gpu_fallback", True):
        words.append("--allowGPUFallback")
    levels = {"same-sm": "sameComputeCapability", "ampere+": "ampere+"}
    if options.get("hardware") in levels:
        words.append(f"--hardwareCompatibilityLevel={levels[options['hardware']]}")
    verbosity = {"none": "none", "names": "layer_names_only"}.get(options.get("layer_names", ""), "detailed")
    words.append(f"--profilingVerbosity={verbosity}")
    if info.batch is None:
        sides = "x".join(str(side) for side in info.inputs[0].shape[1:])
        batches = options.get("batches", TensorRTOptions().batches)
        words += [
            f"--{what}Shapes={info.inputs[0].name}:{batch}x{sides}"
            for what, batch in zip(("min", "opt", "max"), batches, strict=True)
        ]
    return " ".join([*words, "--skipInference"])


def _pinned(types: Mapping[str, str]) -> list[str]:
    """How ``trtexec`` 8.6 is told which layers stay float32."""
    if not types:
        return []
    precisions = ",".join(f"{name}:fp32" for name in types)
    outputs = ",".join(f"{name}:{kinds}" for name, kinds in types.items())
    return ["--precisionConstraints=obey", f"--layerPrecisions={precisions}", f"--layerOutputTypes={outputs}"]


def _within(generation: Generation, version: str) -> bool:
    return generation.least <= _number(version) < generation.below


def refusal(sdk: Callable[[str], Any], package: str, target: str, folder: Path) -> str | None:
    """Why the engines in ``folder`` cannot be run on this machine, or None. ``sdk(target)`` is the vendor's module."""
    try:
        choose(folder, target, gpu_for(folder, None), package, sdk(target).__version__)
    except InputError as error:
        return str(error)
    return None


COMMON: Json = {  # of the declarations of targets that build engines
    "exact": True,
    "gpu": True,
    "engines": True,
    "heads": ("raw", "topk"),
    "most_candidates": 3840,  # that its TopK operator sorts
    "batches": (8,),
    "options": TensorRTOptions,
    "reproduce": reproduce,
}
