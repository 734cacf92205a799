"""The error boundary: known failures become one sentence and an exit code, unknown ones keep their traceback.

with boundary():
    raise UsageError("`max_det` 0: too few")      # stderr: error: --max-det 0: too few; exit code 2

Library code knows options by their names in Python, not how they are typed nor which command it serves: the dashes are
added here, and where a sentence speaks of an option that the command does not have, that is said.
"""

from __future__ import annotations

import errno
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from edgekit.cli._common import console, spelt
from edgekit.errors import EdgekitError

INTERRUPTED = 130  # 128 + SIGINT, what shells report
BROKEN_PIPE = 141  # 128 + SIGPIPE
BUG = 70  # EX_SOFTWARE of sysexits.h

# The system's refusals a user can mend: these are no bugs.
_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

_verbose = False


def set_verbose(verbose: bool) -> None:
    """Show debug messages, and a traceback under known failures too."""
    global _verbose
    _verbose = verbose
    if verbose:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(name)s: %(message)s")


@contextmanager
def boundary(name: str = "", function: Callable[..., None] | None = None) -> Iterator[None]:
    """Turn what is raised inside into a message on standard error and ``SystemExit``, and warnings into lines.
    ``name`` and ``function``: the command that runs."""
    usual = warnings.formatwarning
    warnings.formatwarning = _line
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except EdgekitError as error:
        sentence = spelt(str(error))
        _leave(sentence + (_not_of(sentence, name, function) if function else ""), error.exit_code)
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise SystemExit(BROKEN_PIPE) from None  # the reader has gone: nobody is left to tell
    except OSError as error:
        if error.errno not in _REFUSALS:
            _report_bug()
        where = f"{error.filename}: " if error.filename else ""
        _leave(f"{where}{error.strerror}", EdgekitError.exit_code)
    except Exception:
        _report_bug()
    finally:
        warnings.formatwarning = usual


def _line(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning that is for the user without the line of code it comes from; others with its place."""
    if category is RuntimeWarning:
        return f"warning: {spelt(str(message))}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


# What another command is told to do with, up to the end of the clause, and what other programs are.
_ELSEWHERE = re.compile(r"(edgekit [a-z]+|pip|trtexec|bench|export)\b[^;,)`]*")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def _not_of(sentence: str, name: str, function: Callable[..., None]) -> str:
    """What to add to a sentence that speaks of options the command does not have; nothing where there are none."""
    named = dict.fromkeys(_OPTION.findall(_ELSEWHERE.sub("", sentence)))
    if not named:
        return ""
    lone = typer.Typer()
    lone.command()(function)
    own = {word for p in typer.main.get_command(lone).params for word in (*p.opts, *p.secondary_opts)}
    missing = [option for option in named if option not in own]
    return f" (edgekit {name} has no {', '.join(missing)})" if missing else ""


def _leave(sentence: str, code: int) -> None:
    """Print ``error: <sentence>`` and exit with ``code``."""
    if _verbose:
        traceback.print_exc()
    console().print("[bold red]error:[/] ", end="")
    console().print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)
    raise SystemExit(code) from None


def _report_bug() -> None:
    traceback.print_exc()
    print("This is a bug in edgekit. Please report it with the lines above and `edgekit doctor`.", file=sys.stderr)
    raise SystemExit(BUG) from None
