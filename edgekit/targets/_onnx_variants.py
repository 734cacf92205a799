"""What a model would cost with another activation: a copy of an ONNX file whose answers mean nothing; its speed does.

    count = varied(Path("model.onnx"), Path("hardswish.onnx"), "hardswish")

``hardswish`` turns every SiLU into one, ``bare`` leaves every SiLU out.
"""

from __future__ import annotations

from pathlib import Path

KINDS = ("hardswish", "bare")


def varied(path: Path, out: Path, kind: str) -> int:
    """Write the variant; how many SiLUs changed (none: nothing is written)."""
    import onnx

    model = onnx.load(str(path))
    gates = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Sigmoid"}
    count = 0
    for node in model.graph.node:
        if node.op_type != "Mul":
            continue
        source = next((v for v, gate in (node.input, reversed(node.input)) if gates.get(gate) == v), None)
        if source is None:
            continue
        replacement = onnx.helper.make_node(
            "HardSwish" if kind == "hardswish" else "Identity", [source], list(node.output), name=node.name
        )
        node.CopyFrom(replacement)
        count += 1
    if count:
        onnx.save(model, str(out))
    return count
