"""Where the C++ library lies inside this package, and what it is compiled with. Standard library only.

cmake_dir()               # .../edgekit/runtime/cpp/cmake, for -Dedgekit_DIR
openvino_cmake_dir()      # .../openvino/cmake, for -DOpenVINO_DIR
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgekit.errors import InputError, MissingPackageError


def cmake_dir() -> Path:
    """The folder in which ``find_package(edgekit)`` finds its file."""
    return Path(__file__).resolve().parent / "cpp" / "cmake"


def openvino_cmake_dir(required: bool = True) -> Path | None:
    """The folder in which ``find_package(OpenVINO)`` finds its file, inside the wheel; nothing is imported for it.

    Args:
        required: raise where there is none, instead of answering None.

    Raises:
        MissingPackageError: openvino is not installed.
        InputError: it is, but without its headers and CMake files.
    """
    found = importlib.util.find_spec("openvino")
    if found is None or not found.submodule_search_locations:
        if required:
            raise MissingPackageError("openvino", "compiling the C++ library for ov-* bundles", "openvino")
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "cmake"
    if not (folder / "OpenVINOConfig.cmake").is_file():
        if required:
            raise InputError(
                f"{folder}: this OpenVINO came without its CMake files; install the wheel of 2025.0 or later"
            )
        return None
    return folder
