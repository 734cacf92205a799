"""Files that are there whole or not at all: written under a temporary name, renamed when complete.

with replacing(path) as partial:
    partial.write_text(text)
with replacing(path, zipfile.is_zipfile) as partial:      # what a library writes may lack its end without a word
    torch.save(state, partial)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from edgekit.errors import EdgekitError, InputError


@contextmanager
def replacing(path: Path, whole: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` at the end, or goes if the block raises.

    An older file stays until that moment, so an interruption leaves one of the two.

    Args:
        path: the file to be.
        whole: for files that a library writes: opens what was written again, and answers False or raises where it
            cannot be used. Python's own writing raises by itself.

    Raises:
        OSError: the system refuses; it names ``path``.
        InputError: what the library wrote cannot be used.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with _naming(path), written_whole(path) if whole else nullcontext():
            yield partial
            if whole and not whole(partial):
                raise ValueError("it cannot be opened again")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[None]:
    """A block in which a library writes ``path`` and opens it again: what it raises becomes an error that a user can
    act on, for on a full disk libraries raise what they please.

    Raises:
        InputError: the library raised.
    """
    try:
        yield
    except (EdgekitError, OSError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be written whole ({reason}); {_room(path.parent)}") from error


def _room(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "is its disk full, or gone?"
    return f"is its disk full? {free / 1e6:,.1f} MB are free"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError of writing to an open file says which one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
