"""Renders ``benchmarks/results/table-*.json`` and ``gpu-*.json`` into the documentation, between its markers.

    python benchmarks/render.py             # rewrite docs/benchmarks/table.md and gpu.md
    python benchmarks/render.py --check     # say whether it is up to date (exit code 1 if not)

A results file from anyone's machine comes by pull request: put it beside the others and run this; the tests check it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError
from edgekit.report import table_results, table_text
from edgekit.report.gpu import runner, words
from edgekit.runtime.atomic import replacing

REPO = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tables: benchmarks/render.py -->", "<!-- end of tables -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    results = REPO / "benchmarks" / "results"
    try:
        _render("table.md", section(tables(results)), options.check)
        _render("gpu.md", gpu_section(checks(results)), options.check)
    except EdgekitError as error:
        sys.exit(str(error))


def _render(name: str, content: str, check: bool) -> None:
    page = REPO / "docs" / "benchmarks" / name
    text = page.read_text(encoding="utf-8")
    rendered = replaced(text, content)
    if rendered == text:
        return
    if check:
        raise EdgekitError(f"docs/benchmarks/{name} is not what benchmarks/render.py makes of the results; run it")
    with replacing(page) as partial:
        partial.write_text(rendered, encoding="utf-8")


def tables(folder: Path) -> list[Path]:
    """The tables among the results files, by name."""
    return sorted(folder.glob("table-*.json"))


def checks(folder: Path) -> list[Path]:
    """What `edgekit gpu-check` found, by name."""
    return sorted(folder.glob("gpu-*.json"))


def gpu_section(paths: Sequence[Path]) -> str:
    """What stands between the markers of docs/benchmarks/gpu.md."""
    parts = [f"{words.markdown(runner.load(path))}\nFrom `benchmarks/results/{path.name}`.\n" for path in paths]
    return "\n".join(parts) or "No results are in `benchmarks/results/` yet: nobody with a GPU has run it.\n"


def section(paths: Sequence[Path]) -> str:
    """What stands between the markers."""
    parts = []
    for path in paths:
        text = table_text.markdown(table_results.load(path))
        parts.append(f"{text}\nFrom `benchmarks/results/{path.name}`.\n")
    return "\n".join(parts) or "No table is in `benchmarks/results/` yet.\n"


def replaced(text: str, content: str) -> str:
    """``text`` with ``content`` between the markers.

    Raises:
        EdgekitError: the markers are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise EdgekitError(f"docs/benchmarks: the markers {BEGIN} and {END} must be there once each, in that order")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{content}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    main()
