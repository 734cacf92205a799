"""From which stage on is another tool's model no longer the checkpoint? Told by values, whatever tensors are called.

    found = first_stranger(torch_session, onnx_session, batch, batch, Path("theirs.onnx"))
    found.words                   # 'stage 6 (area attention), block 1, attention, projection'

Every value inside the other model is held against every stage of the checkpoint with as many numbers. Exporters split,
fuse and rename, so a stage without a partner means nothing as long as a later one has one: the last that has, and what
follows it, is where to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import optional
from edgekit.nn.layers import head_of, parse, words
from edgekit.spec import Session

SAME = 0.02  # relative error of a value that is the stage's
FIRST = 0.2  # of the first value: another network's is about 1, and rough weights make some percent
GROWS = 3.0  # times the largest error before it, as precision lets errors grow
AT_ONCE = 256  # values held in memory


@dataclass(frozen=True)
class Stranger:
    """The first stage that is another.

    Attributes:
        path, words: of the stage; None where all are the checkpoint's.
        before: words of the last stage that is the same; None where none is.
        error, error_before: relative, of the two.
    """

    path: str | None
    words: str = ""
    before: str | None = None
    error: float = 0.0
    error_before: float = 0.0


def first_stranger(
    reference: Session, other: Session, batch: np.ndarray, given: np.ndarray, path: Path
) -> Stranger | None:
    """The first stage of ``other`` that is not the reference's; None where its values cannot be looked at.

    Args:
        reference: a PyTorch session.
        other: a session of the ONNX file at ``path``.
        batch, given: float32 ``[1, 3, H, W]``, what the reference sees and what the other is given.
    """
    if path.suffix != ".onnx":
        return None
    net = getattr(reference, "net", None)
    names = [name for name, _ in net.named_modules() if name] if net is not None else []
    stages = {name: value for name, value in reference.intermediates(batch, names).items() if parse(name)}
    errors = _nearest(stages, _values(other, given, path))
    head = head_of(stages)
    trunk = [name for name in stages if (layer := parse(name, head)) and not layer.head]
    found = _parting(trunk, errors)
    for branch in _branches(stages, head) if found.path is None else ():
        found = _parting([trunk[-1], *branch], errors)
        if found.path is not None:
            break
    return found


def _branches(names: Iterable[str], head: int) -> list[list[str]]:
    """Stages of the head by branch and stride, each in order of computation; the decode tail is no stage."""
    found: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        layer = parse(name, head)
        if layer is not None and layer.head and layer.modules and not layer.tail:
            found.setdefault((layer.branch, layer.stride, layer.part), []).append(name)
    return list(found.values())


def _values(session: Session, batch: np.ndarray, path: Path) -> Iterator[np.ndarray]:
    """Every floating-point value inside the model."""
    with optional(f"looking into {path}", "onnx"):
        import onnx
    nodes = onnx.load(path, load_external_data=False).graph.node
    names = [name for node in nodes if node.op_type != "Constant" for name in node.output if name]
    for start in range(0, len(names), AT_ONCE):
        for value in session.intermediates(batch, names[start : start + AT_ONCE]).values():
            if value.dtype.kind == "f" and value.size > 1:
                yield value


def _nearest(stages: dict[str, np.ndarray], values: Iterator[np.ndarray]) -> dict[str, float]:
    """Of every stage the relative error of the value that is nearest to it."""
    by_size: dict[int, list[str]] = {}
    for name, stage in stages.items():
        by_size.setdefault(stage.size, []).append(name)
    sizes = {name: float(np.sqrt(np.mean(stage.astype(np.float64) ** 2))) for name, stage in stages.items()}
    best = dict.fromkeys(stages, np.inf)
    for value in values:
        flat = np.asarray(value, np.float32).ravel()
        for name in by_size.get(value.size, ()):
            gap = float(np.sqrt(np.mean((flat - stages[name].ravel()) ** 2, dtype=np.float64)))
            best[name] = min(best[name], gap / max(sizes[name], 1e-12))
    return best


def _parting(names: Sequence[str], errors: dict[str, float]) -> Stranger:
    """Where stages in order of computation part from the reference."""
    largest, last, before = 0.0, -1, 0.0
    for i, name in enumerate(names):
        if errors[name] <= (max(SAME, GROWS * largest) if last >= 0 else FIRST):
            last, before = i, errors[name]
            largest = max(largest, errors[name])
    if last == len(names) - 1:
        return Stranger(None)
    path = names[last + 1]
    return Stranger(path, words(path), words(names[last]) if last >= 0 else None, errors[path], before)


def narrowness(session: Session, path: Path) -> str:
    """What of the model is less exact than float32, in words; empty where nothing is known to be."""
    if path.suffix == ".onnx":
        with optional(f"looking into {path}", "onnx"):
            import onnx
        graph = onnx.load(path, load_external_data=False).graph
        if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv") for node in graph.node):
            return "it computes in eight bits"
        if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
            return "its weights are half precision"
        return ""
    kinds = session.precision_by_type()
    narrow = {"i8": "eight bits", "u8": "eight bits", "bf16": "bf16", "f16": "half precision"}
    return next((f"it computes in {said}" for kind, said in narrow.items() if kinds.get(kind)), "")
