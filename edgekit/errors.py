"""What edgekit says when it cannot go on.

Every known failure is an ``EdgekitError`` whose text is one clear sentence: what is wrong, in which file, and
what to do. The command line (``edgekit/cli``) prints the text and exits with ``exit_code``; library code raises
and never prints or exits. Anything that is not an ``EdgekitError`` is a bug and keeps its traceback.

    raise InputError(f"{path}: holds no images; give a folder, a file or a glob of images or videos")
    raise UsageError(f"`max_det` {value}: must be at least 1")

An option stands between single backticks by its name in Python; the command line spells it ``--max-det``. Where a
message advises a whole command, ``command_line`` writes it.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class EdgekitError(Exception):
    """A failure edgekit foresaw. ``str(error)`` is the sentence the user reads."""

    exit_code = 2

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that the message speaks of, in its order."""
        return tuple(dict.fromkeys(re.findall(r"`([a-z][a-z0-9_]*)`", str(self))))


class InputError(EdgekitError):
    """Bad input: a file, folder or value the user gave cannot be used (exit code 2)."""


class UsageError(EdgekitError):
    """Options that contradict each other or are out of range (exit code 2)."""


# What 64-bit ARM wheels of the runtimes need; of the last there are none.
GLIBC_ON_ARM = {"ncnn": (2, 24), "onnxruntime": (2, 28), "openvino": (2, 35)}
_X86_ALONE = ("tensorrt-rtx",)


def no_wheel(package: str, machine: str | None = None, glibc: str | None = None, bits: int = 0) -> str | None:
    """Why pip cannot bring a current ``package`` to a system, a clause, or None.

    Args:
        machine, glibc, bits: of the system, as ``platform`` has them; this one's by default.
    """
    if package not in (*GLIBC_ON_ARM, *_X86_ALONE):
        return None
    machine = (machine or platform.machine()).lower()
    if (bits or (64 if sys.maxsize > 2**32 else 32)) == 32:
        return "has no wheels for 32-bit systems; install the 64-bit one"
    if machine not in ("aarch64", "arm64"):
        return None
    if package in _X86_ALONE:
        return "has no wheels for ARM; build the model for an ort-*, ov-* or ncnn-* target"
    name, version = ("glibc", glibc) if glibc is not None else platform.libc_ver()
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    needed = GLIBC_ON_ARM[package]
    if name != "glibc" or not found or found >= needed:
        return None
    others = [other for other, least in GLIBC_ON_ARM.items() if found >= least]
    instead = f"; here run {' and '.join(others)}" if others else ""
    wants = ".".join(map(str, needed))
    return f"needs glibc {wants} on ARM and this system has {version}: pip takes a version of years ago{instead}"


class MissingPackageError(EdgekitError):
    """Something optional is not installed; the sentence names the extra that brings it, or the package itself where no
    extra does (exit code 2)."""

    def __init__(self, package: str, needed_for: str, extra: str | None = None) -> None:
        wanted = f"'edgekit[{extra}]'" if extra else package
        why = no_wheel(package)
        do = f"which {why}" if why else f"which is not installed; run: pip install {wanted}"
        super().__init__(f"{needed_for} needs the package {package!r}, {do}")
        self.package = package
        self.extra = extra


def require(module: str, needed_for: str, extra: str | None = None) -> None:
    """Raise ``MissingPackageError`` unless ``module`` is installed; nothing is imported."""
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(module.replace("_", "-"), needed_for, extra)


def not_installed(module: str, needed_for: str, extra: str | None = None) -> str | None:
    """What ``require`` would raise, as text."""
    try:
        require(module, needed_for, extra)
    except MissingPackageError as error:
        return str(error)
    return None


@contextmanager
def optional(needed_for: str, extra: str | None = None, package: str | None = None) -> Iterator[None]:
    """Around imports of what only an extra brings, the one guard of the whole package:

        with optional("calibration", "onnx"):
            import onnxruntime

    Args:
        needed_for: what cannot be done without it.
        extra: of edgekit, which installs it.
        package: its name in the package index; by default that of the module that is missing.

    Raises:
        MissingPackageError: a module is not installed.
        InputError: it is, but cannot be loaded, for want of a library, say.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module == "edgekit":
            raise  # ours: a bug
        raise MissingPackageError(package or module.replace("_", "-") or str(extra), needed_for, extra) from error
    except (ImportError, OSError) as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{needed_for}: {package or extra} is installed, but cannot be loaded ({why})") from error


class UnsafeFileError(InputError):
    """A file that would run code or reach outside its folder; it was not opened further (exit code 2)."""


class TruncatedWarning(RuntimeWarning):
    """There may be more objects in an image than the answer holds; the text says which limit was met."""


class GateError(EdgekitError):
    """A check failed: parity, accuracy, speed, a rewrite count or a hash (exit code 1).

    ``evidence`` is a JSON-ready mapping of what was measured; commands write it to ``OUT.failed.json``.
    """

    exit_code = 1

    def __init__(self, message: str, evidence: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.evidence = dict(evidence or {})


def shorten(names: Sequence[object], most: int = 8) -> str:
    """A list for an error message, its end left out when it is long."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")


def command_line(command: str, *words: object, **options: object) -> str:
    """A call of edgekit for messages to advise: ``command_line("build", "MODEL", target="T")`` is
    ``edgekit build MODEL --target T``. Options that are True have no value."""
    flags = (f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in options.items())
    return " ".join(["edgekit", command, *map(str, words), *flags])
