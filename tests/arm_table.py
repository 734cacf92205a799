"""The table of docs/guides/arm.md, and the bounds that follow from it.

    bounds("f16")                     # {"boxes": 0.78, …}: what answers of ncnn-fp16 and ov-fp16 are held to
    document(outcomes)                # the table of this run into the page

Float32 is held to what is promised (``PROMISED``). Half precision and INT8 round in their own way on every processor,
so they are held to ``MARGIN`` times the largest that the page's table shows of their kind, never to less than float32
nor to more than ``MOST``: a run that is worse fails, and leaves the page as it was. The margin is for what two runs may
have otherwise: versions of a runtime, of the compiler and of PyTorch, and so calibration and the tests' weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.arm_gaps import Gap

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "arm.md"
BEGIN, END = "<!-- made by: python -m tests.arm --docs -->", "<!-- end -->"
MARGIN = 2.0
# Pixels, pixels, 0..1, radians, 1 - IoU; ``overlap``: by how much that of two boxes moves.
PROMISED = {"boxes": 0.5, "keypoints": 0.5, "scores": 1e-3, "angles": 0.02, "masks": 0.02, "overlap": 0.02}
MOST = {
    "f16": {"boxes": 2.0, "keypoints": 2.0, "scores": 0.03, "angles": 0.1, "masks": 0.2, "overlap": 0.1},
    "int8": {"boxes": 8.0, "keypoints": 8.0, "scores": 0.1, "angles": 0.2, "masks": 0.4, "overlap": 0.3},
}
COLUMNS = {
    "boxes": "boxes: px", "keypoints": "keypoints: px", "scores": "scores", "angles": "angles: rad",
    "masks": "masks: 1 − IoU",
}  # fmt: skip
KINDS = {"f32": "float32", "f16": "half precision", "int8": "INT8"}


@dataclass(frozen=True)
class Row:
    """A target on the emulated machine.

    Attributes:
        target: its name.
        bound: what its answers keep to, one of ``KINDS``.
        native: whether the C++ library has a backend for it.
    """

    target: str
    bound: str
    native: bool = True


ROWS = (
    Row("ort-fp32", "f32"),
    Row("ort-int8", "int8"),
    Row("ov-fp32", "f32"),
    Row("ov-fp16", "f16"),
    Row("ov-int8", "int8"),
    Row("ncnn-fp32", "f32", native=False),
    Row("ncnn-fp16", "f16", native=False),
)


@dataclass
class Outcome:
    """What came of a row, in Python and C++, and what was wrong."""

    row: Row
    executed: str = ""
    python: Gap = field(default_factory=Gap)
    native: Gap | None = None
    wrong: list[str] = field(default_factory=list)


def printed(page: str) -> dict[str, dict[str, float]]:
    """Target -> quantity -> the larger of Python's and the C++ library's, of the table in ``page``; empty where it has
    none of these columns."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _made(page).splitlines() if "|" in line]
    if not lines or not {*COLUMNS.values()} <= {*lines[0]}:
        return {}
    place = {name: lines[0].index(title) for name, title in COLUMNS.items()}
    rows = {cells[0].strip("`"): cells for cells in lines if cells[0].startswith("`")}
    return {
        target: {name: max(float(part) for part in cells[k].split(" / ") if part != "–") for name, k in place.items()}
        for target, cells in rows.items()
    }


def bounds(kind: str, page: str | None = None) -> Mapping[str, float]:
    """Quantity -> how far answers of ``kind`` may be apart; ``order``: whether they must come in one order."""
    if kind == "f32":
        return PROMISED | {"order": True}
    seen = printed(PAGE.read_text(encoding="utf-8") if page is None else page)
    rows = [seen[row.target] for row in ROWS if row.bound == kind and row.target in seen]
    found = {
        name: min(max([PROMISED[name], *(MARGIN * row[name] for row in rows)]), most) if rows else most
        for name, most in MOST[kind].items()
        if name in COLUMNS
    }
    return found | {"overlap": MOST[kind]["overlap"], "order": False}


def table(outcomes: Sequence[Outcome]) -> str:
    """What was found, as Markdown: Python's and, where there are any, the C++ library's."""
    titles = ["target", "executed", "objects", *COLUMNS.values(), "at a limit", "without partner"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for outcome in outcomes:
        found = [each for each in (outcome.python, outcome.native) if each is not None]
        cells = [f"`{outcome.row.target}`", outcome.executed, str(outcome.python.objects)]
        cells += [_same([f"{each.sizes.get(name, 0.0):.2g}" for each in found]) for name in COLUMNS]
        cells += [_same([str(each.limits) for each in found]), _same([str(each.alone) for each in found])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _same(parts: Sequence[str]) -> str:
    return parts[0] if len({*parts}) == 1 else " / ".join(parts)


def held(page: str) -> str:
    """The bounds that follow from the table in ``page``, as Markdown."""
    lines = [f"| held to | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for kind, name in KINDS.items():
        bound = bounds(kind, page)
        lines.append(f"| {name} | {' | '.join(f'{bound[each]:.2g}' for each in COLUMNS)} |")
    return "\n".join(lines)


def document(outcomes: Sequence[Outcome], path: Path = PAGE) -> None:
    """Put the table and what it binds to where the page has its place for them."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    made = table(outcomes)
    text = f"{before}{BEGIN}\n{made}\n\n{held(f'{BEGIN}{chr(10)}{made}{END}')}\n{END}{rest.partition(END)[2]}"
    path.write_text(text, encoding="utf-8")


def _made(page: str) -> str:
    return page.partition(BEGIN)[2].partition(END)[0]
