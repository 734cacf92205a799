"""What mkdocs asks while it builds the site: drawings, and the pages' parts that are made from the code.

<!-- drawing: flow -->        a drawing of _drawings.py
<!-- generated: cli -->       every command with its options, from the command line itself
<!-- generated: rewrites -->  every rule's own description, in the order of a recipe
<!-- generated: tables -->    the model-scale tables of benchmarks/results/
<!-- generated: results -->   what results files there are, by which script
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "docs")]

from _drawings import svg  # noqa: E402

MARK = re.compile(r"<!-- (drawing|generated): (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its marks replaced."""

    def replaced(found: re.Match[str]) -> str:
        kind, name = found.groups()
        return svg(name) if kind == "drawing" else GENERATED[name]()

    text = MARK.sub(replaced, markdown)
    return re.sub(r"<!-- not run: .* -->\n", "", text)


def on_post_page(output: str, **_: Any) -> str:
    """The page with what the theme leaves out for people who do not see it or have no mouse."""
    output = output.replace('role="dialog">', 'role="dialog" aria-label="Search">', 1)
    output = output.replace("<pre>", '<pre tabindex="0">')  # it scrolls, not the code inside (extra.css)
    output = output.replace("<table>", '<table tabindex="0">')
    return re.sub(r"<th([^>]*)></th>", r'<th\1><span class="unseen">of</span></th>', output)


def cli() -> str:
    """Every command: what it does, arguments and options."""
    import importlib

    from edgekit.cli import _app

    parts = []
    commands = {name: _app.made(name, importlib.import_module(module)) for name, module in _app.names().items()}
    for name, command in _commands(commands, ""):
        lines = [
            f"## edgekit {name}",
            "",
            _plain(command.help),
            "",
            "| option | what it is | default |",
            "|---|---|---|",
        ]
        lines += [row for parameter in command.params if (row := _row(parameter))]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _commands(commands: dict[str, Any], before: str) -> list[tuple[str, Any]]:
    found = []
    for name, command in sorted(commands.items()):
        if getattr(command, "hidden", False):
            continue
        if hasattr(command, "commands"):
            found += _commands(command.commands, f"{before}{name} ")
        else:
            found.append((before + name, command))
    return found


def _row(parameter: Any) -> str | None:
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return None
    if parameter.param_type_name == "argument":
        spelt = parameter.name.upper()
    else:
        spelt = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    shown = "" if default is None or callable(default) or default in ((), False, True) else f"`{default}`"
    return f"| `{spelt}` | {_plain(getattr(parameter, 'help', '') or '')} | {shown} |"


def _plain(text: str | None) -> str:
    """Help text as Markdown of one line: what looks like a tag or a column is escaped."""
    said = " ".join((text or "").replace("\b", "").split())
    return said.replace("|", r"\|").replace("<", "&lt;").replace("``", "`")


def rewrites() -> str:
    """A section a rule: its docstring."""
    from edgekit.graph.rewrite import RULES

    parts = []
    for rule in RULES:
        module = sys.modules[rule.__module__]
        path = Path(str(module.__file__)).resolve().relative_to(REPO)
        parts.append(f"## {path.stem}\n\n`{path.as_posix()}`\n\n{_docstring(module.__doc__ or '')}")
    return "\n\n".join(parts)


def _docstring(text: str) -> str:
    """A module's docstring as Markdown: indented examples are code already, literal quotes become Markdown's."""
    return text.strip().replace("``", "`")


def results() -> str:
    """A row a results file."""
    rows = ["| file | what it says of itself |", "|---|---|"]
    for path in sorted((REPO / "benchmarks" / "results").glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        said = document if isinstance(document, dict) else {}
        words = said.get("what") or said.get("benchmark") or said.get("script") or ", ".join(list(said)[:6])
        rows.append(f"| `{path.name}` | {_plain(str(words))} |")
    return "\n".join(rows)


def calls() -> str:
    """Whole calls at n, s and m against Ultralytics' exports."""
    rows = [
        "| | ms | " + " | ".join(f"against its {e} export" for e in ("FP32", "FP16", "INT8")) + " |",
        "|---|---|---|---|---|",
    ]
    for scale in "nsm":
        document = _result(f"calls-{scale}")
        ours = [r for r in document["rows"] if r["contestant"].startswith("edgekit")]
        for row in ours:
            cells = [
                _ratio(next((r for r in document["ratios"] if _pair(r, row, kind)), None))
                for kind in ("fp32", "fp16", "int8")
            ]
            name = row["contestant"].split(" ")[-1].removeprefix("yolo12")
            rows.append(f"| {name} | {row['whole_ms']['p50']:.1f} | " + " | ".join(cells) + " |")
        rows[-1] += "" if document.get("reliable", True) else "\n| (the machine was not quiet) | | | | |"
    return "\n".join(rows)


def _pair(ratio: dict[str, Any], row: dict[str, Any], kind: str) -> bool:
    return ratio["to"] == row["contestant"] and f"-{kind} " in ratio["of"]


def _ratio(found: dict[str, Any] | None) -> str:
    return "–" if found is None else f"{found['ratio']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def folders() -> str:
    """Folders of images and cold starts at n, s and m."""
    table = {"a folder of images": [], "cold start": [], "cold start, `cache=True`": []}  # type: dict[str, list[str]]
    for suffix in ("", "-s", "-m"):
        table["a folder of images"].append(_ratio(_result(f"folder{suffix}")["times_the_peers_rate"]))
        sides = {r["side"]: r["times_as_fast_as_the_peer"] for r in _result(f"cold{suffix}")["rows"]}
        table["cold start"].append(_ratio(sides["edgekit"]))
        table["cold start, `cache=True`"].append(_ratio(sides["edgekit, cache"]))
    return "\n".join(
        ["| | n | s | m |", "|---|---|---|---|", *(f"| {k} | " + " | ".join(v) + " |" for k, v in table.items())]
    )


def builds() -> str:
    """Builds beside the peer's exports, seconds of processors and what has passed."""
    rows = ["| | edgekit, CPU s | Ultralytics, CPU s | times its CPU s | times its wall s |", "|---|---|---|---|---|"]
    for row in _result("build-time")["rows"]:
        cells = [f"{row[side]['cpu_s']['p50']:.1f}" for side in ("edgekit", "peer")]
        cells += [_ratio(row["times_the_peers"][kind]) for kind in ("cpu_s", "wall_s")]
        rows.append(f"| `{row['target']}`, {row['imgsz']} px | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def floor() -> str:
    """Networks beside what their operations cost."""
    rows = ["| bundle | operations, ms | SiLU, ms | network, ms (least) | times the floor |", "|---|---|---|---|---|"]
    for row in _result("roofline")["rows"]:
        cells = row["bundle"].removeprefix("yolo12"), row["floor_operations_ms"], row["floor_silu_ms"]
        cells += row["network_ms"]["min"], row["times_the_floor"]["min"]
        rows.append("| " + " | ".join(c if isinstance(c, str) else f"{c:.2f}" for c in cells) + " |")
    return "\n".join(rows)


def _result(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        (REPO / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8")
    )
    return document


GENERATED = {f.__name__: f for f in (calls, folders, builds, floor, cli, rewrites, results)}
