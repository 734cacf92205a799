"""Finds the command files, makes one typer application of them and runs it.

main(["models", "--json"])          # what the `edgekit` script calls, with sys.argv
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer

import edgekit
from edgekit.cli import _common, _errors, _streams


def names() -> dict[str, str]:
    """Command name -> module, by file name."""
    folder = importlib.import_module("edgekit.cli").__path__
    stems = sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))
    return {_spelt(stem): f"edgekit.cli.{stem}" for stem in stems}


def application() -> typer.Typer:
    """The whole command line."""
    app = _typer("Train, export, build and measure YOLO12 models for edge devices.")
    app.callback()(_options)
    for name, module in names().items():
        _add(app, name, importlib.import_module(module))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code (0 done, 1 a check failed, 2 bad input)."""
    application()(args=None if arguments is None else list(arguments), prog_name="edgekit")


def _add(app: typer.Typer, name: str, module: ModuleType) -> None:
    if hasattr(module, "command"):
        _add_function(app, name, module.command)
        return
    group = _typer(_first_line(module))
    for function in module.commands:
        _add_function(group, _spelt(function.__name__), function, f"{name} ")
    app.add_typer(group, name=name)


def _add_function(app: typer.Typer, name: str, function: Callable[..., None], group: str = "") -> None:
    app.command(name, short_help=_first_line(function))(_guarded(function, group + name))


def _first_line(documented: ModuleType | Callable[..., None]) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _spelt(identifier: str) -> str:
    """A Python name as users type it: ``import_`` is ``import``, ``some_thing`` is ``some-thing``."""
    return identifier.rstrip("_").replace("_", "-")


def _typer(help_text: str) -> typer.Typer:
    # Help without markup: loading rich would double the time `edgekit --help` takes. Tracebacks are the boundary's.
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def _guarded(function: Callable[..., None], name: str) -> Callable[..., None]:
    """``function`` inside the error boundary, with standard output kept for the JSON document."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> None:
        from edgekit.system import processor

        with _errors.boundary(name, function), _streams.document_only(), _common.reported():
            processor.check_environment()
            function(*args, **options)

    return run


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit {edgekit.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show debug messages, and where an error came from.")
    ] = False,
) -> None:
    _errors.set_verbose(verbose)
