"""The command line. Each command imports only what it needs, so that `best` is quick."""

from __future__ import annotations

import codecs
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from rts_search.cli import (
    answers,
    claims,
    cluster,
    dashboard,
    estimate,
    info,
    ledger,
    replay,
    sweeps,
)
from rts_search.shadows import check_installed, version
from rts_search.show.console import clean, cleaned_output

app = typer.Typer(
    no_args_is_help=True,
    help="Hyperparameter search for PUGD/RTS: sweeps, and the ledger of their results.",
    pretty_exceptions_enable=False,
)
for group in (sweeps, claims, answers, ledger, cluster, info, estimate, dashboard, replay):
    app.add_typer(group.app)


def say_version(asked: bool) -> None:
    if asked:
        print(version())
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=say_version, is_eager=True, help="Say the version.")
]


@app.callback()
def options(_version: Version = False) -> None:
    pass


# what stands for our signs where a terminal or a pipe takes ASCII only
PLAIN = {"–": "-", "→": "->", "·": "-", "…": "...", "×": "x", "≤": "<=", "²": "^2", "‖": "|"}


def plain(error: UnicodeError) -> tuple[str, int]:
    """Python's handler of characters that a stream cannot take: never an error."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in text), error.end


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command: a user's mistake is one line and exit code 2, never a traceback."""
    # a user's own modules are found, but never before ours
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    codecs.register_error("rts_search.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rts_search.plain")
    said: set[str] = set()

    def once(message: Warning | str, *_: Any, **__: Any) -> str:
        """A warning's line; nothing where this command has said it, which may ask several times."""
        line = f"rts-search: {message}\n"
        if line in said:
            return ""
        said.add(line)
        return line

    warnings.formatwarning = once
    with cleaned_output():
        run(arguments)


def run(arguments: Sequence[str] | None) -> None:
    """The command, and what is said of what it raises."""
    try:
        _run_app(arguments)
    except (ValueError, ConnectionError) as error:
        given = sys.argv[1:] if arguments is None else arguments
        if error.__cause__ is not None and {"-v", "--verbose"} & set(given):
            traceback.print_exception(error.__cause__)
        print(f"rts-search: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"rts-search: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as end:  # whose words Python prints after us
        raise SystemExit(clean(end.code) if isinstance(end.code, str) else end.code) from None
    finally:
        _leave()


def _run_app(arguments: Sequence[str] | None) -> None:
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="rts-search")
    except ImportError:
        check_installed()  # says why, where the installation is at fault
        raise


def _leave() -> None:
    """Ends the process here and now if a statement in SQL runs on that nobody waits for."""
    database = sys.modules.get("results.database")  # if it was loaded
    if database is None or not database.left_behind():
        return
    error = sys.exc_info()[1]
    code = error.code if isinstance(error, SystemExit) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)
