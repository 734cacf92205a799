"""Makes a set of bundles, images and the results they must give, for ``edgekit conformance check``.

    python -m benchmarks.conformance yolo12n-ov yolo12n-seg-ort --images photos/ --out conformance
    edgekit conformance check conformance

``tests/native.py`` holds the C++ library to one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.bundle.conformance import DOCUMENT, SCHEMA, TOLERANCES
from edgekit.bundle.loading import load
from edgekit.errors import EdgekitError, InputError
from edgekit.runtime.manifest import read_bundle
from edgekit.runtime.sources import open_sources

OPTIONS: dict[str, Any] = {"conf": 0.25, "iou": 0.7, "max_det": 300}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+", help="bundles, one per task and runtime of interest")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="images or folders of images")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--most", type=int, default=4, help="images taken of each folder")
    options = parser.parse_args()
    try:
        document = make(options.out, options.bundles, options.images, options.most)
    except EdgekitError as error:
        parser.error(str(error))
    print(f"{options.out}: {len(document['cases'])} cases", file=sys.stderr)


def make(out: Path, bundles: Sequence[Path], sources: Sequence[str | Path], most: int = 4) -> dict[str, Any]:
    """Write a conformance set into the new folder ``out``.

    Args:
        out: the folder to make.
        bundles: bundles, copied in; their folder names must differ.
        sources: images or folders of images; the first ``most`` of each are copied in.
        most: images taken of each source.

    Raises:
        InputError: ``out`` is there, a bundle or an image cannot be used, or two have one name.
    """
    if out.exists():
        raise InputError(f"--out {out}: already exists; give a new folder")
    scratch = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / "images").mkdir(parents=True)
        images = [
            _copy_image(Path(path), scratch) for source in sources for path in open_sources([source]).paths[:most]
        ]
        cases = []
        for path in bundles:
            name = path.resolve().name
            if (scratch / "bundles" / name).exists():
                raise InputError(f"{path}: a second bundle called {name!r}; rename one of them")
            read_bundle(path)
            shutil.copytree(path, scratch / "bundles" / name)
            predictor = load(scratch / "bundles" / name, **OPTIONS)
            for image in images:
                expected = predictor(scratch / image)[0].to_dict() | {"image": image}
                cases.append({"bundle": f"bundles/{name}", "image": image, "options": OPTIONS, "expected": expected})
            predictor.close()
        document = {"schema": SCHEMA, "tolerances": TOLERANCES, "cases": cases}
        (scratch / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return document


def _copy_image(path: Path, scratch: Path) -> str:
    target = scratch / "images" / path.name
    if target.exists():
        raise InputError(f"{path}: a second image called {path.name!r}; rename one of them")
    shutil.copyfile(path, target)
    return f"images/{path.name}"


if __name__ == "__main__":
    main()
