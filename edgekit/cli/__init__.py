"""The command line: parse, call the library, print. One file a subcommand; the file name is the registry.

Adding ``edgekit/cli/frobnicate.py`` with a function ``command`` adds ``edgekit frobnicate``; its signature is the
command's options and the first line of its docstring its help. A file with a tuple ``commands`` instead is a group:
``data.py`` holding ``commands = (check,)`` is ``edgekit data check``. Names with a leading underscore are no
commands. A parameter that is a dataclass stands for an option a field, its docstring the help (``_options.py``): the
library's own options are declared there and nowhere else. At the top these files import the standard library, typer,
``edgekit.cli._*`` and the library's ``options.py`` only, so that help is quick and works without any optional package.

    from edgekit.cli._common import Json, emit_json
    from edgekit.runtime.options import OpenOptions

    def command(path: Path, how: Annotated[OpenOptions, Only("device", "threads")], json: Json = False) -> None:
        \"\"\"Say what a file is.\"\"\"
        from edgekit.bundle.inspection import describe
        ...
"""

from edgekit.cli._app import main

__all__ = ["main"]
