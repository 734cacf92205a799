"""Standard error and loggers closed to libraries that comment on what edgekit does on purpose. Standard library only.

with silent_stderr(), quiet_loggers("nncf"):
    decode(half_a_file)
"""

from __future__ import annotations

import logging
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


@contextmanager
def quiet_loggers(*names: str) -> Iterator[None]:
    """Of these loggers errors alone, meanwhile. Their handlers, which may be anybody's, are left as they are."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
