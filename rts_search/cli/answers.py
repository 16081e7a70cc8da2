"""What sweeps say side by side, and earlier work that joins them: `compare`, `tables`, `import`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rts_search.cli.options import Storage

app = typer.Typer()


@app.command("import")
def import_(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] PATH…",
            help="author, tune, optuna or table, where the files do not tell; files or folders, or "
            "the URL of Optuna's database.",
        ),
    ],
    name: Annotated[str, typer.Option(help="Of the sweep that they become.")],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="OURS=THEIRS", help="A column's name with them; may be repeated."
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What they are ranked by: val_accuracy, val_loss, …")
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(metavar="SPEC.yaml", help="What their parameters mean, and all the rest."),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Of Optuna, where there are several.")] = None,
    on_test: Annotated[
        bool, typer.Option("--on-test", help="What they call validation is the test set.")
    ] = False,
    storage: Storage = "sweeps",
) -> None:
    """Make a sweep of earlier runs: the paper's author's, Ray Tune's, Optuna's, or of a table. What
    is no run is left out, named, and makes the exit code 1."""
    from results.storage import SweepFolder
    from rts_search.importing.asked import asked
    from rts_search.importing.command import import_runs

    given = asked(columns or [], objective, spec, study, on_test)
    done = import_runs(paths, SweepFolder(storage, name), given)
    for line in done.lines:
        print(line)
    for problem in done.problems:
        print(f"not imported: {problem}", file=sys.stderr)
    if done.problems:
        raise typer.Exit(1)
