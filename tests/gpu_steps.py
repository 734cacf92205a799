"""Steps of ``gpu-check`` that go wrong in every way a GPU can make them: each runs in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import ModuleType
from typing import Any

import numpy as np

from edgekit.errors import GateError, MissingPackageError


def works(job: Any) -> None:
    job.holds("one", True, "it does", ms=1.5)
    job.holds("two", True, "so does this")


def partly(job: Any) -> None:
    job.holds("one", True, "it does")
    with job.part("two"):
        raise MissingPackageError("tensorrt", "this", "tensorrt")


def wrong(job: Any) -> None:
    job.holds("numbers", False, "they are off", gap=float("inf"))
    with job.part("gate"):
        raise GateError("scores are off", {"scores": {"max_abs": 0.5}})
    job.holds("after", True, "what follows goes on")


def crash(job: Any) -> None:
    job.holds("before", True, "kept")
    sys.stderr.write("the log's last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def killed(job: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves(job: Any) -> None:
    os._exit(3)


def hang(job: Any) -> None:
    job.holds("before", True, "kept")
    time.sleep(600)


def lacking(job: Any) -> None:
    job.needs("peer")


def library(job: Any) -> None:
    __import__("a_library_that_nobody_has")


def memory(job: Any) -> None:
    job.holds("before", True, "kept")
    np.empty(1 << 62, np.uint8)


def silent(job: Any) -> None:
    pass


def _module(name: str) -> ModuleType:
    """``tests.gpu_steps.NAME`` as a module of its own, whose ``run`` is the function here."""
    made = ModuleType(f"{__name__}.{name}")
    made.run = globals()[name]  # type: ignore[attr-defined]
    return made


NAMES = "works partly wrong crash killed leaves hang lacking library memory silent".split()
sys.modules.update({f"{__name__}.{name}": _module(name) for name in NAMES})
