"""Standard output carries one JSON document and nothing else; whatever else is written there goes to standard error.

Inference libraries write to file descriptor 1 from C++, so the descriptor itself is redirected while a command runs
and the document takes a private copy of it.

    with document_only():
        os.system("echo noise")         # on standard error
        write_document("[]")            # on standard output
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from edgekit.errors import UsageError

_document: TextIO | None = None


def write_document(text: str) -> None:
    """Write the command's JSON document (without a final newline) to the real standard output.

    Raises:
        UsageError: edgekit was started with standard output closed.
    """
    stream = _document or sys.stdout
    if stream is None:
        raise UsageError("standard output is closed, so the JSON document has nowhere to go; leave it open")
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk: say of what
        raise OSError(error.errno, error.strerror, "standard output") from error


@contextmanager
def document_only() -> Iterator[None]:
    """Send everything but ``write_document`` to standard error until the block ends."""
    global _document
    stdout = sys.stdout
    if stdout is None:  # closed when edgekit started
        yield
        return
    stdout.flush()
    saved = os.dup(1)
    # A test runner may have put its own stream in place of the one on descriptor 1; then the document belongs there.
    own = _descriptor(stdout) == 1
    document = os.fdopen(os.dup(saved), "w", encoding="utf-8") if own else stdout
    before, _document = _document, document
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        os.dup2(saved, 1)
        os.close(saved)
        _document = before
        if own:
            _close(document)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _close(stream: TextIO) -> None:
    with suppress(OSError):  # write_document has raised it already
        stream.close()
