"""ncnn on the CPU: small, without dependencies, at home on ARM boards.

target = targets.get("ncnn-fp16")
target.build(graph, folder)                           # folder/model.param, model.bin
target.open(folder, info).run(batch)["boxes"]

| | `ncnn-fp32` | `ncnn-fp16` |
|---|---|---|
| weights | float32 | half precision |
| executes | float32 | FP16 where the processor has it (ARMv8.2), float32 elsewhere |

``pnnx`` converts edgekit's own graph, attention written out: as one SDPA layer ncnn takes four times as long (x86).
Its wheel declares PyTorch, which it does not need: ``pip install --no-deps pnnx``. There is no layer that chooses the
best candidates, so the head is ``raw``: all anchors are decoded, and the host keeps the best. Half-precision weights
are judged by what rounding them explains and not, executed in float32, to the last bit: pnnx rounds otherwise than
PyTorch (halves too small to be normal become zero). There are no INT8 tools in the wheels, hence no INT8 target. ncnn
and pnnx are BSD-3-Clause.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np

from edgekit.errors import InputError, UsageError, not_installed, optional
from edgekit.runtime.processor import is_cpu, loaded_asleep, usable_cpus
from edgekit.spec import Graph, ModelInfo, Session
from edgekit.targets._target import Opening, Target, TargetOptions

EXTRA = "ncnn"
PARAM, BIN = "model.param", "model.bin"
_MAGIC = "7767517"  # the first line of every param file


def missing() -> str | None:
    """Why these targets cannot be used here, or None."""
    return not_installed("ncnn", "ncnn-fp32", EXTRA)


def missing_to_build() -> str | None:
    """Why bundles cannot be built here, or None."""
    if _converter() is None:
        return "ncnn-* are converted by pnnx, which is not installed; run: pip install --no-deps pnnx"
    return None


def _ncnn(what: str) -> ModuleType:
    """The module ``ncnn``. Its threads sleep where they wait for each other: spinning they take the processor from
    whatever is called next, another candidate of a race among them.

    Raises:
        MissingPackageError: it is not installed.
    """
    with optional(what, EXTRA), loaded_asleep():
        import ncnn
    return ncnn  # type: ignore[no-any-return]


def _converter() -> str | None:
    """The program pnnx; its Python package is never imported, for that would need PyTorch."""
    try:
        places = metadata.distribution("pnnx").files or ()
    except metadata.PackageNotFoundError:
        return None
    programs = [p for p in places if p.parts[0] == "pnnx" and p.stem == "pnnx" and p.suffix in ("", ".exe")]
    return str(programs[0].locate()) if programs else None


def _prepare(target: Target, options: TargetOptions) -> None:
    """Refuse before the export what cannot be converted here.

    Raises:
        InputError: pnnx is not installed.
    """
    if reason := missing_to_build():
        raise InputError(reason)


def _build(target: Target, graph: Graph, folder: Path, options: TargetOptions) -> None:
    """Convert the graph into ``model.param`` and ``model.bin``.

    Raises:
        UsageError: a batch other than one.
        InputError: no pnnx, or an operator that ncnn has no layer for; the message names it.
    """
    shape = graph.info.inputs[0].shape
    if refused := target.refused_batch(shape[0]):
        raise UsageError(f"{graph.path}: {refused}")
    _prepare(target, options)
    program = str(_converter())
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model.onnx"
        shutil.copyfile(graph.path, source)
        sizes = ",".join(str(side) for side in shape)
        command = [program, str(source), f"inputshape=[{sizes}]", f"fp16={int(target.precision == 'fp16')}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, errors="replace")
        made = Path(scratch) / "model.ncnn.param"
        if done.returncode or not made.is_file():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise InputError(
                f"{graph.path}: pnnx cannot convert it ({said[-1] if said else f'exit {done.returncode}'})"
            )
        _check_layers(made, graph)
        shutil.move(made, folder / PARAM)
        shutil.move(Path(scratch) / "model.ncnn.bin", folder / BIN)


def _check_layers(param: Path, graph: Graph) -> None:
    """Refuse what pnnx wrote down although ncnn has no such layer.

    Raises:
        InputError: there is one, or an output was lost.
    """
    ncnn = _ncnn("ncnn-*")
    for kind, name in _layers(param):
        if ncnn.layer_to_index(kind) < 0:
            raise InputError(f"{graph.path}: ncnn has no layer for {kind} ({name}); build for another target")
    blobs = param.read_text(encoding="utf-8")
    for index, port in enumerate(graph.info.outputs):
        if f" out{index}" not in blobs:
            raise InputError(f"{graph.path}: pnnx lost the output {port.name}; build for another target")


def _layers(param: Path) -> Iterator[tuple[str, str]]:
    """(type, name) of every layer of a param file.

    Raises:
        InputError: it is none.
    """
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != _MAGIC:
        raise InputError(f"{param}: not an ncnn model; rebuild the bundle")
    for line in lines[2:]:
        kind, name, *_ = [*line.split(), "", ""]
        if kind:
            yield kind, name


def _open(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    """Load ``place/model.param`` and ``model.bin``."""
    return [NcnnSession(place, info, target, opening) for _ in range(count)]


class NcnnSession(Session):
    """An ncnn network on the CPU.

    Raises:
        MissingPackageError: ncnn is not installed.
        UsageError: a device other than the CPU.
        InputError: ncnn refuses the files.
    """

    concurrent = True  # each run has an extractor of its own

    def __init__(self, place: Path, info: ModelInfo, target: Target, opening: Opening) -> None:
        ncnn = _ncnn(target.name)
        if not is_cpu(opening.device):
            raise UsageError(f"device {opening.device}: {target.name} runs on cpu")
        self.info, self.target, self.path, self.threads = info, target.name, place / PARAM, opening.threads
        self._ncnn = ncnn
        self.weights = "f16" if target.precision == "fp16" else "f32"
        self._half = target.precision == "fp16" and bool(ncnn.cpu_support_arm_asimdhp())
        self.sums = "f16" if self._half else "f32"
        self._net = ncnn.Net()
        settings = self._net.opt
        settings.use_vulkan_compute = False
        settings.num_threads = opening.threads or min(ncnn.get_physical_big_cpu_count(), usable_cpus())
        settings.use_bf16_storage = False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(settings, name, self._half)
        self._kinds = [kind for kind, _ in _layers(self.path)]
        for load, file in ((self._net.load_param, PARAM), (self._net.load_model, BIN)):
            if load(str(place / file)):
                raise InputError(f"{place / file}: ncnn {ncnn.__version__} cannot load it; rebuild the bundle")

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` float32 in 0..1 -> one float32 array per role, ``[B, …]``."""
        each = [self._one(np.ascontiguousarray(image, np.float32)) for image in batch]
        return {port.role: np.stack([one[i] for one in each]) for i, port in enumerate(self.info.outputs)}

    def _one(self, image: np.ndarray) -> list[np.ndarray]:
        """The outputs for one image, each of its port's shape without the batch."""
        found = []
        with self._net.create_extractor() as extractor:
            extractor.input("in0", self._ncnn.Mat(image))
            for index, port in enumerate(self.info.outputs):
                failed, value = extractor.extract(f"out{index}")
                if failed:
                    raise InputError(f"{self.path}: ncnn cannot compute {port.name} (too little memory?)")
                found.append(np.array(value).reshape([side or -1 for side in port.shape[1:]]))
        return found

    def precision_by_type(self) -> dict[str, int]:
        """All layers under the arithmetic that this processor has for the bundle's precision."""
        return {"f16" if self._half else "f32": len(self._kinds)}

    def close(self) -> None:
        """Release the network."""
        self._net.clear()


TARGETS = tuple(
    Target(
        name=f"ncnn-{precision}",
        about=about,
        precision=precision,
        extra="ncnn",
        packages=("ncnn", "pnnx"),
        rewriting="portable",
        missing=missing,
        missing_to_build=missing_to_build,
        builder=_build,
        prepare=_prepare,
        opener=_open,
        only_batches=(1,),
        heads=("raw",),
    )
    for precision, about in (
        ("fp32", "ncnn, CPU, float32"),
        ("fp16", "ncnn, CPU, half-precision weights; FP16 arithmetic on ARM"),
    )
)
