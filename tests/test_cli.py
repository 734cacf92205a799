"""The frame of the command line: help, exit codes, and a standard output that holds the document alone."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer

import edgekit
from edgekit.cli import _app, _common, _errors, _options, _progress
from edgekit.cli._options import Only
from edgekit.errors import GateError, InputError, UsageError
from edgekit.runtime.options import OpenOptions, Options

REPO = Path(__file__).resolve().parents[1]


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``edgekit <words>`` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *words], cwd=REPO, capture_output=True, text=True, timeout=60, **options
    )


def leaves(function: Callable[[], object]) -> object:
    """The exit code ``function`` leaves the process with."""
    with pytest.raises(SystemExit) as end:
        function()
    return end.value.code or 0


def with_command(function: Callable[..., None]) -> typer.Typer:
    """The whole command line with ``function`` added as the subcommand ``probe``."""
    return _app.application({"probe": types.SimpleNamespace(command=function)})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", _app.names())
def test_help_of_every_command_is_its_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(_app.names()[name])
    documented = module if hasattr(module, "commands") else module.command
    summary = (documented.__doc__ or "").strip().partition("\n")[0]
    assert summary, f"edgekit {name} has no docstring"
    assert leaves(lambda: _app.main([name, "--help"])) == 0
    shown = "".join(capsys.readouterr().out.split())  # lines may break anywhere, also at a hyphen
    assert "".join(summary.split()) in shown


SAME = (
    "--imgsz --conf --iou --max-det --classes --agnostic --batch --device --threads --seed --force --json --head "
    "--candidates --label-options --val-fraction"
)


def parameters(command: Any, path: str) -> list[tuple[str, Any]]:
    """(command, parameter) of a command or of all commands of a group."""
    below = [x for n, c in getattr(command, "commands", {}).items() for x in parameters(c, f"{path} {n}")]
    return [(path, p) for p in command.params] + below


def every_parameter() -> list[tuple[str, Any]]:
    return [x for n, m in _app.names().items() for x in parameters(_app.made(n, importlib.import_module(m)), n)]


def test_options_with_one_name_mean_the_same_everywhere() -> None:
    """Whoever declares ``--conf`` says the same of it first; the shortest help is what they share."""
    declared: dict[str, dict[str, str]] = {}
    for path, parameter in every_parameter():
        for option in parameter.opts:
            declared.setdefault(option, {})[path] = parameter.help
    assert set(SAME.split()) <= set(declared)
    for option in SAME.split():
        shared = min(declared[option].values(), key=len)
        for path, said in declared[option].items():
            assert said.startswith(shared), f"{path} says of {option} {said!r}, others {shared!r}"


def test_every_option_says_what_it_does() -> None:
    for path, parameter in every_parameter():
        assert parameter.help, f"edgekit {path} does not say what {parameter.name} is"


def test_version_and_bare_call() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"edgekit {edgekit.__version__}\n", "")
    assert "Usage: edgekit" in run().stdout + run().stderr


@pytest.mark.parametrize("words", [["nonsense"], ["doctor", "--nonsense"], ["doctor", "surplus"]])
def test_usage_errors_exit_2_and_keep_standard_output_empty(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words[-1] in done.stderr


def narrow(
    source: Path,
    how: Annotated[OpenOptions, Only("imgsz")],
    dry: Annotated[bool, typer.Option("--dry/--wet")] = False,
) -> None:
    """A command of few options."""


@pytest.mark.parametrize(
    ("said", "added"),
    [
        ("m.onnx: does not say what it does; say so with --task (detect)", "--task"),
        ("take a lower --lr, --amp off, or --imgsz 320", "--lr, --amp"),
        ("m.onnx: takes any size; say which with --imgsz", ""),
        ("make it --wet, or --dry", ""),
        ("x.pt: tensors alone; say it: edgekit import x.pt --model yolo12n --out FILE.pt", ""),
        ("no results; write them with `edgekit bench --json`, or give --data", "--data"),
        ("TensorRT is missing; run: pip install --no-deps tensorrt (or so)", ""),
        ("a -- b --", ""),
    ],
)
def test_advice_the_command_cannot_take_says_so(said: str, added: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), _errors.boundary("narrow", _options.expanded(narrow)):
        raise UsageError(said)
    expected = f" (edgekit narrow has no {added})" if added else ""
    assert capsys.readouterr().err == f"error: {said}{expected}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("cat [red].jpg: no such file"), 2, "error: cat [red].jpg: no such file\n"),
        (UsageError("`conf` 2: above 1"), 2, "error: --conf 2: above 1\n"),
        (GateError("parity failed", {"boxes": 3.0}), 1, "error: parity failed\n"),
        (InputError("long " * 100 + "end"), 2, "error: " + "long " * 100 + "end\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (PermissionError(13, "Permission denied", "/locked"), 2, "error: /locked: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_known_failures_are_one_sentence(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(keep: Annotated[Options, Only("conf")]) -> None:
        """Fail."""
        raise error

    assert leaves(lambda: with_command(command)(["probe"])) == code
    assert capsys.readouterr() == ("", said)


def test_bugs_keep_their_traceback_and_ask_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        """Fail."""
        raise KeyError("forgotten")

    assert leaves(lambda: with_command(command)(["probe"])) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err and "KeyError: 'forgotten'" in err and "report" in err


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_may_choose_its_exit_code(code: int) -> None:
    def command() -> None:
        """Leave."""
        raise typer.Exit(code)

    assert leaves(lambda: with_command(command)(["probe"])) == code


def test_verbose_shows_where_a_known_failure_came_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_errors, "_verbose", False)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # leave pytest's own logging alone

    def command() -> None:
        """Fail."""
        raise InputError("no such file")

    assert leaves(lambda: with_command(command)(["--verbose", "probe"])) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("error: no such file\n")


def test_a_group_has_its_functions_as_commands(capsys: pytest.CaptureFixture[str]) -> None:
    called = []

    def check(number: int) -> None:
        """Check a number."""
        called.append(number)

    things = types.SimpleNamespace(__doc__="Do things.\nMore.", commands=(check,))
    app = _app.application({"things": things})  # type: ignore[dict-item]
    assert leaves(lambda: app(["things", "check", "7"])) == 0
    assert called == [7]
    assert leaves(lambda: app(["things", "--help"])) == 0
    assert "Check a number." in capsys.readouterr().out


def test_file_names_become_command_names(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [types.SimpleNamespace(name=n) for n in ("import_", "data_check", "_common", "val")]
    monkeypatch.setattr(_app.pkgutil, "iter_modules", lambda _: files)
    assert list(_app.names.__wrapped__()) == ["data-check", "import", "val"]


NOISY = """
import os, sys, types
from edgekit.cli import _app
from edgekit.cli._common import emit_json

def command() -> None:
    "Make noise."
    print("from python")
    sys.stdout.write("buffered")
    os.write(1, b"from a library")
    os.system("echo from a child")
    emit_json({"ok": True})
    os.write(1, b"late")

_app.application({"probe": types.SimpleNamespace(command=command)})(["probe"])
"""


def test_standard_output_holds_the_document_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", NOISY], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '{"ok": true}\n'
    for noise in ("from python", "buffered", "from a library", "from a child", "late"):
        assert noise in done.stderr


def test_with_standard_output_closed_only_the_document_is_refused() -> None:
    closed = 'exec "$0" -m edgekit "$@" >&-'
    for words, code in ([], 0), (["--json"], 2):
        done = subprocess.run(
            ["sh", "-c", closed, sys.executable, "doctor", *words], cwd=REPO, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == code, done.stderr
        assert ("error: standard output is closed" in done.stderr) == bool(code)


def test_a_reader_that_has_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "doctor", "--json"], cwd=REPO, stdout=gone, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_document_is_plain_json(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.spec import Port

    document = {
        "array": np.arange(3, dtype=np.int64),
        "number": np.float32(0.5),
        "path": Path("a") / "b",
        "nothing": [float("nan"), float("inf"), None],
        "port": Port("images", "boxes", (1, None)),
        3: (True, "×"),
    }
    _common.emit_json(document)
    assert json.loads(capsys.readouterr().out) == {
        "array": [0, 1, 2],
        "number": 0.5,
        "path": str(Path("a") / "b"),
        "nothing": [None, None, None],
        "port": {"name": "images", "role": "boxes", "shape": [1, None], "dtype": "float32"},
        "3": [True, "×"],
    }


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _common.refuse_existing(out, force=False)
    out.mkdir()
    _common.refuse_existing(out, force=True)
    with pytest.raises(UsageError, match=r"`out` .*bundle: already exists; give `force`"):
        _common.refuse_existing(out, force=False)
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        _common.refuse_existing(dangling, force=False)


def test_progress_hands_on_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(_progress.track(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert list(_progress.track(iter("ab"), "letters")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("spelling", "older", "now"),
    [
        ("bench --table", "bench --table --scales z", "table --scales z"),
        ("--keep", "table --keep README.md", "table --work-dir README.md"),
        ("--nominal", "train nowhere --nominal=0", "train nowhere --nominal-batch=0"),
        ("--wish", "build nowhere --out x --wish fast", "build nowhere --out x --objective fast"),
        ("--from", "build --out x --from nowhere", "build --out x --rebuild nowhere"),
        ("--protocol peer", "val nowhere nowhere --protocol peer", "val nowhere nowhere --protocol ultralytics"),
        ("--as-deployed", "val nowhere nowhere --as-deployed", "val nowhere nowhere --deployed-head"),
        ("--judged", "calibrate x --out y --judged train", "calibrate x --out y --eval-split train"),
    ],
)
def test_older_spellings_do_the_same_with_a_note(
    spelling: str, older: str, now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for words in (now, older):
        assert leaves(lambda words=words: _app.main(words.split())) == 2  # type: ignore[misc]
        said.append(capsys.readouterr().err)
    note, _, rest = said[1].partition("\n")
    assert note.startswith(f"note: {spelling} is ") and rest == said[0]
