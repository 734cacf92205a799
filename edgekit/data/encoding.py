"""Text files as other programs write them: UTF-8 or UTF-16, with or without a byte-order mark, any line ends.

    read_lines(Path("train.txt"))             # lines without their ends
    decode(b"\\xff\\xfe1\\x00")                  # '1'
    printable("bl\\udce4.jpg")                 # 'bl\\\\xe4.jpg': a file name that is no UTF-8, to be shown

Bytes of a name that are no UTF-8 stay what they are (PEP 383's surrogates), so that the file they name is found.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

_MARKS = (  # the longer first: UTF-32's little-endian mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENDS = re.compile(r"\r\n|\r|\n")


def decode(data: bytes, errors: str = "strict") -> str:
    """The text in ``data``; where no mark tells, zero bytes do, and everything else is UTF-8.

    Args:
        errors: what to do with bytes that are no UTF-8, as ``bytes.decode`` has it.

    Raises:
        UnicodeDecodeError: bytes that are no text of this encoding.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    if b"\0" in data and len(data) % 2 == 0:  # of ASCII every second byte of UTF-16 is zero
        for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            zeros, others = data[first::2].count(0), data[1 - first :: 2].count(0)
            if 4 * zeros > len(data) and 10 * others < zeros:
                return data.decode(encoding)
    return data.decode("utf-8", errors)


def read_lines(path: Path, errors: str = "strict") -> list[str]:
    """The file's lines without their ends.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    return _ENDS.split(decode(path.read_bytes(), errors))


def printable(name: object) -> str:
    """``name`` with what cannot be encoded written as ``\\\\xe4``."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
