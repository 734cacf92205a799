"""Runs a bundle's self-test on an open session, and says what is wrong where it fails.

check(session, bundle, target)                      # raises GateError
session = watched(session, again)                   # again, whenever the runtime has gone to another device
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import GateError
from edgekit.runtime import proven
from edgekit.runtime.around import Around
from edgekit.runtime.manifest import Bundle
from edgekit.spec import Json, Session
from edgekit.targets import Target
from edgekit.verify import diagnosis, selftest
from edgekit.verify.diagnosis import Diagnosis
from edgekit.verify.selftest import Outcome, SelfTest


@dataclass(frozen=True)
class Verdict:
    """``outcome`` of a bundle's self-test on ``devices``; ``why`` it fails, where it does."""

    bundle: Bundle
    devices: tuple[str, ...]
    outcome: Outcome
    why: Diagnosis | None

    def sentence(self) -> str:
        """What is wrong and what to do."""
        why = "" if self.why is None else f": {self.why.sentence()}"
        where = "+".join(self.devices)
        return f"{self.bundle.path}: fails its self-test on {where}: {self.outcome.worst()}{why}"

    def evidence(self) -> Json:
        """For JSON documents."""
        why = self.why
        return {
            "devices": list(self.devices),
            "precision": self.outcome.precision,
            "milliseconds": self.outcome.milliseconds,
            "roles": self.outcome.roles,
            **({} if why is None else {"cause": why.cause, "stage": why.stage, "unseen": why.unseen, "do": why.do}),
        }


def tried(session: Session, bundle: Bundle, test: SelfTest, device: str | None = None) -> Verdict:
    """The self-test on an open session, and why it fails where it does."""
    outcome = selftest.run(session, test)
    why = None if outcome.passed else diagnosis.diagnose(session, test, outcome, _bits(bundle), device)
    return Verdict(bundle, session.devices(), outcome, why)


def _bits(bundle: Bundle) -> int | None:
    quantization = bundle.manifest.get("quantization")
    bits = quantization.get("weight_bits") if isinstance(quantization, dict) else None
    return bits if isinstance(bits, int) else None


def check(
    session: Session, bundle: Bundle, target: Target, device: str | None, once: bool, cache: str | Path | bool
) -> None:
    """Refuse a session that does not answer as the bundle's self-test says.

    Args:
        once: not where it has passed on this machine and device before.
        cache: where that is remembered (``edgekit.runtime.proven``).

    Raises:
        GateError: it names the role, the cause and what to do.
        InputError: the bundle's self-test is not a valid one. Of a bundle without one there is a warning.
    """
    key = proven.key_of(session, target.packages)
    if once and proven.known(bundle.path, key, cache):
        return
    test = selftest.read(bundle)
    if test is None:
        warnings.warn(f"{bundle.path}: {selftest.absent(bundle)}", RuntimeWarning, stacklevel=2)
        return
    verdict = tried(session, bundle, test, device)
    if not verdict.outcome.passed:
        raise GateError(verdict.sentence(), {"selftest": verdict.evidence()})
    if once:
        proven.remember(bundle.path, key, cache)


class Watched(Around):
    """A session that is checked again before it answers from another device than those it was checked on.

    Args:
        session: one that ``moves``.
        check: called with it; raises where it must not answer.
    """

    def __init__(self, session: Session, check: Callable[[Session], None]) -> None:
        super().__init__(session)
        self._check, self._lock = check, threading.Lock()
        self._seen = {session.devices()}
        self._parts: dict[int, Session] = {}

    def fitting(self, height: int, width: int) -> Session:
        part = self._session.fitting(height, width)
        return self if part is self._session else self._parts.setdefault(id(part), _Part(part, self.ensure))

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """As the session's own.

        Raises:
            GateError: it has gone to a device on which the self-test fails.
        """
        self.ensure()
        return self._session.run(batch)

    def ensure(self) -> None:
        """Check the session if it has gone to a device that it was not checked on."""
        if self._session.devices() in self._seen:
            return
        with self._lock:
            here = self._session.devices()
            if here not in self._seen:
                self._check(self._session)
                self._seen.add(here)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class _Part(Around):
    """One input size of a watched session."""

    def __init__(self, session: Session, ensure: Callable[[], None]) -> None:
        super().__init__(session)
        self._ensure = ensure

    def run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self._ensure()
        return self._session.run(batch)
