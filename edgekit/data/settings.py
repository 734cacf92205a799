"""A ``data.yaml`` as its author wrote it: every value is the text that stands there.

    read_settings(Path("data.yaml"))["names"]     # ['yes', 'no', '0010'] and not [True, False, 8]

YAML 1.1 makes truth values of ``yes``, ``no``, ``on`` and ``off``, octal numbers of ``0010`` and times of ``12:30:00``:
class names, folders and versions that are meant as words. What is meant as a number is read as one by who needs it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TypeAlias

import yaml

from edgekit.data.encoding import decode
from edgekit.errors import InputError

# What stands in such a file: text, lists and mappings of it.
Value: TypeAlias = "str | list[Value] | dict[str, Value]"
Settings: TypeAlias = Mapping[str, Value]

NOTHING = ("", "~", "null", "none")


class _Words(yaml.BaseLoader):
    """Scalars stay text; a key that stands twice is refused, for YAML would drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        found: dict[Hashable, object] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no word", key_node.start_mark)
            if key in found:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            found[key] = self.construct_object(value_node, deep=True)
        return found


def read_settings(path: Path) -> Settings:
    """The keys of the yaml at ``path``; values are text, lists or mappings of them. Keys without a value are left out.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    try:
        found = yaml.load(decode(path.read_bytes()), _Words)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is neither UTF-8 nor UTF-16 ({error}); save it as UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: is no mapping of keys to values; a data.yaml has train, val and names")
    return {key: value for key, value in found.items() if not is_nothing(value)}


def is_nothing(value: object) -> bool:
    """An empty value, or a word for none."""
    return not value or (isinstance(value, str) and value.lower() in NOTHING)


def whole(value: object) -> int | None:
    """``value`` as a whole number, or None if it is none: ``"3"``, ``3`` and ``3.0`` are the same."""
    try:
        number = float(value)  # type: ignore[arg-type]  # what is none is refused by float itself
        return int(number) if number.is_integer() and not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        return None
