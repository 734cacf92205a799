"""Which splits a set has, without reading it.

splits_of(Path("bccd/data.yaml"))                    # ["train", "val"]
splits_of(Path("instances_train2017.json"))          # ["train"]
"""

from __future__ import annotations

from pathlib import Path

import yaml

from edgekit.data.folders import SPLITS


def splits_of(path: Path) -> list[str]:
    """``train``, ``val`` and ``test`` as far as the set has them. What cannot be told (and what is no set at all) is
    ``val``, so that opening it says what is wrong.

    A ``data.yaml`` has those it names, a folder those it has a folder for; a COCO JSON is the one in its own name.
    """
    if path.is_dir():
        described = next((p for p in (path / "data.yaml", path / "data.yml") if p.is_file()), None)
        if described is None:
            return [split for split, names in SPLITS.items() if any((path / n).is_dir() for n in names)] or ["val"]
        path = described
    if path.suffix.lower() == ".json":
        return [next((split for split in SPLITS if split in path.stem.lower()), "val")]
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ["val"]
    named = settings if isinstance(settings, dict) else {}
    return [split for split, names in SPLITS.items() if any(named.get(name) for name in names)] or ["val"]
