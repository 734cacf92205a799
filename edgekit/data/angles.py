"""Oriented boxes by an angle, ``class cx cy w h θ``, which some tools write instead of four corners.

corners_of_angled([0.5, 0.5, 0.2, 0.1, 30], (640, 480), "degrees")      # the eight numbers of the corners
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgekit.data.images import image_size
from edgekit.data.issues import Issue
from edgekit.errors import InputError, UsageError
from edgekit.tasks.rows import BadRow, ParseRow, Row


def angle_unit(path: Path, rows: Iterable[list[str]], stated: str | None, issues: list[Issue]) -> str | None:
    """The unit of θ in those of ``rows`` that are ``class cx cy w h θ``; None where none is. The set at ``path`` may
    have it ``stated``; what is found out is added to ``issues``.

    Raises:
        UsageError: it is not stated, and no value is too large for radians.
    """
    angles = []
    for words in rows:
        with contextlib.suppress(ValueError):  # said when the labels are really read
            angles += [abs(float(words[5]))] if len(words) == 6 else []
    if not angles or stated:
        return stated if angles else None
    if max(angles) <= 2 * math.pi:
        raise UsageError(
            f"{path}: rows of a class and 5 numbers are oriented boxes by centre, size and angle, and no angle tells "
            "degrees from radians; give `label_options` angle=degrees or angle=radians (clockwise)"
        )
    sentence = f"angles up to {max(angles):g} are no radians: taken as degrees, clockwise from the x axis to the side w"
    issues.append(Issue(path, None, "angle", sentence, "warning", len(angles)))
    return "degrees"


def with_angles(parse_row: ParseRow, image: Path, unit: str) -> ParseRow:
    """``parse_row`` for rows that may also be a centre, a size and an angle."""

    def parse(values: Sequence[float], shape: tuple[int, int] | None) -> Row:
        if len(values) != 5:
            return parse_row(values, shape)
        try:
            return parse_row(corners_of_angled(values, image_size(image), unit), shape)
        except InputError as error:
            raise BadRow("unreadable", f"its angle needs the image's size: {error}") from None

    return parse


def corners_of_angled(values: Sequence[float], size: tuple[int, int], unit: str) -> list[float]:
    """The corners x1, y1, … x4, y4 of a box by its centre, its sides and an angle; fractions of the image but for θ.

    w is a fraction of the image's width and h of its height, as of a box that lies straight; the box of w · width by
    h · height pixels is then turned by θ, clockwise as one sees it (y down), about its centre.

    Args:
        values: cx, cy, w, h, θ.
        size: width and height of the image in pixels.
        unit: ``degrees`` or ``radians``.
    """
    cx, cy, w, h, angle = values
    width, height = size
    turn = math.radians(angle) if unit == "degrees" else angle
    along = (math.cos(turn) * w * width / 2, math.sin(turn) * w * width / 2)
    across = (-math.sin(turn) * h * height / 2, math.cos(turn) * h * height / 2)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        c + (i * a + j * b) / side
        for i, j in signs
        for c, a, b, side in ((cx, along[0], across[0], width), (cy, along[1], across[1], height))
    ]
