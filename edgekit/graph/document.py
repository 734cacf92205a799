"""What an exported ONNX file says about itself: its metadata, read back without torch.

read_document(Path("yolo12n.onnx"))["info"]["names"]
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from edgekit.errors import InputError, command_line
from edgekit.spec import Json, Port

METADATA_KEY = "edgekit"
SCHEMA = 1
REWRITTEN = ("rewrites", "stages", "lineage")  # what rules did, and where the network's stages are afterwards
_DTYPES = {"float": "float32", "double": "float64"}  # where ONNX has a name of its own


def read_document(path: Path) -> Json:
    """The metadata edgekit wrote into an ONNX file.

    Raises:
        InputError: not ONNX, or an ONNX file from elsewhere.
    """
    for entry in _load(path).metadata_props:
        if entry.key == METADATA_KEY:
            return _parse(entry.value, path)
    raise InputError(
        f"{path}: an ONNX file without edgekit's metadata, so its outputs cannot be told; "
        f"export it from the checkpoint with: {command_line('export', 'CKPT', out='FILE.onnx')}"
    )


def describe(path: Path) -> tuple[list[Port], list[Port], dict[str, str]]:
    """Inputs, outputs (without roles; None for a dynamic side) and metadata of an ONNX file from anywhere.

    Raises:
        InputError: not ONNX.
    """
    model = _load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [_port(value) for value in model.graph.input if value.name not in constants]
    outputs = [_port(value) for value in model.graph.output]
    return inputs, outputs, {entry.key: entry.value for entry in model.metadata_props}


def _port(value: onnx.ValueInfoProto) -> Port:
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return Port(value.name, "", tuple(d.dim_value or None for d in tensor.shape.dim), _DTYPES.get(kind, kind))


def _load(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:
        raise InputError(f"{path}: not a readable ONNX file; export it again") from error


def _parse(text: str, path: Path) -> Json:
    try:
        document = json.loads(text)
        schema = int(document["schema"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: its edgekit metadata is damaged; export it again") from error
    if schema > SCHEMA:
        raise InputError(f"{path}: metadata schema {schema}, but this edgekit reads up to {SCHEMA}; upgrade edgekit")
    return dict(document)
