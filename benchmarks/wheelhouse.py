"""Wheels for a GPU machine without network, cut into parts that any channel carries, and what joins them there.

    python -m benchmarks.wheelhouse out --python 3.10 tensorrt==8.6.0 'cuda-bindings<13' nvidia-cuda-nvrtc-cu12
    python -m benchmarks.wheelhouse out --from wheels/          # wheels that are there already
    # on the other machine, in the folder: sh join.sh           # then: pip install --no-index --find-links wheels …

``out`` gets the wheels or, of those of 60 MiB and more, ``NAME.whl.part000`` and so on, ``SHA256SUMS`` (whole wheels),
``PARTS.SHA256SUMS`` (everything carried) and ``join.sh``, which needs ``sh``, ``cat`` and ``sha256sum`` alone and stops
at the first file that is not whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20
PART = 60 * MIB - 1  # bytes of a part at most: under 60 MiB
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64")
JOIN = """#!/bin/sh
# Puts the wheels together in wheels/ and checks every one.
set -eu
cd "$(dirname "$0")"
sha256sum -c PARTS.SHA256SUMS
mkdir -p wheels
while read -r sum name; do
  if [ -e "$name" ]; then cp "$name" "wheels/$name"; else cat "$name".part* > "wheels/$name"; fi
done < SHA256SUMS
cd wheels && sha256sum -c ../SHA256SUMS
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a wheelhouse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wheelhouse", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("packages", nargs="*", help="as pip takes them")
    parser.add_argument("--from", dest="source", type=Path, help="a folder of wheels, instead of downloading")
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="of the other machine")
    parser.add_argument("--index", help="another index than pip's own")
    options = parser.parse_intermixed_args(arguments)
    if bool(options.packages) == bool(options.source):
        parser.error("give packages to download, or --from a folder of wheels")
    if options.out.exists():
        parser.error(f"{options.out}: already exists; give a new folder")
    with tempfile.TemporaryDirectory() as scratch:
        wheels = options.source or _downloaded(options, Path(scratch))
        if not sorted(wheels.glob("*.whl")):
            parser.error(f"{wheels}: holds no wheels")
        cut(wheels, options.out)
    print(f"{options.out}: {len(list(options.out.glob('*.whl*')))} files; on the other machine: sh join.sh")


def _downloaded(options: argparse.Namespace, folder: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--dest", str(folder)]
    words += ["--python-version", options.python, "--implementation", "cp"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    words += ["--index-url", options.index] if options.index else []
    done = subprocess.run([*words, *options.packages], check=False)
    if done.returncode:
        sys.exit("pip could not download all of them for that Python; its message is above")
    return folder


def cut(wheels: Path, out: Path, part: int = PART) -> None:
    """Write the wheelhouse ``out`` of the wheels in a folder; no file of it is above ``part`` bytes.

    Args:
        wheels: a folder of ``*.whl``.
        out: the folder to make; it appears whole or not at all.
        part: bytes.
    """
    scratch = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        whole = {wheel.name: _cut_one(wheel, scratch, part) for wheel in sorted(wheels.glob("*.whl"))}
        carried = {file.name: _sha256(file) for file in sorted(scratch.iterdir())}
        for name, sums in (("SHA256SUMS", whole), ("PARTS.SHA256SUMS", carried)):
            text = "".join(f"{digest}  {file}\n" for file, digest in sums.items())
            (scratch / name).write_text(text, encoding="utf-8")
        (scratch / "join.sh").write_text(JOIN, encoding="utf-8")
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _cut_one(wheel: Path, out: Path, part: int) -> str:
    """Copy a wheel, in parts where it is greater than one; its SHA-256."""
    if wheel.stat().st_size <= part:
        shutil.copyfile(wheel, out / wheel.name)
        return _sha256(wheel)
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        number = 0
        while chunk := file.read(part):
            digest.update(chunk)
            (out / f"{wheel.name}.part{number:03d}").write_bytes(chunk)
            number += 1
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
