"""The zip container of a PyTorch checkpoint, opened with suspicion. Standard library only.

``torch.save`` (PyTorch 1.6 and later) writes a zip archive: ``NAME/data.pkl`` is a pickle of everything but the
tensors' bytes, which are the entries ``NAME/data/0``, ``NAME/data/1`` ... This module finds the pickle, hands out
entries within bounds, and says in a sentence what a file is that is no such archive. Nothing is extracted to disk.

    with open_archive(Path("yolo12n.pt")) as archive:
        archive.pickle                     # b'\\x80\\x02}q\\x00...'
        archive.read_storage("0", 864)     # the 864 bytes of NAME/data/0

Guards, each with a test in ``tests/test_torch_archive.py``: at most ``MAX_ENTRIES`` entries, no name twice, the pickle
at most ``MAX_PICKLE`` bytes, storages at most ``MAX_TOTAL`` bytes together and exactly as long as the tensors say,
checksums verified, only stored or deflated entries, no more read than an entry declares.
"""

from __future__ import annotations

import io
import itertools
import pickletools
import zipfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgekit.checkpoint.published.inert_pickle import MAX_STEPS, read_inert
from edgekit.errors import EdgekitError, InputError, UnsafeFileError

MAX_ENTRIES = 20_000  # yolo12x has 1255, an unstripped one about 4000
MAX_PICKLE = 16 << 20  # published ones are under 1 MiB
MAX_TOTAL = 1 << 30  # bytes of storages read; yolo12x in float32 is 237 MB
_CHUNK = 1 << 20
_MAX_READ = 8 << 20  # one read of the file; the zip directory of MAX_ENTRIES entries is about half of that

_ZIP = b"PK\x03\x04"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # pickle of the magic number PyTorch < 1.6 begins with
_AGAIN = "get the file again from where it was published"
_GIVE = "give a published YOLO12 .pt file or one that edgekit wrote"


class Archive:
    """An open checkpoint archive. Use ``open_archive``; close it, or use it in a ``with`` statement.

    Attributes:
        path: the file.
        pickle: the bytes of ``data.pkl``, unread.
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path = path
        self._stream = stream
        self._zip = zipfile.ZipFile(stream)
        self._left = MAX_TOTAL
        self._entries = {info.filename: info for info in self._zip.infolist()}
        self._check_directory()
        self._prefix = self._find_pickle()
        self._check_byteorder()
        info = self._entries[self._prefix + "data.pkl"]
        if info.file_size > MAX_PICKLE:
            raise InputError(
                f"{path}: its pickle would take {info.file_size} bytes, over the limit of {MAX_PICKLE}; {_GIVE}"
            )
        self.pickle = self._read(info)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()
        self._stream.close()

    def read_storage(self, key: str, size: int) -> bytes:
        """The bytes of the tensor storage ``key``, which must be exactly ``size`` long.

        Raises:
            InputError: no such entry, another size, a damaged entry, or over ``MAX_TOTAL`` bytes read in all.
        """
        info = self._entries.get(f"{self._prefix}data/{key}")
        if info is None:
            raise InputError(f"{self.path}: the data of tensor storage {key!a:.40} is missing; {_AGAIN}")
        if info.file_size != size:
            raise InputError(
                f"{self.path}: tensor storage {key!a:.40} has {info.file_size} bytes where the file's own "
                f"description says {size}; {_AGAIN}"
            )
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{self.path}: its tensors take over {MAX_TOTAL} bytes, more than any YOLO12 model; {_GIVE}"
            )
        return self._read(info)

    def _check_directory(self) -> None:
        count = len(self._zip.infolist())
        if count > MAX_ENTRIES:
            raise InputError(f"{self.path}: a zip with {count} entries, over the limit of {MAX_ENTRIES}; {_GIVE}")
        if len(self._entries) != count:
            raise UnsafeFileError(
                f"{self.path}: refused, because two entries of the zip have the same name, so that "
                f"programs may read different data from it; {_AGAIN}"
            )

    def _find_pickle(self) -> str:
        """The archive's one top folder with its slash; every other kind of zip is refused by name."""
        tops = [
            name[: -len("data.pkl")] for name in self._entries if name.endswith("/data.pkl") and name.count("/") == 1
        ]
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in self._entries):
            raise InputError(
                f"{self.path}: a TorchScript file (a compiled program), not a checkpoint; give the .pt file "
                f"it was exported from"
            )
        if not tops:
            raise InputError(f"{self.path}: a zip file without data.pkl, so no PyTorch checkpoint; {_GIVE}")
        if len(tops) > 1:
            raise UnsafeFileError(
                f"{self.path}: refused, because the zip holds {len(tops)} pickles, so that programs may "
                f"read different ones; {_AGAIN}"
            )
        return tops[0]

    def _check_byteorder(self) -> None:
        info = self._entries.get(self._prefix + "byteorder")
        if info is None:
            return
        order = self._read(info) if info.file_size <= 16 else b""
        if order != b"little":
            what = "big-endian" if order == b"big" else "unknown"
            raise InputError(
                f"{self.path}: its tensors have {what} byte order, which is not supported; save it again with "
                f"torch.save on a little-endian machine"
            )

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{self.path}: a zip that is encrypted or compressed in a way PyTorch does not write; {_AGAIN}"
            )
        parts = []
        left = info.file_size
        try:
            with self._zip.open(info) as entry:
                while chunk := entry.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        break
                    parts.append(chunk)
        except Exception as error:  # zipfile meets damage with a dozen exception types; all of them mean this
            raise InputError(f"{self.path}: a damaged zip ({_reason(error)}); {_AGAIN}") from error
        if left:
            raise InputError(f"{self.path}: a damaged zip (an entry is not as long as it says); {_AGAIN}")
        return b"".join(parts)


def open_archive(path: str | Path) -> Archive:
    """Open the checkpoint archive at ``path``; ``data.pkl`` is read, but not interpreted.

    Raises:
        InputError: missing, unreadable, truncated, not a PyTorch archive; the sentence says what it is instead.
        UnsafeFileError: a bare pickle that would run code, or a zip that two programs could read differently.
    """
    path = Path(path)
    head = _first_bytes(path)
    if not head.startswith(_ZIP):
        raise _not_an_archive(path, head)
    stream = _BoundedFile(io.FileIO(path))
    try:
        return Archive(path, stream)
    except EdgekitError:
        stream.close()
        raise
    except Exception as error:  # as above: whatever zipfile raises, the directory at the file's end is no good
        stream.close()
        raise InputError(f"{path}: a truncated or damaged zip ({_reason(error)}); {_AGAIN}") from error


class _BoundedFile(io.BufferedReader):
    """A file whose single reads are bounded, so that a zip cannot declare a directory of gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        asked = _MAX_READ + 1 if size is None or size < 0 else size  # zipfile reads "the rest" only near the end
        data = super().read(min(asked, _MAX_READ + 1))
        if len(data) > _MAX_READ:
            raise ValueError("its directory is too large")
        return data


def _first_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"{path}: a folder, not a checkpoint; {_GIVE}")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; {_GIVE}")
        with open(path, "rb") as handle:
            head = handle.read(4096)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read ({_reason(error)})"
        raise InputError(f"{path}: {reason}; {_GIVE}") from error
    if not head:
        raise InputError(f"{path}: an empty file; {_AGAIN}")
    return head


def _not_an_archive(path: Path, head: bytes) -> EdgekitError:
    """The sentence for a file that does not begin like a zip: known formats by name, then bare pickles."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    checkpoint = "give the .pt checkpoint it was made from"
    # ONNX has no magic: field 1 is ir_version, a small number, then comes a string, the graph or an opset.
    onnx = len(head) > 2 and head[0] == 8 and 0 < head[1] < 32 and head[2] in b"\x12\x1a\x22\x32\x3a\x42"
    if path.suffix == ".safetensors" or (len(head) > 9 and head[5:9] == b"\0\0\0{"):
        what = "a safetensors file: tensors alone, without the model's task and class names; give the .pt checkpoint"
    elif path.suffix == ".onnx" or onnx:
        what = f"an ONNX graph, not a checkpoint; {checkpoint}"
    elif text.startswith((b"<!doctype html", b"<html")):
        what = "a web page, so the download went wrong; get the file itself"
    elif path.suffix == ".xml" or text.startswith((b"<?xml", b"<net")):
        what = f"an OpenVINO model or other XML, not a checkpoint; {checkpoint}"
    elif text.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the file itself; run: git lfs pull"
    elif head.startswith(b"ftrt"):
        what = f"a TensorRT engine, not a checkpoint; {checkpoint}"
    elif head.startswith(b"PK"):
        what = f"an empty or damaged zip; {_AGAIN}"
    else:
        return _bare_pickle(path)
    return InputError(f"{path}: {what}")


def _bare_pickle(path: Path) -> EdgekitError:
    """Look through the pickles of a file that is no zip, without running them, for what they would call."""
    with open(path, "rb") as handle:
        data = handle.read(MAX_PICKLE)
    legacy = data.startswith(_LEGACY_TORCH)
    if data[:1] != b"\x80" and not _is_whole_pickle(data):
        return InputError(f"{path}: not a PyTorch checkpoint, nor any format edgekit knows; {_GIVE}")
    stream = io.BytesIO(data)
    try:
        for _ in range(5 if legacy else 1):  # the old format: magic, version, system, object, keys, then raw data
            read_inert(stream, path, legacy=True)
    except UnsafeFileError as error:
        return error
    except InputError:
        pass  # damaged or not, this kind of file is refused
    kind = "in PyTorch's format of before 1.6" if legacy else "a bare pickle without a zip around it"
    return InputError(
        f"{path}: {kind}, which is not supported; load it where you trust it and save it again with torch.save "
        f"of PyTorch 1.6 or later"
    )


def _is_whole_pickle(data: bytes) -> bool:
    """Whether ``data`` decodes as opcodes up to a STOP. Pickles of protocol 0 and 1 have no other mark."""
    try:
        return sum(1 for _ in itertools.islice(pickletools.genops(data), MAX_STEPS)) > 1
    except (ValueError, OverflowError):
        return False


def _reason(error: BaseException) -> str:
    """A library's message as part of a sentence: one line, printable, short."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ascii(text)[1:-1][:120].rstrip(".")
