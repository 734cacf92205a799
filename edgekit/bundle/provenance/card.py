"""A Hugging Face model card of a bundle: README.md with a ``model-index``, from what was proved.

document(read(folder))                        # text, which huggingface_hub's ModelCard reads
"""

from __future__ import annotations

from edgekit.bundle.provenance.bom import task_of
from edgekit.bundle.provenance.facts import Facts
from edgekit.bundle.provenance.signing import EXTRA
from edgekit.errors import optional
from edgekit.spec import Json

_HUB = ("apache-2.0", "mit", "agpl-3.0", "gpl-3.0", "lgpl-3.0", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc0-1.0")


def document(facts: Facts) -> str:
    """The card, as text; read again by Hugging Face's own package.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
    """
    with optional("model cards", EXTRA):
        from huggingface_hub import EvalResult, ModelCard, ModelCardData
    info, row = facts.bundle.info, facts.accuracy
    results = None
    if row is not None:
        results = [
            EvalResult(
                task_type=task_of(info.task),
                dataset_type="custom",
                dataset_name=str(row["on"]),
                metric_type=str(row["metric"]),
                metric_value=row["after"],
            )
        ]
    data = ModelCardData(
        model_name=facts.name,
        pipeline_tag=task_of(info.task),
        tags=["yolo12", "edgekit", facts.bundle.target],
        eval_results=results,
        **_license(info.license),
    )
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(facts)}"
    ModelCard(text)
    return text


def _license(text: str | None) -> Json:
    """As the hub has it: one of its words, or ``other`` with a name."""
    if text is None:
        return {}
    word = text.lower().removesuffix("-only").removesuffix("-or-later")
    return {"license": word} if word in _HUB else {"license": "other", "license_name": text.partition("\n")[0]}


def _body(facts: Facts) -> str:
    info = facts.bundle.info
    height, width = info.imgsz
    lines = [
        f"# {facts.name} for {facts.bundle.target}",
        "",
        f"A bundle that edgekit built: {info.task}, {len(info.names)} classes, images of {width} x {height} pixels.",
        "",
        "| | |",
        "|---|---|",
        f"| license of the weights | {info.license or 'not stated'} |",
        *(f"| SHA-256 of the {what} it was made of | `{digest}` |" for what, digest in facts.parents.items()),
        f"| SHA-256 of its manifest | `{facts.manifest_sha256}` |",
        f"| gates it passed | {', '.join(gate.name for gate in facts.gates) or 'none'} |",
    ]
    row = facts.accuracy
    if row is not None:
        lines.append(f"| {row['metric']} on {row['on']} ({row['images']} images) | {row['after']:.4f} |")
        lines.append(f"| the same of the floating-point model | {row['before']:.4f} |")
    lines += ["", "## Classes", "", ", ".join(info.names), "", "## Files", "", "| file | SHA-256 |", "|---|---|"]
    lines += [f"| {name} | `{digest}` |" for name, digest in sorted(facts.bundle.manifest["files"].items())]
    return "\n".join(lines) + "\n"
