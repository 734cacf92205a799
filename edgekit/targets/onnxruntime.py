"""ONNX Runtime on the CPU: the exported graph itself, in float32, or with explicit INT8 (``edgekit.quantize``).

target = targets.get("ort-fp32")
target.build(graph, folder)                           # folder/model.onnx
target.open(folder, info).run(batch)["boxes"]
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import InputError, UsageError, not_installed, optional
from edgekit.runtime.forks import keep_in_children
from edgekit.runtime.processor import is_cpu, usable_cpus
from edgekit.spec import Graph, Json, ModelInfo, Session
from edgekit.targets._target import Opening, Served, Target, TargetOptions

if TYPE_CHECKING:
    import onnxruntime

EXTRA = "onnx"
MODEL = "model.onnx"

_SHORT = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8", "int64": "i64"}
_EVENT = "_kernel_time"  # what the name of an operator's event in a profile ends in
LEAST_SHARED = 256  # bytes of a constant that two graphs of a bundle share
WARM_RUNS = 3  # of a profile, not counted


def missing() -> str | None:
    """Why these targets cannot be used here, or None."""
    return not_installed("onnxruntime", "ort-fp32", EXTRA)


def _build(target: Target, graph: Graph, folder: Path, options: TargetOptions) -> None:
    """The artifact is the exported file."""
    if graph.path != folder / MODEL:
        shutil.copyfile(graph.path, folder / MODEL)


def _open(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    """Load ``place/model.onnx`` (or the ``.onnx`` file itself)."""
    path = place if place.suffix == ".onnx" else place / MODEL
    threads = opening.threads
    if opening.streams:  # run() is called by as many threads at once, which each need their part
        threads = max((threads or usable_cpus()) // opening.streams, 1)
    sessions = [OrtSession(path, info, target.name, opening.device, threads) for _ in range(count)]
    for session in sessions:
        session.streams = opening.streams or 1
    return list[Session](sessions)


def join(folder: Path, other: Path, stem: str) -> str:
    """Add the graph in ``other``, of another input size, to ``folder`` as ``STEM.onnx``: its larger constants are
    external data, and lie in ``folder/model.onnx`` where that has the same. Returns the file's name."""
    import onnx

    there = (folder / MODEL).read_bytes()
    model = onnx.load(str(other / MODEL))
    for tensor in model.graph.initializer:
        at = there.find(tensor.raw_data) if len(tensor.raw_data) >= LEAST_SHARED else -1
        if at < 0:
            continue
        for key, value in (("location", MODEL), ("offset", at), ("length", len(tensor.raw_data))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
    onnx.save(model, str(folder / f"{stem}.onnx"))
    return f"{stem}.onnx"


class OrtSession(Session):
    """An ONNX Runtime session on the CPU provider.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        UsageError: a device other than the CPU.
        InputError: ONNX Runtime refuses the file.
    """

    concurrent = True  # threads may call run() at once
    forkable = True  # and processes forked after loading

    def __init__(
        self, path: Path, info: ModelInfo, target: str, device: str | None = None, threads: int | None = None
    ) -> None:
        with optional(target, EXTRA):
            import onnxruntime
        if not is_cpu(device):
            raise UsageError(f"`device` {device}: {target} runs on cpu; use a trt-* target for NVIDIA GPUs")
        self.info, self.target, self.path, self.threads = info, target, path, threads
        self._runtime = onnxruntime
        try:
            self._session = onnxruntime.InferenceSession(str(path), self._options(), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error
        self._names = [port.name for port in info.outputs]
        self._roles = [port.role for port in info.outputs]
        keep_in_children(self)

    def _options(self) -> onnxruntime.SessionOptions:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3
        if self.threads:
            options.intra_op_num_threads = self.threads
        return options

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """``[B, 3, H, W]`` float32 in 0..1 -> one array per role."""
        outputs = self._session.run(self._names, {self.info.inputs[0].name: batch})
        return dict(zip(self._roles, outputs, strict=True))

    def intermediates(self, batch: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values called ``names`` inside the graph (those that exist), computed without graph optimization."""
        with optional(f"looking into {self.path}", EXTRA):
            import onnx

        model = onnx.load(str(self.path))
        known = {name for node in model.graph.node for name in node.output}
        wanted = [name for name in dict.fromkeys(names) if name in known]
        if not wanted:
            return {}  # the runtime takes an empty list for all outputs
        outputs = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
        options = self._options()
        options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / MODEL
            onnx.save(model, path)
            session = self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            values = session.run(wanted, {self.info.inputs[0].name: batch})
        return dict(zip(wanted, values, strict=True))

    def precision_by_type(self) -> dict[str, int]:
        """Operators by the type they computed in, read from a profile of one run of the optimized graph."""
        counts: Counter[str] = Counter()
        for event in self._profiled(np.zeros([d or 1 for d in self.info.inputs[0].shape], np.float32), 1):
            types = [t for entry in event["args"].get("output_type_shape", []) for t in entry]
            counts[_SHORT.get(types[0], types[0]) if types else "none"] += 1
        return dict(counts)

    def profile(self, batch: np.ndarray, runs: int) -> list[tuple[str, str, float]]:
        """(node name, operator type, milliseconds) of every operator executed, in order; medians of ``runs``."""
        times: dict[tuple[str, str], list[float]] = {}
        for event in self._profiled(batch, runs + WARM_RUNS):
            node = event["name"].removesuffix(_EVENT), event["args"]["op_name"]
            times.setdefault(node, []).append(event["dur"] / 1e3)
        found = []
        for (name, kind), spent in times.items():
            each = np.reshape(spent, (runs + WARM_RUNS, -1)).sum(1)  # a name can stand for several nodes
            found.append((name, kind, float(np.median(each[WARM_RUNS:]))))
        return found

    def _profiled(self, batch: np.ndarray, runs: int) -> list[Json]:
        """Events of the nodes executed in ``runs`` runs of a session that keeps a profile."""
        with tempfile.TemporaryDirectory() as scratch:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(scratch) / "profile")
            session = self._runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
            for _ in range(runs):
                session.run(None, {self.info.inputs[0].name: batch.astype(self.info.inputs[0].dtype, copy=False)})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_EVENT)]

    def close(self) -> None:
        """Release the session."""
        self._session = None


_SERVERS = {layout: Served("onnxruntime", (MODEL,)) for layout in ("triton", "ovms")}

TARGETS = (
    Target(
        name="ort-fp32",
        about="ONNX Runtime, CPU, float32",
        precision="fp32",
        extra=EXTRA,
        packages=("onnxruntime",),
        rewriting="portable",
        missing=missing,
        builder=_build,
        opener=_open,
        servers=_SERVERS,
        join=join,
    ),
    Target(
        name="ort-int8",
        about="ONNX Runtime, CPU, explicit INT8",
        precision="int8",
        extra=EXTRA,
        packages=("onnxruntime",),
        rewriting="portable",  # static quantization stumbles over opset 21 and later
        missing=missing,
        builder=_build,
        opener=_open,
        narrowing="qdq",
        floats=("ort-fp32",),
        servers=_SERVERS,
        join=join,
    ),
)
