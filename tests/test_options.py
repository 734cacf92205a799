"""Options declared once: what a dataclass says of its fields, and the command line that is made of it."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest

import edgekit
from edgekit.cli import _app
from edgekit.cli._options import Only, Was, Without, docs, expanded
from edgekit.errors import EdgekitError, UsageError, command_line
from edgekit.runtime.fields import check, current, numbers, option, words
from edgekit.runtime.options import LoadOptions, OpenOptions, Options, told


@dataclass(frozen=True)
class Every:
    """One of each kind."""

    needed: int
    """Has to be given."""
    share: float = option(0.5, least=0, most=1)
    """Between the two.

    And more that only readers of the source are told.
    """
    rate: float | None = option(None, above=0)
    """Above nothing."""
    kind: str = option("plain", choices=("plain", "fancy"), renamed={"odd": "fancy"})
    """One of `needed` two."""
    where: Path | None = None
    """A place."""
    quick: bool = False
    """Off by default."""
    careful: bool = True
    """On by default."""
    names: tuple[str, ...] = option((), parse=words, section="Several")
    """By commas."""
    places: Path | Sequence[Path] | None = None
    """As often as needed."""
    weights: Mapping[str, float] = option(factory=dict, parse=numbers, was=("gains",))
    """By name."""
    hidden_from_users: int = 3

    def __post_init__(self) -> None:
        check(self)


Line = Callable[..., Any]


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Line:
    """``probe WORDS`` → the options it was called with, or its exit code and what it said."""

    def call(*given: str) -> Any:
        got: list[Every] = []

        def probe(
            every: Annotated[Every, Without("hidden_from_users")], loud: Annotated[bool, Was("shrill")] = False
        ) -> None:
            """Take everything."""
            got.append(every)

        with pytest.raises(SystemExit) as end:
            _app.application({"probe": types.SimpleNamespace(command=probe)})(["probe", *given])  # type: ignore[dict-item]
        said = capsys.readouterr()
        return got[0] if got else (end.value.code or 0, said.out + said.err)

    return call


def test_what_is_not_given_is_the_dataclass_default(line: Line) -> None:
    assert line("--needed", "4") == Every(4)


def test_every_kind_of_value_arrives_as_the_dataclass_has_it(line: Line) -> None:
    given = "--needed 4 --share 0.25 --rate 2 --kind fancy --where a/b --quick --no-careful --names a,b"
    several = "--places x --places y --weights box=2,mask-loss=0.5"
    assert line(*given.split(), *several.split()) == Every(
        4, 0.25, 2.0, "fancy", Path("a/b"), True, False, ("a", "b"), (Path("x"), Path("y")),
        {"box": 2.0, "mask_loss": 0.5},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("--share 2", "--share"),
        ("--rate 0", "--rate"),
        ("--kind other", "--kind"),
        ("--weights box", "--weights"),
        ("--weights box=wide", "--weights"),
        ("--quick yes", "yes"),
        ("--no-quick", "--no-quick"),
        ("--hidden-from-users 1", "--hidden-from-users"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(words: str, name: str, line: Line) -> None:
    code, said = line("--needed", "4", *words.split())
    assert code == 2 and name in said


def test_a_required_field_is_required(line: Line) -> None:
    code, said = line()
    assert code == 2 and "--needed" in said


def test_older_names_of_options_and_values_are_taken(line: Line) -> None:
    assert line("--needed", "4", "--gains", "box=2").weights == {"box": 2.0}
    assert line("--needed", "4", "--kind", "odd").kind == "fancy"
    assert line("--needed", "4", "--shrill") == Every(4)
    assert current(Every, {"gains": 1, "share": 2, "unknown": 3}) == {"weights": 1, "share": 2}


def test_help_is_the_first_paragraph_in_sections(line: Line) -> None:
    code, said = line("--help")
    assert code == 0 and "Between the two." in said and "only readers" not in said
    assert "One of --needed two." in said and "--careful / --no-careful" in " ".join(said.split())
    assert said.index("--names") > said.index("Several:") > said.index("--quick") > said.index("Options:")
    assert "plain|fancy" in said and "gains" not in said and "hidden" not in said


def test_fields_can_be_chosen() -> None:
    def probe(every: Annotated[Every, Only("needed", "share")]) -> None: ...

    assert list(expanded(probe).__signature__.parameters) == ["needed", "share"]  # type: ignore[attr-defined]


def test_docstrings_are_read_from_the_file_a_class_is_in() -> None:
    assert docs(Every)["needed"] == "Has to be given." and "hidden_from_users" not in docs(Every)
    assert docs(type("Made", (), {})) == {}, "of a class without a source there are none"


@pytest.mark.parametrize("value", [-1, 1.5, math.nan, math.inf, "half"])
def test_the_dataclass_refuses_the_same(value: object) -> None:
    with pytest.raises(UsageError) as caught:
        Every(1, share=value)  # type: ignore[arg-type]
    assert caught.value.options == ("share",)


def test_advice_is_a_whole_command() -> None:
    assert command_line("build", "MODEL", dynamic_batch=True, max_drop=2) == (
        "edgekit build MODEL --dynamic-batch --max-drop 2"
    )


def test_python_is_answered_in_python() -> None:
    with pytest.raises(EdgekitError) as caught:
        edgekit.load("bundle", imgsz=7)
    assert caught.value.options == ("imgsz",) and "--" not in str(caught.value)


def test_an_option_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(UsageError) as caught:
        edgekit.load("no such file", confidence=0.5)
    assert caught.value.options == ("confidence",)
    with pytest.raises(UsageError) as caught:
        Options().changed({"confidence": 0.5})
    assert caught.value.options == ("confidence",) and Options().changed({"conf": 0.5}) == Options(0.5)


def test_load_takes_the_fields_of_both_dataclasses() -> None:
    typed = get_type_hints(LoadOptions)
    assert typed == {f.name: get_type_hints(each)[f.name] for each in (OpenOptions, Options) for f in fields(each)}
    assert told({"device": "GPU", "conf": 0.5}) == (OpenOptions(device="GPU"), Options(0.5))
