"""Manifests that must be refused, each with a part of its sentence. Python's reader and the C++ one answer to the
same table (``tests/test_bundle.py``, ``tests/test_cpp.py``).

    change, sentence = WRONG["role twice"]
    spoil(folder, change)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[dict[str, Any]], Any]


def spoil(folder: Path, change: Change) -> None:
    """Apply ``change`` to the manifest in ``folder``."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def put(*path: Any) -> Change:
    """A change that sets the value (last) at the keys and indices before it."""
    *keys, last, value = path

    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for key in keys:
            at = at[key]
        at[last] = value

    return change


def pixels(*keys: Any) -> Change:
    """A manifest whose input is pixels, and then ``put(*keys)``, or the last key gone where no value is given."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["inputs"][0].update(dtype="uint8", shape=[1, 64, 96, 3])
        manifest["preprocess"].update(color="BGR", scale=1.0)
        if len(keys) == 2:
            manifest[keys[0]].pop(keys[1])
        else:
            put(*keys)(manifest)

    return change


WRONG: dict[str, tuple[Change, str]] = {
    "newer schema": (put("schema", 99), "upgrade edgekit"),
    "schema beyond 64 bits": (put("schema", 10**30), "upgrade edgekit"),
    "schema is text": (put("schema", "1"), "no schema number"),
    "schema is true": (put("schema", True), "no schema number"),
    "schema is zero": (put("schema", 0), "no schema number"),
    "files is a list": (put("files", []), "lacks 'target' or 'files'"),
    "target missing": (lambda m: m.pop("target"), "lacks 'target' or 'files'"),
    "no outputs": (put("outputs", []), "0 outputs"),
    "no inputs": (put("inputs", []), "0 inputs"),
    "a hundred outputs": (lambda m: m.update(outputs=m["outputs"] * 50), "100 outputs"),
    "unknown role": (put("outputs", 0, "role", "wishes"), "unknown role 'wishes'"),
    "role with a quote": (put("outputs", 0, "role", "it's"), "unknown role"),
    "role of lines": (put("outputs", 0, "role", "a\nb\x01"), "unknown role"),
    "role twice": (put("outputs", 1, "role", "boxes"), "'boxes' is given twice"),
    "unknown field": (put("outputs", 0, "color", "red"), "no field 'color'"),
    "unknown fields": (lambda m: m["outputs"][0].update(zeal=1, axe=2), "no field 'axe'"),
    "field missing": (lambda m: m["outputs"][0].pop("shape"), "lacks the field 'shape'"),
    "absurd shape": (put("outputs", 0, "shape", [1, 10**7, 10**6]), "absurd shape|has the shape"),
    "absurd count": (put("outputs", 0, "shape", [1, 10**30]), "has the shape"),
    "negative shape": (put("outputs", 0, "shape", [1, -5, 4]), "has the shape"),
    "empty shape": (put("outputs", 0, "shape", []), "has the shape"),
    "shape of six": (put("outputs", 0, "shape", [1] * 6), "has the shape"),
    "shape of floats": (put("outputs", 0, "shape", [1, 2.5, None]), "has the shape"),
    "shape of booleans": (put("outputs", 0, "shape", [True, 4]), "has the shape"),
    "shape of text": (put("outputs", 0, "shape", "1,2"), "not described"),
    "unknown dtype": (put("outputs", 0, "dtype", "string"), "not described"),
    "name is a number": (put("outputs", 0, "name", 3), "not described"),
    "input of three sides": (put("inputs", 0, "shape", [3, 64, 96]), "does not agree with imgsz"),
    "imgsz disagrees": (put("imgsz", [64, 64]), "does not agree with imgsz"),
    "imgsz of floats": (put("imgsz", [64.5, 96]), "imgsz"),
    "imgsz huge": (put("imgsz", [10**9, 96]), "imgsz"),
    "imgsz missing": (lambda m: m.pop("imgsz"), "imgsz None"),
    "imgsz of one": (put("imgsz", [96]), "imgsz"),
    "unknown head": (put("head", "magic"), "head 'magic'"),
    "task is a number": (put("task", 5), "task is not a name"),
    "names is a number": (put("names", 3), "manifest"),
    "names of numbers": (put("names", [1, 2]), "class names"),
    "no names": (put("names", []), "class names"),
    "too many names": (lambda m: m.update(names=["a"] * 70000), "class names"),
    "unknown preprocessing": (put("preprocess", "mode", "warp"), "preprocess"),
    "fill of 256": (put("preprocess", "fill", 256), "fill 256"),
    "color BGR": (put("preprocess", "color", "BGR"), "color 'BGR'"),
    "scale of zero": (put("preprocess", "scale", 0), "scale 0"),
    "scale below zero": (put("preprocess", "scale", -0.25), "scale -0.25"),
    "scale is no number": (put("preprocess", "scale", float("nan")), "scale nan"),
    "scale is infinite": (put("preprocess", "scale", float("inf")), "scale inf"),
    "pixels in planes": (put("inputs", 0, "dtype", "uint8"), "does not agree with imgsz"),
    "pixels of four bytes": (pixels("inputs", 0, "shape", [1, 64, 96, 4]), "does not agree with imgsz"),
    "pixels of another size": (pixels("inputs", 0, "shape", [1, 96, 64, 3]), "does not agree with imgsz"),
    "pixels in RGB": (pixels("preprocess", "color", "RGB"), "color 'RGB'"),
    "pixels of no color": (pixels("preprocess", "color"), "color 'RGB'"),
    "pixels scaled": (pixels("preprocess", "scale", 0.5), "scale 0.5 is not 1"),
    "pixels of no scale": (pixels("preprocess", "scale"), "scale 0.00392156862745098 is not 1"),
    "candidates of none": (put("candidates", 0), "candidates 0 is no number"),
    "candidates in words": (put("candidates", "many"), "candidates 'many' is no number"),
    "candidates is true": (put("candidates", True), "candidates True is no number"),
    "preprocess is null": (put("preprocess", None), "manifest"),
    "preprocess of more": (put("preprocess", "crop", 1), "no field 'crop'"),
    "outputs is null": (put("outputs", None), "manifest"),
    "spec is a list": (put("spec", [1]), "manifest"),
    "spec lacks all": (put("spec", {"name": "x"}), "ModelSpec lacks the field 'task'"),
    "spec of more": (put("spec", "wings", 2), "ModelSpec has no field 'wings'"),
    "file above": (lambda m: m["files"].update({"../secret": "0" * 64}), "outside the bundle"),
    "file at the root": (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "outside the bundle"),
    "file above below": (lambda m: m["files"].update({"a/../../secret": "0" * 64}), "outside the bundle"),
    "file of backslashes": (lambda m: m["files"].update({"sub\\..\\..\\secret": "0" * 64}), "outside the bundle"),
    "file with a zero byte": (lambda m: m["files"].update({"a\0b": "0" * 64}), "outside the bundle"),
    "file of a long name": (lambda m: m["files"].update({"a" * 5000: "0" * 64}), "outside the bundle"),
    "file not there": (lambda m: m["files"].update({"more.bin": "0" * 64}), "is missing"),
    "file without a name": (lambda m: m["files"].update({"": "0" * 64}), "is missing"),
    "hash is a number": (put("files", "model.onnx", 7), "its hash differs"),
    "hash of another": (put("files", "model.onnx", "0" * 64), "its hash differs"),
}

# Texts that are no manifest at all.
NO_OBJECT = (
    "",
    "{",
    "[]",
    "null",
    '"text"',
    "[" * 100_000,
    "{}" * 2,
    '{"schema": 01}',
    '{"schema": 1,}',
    "{'schema': 1}",
    '{"schema": 1} x',
    '{"schema": "\\x"}',
    '{"a": "\n"}',
    '{"schema": .5}',
    "\ufeff{}",
)
