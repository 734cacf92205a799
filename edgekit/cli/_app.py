"""Finds the command files, makes one typer application of them and runs it.

main(["models", "--json"])          # what the `edgekit` script calls, with sys.argv
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import edgekit
from edgekit.cli import _common, _errors, _options, _streams


@functools.cache
def names() -> dict[str, str]:
    """Command name -> module, by file name."""
    folder = importlib.import_module("edgekit.cli").__path__
    stems = sorted(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))
    return {_spelt(stem): f"edgekit.cli.{stem}" for stem in stems}


def application(more: Mapping[str, ModuleType] | None = None) -> typer.Typer:
    """The whole command line; ``more``: modules by command name, beside those found."""
    app = _typer("Train, export, build and measure YOLO12 models for edge devices.", _commands(more or {}))
    app.callback()(_everywhere)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code (0 done, 1 a check failed, 2 bad input)."""
    application()(args=None if arguments is None else list(arguments), prog_name="edgekit")


def _commands(more: Mapping[str, ModuleType]) -> type[TyperGroup]:
    """A group that makes a command when it is called: most of starting up would be making those that are not."""

    class Commands(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return sorted({*names(), *more})

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            found = more.get(cmd_name) or (_module(cmd_name) if cmd_name in names() else None)
            return None if found is None else made(cmd_name, found)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            moved = getattr(_module(args[0]), "MOVED", {}) if args[0] in names() else {}
            for flag in set(moved) & set(args[1:]):
                _common.note(f"{args[0]} {flag} is `edgekit {moved[flag]}` now; the older spelling goes with the next")
                args = [moved[flag], *(word for word in args[1:] if word != flag)]
            return super().resolve_command(ctx, args)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            rows = [(name, _help(more.get(name) or _module(name))) for name in self.list_commands(ctx)]
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    return Commands


def _module(name: str) -> ModuleType:
    return importlib.import_module(names()[name])


def _help(module: ModuleType) -> str:
    return _first_line(getattr(module, "command", module))


def made(name: str, module: ModuleType) -> Any:
    """The command, or the group of commands, that a file declares."""
    if hasattr(module, "command"):
        app = _typer(None)
        _add_function(app, name, module.command)
        return typer.main.get_command(app)
    group = _typer(_first_line(module))
    group.callback()(lambda: None)  # a group, even of one command
    for function in module.commands:
        _add_function(group, _spelt(function.__name__), function, f"{name} ")
    return typer.main.get_command(group)


def _add_function(app: typer.Typer, name: str, function: Callable[..., None], group: str = "") -> None:
    app.command(name, short_help=_first_line(function), cls=_command(function))(_guarded(function, group + name))


def _command(function: Callable[..., None]) -> type[TyperCommand]:
    """A command that takes older spellings of its options with a note, and shows its options in sections."""

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            renamed = _options.older(function)
            for i, word in enumerate(args):
                flag, equals, value = word.partition("=")
                if flag in renamed:
                    _common.note(f"{flag} is called {renamed[flag]} now; the older name goes with the next version")
                    args[i] = renamed[flag] + equals + value
            return super().parse_args(ctx, args)

        def format_options(self, ctx: Any, formatter: Any) -> None:
            sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
            for parameter in self.get_params(ctx):
                row = parameter.get_help_record(ctx)
                title = "Arguments" if parameter.param_type_name == "argument" else None
                title = title or getattr(parameter, "rich_help_panel", None) or "Options"
                if row is not None:
                    sections.setdefault(title, []).append(row)
            for title, rows in sections.items():
                if rows:
                    with formatter.section(title):
                        formatter.write_dl(rows)

    return Command


def _first_line(documented: ModuleType | Callable[..., None]) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _spelt(identifier: str) -> str:
    """A Python name as users type it: ``import_`` is ``import``, ``some_thing`` is ``some-thing``."""
    return identifier.rstrip("_").replace("_", "-")


def _typer(help_text: str | None, cls: type[TyperGroup] | None = None) -> typer.Typer:
    # Help without markup: loading rich would double the time `edgekit --help` takes. Tracebacks are the boundary's.
    return typer.Typer(
        help=help_text,
        cls=cls,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )


def _guarded(function: Callable[..., None], name: str) -> Callable[..., None]:
    """``function`` inside the error boundary, with standard output kept for the JSON document."""

    flat = _options.expanded(function)

    @functools.wraps(flat)
    def run(*args: Any, **options: Any) -> None:
        from edgekit.runtime import processor

        with _errors.boundary(name, flat), _streams.document_only(), _common.reported():
            processor.check_environment()
            flat(*args, **options)

    return run


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekit {edgekit.__version__}")
        raise typer.Exit


def _everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show debug messages, and where an error came from.")
    ] = False,
) -> None:
    _errors.set_verbose(verbose)
