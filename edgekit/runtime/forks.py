"""Sessions in processes that were forked after they were opened (gunicorn's preload, multiprocessing's fork). Standard
library only.

A runtime's threads stay in the first process. Some sessions answer in the forked one all the same, but the destructor
of any of them waits there for its threads, for good: at the end of the process at the latest.

    keep_in_children(session)       # once it is open
"""

from __future__ import annotations

import ctypes
import os
import weakref

_sessions: weakref.WeakSet[object] = weakref.WeakSet()


def keep_in_children(session: object) -> None:
    """Never destroy ``session`` in a forked process, not even when that ends."""
    _sessions.add(session)


def _keep() -> None:
    for session in list(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    # ONNX Runtime 1.32 waits for threads of its own once Python has ended. This comes before it, and ends the process.
    libc = ctypes.CDLL(None)
    if len(_sessions) and hasattr(libc, "on_exit"):  # glibc
        libc.on_exit(libc._exit, None)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_keep)
