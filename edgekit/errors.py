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
import re
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


class MissingPackageError(EdgekitError):
    """Something optional is not installed; the sentence names the extra that brings it, or the package itself where no
    extra does (exit code 2)."""

    def __init__(self, package: str, needed_for: str, extra: str | None = None) -> None:
        wanted = f"'edgekit[{extra}]'" if extra else package
        super().__init__(
            f"{needed_for} needs the package {package!r}, which is not installed; run: pip install {wanted}"
        )
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
