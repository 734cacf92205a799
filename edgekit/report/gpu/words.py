"""What a results file of ``gpu-check`` says, as Markdown and as plain lines. Standard library only.

markdown(document)          # a table of the steps, then what does not work with its evidence
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.spec import JsonView

_SIGNS = {
    "works": "works",
    "works in part": "works in part",
    "lacking": "could not be tried",
    "memory": "out of memory",
}
_FIGURES = 6  # of a finding, that are printed


def markdown(document: JsonView) -> str:
    """The results for docs/benchmarks/gpu.md."""
    gpu = document["gpu"]
    lines = [f"### {gpu['name']}, SM {gpu['sm']}, driver {gpu.get('driver') or 'unknown'}, {_installed(gpu)}", ""]
    lines += [note for each in gpu.get("notes", []) for note in (f"*{each}*", "")]
    lines += ["| step | shows | result | seconds |", "|---|---|---|---|"]
    for step in document["steps"]:
        result = f"**{_state(step)}**: {step['says']}" if step["state"] != "works" else f"works ({step['says']})"
        lines.append(f"| {step['name']} | {step['shows']} | {_cell(result)} | {step['seconds']:.0f} |")
    lines.append("")
    lines += list(_findings(document))
    return "\n".join(lines).rstrip() + "\n"


def _installed(gpu: JsonView) -> str:
    return ", ".join(f"{name} {version}" for name, version in gpu.get("installed", {}).items()) or "no SDK"


def _findings(document: JsonView) -> Iterator[str]:
    for step in document["steps"]:
        for row in step["findings"]:
            figures = {k: v for k, v in row.get("figures", {}).items() if isinstance(v, (int, float, str, bool))}
            told = ", ".join(f"{key} {_figure(value)}" for key, value in list(figures.items())[:_FIGURES])
            yield f"- {step['name']}, {row['name']}: **{_state(row)}**; {row['says']}" + (f" ({told})" if told else "")


def _state(row: JsonView) -> str:
    return _SIGNS.get(row["state"], str(row["state"]))


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def conclusion(document: JsonView) -> str:
    """One line: how many steps work, which do not."""
    by: dict[str, list[str]] = {}
    for step in document["steps"]:
        by.setdefault(_state(step), []).append(step["name"])
    return "; ".join(f"{state}: {', '.join(names)}" for state, names in by.items())
