"""Checkpoints made by hand, opcode by opcode: small valid ones, and ones that would do harm if anything ran.

``assemble`` writes a pickle from plain values and the markers below without Python's pickler, so that a file can name
classes that are not installed and contain opcodes no pickler would write. ``write_archive`` puts it in a zip the way
``torch.save`` does.

    write_archive(path, assemble({"model": network()}), STORAGES)
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "0": np.arange(24, dtype="<f2").tobytes(),
    "1": np.array([8, 16, 32], "<f4").tobytes(),
    "2": np.array([7], "<i8").tobytes(),
}


@dataclass(frozen=True)
class Name:
    """A global: ``GLOBAL``."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call: ``REDUCE``, then ``BUILD`` where there is a state."""

    function: Any
    args: tuple[Any, ...] = ()
    state: Any = None
    pairs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class New:
    """An object: ``NEWOBJ``, then ``BUILD``."""

    cls: Name
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id: ``BINPERSID``."""

    pid: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are; they must leave one value on the stack."""

    opcodes: bytes


def assemble(value: Any, protocol: int = 2) -> bytes:
    """One pickle of ``value``."""
    return b"\x80" + bytes([protocol]) + _emit(value) + b"."


def _emit(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_emit, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(_emit, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_emit(k) + _emit(v) for k, v in value.items()) + b"u"
    return _emit_marker(value)


def _emit_marker(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Name):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Persistent):
        return _emit(value.pid) + b"Q"
    if isinstance(value, New):
        return _emit(value.cls) + b")\x81" + (b"" if value.state is None else _emit(value.state) + b"b")
    assert isinstance(value, Call)
    pairs = b"(" + b"".join(_emit(k) + _emit(v) for k, v in value.pairs.items()) + b"u" if value.pairs else b""
    state = b"" if value.state is None else _emit(value.state) + b"b"
    return _emit(value.function) + _emit(value.args) + b"R" + pairs + state


def ordered(**pairs: Any) -> Call:
    """An ``OrderedDict``."""
    return Call(Name("collections", "OrderedDict"), pairs=pairs)


def tensor(
    key: str, shape: tuple[int, ...], /, kind: str = "Half", elements: int | None = None, **changes: Any
) -> Call:
    """A tensor over the storage ``key``; ``offset=``, ``shape=`` and ``strides=`` change what the file says of it."""
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    elements = int(np.prod(shape)) if elements is None else elements
    storage = Persistent(("storage", Name("torch", f"{kind}Storage"), key, "cpu", elements))
    values = {"offset": 0, "shape": shape, "strides": strides} | changes
    args = (storage, values["offset"], values["shape"], values["strides"], False, ordered())
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def parameter(value: Any) -> Call:
    return Call(Name("torch._utils", "_rebuild_parameter"), (value, False, ordered()))


def module(cls: Name, *, parameters: Any = None, buffers: Any = None, children: Any = None, **attributes: Any) -> New:
    """A pickled ``nn.Module``."""
    state = {"training": False, "_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": children or {}}
    return New(cls, state | attributes)


def network(layer: Any = None, **attributes: Any) -> New:
    """A model of two layers in the published layout: area attention, then a Detect head of two classes."""
    attention = module(
        Name("ultralytics.nn.modules.block", "AAttn"),
        parameters={"weight": parameter(tensor("0", (2, 3, 4))), "bias": None},
        buffers={"steps": tensor("2", (), "Long"), "scratch": tensor("0", (24,))},
        _non_persistent_buffers_set=Call(Name("__builtin__", "set"), (["scratch"],)),
        area=4,
        num_heads=2,
    )
    head = module(Name("ultralytics.nn.modules.head", "Detect"), nc=2, stride=tensor("1", (3,), "Float"))
    layers = module(
        Name("torch.nn.modules.container", "Sequential"), children=ordered(**{"0": layer or attention, "1": head})
    )
    defaults = {"names": {0: "cell", 1: "plate"}, "yaml": {"nc": 2}, "args": {"task": "detect"}}
    return module(Name("ultralytics.nn.tasks", "DetectionModel"), children={"model": layers}, **(defaults | attributes))


def write_archive(
    path: Path,
    pickle: bytes,
    storages: dict[str, bytes] | None = None,
    extra: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """A zip laid out as ``torch.save`` does, in the folder ``m``."""
    entries = {"m/data.pkl": pickle, "m/version": b"3\n", "m/byteorder": b"little"}
    entries |= {f"m/data/{key}": data for key, data in (STORAGES if storages is None else storages).items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in (entries | (extra or {})).items():
            archive.writestr(name, data)
    return path


def attacks(sentinel: Path) -> dict[str, tuple[str, bytes]]:
    """Live pickles by the name they must be refused for: each creates ``sentinel`` when Python's own loader runs it.

    The value is (how, pickle).
    """
    shell = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    opened = (str(sentinel), "w")
    text = b"\x8c" + bytes([len(shell)]) + shell.encode()
    import_os = Call(Name("builtins", "__import__"), ("os",))
    return {
        "posix.system": ("REDUCE", assemble(Call(Name("posix", "system"), (shell,)))),
        "os.system": ("protocol 0, GLOBAL", f"cos\nsystem\n(S'{shell}'\ntR.".encode()),
        "builtins.eval": ("python 2 spelling", assemble(Call(Name("__builtin__", "eval"), (code,)))),
        "builtins.exec": ("REDUCE", assemble(Call(Name("builtins", "exec"), (code,)))),
        "builtins.open": ("REDUCE", assemble(Call(Name("builtins", "open"), opened))),
        "builtins.getattr": (
            "call of a call",
            assemble(Call(Call(Name("builtins", "getattr"), (Call(Name("pathlib", "Path"), opened[:1]), "touch")))),
        ),
        "builtins.__import__": ("second of two", assemble((import_os, Call(Name("posix", "system"), (shell,))))),
        "io.open": ("INST", f"(S'{sentinel}'\nS'w'\niio\nopen\n.".encode()),
        "pathlib.Path.touch": (
            "dotted name, STACK_GLOBAL",
            b"\x80\x04\x8c\x07pathlib\x8c\x0aPath.touch\x93\x8c\x07pathlib\x8c\x04Path\x93"
            + _emit((str(sentinel),))
            + b"R\x85R.",
        ),
        "subprocess.Popen": ("OBJ", b"(csubprocess\nPopen\n](X\x05\x00\x00\x00touch" + _emit(str(sentinel)) + b"eo."),
        "subprocess.call": ("REDUCE", assemble(Call(Name("subprocess", "call"), (["touch", str(sentinel)],)))),
        "functools.partial": (
            "call of a call",
            assemble(Call(Call(Name("functools", "partial"), (Name("builtins", "open"),)), opened)),
        ),
        "operator.methodcaller": (
            "call of a call",
            assemble(
                Call(
                    Call(Name("operator", "methodcaller"), ("system", shell)),
                    (Call(Name("importlib", "import_module"), ("os",)),),
                )
            ),
        ),
        "_pickle.loads": (
            "pickle in a pickle",
            assemble(Call(Name("_pickle", "loads"), (assemble(Call(Name("posix", "system"), (shell,))),)), 3),
        ),
        "nt.system": ("protocol 4, STACK_GLOBAL", b"\x80\x04\x8c\x02nt\x8c\x06system\x93" + text + b"\x85R."),
    }


# Names that must be refused although no loader is needed to show why: what they reach for is not on the list, or looks
# like something that is.
FORBIDDEN_NAMES = [
    Name("torch.hub", "load"),
    Name("torch", "load"),
    Name("torch.storage", "_load_from_bytes"),
    Name("torch.jit", "load"),
    Name("torch._utils", "_import_dotted_name"),
    Name("torch.nn.modules.module", "_addindent"),
    Name("torch.nn.modules.linear", "Linear.forward"),
    Name("torch.nn.modulesque.linear", "Linear"),
    Name("torch.nn.modules./../os", "Linear"),
    Name("torchvision.transforms.functional", "os"),
    Name("ultralytics", "YOLO"),
    Name("ultralytics.utils.downloads", "safe_download"),
    Name("ultralytics.nn.tasks", "attempt_load_weights"),
    Name("ultralyticsevil.nn", "Conv"),
    Name("numpy", "load"),
    Name("numpy.testing._private.utils", "runstring"),
    Name("ctypes", "CDLL"),
    Name("shutil", "rmtree"),
    Name("socket", "socket"),
    Name("webbrowser", "open"),
    Name("runpy", "run_path"),
    Name("__main__", "Model"),
    Name("builtins", "globals"),
    Name("builtins", "setattr"),
    Name("types", "CodeType"),
    Name("types", "FunctionType"),
    Name("copyreg", "add_extension"),
    Name("collections", "namedtuple"),
    Name("dill._dill", "_create_function"),
]
