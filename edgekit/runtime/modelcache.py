"""A folder where a runtime keeps what it compiled, so that the next process starts faster. Standard library only.

    folder = folder_for(Path("yolo12n-ov"), "caches")       # caches/yolo12n-ov-3f9c…, one for each content of a bundle
    with checked(folder):
        core.compile_model(path, "CPU", {"CACHE_DIR": str(folder)})

A bundle stays as it was built: a folder inside it is refused, and ``True`` means ``yolo12n-ov.cache`` beside it, or no
cache where nothing can be written. Its manifest's hash is in the folder's name, so a rebuilt bundle never meets old
kernels. Runtimes believe what they find there, weights included; so each file's SHA-256 is noted, and one that differs
is removed before the runtime sees it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import InputError, UsageError
from edgekit.spec import sha256_file

NOTE = ".sha256"


def folder_for(bundle: Path, cache: str | Path | bool) -> Path | None:
    """The folder for this very bundle, made if need be; None where there is to be none.

    Args:
        bundle: a bundle's folder.
        cache: a folder for the caches of any number of bundles, or True for one beside the bundle.

    Raises:
        UsageError: the folder is inside the bundle.
        InputError: a folder that was named cannot be written.
    """
    if cache is False:
        return None
    root = bundle.resolve()
    where = root.with_name(root.name + ".cache") if cache is True else Path(cache)
    if where.resolve().is_relative_to(root):
        raise UsageError(f"`cache` {where}: inside the bundle, which stays as it was built; give a folder elsewhere")
    digest = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    folder = where / f"{root.name}-{digest[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        if cache is True:
            return None
        raise InputError(f"`cache` {where}: cannot be written; give a folder that can, or leave `cache` out")
    return folder


@contextmanager
def checked(folder: Path | None) -> Iterator[None]:
    """Before the block: files that are not what was noted go. After it: new ones are noted."""
    if folder is None:
        yield
        return
    for path in _files(folder):
        note = path.with_name(path.name + NOTE)
        if not note.is_file() or note.read_text(encoding="ascii", errors="replace") != sha256_file(path):
            with suppress(OSError):
                path.unlink()
    yield
    for path in _files(folder):
        note = path.with_name(path.name + NOTE)
        with suppress(OSError):  # a cache that cannot be noted is made again next time
            if not note.is_file() or note.stat().st_mtime_ns < path.stat().st_mtime_ns:
                partial = note.with_name(f"{note.name}.{os.getpid()}")
                partial.write_text(sha256_file(path), encoding="ascii")
                os.replace(partial, note)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and NOTE not in p.name)
