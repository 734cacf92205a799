"""The backends, one file each; the file name is the registry. A leading underscore marks what backends share.

A backend is a file here with ``TARGETS``, a tuple of ``Target`` records (``_target.py`` says what one declares).
Nothing else in edgekit knows its name.

    get("ov-fp16").missing()        # None, or the message that says what to install
    names()                         # ('ort-fp32', 'ort-int8', 'ov-fp32', …)
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from edgekit.errors import InputError, UsageError
from edgekit.targets._target import Opening, Served, Target, TargetOptions

__all__ = ["TargetOptions", "Opening", "Served", "Target", "REFERENCE", "every", "get", "names", "reference"]

REFERENCE = "ort-fp32"  # the runtime that exported graphs are run in to be compared with PyTorch


@cache
def _registry() -> dict[str, Target]:
    found: dict[str, Target] = {}
    files: dict[str, str] = {}
    for name in sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")):
        file = f"edgekit/targets/{name}.py"
        try:
            declared = importlib.import_module(f"{__name__}.{name}").TARGETS
        except (AttributeError, TypeError) as error:
            raise InputError(f"{file}: its TARGETS are no complete Target records ({error})") from error
        for target in declared:
            if not isinstance(target, Target):
                raise InputError(f"{file}: {target!r} in TARGETS is no Target record")
            if complaints := target.complaints():
                raise InputError(f"{file}: the record of {target.name or 'a target'}: {'; '.join(complaints)}")
            if target.name in found:
                raise InputError(f"{file} and {files[target.name]} both declare the target {target.name}")
            found[target.name], files[target.name] = target, file
    return found


def every() -> tuple[Target, ...]:
    """Every target, in the order of files and of records in them.

    Raises:
        InputError: a file's records are incomplete, or two have one name.
    """
    return tuple(_registry().values())


def names() -> list[str]:
    """The names of all targets."""
    return list(_registry())


def get(name: str) -> Target:
    """The target called ``name``.

    Raises:
        UsageError: there is none.
    """
    found = _registry().get(name)
    if found is None:
        raise UsageError(f"`target` {name}: there is no such target; targets are {', '.join(names())}")
    return found


def reference() -> Target:
    """The target whose runtime runs graphs that are compared with their source."""
    return get(REFERENCE)
