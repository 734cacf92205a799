"""On which machines and devices a bundle has passed its self-test, remembered beside the model cache.

    key = key_of(session, target.packages)
    if not known(bundle, key, cache):
        ...
        remember(bundle, key, cache)

Remembered is a pass alone, for one content of a bundle (its manifest's hash is in the file's name), processor, device,
driver and version of the runtime: what failed is tried again. It spares time and proves nothing to others; delete the
file, or verify without it, where that matters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgekit.runtime import modelcache, processor
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json, Session

_MOST = 64  # entries of a file
# Variables that choose other kernels than the processor's own.
_KERNELS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OV_CPU_CAPABILITY")


def key_of(session: Session, packages: Sequence[str]) -> Json:
    """What the answers of an open session depend on, beside the bundle: ``packages`` are those of its runtime."""
    return {
        "target": session.target,
        "processor": processor.model_name(),
        "devices": list(session.devices()),
        "drivers": session.drivers(),
        "versions": _versions("edgekit", *packages),
        "environment": {name: os.environ[name] for name in _KERNELS if name in os.environ},
    }


def _versions(*packages: str) -> dict[str, str]:
    """Of those that are installed. (``versions.py`` knows edgekit's own without, and so imports all of it.)"""
    from importlib import metadata

    return {package: found.version for package in packages for found in metadata.distributions(name=package)}


def known(bundle: Path, key: Json, cache: str | Path | bool) -> bool:
    """Whether this very bundle has passed under this very ``key``."""
    place = _place(bundle, cache)
    return place is not None and key in _read(place)


def remember(bundle: Path, key: Json, cache: str | Path | bool) -> None:
    """Note a pass; where nothing can be written it is not remembered."""
    place = _place(bundle, cache)
    if place is None:
        return
    entries = [entry for entry in _read(place) if entry != key][-_MOST + 1 :]
    with suppress(OSError), replacing(place) as partial:
        partial.write_text(json.dumps([*entries, key], indent=1) + "\n", encoding="utf-8")


def _place(bundle: Path, cache: str | Path | bool) -> Path | None:
    folder = modelcache.folder_for(bundle, cache or True)
    return None if folder is None else folder.with_name(f"{folder.name}.selftest.json")


def _read(place: Path) -> list[Json]:
    try:
        entries = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
