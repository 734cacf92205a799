"""Target records changed for as long as a test runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from edgekit import targets


def change_targets(monkeypatch: pytest.MonkeyPatch, *names: str, **changes: Any) -> None:
    """Give the targets called ``names`` (all, if none is named) these fields."""
    found = {
        target.name: dataclasses.replace(target, **changes) if target.name in names or not names else target
        for target in targets.every()
    }
    monkeypatch.setattr(targets, "every", lambda: tuple(found.values()))
    monkeypatch.setattr(targets, "get", found.__getitem__)
