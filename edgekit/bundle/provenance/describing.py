"""Descriptions of a bundle for others' tools, each a file of its own in the bundle's folder.

write(Path("yolo12n-ov-fp16"), DescribeOptions("bom"))       # yolo12n-ov-fp16/bom.cdx.json
"""

from __future__ import annotations

import json
from pathlib import Path

from edgekit.bundle.options import DescribeOptions
from edgekit.bundle.provenance import attestation, bom, card, facts
from edgekit.bundle.provenance.signing import SIGNATURE
from edgekit.errors import UsageError
from edgekit.runtime.atomic import replacing

FILES = {"bom": "bom.cdx.json", "attestation": "attestation.intoto.json", "card": "README.md"}


def write(folder: Path, options: DescribeOptions) -> Path:
    """Write one description; the file.

    Raises:
        UsageError: the file is there and not to be replaced, or it would break the bundle's signature.
        InputError, GateError: no bundle, or not what its manifest says.
    """
    out = options.out or folder / FILES[options.format]
    if out.exists() and not options.force:
        raise UsageError(f"`out` {out}: already exists; give `force` to replace it, or another name")
    if (folder / SIGNATURE).exists() and out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"{folder}: is signed, and a file more would break that; describe it first, or give `out`")
    text = _text(folder, options)
    with replacing(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return out


def _text(folder: Path, options: DescribeOptions) -> str:
    known = facts.read(folder)
    if options.format == "card":
        return card.document(known)
    made = bom.document(known) if options.format == "bom" else attestation.document(known)
    if options.key is not None:
        made = attestation.signed(made, options.key)
    return json.dumps(made, indent=1, sort_keys=True) + "\n"
