"""Read a pickle without running it: names and calls become inert stand-ins. Standard library only.

Loading a pickle *is* running a program: its opcodes import names and call them. Python's own ``Unpickler`` can be
told which names to import, but its machinery still calls, hashes, sets attributes and grows its memo as the file
says. So this module does not use it. It walks the opcodes (``pickletools.genops`` only decodes them) and builds plain
values; where the file would import a name there is a ``Reference``, where it would call one a ``StandIn`` that keeps
the arguments, and where it would fetch a tensor's bytes a ``Storage``. There is no import and no call to be tricked
into. What a stand-in *means* is decided by the reader of the tree (``edgekit/checkpoint/published/__init__.py``).

A file that as much as mentions a name outside the list below is refused, although nothing would have run: somebody
else's loader would have run it.

    read_inert(pickle.dumps({"lr": 0.01}), "x.pt")            # {'lr': 0.01}
    read_inert(b"cos\\nsystem\\n(S'ls'\\ntR.", "x.pt")           # UnsafeFileError: ... wants to call 'os.system' ...

Format: the opcodes' documentation in Python's own ``pickletools`` and PEP 307, 3154, 574.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edgekit.errors import InputError, UnsafeFileError

MAX_STEPS = 1_000_000  # opcodes; yolo12x has 130 thousand
_MAX_MEMO = 1 << 32

# Classes of these packages describe a network and are kept by name; only class-like names, never functions.
_CLASS_NAMESPACES = ("ultralytics.", "torch.nn.modules.", "torch.nn.parallel.", "torchvision.transforms.")
_MODULE_NAME = re.compile(r"[A-Za-z0-9_.]+", re.ASCII)
_CLASS_NAME = re.compile(r"_?(v\d+)?[A-Z][A-Za-z0-9_]*", re.ASCII)
# The other forward passes a module may have been told to use: fusing sets `forward` to the method `forward_fuse`.
_METHODS = ("forward", "forward_fuse", "forward_split")

_ALLOWED = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "__newobj__ _reconstructor",
    "types": "SimpleNamespace",
    "argparse": "Namespace",
    "datetime": "date datetime timedelta timezone",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "_codecs": "encode",
    "numpy": "dtype ndarray bool_ float16 float32 float64 int8 int16 int32 int64 uint8",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "torch": "Size device float16 half float32 float float64 double bfloat16 int64 long int32 int int16 int8 uint8 "
    "bool HalfStorage FloatStorage DoubleStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage "
    "ByteStorage BoolStorage",
    "torch._utils": "_rebuild_parameter _rebuild_parameter_with_state _rebuild_tensor _rebuild_tensor_v2",
    "torch.nn.parameter": "Parameter",
    "torch.optim.swa_utils": "AveragedModel",
    "torch.distributed.algorithms.join": "_JoinConfig",
}
_ALLOWED_NAMES = frozenset(f"{module}.{name}" for module, names in _ALLOWED.items() for name in names.split())
_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocol 2 keeps the old spelling
_OTHER_MODELS = ("models.yolo", "models.common", "models.experimental")  # the layout of YOLOv5 and YOLOv7


@dataclass(frozen=True, eq=False)
class Reference:
    """A name the pickle would import, e.g. ``torch.nn.modules.conv.Conv2d``. Nothing is behind it."""

    name: str


class StandIn:
    """What a call or an object of the pickle becomes: a record of it, without behaviour.

    Attributes:
        name: full name of the class or function, e.g. ``collections.OrderedDict``.
        args: the positional arguments, unread.
        state: what the pickle would have given to ``__setstate__`` or ``__dict__``, or None.
        pairs: keys and values it would have set with ``obj[key] = value``, in order.
        values: what it would have appended or added, in order.
    """

    __slots__ = ("args", "name", "pairs", "state", "values")

    def __init__(self, name: str, args: tuple[object, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.pairs: list[tuple[object, object]] = []
        self.values: list[object] = []


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes behind tensors: ``kind`` (``torch.HalfStorage``), the archive's entry ``key``, number of elements."""

    kind: str
    key: str
    elements: int


def read_inert(data: bytes | BinaryIO, path: str | Path, legacy: bool = False) -> object:
    """The value a pickle describes, made of None, bool, numbers, str, bytes, list, tuple, dict and the stand-ins.

    Nothing is imported and nothing named in the file is called. Containers may share children or hold themselves,
    exactly as the pickle says, so a reader must bound its walk.

    Args:
        data: one pickle, or a stream at the start of one (read up to its STOP).
        path: the file to name in errors.
        legacy: accept any persistent id; for looking at pickles outside the zip format.

    Raises:
        UnsafeFileError: it names something that is not part of a checkpoint, or calls what is no name.
        InputError: it is damaged, too long, or of another model family.
    """
    return _Machine(str(path), legacy).run(io.BytesIO(data) if isinstance(data, bytes) else data)


class _Machine:
    """The pickle machine's stack and memo. One method for each opcode that does more than push a value."""

    def __init__(self, path: str, legacy: bool) -> None:
        self.path = path
        self.legacy = legacy
        self.stack: list[object] = []
        self.marked: list[list[object]] = []  # the stacks below each open MARK
        self.memo: dict[int, object] = {}

    def run(self, stream: BinaryIO) -> object:
        steps = 0
        try:
            for opcode, arg, _ in pickletools.genops(stream):
                steps += 1
                if steps > MAX_STEPS:
                    raise InputError(
                        f"{self.path}: its pickle has over {MAX_STEPS} steps, which no YOLO12 checkpoint "
                        f"needs; give the checkpoint as it was published"
                    )
                if opcode.name == "STOP":
                    return self.stack.pop()
                if opcode.name in _PUSHES:
                    self.stack.append(arg)
                else:
                    _ACTIONS[opcode.name](self, arg)
        # Only built-in containers and decoding are touched above, so these say that the file makes no sense.
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise InputError(
                f"{self.path}: its pickle is damaged; get the file again from where it was published"
            ) from error
        raise InputError(f"{self.path}: its pickle ends early; get the file again from where it was published")

    # Stack

    def push(self, value: object) -> None:
        self.stack.append(value)  # looked up now: popping a MARK changes which stack is current

    def mark(self, _: object) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def drop_mark(self) -> None:
        self.pop_mark()

    def pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def put(self, index: int | None) -> None:
        index = len(self.memo) if index is None else index
        if not 0 <= index < _MAX_MEMO:
            raise ValueError("memo index out of range")
        self.memo[index] = self.stack[-1]

    def protocol(self, version: int) -> None:
        if version > 5:
            raise ValueError("a protocol of the future")

    # Containers

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def set_pairs(self, items: list[object]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        target, pairs = self.stack[-1], zip(map(_checked_key, items[::2]), items[1::2], strict=True)
        if isinstance(target, StandIn):
            target.pairs.extend(pairs)
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            raise TypeError("items for something that is no mapping")

    def set_pair(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_pairs([key, value])

    def append_all(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.values.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        else:
            raise TypeError("values for something that is no list")

    def make_dict(self, _: object) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.set_pairs(items)

    def make_set(self, kind: str, items: list[object]) -> None:
        # A stand-in, not a set: hashing a value from the file can take for ever (nested tuples) or overflow.
        stand_in = StandIn(kind)
        stand_in.values = items
        self.stack.append(stand_in)

    # Names and what the file would call

    def refer(self, module: object, name: object) -> Reference:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")
        module = _PYTHON_2_MODULES.get(module, module)
        full = f"{module}.{name}"
        known = module.startswith(_CLASS_NAMESPACES) and _MODULE_NAME.fullmatch(module) and _CLASS_NAME.fullmatch(name)
        if known or full in _ALLOWED_NAMES:
            return Reference(full)
        if full == "builtins.getattr":  # of a module's method only: see `call`
            return Reference(full)
        if module.startswith("torch._dynamo."):
            raise InputError(
                f"{self.path}: holds what torch.compile makes of a model; save the model itself, which is its _orig_mod"
            )
        if module in _OTHER_MODELS:
            raise InputError(
                f"{self.path}: a YOLOv5 or YOLOv7 checkpoint (it holds {printable(full)}), which is not "
                f"supported; give a YOLO12 checkpoint"
            )
        raise self.unsafe(f"its pickle wants to call {printable(full)}")

    def unsafe(self, what: str) -> UnsafeFileError:
        return UnsafeFileError(
            f"{self.path}: refused, because {what}, which is no part of a YOLO12 checkpoint; nothing was run, but "
            f"a program that loads the file in the usual way would run it"
        )

    def push_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.stack.append(self.refer(module, name))

    def push_stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.refer(module, name))

    def call(self, function: object, args: object) -> None:
        if not isinstance(function, Reference):
            raise self.unsafe(f"its pickle wants to call a {type(function).__name__} it made itself")
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        if function.name.startswith("copyreg."):  # (class, ...) → an object of that class
            function, args = args[0], args[1:]
            if not isinstance(function, Reference):
                raise self.unsafe("its pickle wants to make an object of what is no class")
        if function.name == "builtins.getattr" and not _is_method(args):
            raise self.unsafe("its pickle wants to call 'builtins.getattr'")
        self.stack.append(StandIn(function.name, args))

    def reduce(self, _: object) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def new_with_keywords(self, _: object) -> None:
        self.stack.pop()  # keywords: no class of a checkpoint takes any
        self.reduce(None)

    def instance(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        args = tuple(self.pop_mark())
        self.call(self.refer(module, name), args)

    def object_of(self, _: object) -> None:
        function, *args = self.pop_mark()
        self.call(function, tuple(args))

    def build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Reference):
            raise self.unsafe(f"its pickle wants to change the class {printable(target.name)}")
        if not isinstance(target, StandIn):
            raise TypeError("state for something that is no object")
        target.state = state

    def extension(self, _: object) -> None:
        raise self.unsafe("its pickle wants to call an entry of Python's extension registry")

    def persistent(self, pid: Any) -> None:
        if self.legacy:
            names_class = isinstance(pid, tuple) and len(pid) > 1 and isinstance(pid[1], Reference)
            self.push(pid[1] if names_class and pid[0] == "module" else StandIn("storage"))
            return
        tag, kind, key, location, elements = pid
        texts = all(isinstance(text, str) for text in (tag, key, location))
        if not texts or tag != "storage" or type(elements) is not int or elements < 0:
            raise ValueError("a persistent id that is no storage")
        if not isinstance(kind, Reference) or not kind.name.startswith("torch.") or not kind.name.endswith("Storage"):
            raise ValueError("a storage of no known kind")
        self.push(Storage(kind.name, key, elements))


def _is_method(args: tuple[object, ...]) -> bool:
    """Whether ``getattr(*args)`` would be one of ``_METHODS`` of a module the pickle describes, as fused ones have."""
    of_module = len(args) == 2 and isinstance(args[0], StandIn) and args[0].name.startswith(_CLASS_NAMESPACES)
    return of_module and args[1] in _METHODS


def _checked_key(key: object) -> object:
    """``key`` if it may be a dict's key: text, bytes, None, bool, float or a 64-bit integer.

    Anything else is refused because hashing it can be made to take for ever (nested tuples, colliding integers).

    Raises:
        TypeError: another type, or a longer integer.
    """
    if key is None or isinstance(key, (str, bytes, float)) or (isinstance(key, int) and key.bit_length() <= 64):
        return key
    raise TypeError(f"a {type(key).__name__} as a key")


def printable(text: str, limit: int = 120) -> str:
    """Text from the file, quoted and escaped so that it cannot play tricks on a terminal, cut at ``limit``."""
    return ascii(text if len(text) <= limit else text[:limit] + "...")


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_PUSHES = frozenset(_NUMBERS + _BYTES + _TEXTS)  # the decoded argument is the value
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.protocol,
    "FRAME": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": lambda m, _: m.drop_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "GET": lambda m, index: m.push(m.memo[index]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_mark()),
    "APPEND": lambda m, _: m.append_all([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append_all(m.pop_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": _Machine.make_dict,
    "SETITEM": _Machine.set_pair,
    "SETITEMS": lambda m, _: m.set_pairs(m.pop_mark()),
    "EMPTY_SET": lambda m, _: m.make_set("builtins.set", []),
    "ADDITEMS": lambda m, _: m.append_all(m.pop_mark()),
    "FROZENSET": lambda m, _: m.make_set("builtins.frozenset", m.pop_mark()),
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "INST": _Machine.instance,
    "OBJ": _Machine.object_of,
    "BUILD": _Machine.build,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "PERSID": _Machine.persistent,
    "BINPERSID": lambda m, _: m.persistent(m.stack.pop()),
}
