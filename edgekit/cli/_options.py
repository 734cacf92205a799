"""The command line of a function whose options are declared in dataclasses (``edgekit/runtime/fields.py``).

    def command(source: Path, keep: Annotated[Options, Without("classes")], json: Json = False) -> None: ...

    expanded(command)      # has a parameter for source, for each field of Options but classes, and for json

A field's type gives the option's, its default the default, the first paragraph of the docstring below it the help. A
flag that is off by default has no ``--no-``; sequences are given as often as needed. The options dataclasses of the
library need the standard library alone to be imported, so that help stays quick.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli._common import note, spelt
from edgekit.errors import UsageError
from edgekit.runtime.fields import about

PLAIN = (int, float, str, bool, Path)


@dataclasses.dataclass(frozen=True)
class Only:
    """Of a dataclass in a command's signature, these fields alone are options."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def takes(self, name: str) -> bool:
        return name in self.names


class Without(Only):
    """Of a dataclass in a command's signature, these fields are no options."""

    def takes(self, name: str) -> bool:
        return name not in self.names


@dataclasses.dataclass(frozen=True)
class Was:
    """The older name of an option that no dataclass declares."""

    name: str


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with a parameter for each field where it takes a dataclass. A dataclass's own complaints about its
    values are raised when the result is called."""
    parts = [part for p in inspect.signature(function, eval_str=True).parameters.values() for part in _parts(p)]
    takes = {name: cls for name, cls, _ in parts if cls}

    @wraps(function)
    def run(**given: Any) -> None:
        values: dict[str, Any] = {}
        fields: dict[str, dict[str, Any]] = {name: {} for name in takes}
        for owner, cls, parameter in parts:
            value = given[parameter.name]
            if cls is None:
                values[owner] = value
            else:
                fields[owner][parameter.name] = _converted(cls, parameter.name, value)
        function(**values, **{name: cls(**fields[name]) for name, cls in takes.items()})

    parameters = [parameter for _, _, parameter in parts]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parts(parameter: inspect.Parameter) -> Iterator[tuple[str, type | None, inspect.Parameter]]:
    """A parameter's name, its dataclass if it has one, and the parameters that typer is to see instead."""
    cls = parameter.annotation
    chosen: Only = Without()
    if typing.get_origin(cls) is Annotated:
        cls, *extra = typing.get_args(cls)
        chosen = next((each for each in extra if isinstance(each, Only)), chosen)
    if not dataclasses.is_dataclass(cls):
        yield parameter.name, None, parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints, helps, section = typing.get_type_hints(cls), docs(typing.cast(type, cls)), ""
    fields = dataclasses.fields(cls)
    several = sum(chosen.takes(field.name) for field in fields) > 2  # fewer are no section of their own
    for field in fields:
        section = about(field).section * several or section
        if chosen.takes(field.name):
            yield parameter.name, typing.cast(type, cls), _parameter(field, hints[field.name], helps, section)


def _parameter(field: dataclasses.Field[Any], hint: Any, helps: Mapping[str, str], section: str) -> inspect.Parameter:
    told, default = about(field), _default(field)
    kind, several = _kind(hint)
    if told.parse is not None:
        kind, several = str, False
        default = told.shown or (default if default is None or isinstance(default, str) else _text(default))
    flag = f"--{field.name.replace('_', '-')}"
    if kind is bool and default is False:
        declared = flag
    else:
        declared = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    shown = not several and default is not None and default != "" and default is not False
    made = typer.Option(
        declared,
        help=spelt(helps.get(field.name, "")).replace("``", "`"),
        metavar=told.metavar or "|".join(told.choices) or {int: "N", float: "X", Path: "PATH"}.get(kind),
        min=told.least if kind in (int, float) else None,
        max=told.most if kind in (int, float) else None,
        show_default=shown,
        rich_help_panel=section or None,
    )
    required = default is inspect.Parameter.empty
    annotation: Any = list[kind] if several else kind  # type: ignore[valid-type]
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[annotation, made],
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory() or None
    return inspect.Parameter.empty


def _text(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    return (",".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)) or None


def _kind(hint: Any) -> tuple[type, bool]:
    """The plain type of a field's values, and whether there may be several. Of a union the first plain type."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        if typing.get_origin(choice) in (list, tuple, Sequence):
            return _kind(typing.get_args(choice)[0])[0], True
    return next((choice for choice in choices if choice in PLAIN), str), False


def _converted(cls: type, name: str, value: Any) -> Any:
    """What the dataclass takes for what the command line gave."""
    [field] = (field for field in dataclasses.fields(cls) if field.name == name)
    told = about(field)
    if value is None or (value == [] and field.default_factory is not dataclasses.MISSING):
        return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if value in ([], ()):
        return field.default
    if isinstance(value, str) and value in told.renamed:
        flag = f"--{name.replace('_', '-')}"
        note(f"{flag} {value} is called {flag} {told.renamed[value]} now; the older name goes with the next version")
        value = told.renamed[value]
    if told.parse is not None:
        try:
            return told.parse(value)
        except ValueError as error:
            raise UsageError(f"`{name}` {value}: {error}") from None
    return tuple(value) if isinstance(value, list) else value


@cache
def docs(cls: type[Any]) -> dict[str, str]:
    """Field -> the first paragraph of the docstring below it, those of the classes it is made from included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        name = ""
        for node in _body(base):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
                found[name], name = inspect.cleandoc(str(node.value.value)).partition("\n\n")[0], ""
            else:
                name = ""
    return {name: " ".join(text.split()) for name, text in found.items()}


def _body(cls: type) -> list[ast.stmt]:
    """The statements of a class, as its file has them; none where there is no source."""
    try:
        tree = _tree(inspect.getsourcefile(cls) or "")
    except (OSError, TypeError):
        return []
    return next(
        (node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__), []
    )


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def older(function: Callable[..., None]) -> dict[str, str]:
    """Older spellings of a command's options -> what they are called now."""
    found = {}
    for _, cls, parameter in (
        part for p in inspect.signature(function, eval_str=True).parameters.values() for part in _parts(p)
    ):
        if cls is None:
            extra = typing.get_args(parameter.annotation)[1:]
            names = tuple(each.name for each in extra if isinstance(each, Was))
        else:
            names = about(next(f for f in dataclasses.fields(cls) if f.name == parameter.name)).was
        for name in names:
            found[f"--{name.replace('_', '-')}"] = f"--{parameter.name.replace('_', '-')}"
    return found
