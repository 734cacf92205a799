"""A network's graph, written down while the network runs once: each operator that PyTorch comes down to, as ONNX's.

    model = capture(net, torch.zeros(1, 3, 640, 640), "images", ("boxes", "scores"))   # None: another operator is in it

PyTorch's exporter does this for any network and any shape, and is what ``export.py`` falls back to; loading it alone
takes longer than all of this. Shapes are those of the example. What does not depend on the image, such as the cells'
centres, is computed here and becomes a constant. Every node says which module it comes from (``SCOPE``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import ir
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekit.nn.attention import OPERATOR, as_operator

SCOPE = "pkg.torch.onnx.name_scopes"  # a node's metadata, under the key of PyTorch's exporter
OPSET, IR_VERSION = 18, 10

_TYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.bool: ir.DataType.BOOL,
}
Tensor = torch.Tensor


class _UnknownError(Exception):
    """One that ``capture`` has no ONNX operator for, or not in this form."""


def capture(net: nn.Module, example: Tensor, name: str, outputs: Sequence[str]) -> ir.Model | None:
    """``net``, which returns a tuple of tensors called ``outputs``, as it runs on ``example``; None where an operator
    is in it that is not known here.

    Args:
        name: of the input.
    """
    tape = _Tape(net)
    image = tape.begins(example, name)
    try:
        with torch.no_grad(), tape.scopes(net), as_operator(tape.attention), tape:
            found = net(example)
        ends = [tape.ends(tensor, role) for tensor, role in zip(found, outputs, strict=True)]
    except _UnknownError:
        return None
    imports = {"": OPSET, OPERATOR.partition("::")[0]: 1}
    graph = ir.Graph(
        [image],
        ends,
        nodes=tape.nodes,
        initializers=list(tape.constants.values()),
        opset_imports=imports,
        name="edgekit",
    )
    return ir.Model(graph, ir_version=IR_VERSION)


class _Tape(TorchDispatchMode):
    """Writes down what is done to tensors that come from the image. Those know their value in the graph."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.nodes: list[ir.Node] = []
        self.constants: dict[int, ir.Value] = {}  # by the identity of a tensor that ``kept`` keeps
        self.kept: list[Tensor] = []
        self.named = {id(t): n for n, t in [*net.named_parameters(), *net.named_buffers()]}
        self.turned: dict[int, Tensor] = {}  # a matrix by the identity of its transpose
        self.ended: list[ir.Value] = []
        self.stack = [""]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to keep PyTorch's compiler out, where nothing is compiled, it would be imported

    @contextlib.contextmanager
    def scopes(self, net: nn.Module) -> Iterator[None]:
        """With the module that runs on top of ``stack``."""
        paths = {id(module): path for path, module in net.named_modules()}

        def enter(module: nn.Module, inputs: object) -> None:
            if id(module) in paths:  # another thread may run others
                self.stack.append(paths[id(module)])

        def leave(module: nn.Module, inputs: object, made: object) -> None:
            if id(module) in paths:
                self.stack.pop()

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(enter),
            nn.modules.module.register_module_forward_hook(leave),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made, name = func(*args, **kwargs), func.overloadpacket.__name__
        if any(_value(tensor) is not None for tensor in _tensors([*args, *kwargs.values()])):
            if name in _WRITTEN:
                _WRITTEN[name](self, made, *args, **kwargs)
            elif name not in _OF_SHAPES:
                raise _UnknownError(str(func))
        elif name == "t":
            self.kept.append(made)
            self.turned[id(made)] = args[0]
        return made

    # ---- values

    def begins(self, tensor: Tensor, name: str) -> ir.Value:
        return _is(tensor, ir.Value(name=name))

    def ends(self, tensor: Tensor, name: str) -> ir.Value:
        """The value of ``tensor`` as an output called ``name``."""
        value = _value(tensor)
        if value is None or value.producer() is None or any(value is each for each in self.ended):
            raise _UnknownError("an output that no operator makes, or that is another one too")
        self.ended.append(value)
        value.name = name
        return value

    def value(self, tensor: Tensor) -> ir.Value:
        """Of a tensor; of one that does not come from the image, a constant."""
        value = _value(tensor)
        if value is not None:
            return value
        if id(tensor) not in self.constants:
            self.kept.append(tensor)
            name = self.named.get(id(tensor))
            array = tensor.detach().numpy() if name else tensor.numpy().copy()
            self.constants[id(tensor)] = _constant(name or f"constant_{len(self.constants)}", array)
        return self.constants[id(tensor)]

    def numbers(self, array: object, dtype: Any = np.int64) -> ir.Value:
        """A constant of plain numbers."""
        return self.value(torch.from_numpy(np.array(array, dtype)))

    def operand(self, other: object, like: Tensor, made: Tensor) -> ir.Value:
        """The other side of an arithmetic operator on ``like`` whose result is ``made``."""
        if (other.dtype if isinstance(other, Tensor) else made.dtype) != like.dtype:
            raise _UnknownError("two types of numbers")
        return self.value(other) if isinstance(other, Tensor) else self.numbers(other, _type(like).numpy())

    def node(
        self, kind: str, inputs: Sequence[ir.Value | None], made: Sequence[Tensor] | Tensor, **attributes: Any
    ) -> None:
        """A node whose outputs are ``made``."""
        domain, _, operator = kind.rpartition("::")
        tensors = [made] if isinstance(made, Tensor) else list(made)
        values = [ir.Value(name=f"value_{len(self.nodes)}_{place}") for place in range(len(tensors))]
        node = ir.node(operator, inputs, attributes, domain=domain, outputs=values)
        node.metadata_props[SCOPE] = self.stack[-1]
        self.nodes.append(node)
        for tensor, value in zip(tensors, values, strict=True):
            _is(tensor, value)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, area: int) -> Tensor:
        made = torch.zeros(q.shape)
        self.node(OPERATOR, [self.value(each) for each in (q, k, v)], made, area=area)
        return made


def _value(tensor: Tensor) -> ir.Value | None:
    value: ir.Value | None = vars(tensor).get("edgekit_value")
    return value


def _is(tensor: Tensor, value: ir.Value) -> ir.Value:
    value.shape, value.type = ir.Shape(tensor.shape), ir.TensorType(_type(tensor))
    vars(tensor)["edgekit_value"] = value
    return value


def _type(tensor: Tensor) -> ir.DataType:
    if tensor.dtype not in _TYPES:
        raise _UnknownError(str(tensor.dtype))
    return _TYPES[tensor.dtype]


def _constant(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def _tensors(args: object) -> Iterator[Tensor]:
    if isinstance(args, Tensor):
        yield args
    elif isinstance(args, (list, tuple)):
        for each in args:
            yield from _tensors(each)


# ---- operators: (tape, what PyTorch made, its arguments) ------------------------------------------------------------


def _copy(tape: _Tape, made: Tensor, x: Tensor, *_: object, **__: object) -> None:
    if made.dtype == x.dtype:
        _is(made, tape.value(x))
    else:
        tape.node("Cast", [tape.value(x)], made, to=int(_type(made)))


def _convolution(tape: _Tape, made: Tensor, *args: Any) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = args
    form: dict[str, Any] = {"group": groups, "pads": [*padding, *padding], "strides": stride, "dilations": dilation}
    form["kernel_shape"] = list(weight.shape[2:])
    if transposed:
        form["output_padding"] = output_padding
    none = np.zeros(made.shape[1], np.float32)
    inputs = [tape.value(x), tape.value(weight), tape.numbers(none, np.float32) if bias is None else tape.value(bias)]
    tape.node("ConvTranspose" if transposed else "Conv", inputs, made, **form)


def _silu(tape: _Tape, made: Tensor, x: Tensor) -> None:
    gate = torch.empty_like(made, device="meta")
    tape.node("Sigmoid", [tape.value(x)], gate)
    tape.node("Mul", [tape.value(x), tape.value(gate)], made)


def _unary(kind: str) -> Callable[..., None]:
    def write(tape: _Tape, made: Tensor, x: Tensor) -> None:
        tape.node(kind, [tape.value(x)], made)

    return write


def _binary(kind: str, turned: bool = False) -> Callable[..., None]:
    def write(tape: _Tape, made: Tensor, x: Tensor, y: object, alpha: float = 1) -> None:
        if alpha != 1:
            raise _UnknownError(f"{kind} with a factor")
        sides = [tape.value(x), tape.operand(y, x, made)]
        tape.node(kind, sides[::-1] if turned else sides, made)

    return write


def _div(tape: _Tape, made: Tensor, x: Tensor, y: object, rounding_mode: str | None = None) -> None:
    whole = not made.is_floating_point()
    if (rounding_mode == "trunc") != whole or (rounding_mode not in (None, "trunc")):
        raise _UnknownError(f"a division rounded {rounding_mode}")
    tape.node("Div", [tape.value(x), tape.operand(y, x, made)], made)  # of integers it truncates


def _split(tape: _Tape, made: Sequence[Tensor], x: Tensor, _: object, dim: int = 0) -> None:
    sizes = [part.shape[dim] for part in made]
    if len({*sizes}) == 1:
        tape.node("Split", [tape.value(x)], made, axis=dim % x.ndim, num_outputs=len(sizes))
    else:
        tape.node("Split", [tape.value(x), tape.numbers(sizes)], made, axis=dim % x.ndim)


def _cat(tape: _Tape, made: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    tape.node("Concat", [tape.value(part) for part in parts], made, axis=dim % made.ndim)


def _stack(tape: _Tape, made: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    raised = []
    for part in parts:
        shape = list(part.shape)
        shape.insert(dim % made.ndim, 1)
        raised.append(torch.empty(shape, dtype=part.dtype, device="meta"))
        tape.node("Unsqueeze", [tape.value(part), tape.numbers([dim % made.ndim])], raised[-1])
    _cat(tape, made, raised, dim)


def _to_shape(kind: str, **form: int) -> Callable[..., None]:
    def write(tape: _Tape, made: Tensor, x: Tensor, *_: object, **__: object) -> None:
        if made.shape == x.shape:
            _is(made, tape.value(x))
        else:
            tape.node(kind, [tape.value(x), tape.numbers(made.shape)], made, **form)

    return write


def _permute(tape: _Tape, made: Tensor, x: Tensor, dims: Sequence[int]) -> None:
    tape.node("Transpose", [tape.value(x)], made, perm=[dim % x.ndim for dim in dims])


def _transpose(tape: _Tape, made: Tensor, x: Tensor, one: int = 0, other: int = 1) -> None:
    order = list(range(x.ndim))
    order[one], order[other] = order[other], order[one]
    _permute(tape, made, x, order)


def _unsqueeze(tape: _Tape, made: Tensor, x: Tensor, dim: int) -> None:
    tape.node("Unsqueeze", [tape.value(x), tape.numbers([dim % made.ndim])], made)


def _squeeze(tape: _Tape, made: Tensor, x: Tensor, dim: int | Sequence[int]) -> None:
    dims = [dim] if isinstance(dim, int) else dim
    tape.node("Squeeze", [tape.value(x), tape.numbers([d % x.ndim for d in dims])], made)


def _reduced(kind: str, **more: int) -> Callable[..., None]:
    def write(tape: _Tape, made: Tensor, x: Tensor, dim: Any = (), keepdim: bool = False, **_: object) -> None:
        dims = [dim] if isinstance(dim, int) else dim or range(x.ndim)
        tape.node(kind, [tape.value(x), tape.numbers([d % x.ndim for d in dims])], made, keepdims=int(keepdim), **more)

    return write


def _argmax(tape: _Tape, made: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> None:
    tape.node("ArgMax", [tape.value(x)], made, axis=dim % x.ndim, keepdims=int(keepdim), select_last_index=0)


def _topk(
    tape: _Tape, made: Sequence[Tensor], x: Tensor, k: int, dim: int = -1, largest: bool = True, ordered: bool = True
) -> None:
    form = {"axis": dim % x.ndim, "largest": int(largest), "sorted": int(ordered)}
    tape.node("TopK", [tape.value(x), tape.numbers([k])], made, **form)


def _gather(tape: _Tape, made: Tensor, x: Tensor, dim: int, index: Tensor) -> None:
    tape.node("GatherElements", [tape.value(x), tape.value(index)], made, axis=dim % x.ndim)


def _softmax(tape: _Tape, made: Tensor, x: Tensor, dim: int, *_: object) -> None:
    tape.node("Softmax", [tape.value(x)], made, axis=dim % x.ndim)


def _select(tape: _Tape, made: Tensor, x: Tensor, dim: int, index: int) -> None:
    tape.node("Gather", [tape.value(x), tape.numbers(index % x.shape[dim])], made, axis=dim % x.ndim)


def _slice(
    tape: _Tape, made: Tensor, x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> None:
    if made.shape == x.shape and step == 1:
        _is(made, tape.value(x))
        return
    first, last, _ = slice(start, end, step).indices(x.shape[dim])
    bounds = [tape.numbers([each]) for each in (first, last, dim % x.ndim, step)]
    tape.node("Slice", [tape.value(x), *bounds], made)


def _nearest(tape: _Tape, made: Tensor, x: Tensor, *_: object) -> None:
    scales = [have / had for have, had in zip(made.shape, x.shape, strict=True)]
    form = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    tape.node("Resize", [tape.value(x), None, tape.numbers(scales, np.float32)], made, **form)


def _leaky_relu(tape: _Tape, made: Tensor, x: Tensor, slope: float = 0.01) -> None:
    tape.node("LeakyRelu", [tape.value(x)], made, alpha=float(slope))


def _addmm(tape: _Tape, made: Tensor, bias: Tensor, x: Tensor, matrix: Tensor) -> None:
    plain = tape.turned.get(id(matrix))
    inputs = [tape.value(x), tape.value(matrix if plain is None else plain), tape.value(bias)]
    tape.node("Gemm", inputs, made, alpha=1.0, beta=1.0, transA=0, transB=int(plain is not None))


_OF_SHAPES = frozenset("empty_like zeros_like ones_like full_like new_zeros new_ones new_full new_empty".split())
_WRITTEN: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("clone", "contiguous", "alias", "detach", "_to_copy", "lift_fresh"), _copy),
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape"), _to_shape("Reshape", allowzero=0)),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **{name: _unary(kind) for name, kind in {"sigmoid": "Sigmoid", "cos": "Cos", "sin": "Sin", "exp": "Exp",
                                              "relu": "Relu", "hardswish": "HardSwish", "neg": "Neg"}.items()},
    **{name: _binary(kind) for name, kind in {"add": "Add", "sub": "Sub", "mul": "Mul"}.items()},
    "convolution": _convolution,
    "silu": _silu,
    "leaky_relu": _leaky_relu,
    "rsub": _binary("Sub", turned=True),
    "div": _div,
    "cat": _cat,
    "stack": _stack,
    "expand": _to_shape("Expand"),
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "amax": _reduced("ReduceMax"),
    "mean": _reduced("ReduceMean", noop_with_empty_axes=0),
    "argmax": _argmax,
    "topk": _topk,
    "gather": _gather,
    "_softmax": _softmax,
    "select": _select,
    "slice": _slice,
    "upsample_nearest2d": _nearest,
    "addmm": _addmm,
}  # fmt: skip
