"""Standard error closed to C code that comments on what edgekit does on purpose. Standard library only.

with silent_stderr():
    decode(half_a_file)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_redirected = threading.Lock()


@contextmanager
def silent_stderr() -> Iterator[None]:
    """File descriptor 2 to nowhere. One thread at a time, or it would not come back."""
    with _redirected:
        try:
            saved = os.dup(2)
        except OSError:  # closed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
