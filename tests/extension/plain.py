"""A target in one file: ONNX Runtime with nothing but a ``run``, in float32 and in explicit INT8."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from edgekit.errors import InputError, MissingPackageError
from edgekit.spec import Graph, ModelInfo, Session
from edgekit.targets._target import Opening, Target, TargetOptions


class PlainSession(Session):
    concurrent = True

    def __init__(self, path: Path, info: ModelInfo, target: str) -> None:
        import onnxruntime

        self.info, self.target, self.path = info, target, path
        self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, batch: Any) -> dict[str, Any]:
        outputs = self._session.run([p.name for p in self.info.outputs], {self.info.inputs[0].name: batch})
        return dict(zip([p.role for p in self.info.outputs], outputs, strict=True))


def missing() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return str(MissingPackageError("onnxruntime", "plain-*", "onnx"))
    return None


def build(target: Target, graph: Graph, folder: Path, options: TargetOptions) -> dict[str, str]:
    shutil.copyfile(graph.path, folder / "plain.bin")
    return {"built_by": target.name}


def open_sessions(target: Target, place: Path, info: ModelInfo, opening: Opening, count: int) -> list[Session]:
    if not (place / "plain.bin").is_file():
        raise InputError(f"{place}: it holds no plain.bin")
    return [PlainSession(place / "plain.bin", info, target.name) for _ in range(count)]


def declared(name: str, precision: str, **more: Any) -> Target:
    return Target(
        name=name,
        about=f"a runtime of one file, {precision}",
        precision=precision,
        extra="onnx",
        packages=("onnxruntime", "plain-runtime"),
        rewriting="portable",
        missing=missing,
        builder=build,
        opener=open_sessions,
        **more,
    )


TARGETS = (
    declared("plain-fp32", "fp32"),
    declared("plain-int8", "int8", narrowing="qdq", floats=("plain-fp32",)),
)
