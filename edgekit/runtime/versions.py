"""Versions of installed packages, read from their metadata without importing them."""

from __future__ import annotations

from edgekit import __version__


def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    import importlib.metadata  # brings the mail parser along: 20 ms that running a bundle need not wait for

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str]:
    """Installed ones among ``packages`` with their versions."""
    found = {p: __version__ if p == "edgekit" else version(p) for p in packages}
    return {p: v for p, v in found.items() if v}
