"""Checkpoints: files of weights, edgekit's own and published ones, and the catalogue of models.

| file | does |
|---|---|
| ``files.py`` | reads either form, writes ours |
| ``published/`` | the published form, of which nothing is run |
| ``catalog.py`` | ``models/*.toml``: names, architecture numbers, published figures; needs no torch |

    checkpoint = load("yolo12n.pt")           # the names of ``files.py``, imported when they are used
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.checkpoint.files import Checkpoint, from_published, load, load_state_dict, new, recalibrate, save

__all__ = ["Checkpoint", "from_published", "load", "load_state_dict", "new", "recalibrate", "save"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'edgekit.checkpoint' has no attribute {name!r}")
    return getattr(importlib.import_module("edgekit.checkpoint.files"), name)
