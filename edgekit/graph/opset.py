"""A graph's opset raised or lowered, refusing what would change its meaning.

raise_opset(model, 23)     # before rules that make newer operators
lower_opset(model, 17)     # after rules that make older forms
"""

from __future__ import annotations

import onnx
from onnx import defs, helper
from onnxscript import ir, version_converter

from edgekit.errors import InputError

OLDEST = 18  # what the rules are written for; older files are converted first (foreign.py)


def raise_opset(model: ir.Model, wanted: int) -> None:
    """Raise the standard operators' version to ``wanted``; nothing where it is that high already.

    Raises:
        InputError: an operator has no known counterpart there.
    """
    if model.opset_imports[""] >= wanted:
        return
    try:
        version_converter.convert_version(model, wanted, fallback=False)
    except Exception as error:
        raise InputError(
            f"opset {model.opset_imports['']} cannot be raised to {wanted} ({str(error).splitlines()[0]})"
        ) from error
    model.ir_version = max(model.ir_version, _ir_version(wanted))


def lower_opset(model: ir.Model, wanted: int) -> None:
    """Lower the standard operators' version to ``wanted`` where every node means the same there.

    A node does if its operator has not changed in between, or only gained attributes that are at their defaults.

    Raises:
        InputError: a node that has no form in the older opset.
    """
    now = model.opset_imports[""]
    if now <= wanted:
        return
    for node in model.graph.all_nodes():
        if node.domain == "":
            _fit(node, now, wanted)
    model.opset_imports[""] = wanted
    model.ir_version = min(model.ir_version, _ir_version(wanted))


def _fit(node: ir.Node, now: int, wanted: int) -> None:
    new = defs.get_schema(node.op_type, now, "")
    try:
        old = defs.get_schema(node.op_type, wanted, "")
    except defs.SchemaError as error:
        raise InputError(f"{node.name}: opset {wanted} has no {node.op_type}; choose a newer one") from error
    if old.since_version == new.since_version:
        return
    for name in [a for a in node.attributes if a not in old.attributes]:
        if name not in new.attributes or node.attributes[name].value != _default(new.attributes[name]):
            raise InputError(f"{node.name}: {node.op_type} has no {name} in opset {wanted}; choose a newer one")
        del node.attributes[name]
    if len(node.inputs) > old.max_input:
        raise InputError(
            f"{node.name}: {node.op_type} takes {old.max_input} inputs in opset {wanted}; choose a newer one"
        )


def _default(attribute: onnx.defs.OpSchema.Attribute) -> object:
    if not attribute.default_value.type:
        return None
    value = helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


def _ir_version(opset: int) -> int:
    """The oldest file format that may hold this opset."""
    versions: dict[tuple[str, int], int] = helper.OP_SET_ID_VERSION_MAP
    return versions.get(("ai.onnx", opset), onnx.IR_VERSION)
