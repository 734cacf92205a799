"""What can be wrong with a labelled set, and the record of one such thing.

[str(issue) for issue in dataset.problems()]     # ['labels/7.txt:3: class 9 is none of the 3 declared …']
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.data.encoding import printable

# Every kind of Issue, for those who count or filter them.
KINDS = {
    "unreadable": "an image or label file that cannot be read",
    "malformed": "a row that is not what the task's format says",
    "class": "a class the set does not declare",
    "range": "coordinates that are not on the image, nor near it",
    "clipped": "coordinates slightly off the image, which were clipped to it",
    "degenerate": "a box or polygon without area",
    "duplicate": "the same object, image or image id twice",
    "background": "an image without a label file: taken as showing none of the classes",
    "no polygon": "a box where the task needs a polygon",
    "no image": "labels whose image is not there",
    "orphan": "an annotation of an image or category that the file does not list",
    "size": "an image whose size is not the one stated",
    "crossing": "a polygon that crosses itself, or corners that are not in order around the box",
    "keypoints": "how keypoints are swapped in a mirror (flip_idx) is missing or contradicts itself",
    "scarce": "a class with no or very few objects",
    "absent": "a class that another split has and train has not",
    "overlap": "the same image in two splits",
    "angle": "oriented boxes by an angle whose unit was found out",
    "hidden": "images in hidden files and folders (.ipynb_checkpoints, ._x.jpg, __MACOSX)",
    "format": "files that are no images edgekit reads, some of them pictures",
    "link": "links that are not followed",
    "crowd": "regions marked iscrowd: neither learnt nor scored, as COCO has it",
    "category": "categories that are no classes of objects",
    "ids": "ids that are no whole numbers",
    "split": "a split that the set names and does not have, or has under two names",
    "subset": "classes that were not asked for",
}


@dataclass(frozen=True)
class Issue:
    """One thing wrong with a set.

    Attributes:
        path: the file concerned.
        line: its line, counted from 1, or None.
        kind: a key of ``KINDS``.
        sentence: what is wrong and what was done about it.
        severity: ``error`` (a row or an image was left out), ``warning`` (used after mending) or ``note``.
        count: how many rows or images it is about.
    """

    path: Path
    line: int | None
    kind: str
    sentence: str
    severity: str = "error"
    count: int = 1

    def __str__(self) -> str:
        where = printable(f"{self.path}:{self.line}" if self.line else self.path)
        return f"{where}: {self.sentence}"
