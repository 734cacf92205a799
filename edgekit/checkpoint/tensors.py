"""Checkpoints as safetensors: the tensors, and beside them in the header all else that edgekit's own format holds.

write(Path("mine.safetensors"), document, state)
described(Path("mine.safetensors"))           # the document; None of a file from elsewhere
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from edgekit.errors import InputError, optional
from edgekit.runtime.atomic import replacing
from edgekit.spec import Json

SUFFIX = ".safetensors"
KEY = "edgekit"  # of the header's metadata
_MOST = 100 << 20  # bytes of a header, safetensors' own limit


def described(path: Path) -> Json | None:
    """What edgekit wrote beside the tensors; None where it did not write the file. Reads the header alone.

    Raises:
        InputError: not a safetensors file, or a damaged one.
    """
    try:
        with open(path, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if not 0 < size <= _MOST:
                raise ValueError("no header")
            header = json.loads(handle.read(size))
        text = header.get("__metadata__", {}).get(KEY)
        found = None if text is None else json.loads(text)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{path}: its metadata is damaged; get it again")
    return found


def read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors by name.

    Raises:
        MissingPackageError: safetensors is not installed.
        InputError: not a safetensors file, or a damaged one.
    """
    with optional(str(path), "safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        found: dict[str, torch.Tensor] = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    return found


def write(path: Path, document: Json, state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors and what is to be known of them, under a temporary name first.

    Raises:
        MissingPackageError: safetensors is not installed.
        InputError: it could not be written whole.
    """
    with optional(str(path), "safetensors"):
        from safetensors.torch import save_file
    whole = {name: tensor.contiguous() for name, tensor in state.items()}
    with replacing(path, described) as partial:
        save_file(whole, str(partial), {KEY: json.dumps(document, sort_keys=True)})
