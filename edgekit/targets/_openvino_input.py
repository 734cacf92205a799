"""Canvases as they are into an OpenVINO model: what letterbox makes goes in, and nothing is left to do before the run.

    take_pixels(core.read_model("model.onnx"))     # the model, changed in place: uint8 [B, H, W, 3] BGR

| | before | after |
|---|---|---|
| input | float32 ``[B, 3, H, W]``, RGB, 0..1 | uint8 ``[B, H, W, 3]``, BGR |
| first convolution | weights W | W with its input channels in reverse, times 256/255 |
| before it | – | Convert, times 1/256, Transpose |
| INT8: the input's FakeQuantize | calibrated range | 0..255 in 256 levels to 0..1: every byte is itself |
| INT8: the first convolution | quantized weights | the same numbers with their input channels in reverse |

The factor is split so that nothing is lost: n/256 is exact in bf16 and FP16, where n/255 is not, and weights stay of
the size they were, where FP16 has all of its bits. The order is what the CPU plugin makes one pass of: the transposed
view is the memory layout its convolutions want, and the multiplication keeps it from swapping Convert and Transpose,
after which it would copy three times. What anything but a convolution reads is the float input, computed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from edgekit.spec import PIXELS

if TYPE_CHECKING:
    import openvino

MARK = "pixels/"  # how the names of what is added begin
_CONVOLUTION, _GRID = "Convolution", "FakeQuantize"


def take_pixels(model: openvino.Model) -> None:
    """Change ``model``, whose only input is float32 ``[B, 3, H, W]`` RGB 0..1, to take uint8 ``[B, H, W, 3]`` BGR."""
    import openvino
    import openvino.opset13 as ops

    old = model.inputs[0].get_node()
    batch, _, height, width = old.get_partial_shape()
    shape = openvino.PartialShape([batch, height, width, 3])
    new = ops.parameter(shape, openvino.Type.u8, name=old.get_friendly_name())
    added = _Added(ops, new)
    for reader in list(old.output(0).get_target_inputs()):
        _connect(reader, added)
    new.output(0).set_names(old.output(0).get_names())
    new.set_layout(openvino.Layout("NHWC"))
    model.remove_parameter(old)
    model.add_parameters([new])
    model.validate_nodes_and_infer_types()


class _Added:
    """The input in the forms that are read, each made when first asked for: BGR planes of 0..255, of n/256, and RGB
    planes of 0..1."""

    def __init__(self, ops: ModuleType, source: openvino.Node) -> None:
        self._ops, self._source = ops, source
        self._made: dict[str, openvino.Node] = {}

    def named(self, name: str, node: openvino.Node) -> openvino.Node:
        node.set_friendly_name(MARK + name)
        return node

    def constant(self, name: str, value: np.ndarray) -> openvino.Node:
        return self.named(name, self._ops.constant(np.ascontiguousarray(value)))

    def bytes(self) -> openvino.Node:
        return self._once("bytes", lambda: self._planes("bytes", self._floats()))

    def fractions(self) -> openvino.Node:
        def make() -> openvino.Node:
            part = self.constant("fractions/part", np.full((1, 1, 1, 1), 1 / 256, np.float32))
            return self._planes("fractions", self.named("part", self._ops.multiply(self._floats(), part)))

        return self._once("fractions", make)

    def floats(self) -> openvino.Node:
        """What the model took before."""

        def make() -> openvino.Node:
            names = (("swap", [2, 1, 0]), ("axis", 1))
            swap, axis = (self.constant(f"floats/{name}", np.array(value, np.int64)) for name, value in names)
            rgb = self.named("rgb", self._ops.gather(self.bytes(), swap, axis))
            whole = self.constant("floats/whole", np.full((1, 1, 1, 1), 255, np.float32))  # unlike 1/255 exact in FP16
            return self.named("floats", self._ops.divide(rgb, whole))

        return self._once("floats", make)

    def _once(self, name: str, make: Callable[[], openvino.Node]) -> openvino.Node:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _floats(self) -> openvino.Node:
        return self._once("convert", lambda: self.named("convert", self._ops.convert(self._source, "f32")))

    def _planes(self, name: str, value: openvino.Node) -> openvino.Node:
        order = self.constant(f"{name}/order", np.array([0, 3, 1, 2], np.int64))
        return self.named(name, self._ops.transpose(value, order))


def _connect(reader: openvino.Input, added: _Added) -> None:
    """Give one reader of the old input what stands for it now."""
    node = reader.get_node()
    if node.get_type_name() == _CONVOLUTION and _is_plain(node.input_value(1).get_node()):
        weights = node.input_value(1).get_node()
        turned = weights.get_data()[:, ::-1] * np.float32(PIXELS)
        node.input(1).replace_source_output(added.constant(weights.get_friendly_name(), turned).output(0))
        source = added.fractions()
    elif node.get_type_name() == _GRID and (stored := _behind(node)):
        for port in stored:
            weights = port.get_source_output().get_node()
            turned = added.constant(weights.get_friendly_name(), weights.get_data()[:, ::-1])
            port.replace_source_output(turned.output(0))
        _make_lossless(node, added)
        source = added.bytes()
    else:
        source = added.floats()
    reader.replace_source_output(source.output(0))


def _is_plain(weights: openvino.Node) -> bool:
    return bool(weights.get_type_name() == "Constant" and weights.get_element_type().to_string() == "f32")


def _behind(grid: openvino.Node) -> list[openvino.Input]:
    """Where the stored weights of the convolutions behind a FakeQuantize come in; empty where it has a range for each
    channel or other than 256 levels, or something else reads it."""
    sizes = [int(np.prod(grid.input_value(i).get_shape())) for i in range(1, 5)]
    readers = [port.get_node() for port in grid.output(0).get_target_inputs()]
    if sizes != [1] * 4 or int(grid.get_attributes()["levels"]) != 256:
        return []
    found = [_stored(reader) for reader in readers if reader.get_type_name() == _CONVOLUTION]
    return found if len(found) == len(readers) and None not in found else []


def _make_lossless(grid: openvino.Node, added: _Added) -> None:
    limits = (("low", 0), ("high", 255), ("one", 1))
    low, high, one = (added.constant(f"grid/{name}", np.full((1, 1, 1, 1), at, np.float32)) for name, at in limits)
    for place, limit in ((1, low), (2, high), (3, low), (4, one)):
        grid.input(place).replace_source_output(limit.output(0))


def _stored(convolution: openvino.Node) -> openvino.Input | None:
    """The input that a convolution's stored weights ``[O, 3, h, w]`` come in by, walking back over what dequantizes
    them; None where they are not constant, or something on the way is not the same for all input channels."""
    port = convolution.input(1)
    while True:
        node = port.get_source_output().get_node()
        if node.get_type_name() == "Constant":
            return port
        values = list(node.inputs())
        others = [value.get_source_output().get_partial_shape() for value in values[1:]]
        if not values or any(s.is_dynamic or len(s) != 4 or s.to_shape()[1] != 1 for s in others):
            return None
        port = values[0]
