"""Every image that sources name, in one order that depends on their names alone, without holding them all. Numpy and
cv2.

    for item in listed(["@list.txt", "photos/", "train-000.tar", "s3://bucket/pictures/"]):
        frames(item)

A folder is gone through with the folders in it, names in the order of their characters, one folder at a time; links to
folders are not followed. Of a tar archive (WebDataset's form) the images count; a plain one is read where an image
lies, a compressed one from its beginning. Addresses with other schemes than http go through ``fsspec``. Nothing is
opened to list it but folders, lists and archives, so what is missing or damaged is found when it is read.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import sqlite3
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from time import sleep
from typing import IO, Any, cast

from edgekit.errors import InputError, UsageError, optional
from edgekit.runtime.frames import Frame
from edgekit.runtime.image import SUFFIXES, decoded
from edgekit.runtime.sources import VIDEOS, Sources, is_address, is_remote_file, is_video, open_sources, shown

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SORTED_IN_MEMORY = 20_000  # names of one folder; more are sorted on disk
TRIES = 3  # of reading from a store
BLOCK = 512  # bytes, of tar
_ENDLESS = "the mark of its end is missing"
_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open,
}  # fmt: skip
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Item:
    """One image or video, or what stands in its place.

    Attributes:
        key: what results call it: its path or address; of an image in an archive, ``archive/member``.
        archive, offset, size: where its bytes lie, of an image in a plain archive.
        data: its bytes, of an image in a compressed archive.
        problem: why there is nothing to read.
    """

    key: str
    archive: str = ""
    offset: int = 0
    size: int = 0
    data: bytes | None = None
    problem: str = ""

    @property
    def is_video(self) -> bool:
        """By its name."""
        plain = not self.archive and self.data is None and not self.problem
        return plain and (is_video(self.key) if is_address(self.key) else self.key.lower().endswith(VIDEOS))


def check_sources(sources: Sequence[str]) -> None:
    """Whether everything that is named is there; of lists, that the list is.

    Raises:
        InputError: something is missing or of no kind that is read.
        UsageError: a camera or stream, or standard input with other sources.
        MissingPackageError: fsspec, or what it needs for an address, is not installed.
    """
    if STANDARD_INPUT in sources and len(sources) > 1:
        raise UsageError("standard input (-) goes alone, without other sources")
    for source in sources:
        name = source[1:] if source.startswith("@") else source
        if source == STANDARD_INPUT or is_remote_file(name):
            continue
        if is_address(name):
            system, path = _store(name)
            if not _asked(name, lambda: system.exists(path)) and not glob.has_magic(path):  # noqa: B023
                raise InputError(f"{shown(name)}: there is nothing at this address")
        elif name is not source:
            if not os.path.isfile(name):
                raise InputError(f"{name}: no such list of files")
        elif not os.path.isdir(name) and not (name.lower().endswith(ARCHIVES) and os.path.isfile(name)):
            open_sources([name])


def listed(sources: Sequence[str]) -> Iterator[Item]:
    """The items of all sources, in order.

    Raises:
        InputError: a list or folder cannot be read.
    """
    for source in sources:
        if source == STANDARD_INPUT:
            yield from _lines(sys.stdin)
        elif source.startswith("@"):
            with _opened(source[1:], "rb") as handle:
                yield from _lines(line.decode("utf-8", "surrogateescape") for line in handle)
        else:
            yield from _of(source)


def _lines(lines: Iterator[str] | IO[str]) -> Iterator[Item]:
    for line in lines:
        name = line.strip("\r\n")
        if not name.strip():
            continue
        try:
            yield from _of(name)
        except InputError as error:
            yield Item(name, problem=str(error))


def _of(source: str) -> Iterator[Item]:
    """The items of one path or address."""
    lower = source.lower()
    if is_remote_file(source):
        yield Item(source)
    elif lower.endswith(ARCHIVES):
        yield from _archived(source)
    elif is_address(source):
        yield from _stored(source)
    elif lower.endswith(SUFFIXES + VIDEOS) and not glob.has_magic(source) and "%" not in source:
        yield Item(source)
    elif os.path.isdir(source):
        yield from _below(source)
    else:
        yield from (Item(str(path)) for path in open_sources([source]).paths)


def frames(item: Item, stride: int = 1) -> Iterator[Frame]:
    """What an item holds: one image, or a video's frames. What cannot be used is a Frame with an error."""
    try:
        if item.problem:
            raise InputError(item.problem)
        addressed = is_address(item.key)
        if item.archive or item.data is not None or (addressed and not is_remote_file(item.key)):
            name = shown(item.key) if addressed else str(Path(item.key))
            yield Frame(Path(item.key), 0, decoded(data_of(item) or b"", name), name=name)
        else:
            yield from Sources([item.key if is_address(item.key) else Path(item.key)], stride)
    except InputError as error:
        yield Frame(Path(item.key), 0, error=error, name=shown(item.key))


def data_of(item: Item) -> bytes | None:
    """The bytes of an image that is no plain file; None of a file, a video and an http address.

    Raises:
        InputError: they cannot be read.
    """
    if item.data is not None:
        return item.data
    if not item.archive and (item.is_video or not is_address(item.key) or is_remote_file(item.key)):
        return None
    name = item.archive or item.key
    if not is_address(name):
        with _opened(name, "rb") as handle:
            handle.seek(item.offset)
            found: bytes = handle.read(item.size) if item.archive else handle.read()
        return found
    system, path = _store(name)
    # Of an archive exactly these bytes: an open file would fetch what follows, of S3 50 MB.
    share = {"start": item.offset, "end": item.offset + item.size} if item.archive else {}
    for left in reversed(range(TRIES)):
        try:
            return cast(bytes, _asked(name, lambda: system.cat_file(path, **share)))
        except InputError as error:
            if left == 0 or isinstance(error.__cause__, FileNotFoundError):
                raise
            sleep(0.5)
    return None


# ---- folders ----------------------------------------------------------------------------------------------------


def _below(folder: str) -> Iterator[Item]:
    try:
        entries = os.scandir(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror or error})") from None
    with entries:
        wanted = (entry for entry in entries if _wanted(entry))
        names = _in_order(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in wanted)
    for name in names:
        path = os.path.join(folder, name.rstrip("/"))
        if name.endswith("/"):
            yield from _below(path)
        else:
            yield Item(path)


def _wanted(entry: os.DirEntry[str]) -> bool:
    # Dot files are other systems' companions (`._photo.jpg`), not photos.
    if entry.name.startswith("."):
        return False
    return entry.is_dir(follow_symlinks=False) or (entry.name.lower().endswith(SUFFIXES + VIDEOS) and entry.is_file())


def _in_order(names: Iterator[str]) -> Iterator[str]:
    """Sorted; many of them on disk, so that memory does not grow."""
    few = list(islice(names, SORTED_IN_MEMORY))
    if len(few) < SORTED_IN_MEMORY:
        return iter(sorted(few, key=os.fsencode))
    database = sqlite3.connect("")  # a temporary file
    database.execute("CREATE TABLE names (name BLOB)")
    for chunk in (few, names):
        database.executemany("INSERT INTO names VALUES (?)", ((os.fsencode(name),) for name in chunk))
    return _sorted_there(database)


def _sorted_there(database: sqlite3.Connection) -> Iterator[str]:
    with closing(database):
        for (name,) in database.execute("SELECT name FROM names ORDER BY name"):
            yield os.fsdecode(name)


# ---- archives ---------------------------------------------------------------------------------------------------


def _archived(archive: str) -> Iterator[Item]:
    """The images of a tar archive in its own order; an item with a problem where it is cut short."""
    count, plain = 0, archive.lower().endswith(".tar")
    try:
        with _opened(archive, "rb") as handle:
            items = _plain_members(archive, handle) if plain else _compressed_members(archive, handle)
            for item in items:
                yield item
                count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, InputError) as error:
        if not os.path.exists(archive) and not is_address(archive):
            raise InputError(f"{archive}: no such archive") from None
        yield Item(archive, problem=f"{shown(archive)}: the archive is damaged or cut short after {count} images, "
                                    f"which were used ({error}); copy or download it again")  # fmt: skip


def _plain_members(archive: str, handle: IO[bytes]) -> Iterator[Item]:
    end = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    tar = tarfile.TarFile(fileobj=handle)
    for member in _members(tar):
        if member.offset_data + member.size > end:
            raise tarfile.ReadError(f"{member.name} lacks its end")
        if _is_image(member):
            yield Item(f"{archive}/{member.name}", archive, member.offset_data, member.size)
    handle.seek(tar.offset)  # type: ignore[attr-defined]
    if handle.read(BLOCK).strip(b"\0") or handle.tell() < tar.offset + BLOCK:  # type: ignore[attr-defined]
        raise tarfile.ReadError(_ENDLESS)


def _compressed_members(archive: str, handle: IO[bytes]) -> Iterator[Item]:
    with _unpacked(handle) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
        for member in _members(tar):
            if _is_image(member) and (part := tar.extractfile(member)):
                data = part.read()
                if len(data) < member.size:
                    raise tarfile.ReadError(f"{member.name} lacks its end")
                yield Item(f"{archive}/{member.name}", data=data)
        if cast(IO[bytes], tar.fileobj).tell() < tar.offset + BLOCK:  # type: ignore[attr-defined]
            raise tarfile.ReadError(_ENDLESS)
        while unpacked.read(1 << 20):  # what compressed it marks the end, too, and checks the whole
            pass


def _unpacked(handle: IO[bytes]) -> IO[bytes]:
    """What was compressed, whatever the name says; raises where it ends too soon, as tarfile's own streams do not."""
    whole = io.BufferedReader(cast(Any, handle))
    start = whole.peek(6)
    return next((opened(whole) for mark, opened in _COMPRESSIONS.items() if start.startswith(mark)), whole)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one; the module would keep them all."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def _is_image(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name).name
    return member.isreg() and name.lower().endswith(SUFFIXES) and not name.startswith(".")


# ---- stores -----------------------------------------------------------------------------------------------------


def _store(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the path in it."""
    scheme = address.partition("://")[0]
    if scheme in ("rtsp", "rtmp", "udp", "tcp"):
        raise UsageError(f"{shown(address)}: a stream has no end; it goes without `format`")
    with optional(f"reading {shown(address)}", "store", "fsspec"):
        import fsspec
    try:
        with optional(f"reading {shown(address)}", None, {"s3": "s3fs", "gs": "gcsfs"}.get(scheme)):
            system, path = fsspec.core.url_to_fs(address)
    except ValueError as error:
        raise InputError(f"{shown(address)}: {error}") from None
    return system, path


def _asked(address: str, question: Any) -> Any:
    """The answer of a store, whose errors may be of any class."""
    try:
        return question()
    except FileNotFoundError as error:
        raise InputError(f"{shown(address)}: there is nothing at this address") from error
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{shown(address)}: cannot be read ({reason})") from error


def _opened(name: str, mode: str) -> Any:
    """A file or address, open.

    Raises:
        InputError: it cannot be opened.
    """
    if is_address(name):
        system, path = _store(name)
        return _asked(name, lambda: system.open(path, mode))
    try:
        return open(name, mode)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None


def _stored(address: str) -> Iterator[Item]:
    """What is at an address: one image, a pattern's matches, or a folder with all below it."""
    system, path = _store(address)
    if glob.has_magic(path):
        names = sorted(_asked(address, lambda: system.glob(path)))
        yield from (Item(system.unstrip_protocol(name)) for name in names if name.lower().endswith(SUFFIXES))
    elif path.lower().endswith(SUFFIXES):
        yield Item(address)
    else:
        yield from _below_stored(system, path, address)


def _below_stored(system: Any, path: str, address: str) -> Iterator[Item]:
    for entry in sorted(_asked(address, lambda: system.ls(path, detail=True)), key=lambda entry: entry["name"]):
        name = entry["name"]
        if entry["type"] == "directory" and name.rstrip("/") != path.rstrip("/"):
            yield from _below_stored(system, name, address)
        elif entry["type"] != "directory" and name.lower().endswith(SUFFIXES):
            yield Item(system.unstrip_protocol(name))
