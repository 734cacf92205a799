"""What a label file leaves open, and the user says.

    LabelOptions.parse({"angle": "degrees", "crowd": "objects"}, "`label_options`")
    LabelOptions.from_text("angle=degrees,crowd=objects")

The same names stand in a ``data.yaml``: ``label_options: {angle: degrees}``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.errors import UsageError

CHOICES = {"crowd": ("regions", "objects"), "exif": ("fractions", "stored"), "angle": ("degrees", "radians")}


@dataclass(frozen=True)
class LabelOptions:
    """How labels are read.

    Attributes:
        crowd: ``regions``: what a COCO JSON marks ``iscrowd`` is neither learnt nor scored (COCO's meaning);
            ``objects``: it is one object like any other (CVAT marks every mask it paints).
        exif: of a JPEG that EXIF turns and a COCO JSON that states its size before that: boxes are ``fractions`` of
            the upright image (what Label Studio writes), or pixels of the image as ``stored``.
        angle: unit of θ in oriented labels ``class cx cy w h θ``: ``degrees`` or ``radians``; None: known only where
            a value is above 2π. Clockwise, from the image's x axis to the side w.
    """

    crowd: str = "regions"
    exif: str = "fractions"
    angle: str | None = None

    @classmethod
    def parse(cls, values: Mapping[str, object], where: str) -> LabelOptions:
        """From names and words.

        Raises:
            UsageError: a name or a word that is not known; the message begins with ``where``.
        """
        for name, value in values.items():
            if value not in CHOICES.get(name, ()):
                known = "; ".join(f"{key}={' or '.join(words)}" for key, words in CHOICES.items())
                raise UsageError(f"{where} {name}={value}: not known; known are {known}")
        return cls(**{name: str(value) for name, value in values.items()})

    @classmethod
    def from_text(cls, text: str, where: str = "`label_options`") -> LabelOptions:
        """From ``NAME=VALUE,…``.

        Raises:
            UsageError: as ``parse``.
        """
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return cls.parse({name.strip(): value.strip() for name, _, value in pairs}, where)

    def changes(self) -> dict[str, str]:
        """What is not as it is by default, as ``parse`` takes it."""
        plain = LabelOptions()
        names = [f.name for f in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(plain, name)}

    def over(self, other: LabelOptions) -> LabelOptions:
        """These, and those of ``other`` where these are as by default."""
        return dataclasses.replace(other, **self.changes())
