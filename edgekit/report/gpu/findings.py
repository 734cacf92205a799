"""What a step finds, written down at once: a line of JSON each, which outlives whatever becomes of the process.

    job = Job(Request(work="work"), write)
    with job.part("letterbox"):
        job.holds("letterbox", gap <= 1, f"differs by {gap:.3g} grey levels at most", gap=gap)

A part that raises costs that part: what it raised becomes its finding. ``state`` is ``works``, ``fails``, ``lacking``
(something is not installed or not here) or ``memory``.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import edgekit
from edgekit.errors import EdgekitError, GateError, InputError, MissingPackageError
from edgekit.spec import Json

WORKS, FAILS, LACKING, MEMORY = "works", "fails", "lacking", "memory"
_NO_MEMORY = ("out of memory", "cudaerrormemoryallocation", "outofmemory", "no memory on the gpu")
_LINES = 12  # of a traceback, from its end


class Lacking(InputError):
    """Something a part needs is not here; the sentence says what, and where to get it."""


@dataclass(frozen=True)
class Request:
    """What a step is told; JSON-ready by ``to_dict``. The GPU is the only one that a step sees, so ``cuda:0``.

    Attributes:
        work: folder that the steps of one run share.
        seconds: the step's time.
        model, data, rtx, peer: as ``GpuOptions``; None where nothing was given or found.
        repository: a checkout's folder, which has models/, benchmarks/ and tests/; None without one.
    """

    work: str
    seconds: float = 60.0
    model: str | None = None
    data: str | None = None
    rtx: str | None = None
    peer: str | None = None
    repository: str | None = None

    def to_dict(self) -> Json:
        return asdict(self)


class Job:
    """A step at work: the ``request``, and where its findings go."""

    def __init__(self, request: Request, write: Callable[[Json], None]) -> None:
        self.request, self._write = request, write
        self.work = Path(request.work)

    def found(self, name: str, state: str, says: str, figures: Mapping[str, object]) -> None:
        """Write a finding down, with nothing private in it."""
        row = {"name": name, "state": state, "says": says} | ({"figures": dict(figures)} if figures else {})
        self._write(json.loads(private(json.dumps(row, default=str))))

    def holds(self, name: str, holds: bool, says: str, **figures: object) -> None:
        """A finding that is right or wrong; ``figures`` are the evidence, JSON-ready."""
        self.found(name, WORKS if holds else FAILS, says, figures)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A block whose exception becomes a finding called ``name``; what follows the block goes on."""
        try:
            yield
        except Exception as error:  # whatever libraries raise is what this is here to find
            state = state_of(error)
            figures: Json = {}
            if not isinstance(error, EdgekitError):
                figures["traceback"] = "".join(traceback.format_exception(error)).splitlines()[-_LINES:]
            if isinstance(error, GateError) and error.evidence:
                figures["evidence"] = error.evidence
            said = str(error) if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}"
            self.found(name, state, said.partition("\n")[0], figures)

    def needs(self, name: str) -> Path:
        """A path of the request that this step cannot do without.

        Raises:
            Lacking: there is none.
        """
        given = getattr(self.request, name)
        if given is None:
            raise Lacking(_WITHOUT[name])
        return Path(given)


_WITHOUT = {
    "model": "models/shapes.pt is not here: run this in a checkout of the repository, or give `model`",
    "data": "there is no set to learn from: give `data`",
    "repository": "this needs a checkout of the repository (tests/, benchmarks/); run it there",
    "peer": "there is nothing to compare with: give `peer` or set EDGEKIT_PEER, an environment with ultralytics",
}


def state_of(error: BaseException) -> str:
    """Which finding an exception is."""
    if isinstance(error, (Lacking, MissingPackageError)):
        return LACKING
    said = f"{type(error).__name__}: {error}".lower()
    return MEMORY if isinstance(error, MemoryError) or any(word in said for word in _NO_MEMORY) else FAILS


def private(text: str) -> str:
    """``text`` without what tells whose machine it was: folders, user and host."""
    repository, home = str(Path(edgekit.__file__).resolve().parents[1]), os.path.expanduser("~")
    known = (
        (sys.prefix, "PYTHON"),
        (repository, "REPO"),
        (os.getcwd(), "."),
        (tempfile.gettempdir(), "TMP"),
        (home, "~"),
    )
    for folder, short in known:
        if len(folder) > 1:
            text = text.replace(folder, short)
    with suppress(Exception):  # a user that has no name
        text = text.replace(f"/{getpass.getuser()}/", "/USER/")
    host = socket.gethostname()
    return text.replace(host, "HOST") if len(host) > 3 else text
