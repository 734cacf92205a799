"""Files that are there whole or not at all: written under a temporary name, renamed when complete.

with replacing(path) as partial:
    onnx.save(model, partial)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` at the end, or goes if the block raises.

    An older file stays until that moment, so an interruption leaves one of the two.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
