"""What the stand-ins of ``inert_pickle`` mean, as plain values: mappings, numbers, text, JSON. Standard library only.

A checkpoint writes the same thing in several ways (a dict, an ``OrderedDict``, a namespace object; a float, a numpy
scalar). These functions accept each of them, and answer None or an empty value for what is none of them. They never
call, hash or compare anything from the file that is not a string or a number, and every walk is bounded.

    number(read_inert(pickle.dumps(numpy.float64(0.5), 2), "x"))     # 0.5
    json_dict({"lr": 0.1, "device": <torch.device stand-in>})        # {'lr': 0.1, 'device': 'cuda:0'}
"""

from __future__ import annotations

import math
import struct
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

from edgekit.checkpoint.published.inert_pickle import Reference, StandIn

_MAX_TEXT = 1000
_MAX_JSON_VALUES = 10_000
_MAX_JSON_DEPTH = 8
_MAX_PARTS = 64  # of a path
_MAPPINGS = ("collections.OrderedDict", "collections.defaultdict")
# numpy's type codes in the struct module's letters
_STRUCT_CODES = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_STRUCT_CODES |= {"f2": "e", "f4": "f", "f8": "d"}


def mapping(value: object) -> dict[object, object]:
    """A dict, ordered dict or namespace as a dict; empty for everything else. Keys are text, numbers, bytes or None."""
    if isinstance(value, dict):
        return value
    if isinstance(value, StandIn):
        if value.name in _MAPPINGS:
            return dict(value.pairs)
        if value.name.endswith("Namespace") and isinstance(value.state, dict):
            return value.state
    return {}


def members(value: object) -> list[object]:
    """The members of a list, tuple, set or ``torch.Size``; empty for everything else."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, StandIn) and value.name in ("builtins.set", "builtins.frozenset", "torch.Size"):
        inner = value.args[0] if len(value.args) == 1 else []
        return [*value.values, *inner] if isinstance(inner, (list, tuple)) else value.values
    return []


def number(value: object) -> int | float | None:
    """A bool, int, float or numpy scalar as Python's own; None for everything else."""
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, StandIn) or not value.name.endswith("multiarray.scalar") or len(value.args) != 2:
        return None
    dtype, data = value.args
    if isinstance(data, StandIn) and data.name == "_codecs.encode" and data.args and isinstance(data.args[0], str):
        data = data.args[0][:16].encode("latin-1", "replace")  # how protocol 2 writes bytes
    if not isinstance(dtype, StandIn) or not dtype.args or not isinstance(dtype.args[0], str):
        return None
    code = _STRUCT_CODES.get(dtype.args[0].lstrip("<|="))
    big = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] == ">"
    order = ">" if big else "<"
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize(order + code):
        return None
    result: int | float = struct.unpack(order + code, data)[0]
    return result


def count(value: object, least: int = 1) -> int | None:
    """A whole number from ``least`` to 2**40, else None."""
    value = number(value)
    return value if type(value) is int and least <= value <= 1 << 40 else None


def text(value: object) -> str | None:
    """A non-empty string, control characters and lone surrogates replaced, cut at 1000 characters; else None."""
    if not isinstance(value, str) or not value:
        return None
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in value[:_MAX_TEXT])


def json_dict(value: object) -> dict[str, object]:
    """A mapping with only JSON types in it: None, bool, 64-bit int, finite float, str, list, dict.

    Paths and devices become text, tuples and sets lists, other objects their class name; NaN, infinities, bytes and
    whatever lies deeper than 8 levels or beyond 10 000 values become None.
    """
    return _Json().dict(value, 0)


class _Json:
    def __init__(self) -> None:
        self.left = _MAX_JSON_VALUES

    def dict(self, value: object, depth: int) -> dict[str, object]:
        result = {}
        for key, item in mapping(value).items():
            if self.left <= 0:
                break
            self.left -= 1
            name = text(key) if isinstance(key, str) else None if isinstance(key, bytes) else str(key)
            if name is not None:
                result[name] = self.value(item, depth + 1)
        return result

    def value(self, value: object, depth: int) -> object:
        self.left -= 1
        if self.left <= 0 or depth > _MAX_JSON_DEPTH:
            return None
        if isinstance(value, str):
            return text(value) or ""
        plain = number(value)
        if plain is not None:
            return plain if isinstance(plain, bool) or _fits_json(plain) else None
        if isinstance(value, (Reference, StandIn)) and not mapping(value) and not members(value):
            return _object(value)
        if isinstance(value, (list, tuple, StandIn)) and not mapping(value):
            return [self.value(item, depth + 1) for item in members(value)[: self.left]]
        return self.dict(value, depth) if isinstance(value, (dict, StandIn)) else None


def _fits_json(value: int | float) -> bool:
    return math.isfinite(value) if isinstance(value, float) else value.bit_length() < 64


def _object(value: Reference | StandIn) -> str:
    """One object as text: a path or a device as its owner would print it, else the name of its class."""
    kind = value.name.rpartition(".")[2]
    parts = (
        [str(a) for a in value.args[:_MAX_PARTS] if isinstance(a, str) or type(a) is int]
        if isinstance(value, StandIn)
        else []
    )
    if value.name.startswith("pathlib."):
        return text(str((PureWindowsPath if "Windows" in kind else PurePosixPath)(*parts))) or ""
    return text(":".join(parts)) or "" if value.name == "torch.device" else value.name
