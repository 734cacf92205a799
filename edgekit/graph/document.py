"""What an exported ONNX file says about itself: its metadata, read back without torch.

read_document(Path("yolo12n.onnx"))["info"]["names"]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from edgekit.errors import InputError

METADATA_KEY = "edgekit"
SCHEMA = 1


def read_document(path: Path) -> dict[str, Any]:
    """The metadata edgekit wrote into an ONNX file.

    Raises:
        InputError: not ONNX, or an ONNX file from elsewhere.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise InputError(f"{path}: not a readable ONNX file; export it again") from error
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return _parse(entry.value, path)
    raise InputError(
        f"{path}: an ONNX file without edgekit's metadata, so its outputs cannot be told; "
        "export it from the checkpoint with: edgekit export CKPT --out FILE.onnx"
    )


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
        schema = int(document["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its edgekit metadata is damaged; export it again") from error
    if schema > SCHEMA:
        raise InputError(f"{path}: metadata schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    return dict(document)
