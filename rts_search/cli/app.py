"""The command line. Each command imports only what it needs, so that `best` is quick."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

import typer

from rts_search.cli import cluster, dashboard, estimate, info, ledger, replay, sweeps

app = typer.Typer(
    no_args_is_help=True,
    help="Hyperparameter search for PUGD/RTS: sweeps, and the ledger of their results.",
    pretty_exceptions_enable=False,
)
for group in (sweeps, ledger, cluster, info, estimate, dashboard, replay):
    app.add_typer(group.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console command: a user's mistake is one line and exit code 2, never a traceback."""
    # a user's own modules are found, but never before ours
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    warnings.formatwarning = lambda message, *_: f"rts-search: {message}\n"
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="rts-search")
    except (ValueError, ConnectionError) as error:
        print(f"rts-search: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        print(f"rts-search: {error}", file=sys.stderr)
        raise SystemExit(1) from None
