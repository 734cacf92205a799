"""Options declared once: a dataclass says names, types, defaults, limits and, in a docstring below each field, meaning.

    @dataclass(frozen=True)
    class Options:
        conf: float = option(0.25, least=0, most=1)
        \"\"\"Drop objects scored below this.\"\"\"

        def __post_init__(self) -> None:
            check(self)

The command line is derived from it (``edgekit/cli/_options.py``): the first paragraph of a field's docstring is its
help. Messages name a field between single backticks; the command line spells it its own way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.errors import UsageError


@dataclass(frozen=True)
class About:
    """What ``option`` was told.

    Attributes:
        least, most: the smallest and the largest value.
        above, below: what a value must be above or below, not being it.
        choices: the only values.
        parse: makes the value of its spelling on the command line, where that is not as plain as the type.
        shown: the default as it is typed, where ``parse`` would not take its plain text.
        means: what a value may be, for the message about one that is not, where ``choices`` do not say it.
        metavar: how the command line's help calls the value.
        was: older names, still taken for one version.
        renamed: older values and what they are called now.
        section: begins a section of the help, which lasts until the next.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    shown: str = ""
    means: str = ""
    metavar: str | None = None
    was: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    section: str = ""

    def limits(self) -> str:
        """The limits in words; "" where there are none."""
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if low is not None and high is not None:
            return f"a number between {low:g} and {high:g}"
        if low is not None:
            return f"{'at least' if self.above is None else 'above'} {low:g}"
        return "" if high is None else f"{'at most' if self.below is None else 'below'} {high:g}"

    def allows(self, value: Any) -> bool:
        """Whether a value is a number within the limits."""
        try:
            return (
                (self.least is None or value >= self.least)
                and (self.most is None or value <= self.most)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
            )
        except TypeError:
            return False


def option(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **about: Any) -> Any:
    """A field with more to say than a type and a default; ``about``: see ``About``."""
    metadata = {"option": About(**about)}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def about(field: dataclasses.Field[Any]) -> About:
    """What was said of a field; plain fields have nothing to say."""
    found: About = field.metadata.get("option") or About()
    return found


def check(options: Any) -> None:
    """Refuse values out of their range or choice; None is always allowed, it stands for a default found out later.

    Raises:
        UsageError: the first such value, named.
    """
    for field in dataclasses.fields(options):
        told, value = about(field), getattr(options, field.name)
        if value is None:
            continue
        if told.choices and value not in told.choices:
            raise UsageError(f"`{field.name}` {value}: choose from {', '.join(told.choices)}")
        if (limits := told.limits()) and not told.allows(value):
            shown = f"{value:g}" if isinstance(value, (int, float)) else repr(value)
            raise UsageError(f"`{field.name}` {shown}: must be {limits}")


def words(text: str) -> tuple[str, ...]:
    """``"a, b"`` as ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pairs(text: str) -> dict[str, str]:
    """``"a=1, b=c"`` as {"a": "1", "b": "c"}.

    Raises:
        ValueError: anything else.
    """
    found = {}
    for part in words(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{part} is no NAME=VALUE; several go by commas")
        found[name.strip().replace("-", "_")] = value.strip()
    return found


def numbers(text: str) -> dict[str, float]:
    """``"a=1, b=0.5"`` as {"a": 1.0, "b": 0.5}.

    Raises:
        ValueError: anything else.
    """
    try:
        return {name: float(value) for name, value in pairs(text).items()}
    except ValueError:
        raise ValueError("write NAME=NUMBER, several by commas") from None


def current(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a stored mapping that are fields of ``cls``, those under older names included."""
    names = {old: field.name for field in dataclasses.fields(cls) for old in (field.name, *about(field).was)}
    return {names[name]: value for name, value in values.items() if name in names}
