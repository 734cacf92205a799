"""How a bundle serves its cameras fastest, as it was found: ``load`` in its manifest's ``plan``, and where that holds.

    planned(Path("yolo12n-ov"), OpenOptions())                 # OpenOptions(streams=2, batch=1, threads=2) there

It holds where processor and number of CPUs are those that it was found on, and for who asks for nothing else. Stored by
``edgekit.bundle.planned``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.runtime import processor
from edgekit.runtime.manifest import MANIFEST, is_bundle, read_bundle
from edgekit.runtime.options import OpenOptions
from edgekit.spec import Json

_ASKED = ("device", "streams", "batch", "threads")  # who says one of them, says how it is opened
_MOST = 4096


@dataclass(frozen=True)
class Setting:
    """How a model is opened: runs at once, images a run, CPU threads for all of them (None: the runtime's choice)."""

    streams: int = 1
    batch: int = 1
    threads: int | None = None

    @property
    def name(self) -> str:
        threads = "the runtime's threads" if self.threads is None else f"{self.threads} threads"
        return f"{self.streams} streams, batch {self.batch}, {threads}"

    def options(self, how: OpenOptions) -> OpenOptions:
        """``how``, opened so. One stream is as fast as possible, which is what no number of streams means."""
        streams = None if self.streams == 1 else self.streams
        return dataclasses.replace(how, streams=streams, batch=self.batch, threads=self.threads)

    def entry(self) -> Json:
        """What a plan holds of it, found on this machine."""
        return {**dataclasses.asdict(self), "on": kind()}


def kind() -> Json:
    """What kind of machine this is: others may be faster another way."""
    return {"processor": processor.model_name(), "cpus": processor.usable_cpus()}


def planned(path: Path, how: OpenOptions) -> OpenOptions:
    """``how`` with what the bundle's plan found on this kind of machine; as it was where it says how itself, or there
    is no such plan.

    Raises:
        InputError: the plan's setting cannot be.
    """
    if any(getattr(how, name) is not None for name in _ASKED) or not is_bundle(path):
        return how
    bundle = read_bundle(path, verify=False)
    plan = bundle.manifest.get("plan")
    found = plan.get("load") if isinstance(plan, dict) else None
    if found is None:
        return how
    setting = _setting(found, bundle.info.batch, path)
    return setting.options(how) if found.get("on") == kind() else how


def _setting(found: object, fixed: int | None, path: Path) -> Setting:
    """The setting in a manifest, which may say anything."""
    names = [each.name for each in dataclasses.fields(Setting)]
    values: dict[str, Any] = {name: found.get(name) for name in names} if isinstance(found, dict) else {}
    for name in names:
        value = values.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST
        if not (whole or (name == "threads" and value is None and values)):
            raise InputError(f"{path / MANIFEST}: its plan is to be loaded with {name} {value!r}; rebuild the bundle")
    setting = Setting(**values)
    if fixed not in (None, setting.batch):
        raise InputError(f"{path / MANIFEST}: its plan has batch {setting.batch}, it {fixed}; rebuild the bundle")
    return setting
