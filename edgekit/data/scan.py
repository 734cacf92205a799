"""What is known of image files, kept from one start to the next for as long as they do not change.

    scan = Scan.beside(Path("coco/data.yaml"))      # reads coco/.edgekit-cache/scan.npz where there is one
    scan.size(path)                                 # (640, 480); the file is opened the first time only
    scan.content(path).problem                      # "" where it can be decoded whole
    scan.save()                                     # for the next start, of whatever command

A file is the one that was read while its size and its time of change (in nanoseconds) are the same. The scan is one
file, replaced whole; one that cannot be read is not used, and that is said.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekit.data.account import LOGGER
from edgekit.data.images import image_size
from edgekit.errors import InputError
from edgekit.runtime.image import read_image
from edgekit.spec import sha256_file

FOLDER, FILE = ".edgekit-cache", "scan.npz"
VERSION = 1
SAVED_EVERY_S = 30.0


class Content(NamedTuple):
    """Of an image file: its SHA-256, width and height in pixels (0 where it cannot be decoded) and why it cannot."""

    digest: str
    width: int
    height: int
    problem: str = ""


class _Known(NamedTuple):
    """What is known of a file of so many bytes that was changed at that time (ns); ``decoded``: all of its content."""

    bytes: int
    changed: int
    width: int = 0
    height: int = 0
    digest: str = ""
    decoded: bool = False
    problem: str = ""


class Scan:
    """Facts about image files; see the module. Any number of threads may ask."""

    def __init__(self, file: Path | None = None) -> None:
        """
        Args:
            file: where the facts are kept; None: nowhere.
        """
        self.file = file
        self._known: dict[str, _Known] = {}
        self._new = False
        self._saved = time.monotonic()
        if file is not None and file.is_file():
            self._load(file)

    @classmethod
    def beside(cls, source: Path) -> Scan:
        """The scan of the set at ``source`` (a yaml, a JSON or a folder), with what was found before."""
        return cls((source if source.is_dir() else source.parent) / FOLDER / FILE)

    @property
    def count(self) -> int:
        """Files of which something is known."""
        return len(self._known)

    def size(self, path: Path) -> tuple[int, int]:
        """Width and height of an image in pixels, as ``images.image_size`` gives them.

        Raises:
            InputError: it cannot be read.
        """
        name, known = self._look_up(path)
        if not known.width:
            width, height = image_size(path)
            known = self._note(name, known._replace(width=width, height=height))
        return known.width, known.height

    def digest(self, path: Path) -> str:
        """SHA-256 of a file.

        Raises:
            OSError: it cannot be read.
        """
        name, known = self._look_up(path)
        return (known if known.digest else self._note(name, known._replace(digest=sha256_file(path)))).digest

    def content(self, path: Path) -> Content:
        """What decoding the whole image shows."""
        name, known = self._look_up(path)
        if not known.decoded:
            width = height = 0
            digest = problem = ""
            try:
                height, width = read_image(path).shape[:2]
                digest = sha256_file(path)
            except InputError as error:
                problem = str(error).removeprefix(f"{path}: ")
            known = self._note(name, _Known(known.bytes, known.changed, width, height, digest, True, problem))
        return Content(known.digest, known.width, known.height, known.problem)

    def save(self) -> None:
        """Keeps what was found, if anything is new. Where nothing can be written nothing is kept."""
        self._saved = time.monotonic()
        if self.file is None or not self._new:
            return
        self._new = False
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}.partial")  # others may be scanning, too
        with suppress(OSError):
            try:
                self.file.parent.mkdir(exist_ok=True)
                with open(partial, "wb") as handle:
                    np.savez(handle, **_columns(dict(self._known)))  # type: ignore[arg-type]  # numpy reads its own flag into it
                os.replace(partial, self.file)
            finally:
                partial.unlink(missing_ok=True)

    def save_now_and_then(self) -> None:
        """``save``, but not oftener than every ``SAVED_EVERY_S``: for who may be interrupted."""
        if time.monotonic() - self._saved > SAVED_EVERY_S:
            self.save()

    def _look_up(self, path: Path) -> tuple[str, _Known]:
        """The file's name here and what is known of it as it is now."""
        name = os.path.abspath(path)
        try:
            found = os.stat(name)
        except OSError:
            return name, _Known(-1, -1)
        known = self._known.get(name)
        if known is None or (known.bytes, known.changed) != (found.st_size, found.st_mtime_ns):
            known = _Known(found.st_size, found.st_mtime_ns)
        return name, known

    def _note(self, name: str, known: _Known) -> _Known:
        if known.bytes >= 0:
            self._known[name] = known
            self._new = True
        return known

    def _load(self, file: Path) -> None:
        try:
            with np.load(file, allow_pickle=False) as columns:
                self._known = _rows(columns)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            LOGGER.warning("%s: cannot be used (%s); images are scanned anew", file, reason)


def _columns(known: dict[str, _Known]) -> dict[str, np.ndarray]:
    """The facts as arrays: names and problems as bytes, the latter JSON by row."""
    rows = list(known.values())
    problems = {str(i): row.problem for i, row in enumerate(rows) if row.problem}
    return {
        "version": np.array([VERSION]),
        "names": np.frombuffer("\0".join(known).encode("utf-8", "surrogateescape"), np.uint8),
        "stats": np.array([(row.bytes, row.changed) for row in rows], np.int64).reshape(-1, 2),
        "sizes": np.array([(row.width, row.height, row.decoded) for row in rows], np.int32).reshape(-1, 3),
        "digests": np.frombuffer(b"".join(bytes.fromhex(row.digest or "0" * 64) for row in rows), np.uint8),
        "problems": np.frombuffer(json.dumps(problems).encode(), np.uint8),
    }


def _rows(columns: np.lib.npyio.NpzFile) -> dict[str, _Known]:
    """The facts again.

    Raises:
        ValueError, KeyError: the arrays do not belong together, or are of another version.
    """
    if columns["version"].tolist() != [VERSION]:
        raise ValueError("it is of another version")
    names = columns["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    problems = json.loads(columns["problems"].tobytes())
    digests = columns["digests"].tobytes()
    stats, sizes = columns["stats"].tolist(), columns["sizes"].tolist()
    if len(digests) != 32 * len(names):
        raise ValueError("its parts do not belong together")
    nothing = bytes(32)
    known = {}
    for i, (name, (count, changed), (width, height, decoded)) in enumerate(zip(names, stats, sizes, strict=True)):
        digest = digests[32 * i : 32 * i + 32]
        text = "" if digest == nothing else digest.hex()
        known[name] = _Known(count, changed, width, height, text, bool(decoded), str(problems.get(str(i), "")))
    return known
