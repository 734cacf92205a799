"""What became of everything a user gave: the one reporter of every command that reads a labelled set.

    account = account_of(open_dataset("data.yaml", "detect", "train"))
    account.sentences()        # [] where all of it is used as it stands
    account.to_dict()          # the same for --json

``open_dataset`` says these sentences to ``LOGGER``; the command line prints them, once each, on standard error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.data.encoding import printable
from edgekit.data.issues import Issue
from edgekit.spec import Json

if TYPE_CHECKING:
    from edgekit.data.dataset import Dataset

LOGGER = logging.getLogger("edgekit.data")
FIRST = 2  # issues of a kind that a sentence names
LISTED = 10  # issues of a kind that a document names
# Notes about what is not used; other notes are about images and rows that are.
UNUSED = ("hidden", "format", "link", "crowd", "category", "split", "subset")
# Said of the labels, and changes nothing about what is used.
_REMARKS = ("scarce", "absent", "keypoints")


@dataclass(frozen=True)
class Account:
    """What is used of a split, and what is not.

    Attributes:
        source, split: the set's.
        images, objects: used; crowd regions are no objects.
        left_out: issues about what is not used, by kind.
        changed: issues about what is used otherwise than it stands there, by kind.
    """

    source: str
    split: str
    images: int
    objects: int
    left_out: dict[str, list[Issue]]
    changed: dict[str, list[Issue]]

    def sentences(self) -> list[str]:
        """At most two: what is left out, and what is used after a change."""
        used = f"{self.images:,} images" + (f" and {self.objects:,} objects" if self.objects else "")
        of = f"{printable(self.source)}: of {self.split}"
        found = []
        if self.left_out:
            found.append(f"{of}, {used} are used; left out: {self._listed(self.left_out)}")
        if self.changed:
            found.append(f"{of}, not used as it stands: {self._listed(self.changed)}")
        return found

    def _listed(self, found: dict[str, list[Issue]]) -> str:
        """``3 hidden (images/.ipynb_checkpoints: …), 1 malformed (…)``."""
        parts = []
        for kind, issues in found.items():
            first = "; ".join(str(i).removeprefix(f"{printable(self.source)}: ") for i in issues[:FIRST])
            parts.append(f"{_count(issues):,} {kind} ({first}{'; …' if len(issues) > FIRST else ''})")
        more = any(len(issues) > FIRST for issues in found.values())
        return ", ".join(parts) + ("; `edgekit data check` lists them all" if more else "")

    def to_dict(self) -> Json:
        """Plain JSON: per kind how many, and the first of them."""
        return {
            "source": self.source,
            "split": self.split,
            "images": self.images,
            "objects": self.objects,
            "left_out": {kind: _document(issues) for kind, issues in self.left_out.items()},
            "changed": {kind: _document(issues) for kind, issues in self.changed.items()},
        }


def account_of(dataset: Dataset) -> Account:
    """Counts and names what of the split is used, left out and changed."""
    left_out: dict[str, list[Issue]] = {}
    changed: dict[str, list[Issue]] = {}
    for issue in dataset.problems():
        if issue.severity == "error" or (issue.severity == "note" and issue.kind in UNUSED):
            left_out.setdefault(issue.kind, []).append(issue)
        elif issue.kind not in _REMARKS:
            changed.setdefault(issue.kind, []).append(issue)
    objects = sum(int((~sample.labels.crowd).sum()) for sample in dataset.samples)
    return Account(str(dataset.source), dataset.split, len(dataset), objects, left_out, changed)


def say(dataset: Dataset) -> None:
    """Tell ``LOGGER`` what is to be said of a split."""
    for sentence in account_of(dataset).sentences():
        LOGGER.warning("%s", sentence)


def _count(issues: Sequence[Issue]) -> int:
    return sum(issue.count for issue in issues)


def _document(issues: Sequence[Issue]) -> Json:
    return {"count": _count(issues), "first": [str(issue) for issue in issues[:LISTED]]}
