"""`edgekit runtime`: where the C++ library and the files it is compiled with are."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli._common import Json, emit_json
from edgekit.cli._streams import write_document


def command(
    cmake_dir: Annotated[
        bool, typer.Option("--cmake-dir", help="Print the folder for -Dedgekit_DIR, as find_package(edgekit) wants it.")
    ] = False,
    openvino_cmake_dir: Annotated[
        bool, typer.Option("--openvino-cmake-dir", help="Print the folder for -DOpenVINO_DIR, inside OpenVINO's wheel.")
    ] = False,
    json: Json = False,
) -> None:
    """Say where the C++ library is and where OpenVINO's headers and CMake files are."""
    from edgekit.errors import UsageError
    from edgekit.runtime import places

    if json:
        found = {"cmake_dir": places.cmake_dir(), "openvino_cmake_dir": places.openvino_cmake_dir(required=False)}
        emit_json(found)
        return
    if not (cmake_dir or openvino_cmake_dir):
        raise UsageError("runtime: nothing asked; give --cmake-dir, --openvino-cmake-dir or --json")
    if cmake_dir:
        write_document(str(places.cmake_dir()))
    if openvino_cmake_dir:
        write_document(str(places.openvino_cmake_dir()))
