"""What sweeps say side by side, and earlier work that joins them: `compare`, `tables`, `import`."""

from __future__ import annotations

from typing import Annotated

import typer

from rts_search.cli.options import SWEEP, Json, Storage, folders_of

app = typer.Typer()

SIDE = "SWEEP (its best), SWEEP/TRIAL (the trial's configuration) or SWEEP/ARM, as in demo/sgd."


@app.command()
def compare(
    sides: Annotated[list[str], typer.Argument(metavar="A B…", help=SIDE)],
    metric: Annotated[
        str | None,
        typer.Option(help="Over what; default: the final objective. test_accuracy may be asked."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SQL", help="A condition on trials; with several, each makes a side of its own."
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many configurations of a SWEEP.")] = 3,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """Sweeps, arms and configurations side by side: over seeds, with intervals, against the first
    one."""
    from results.export import print_json
    from rts_search.answers.compare import compare as comparison
    from rts_search.answers.compare import print_comparison
    from rts_search.show.console import make_console

    found = comparison(sides, storage, metric, where or (), top)
    if as_json:
        print_json(found)
    else:
        print_comparison(make_console(), found)


@app.command()
def tables(
    sweeps: Annotated[list[str] | None, typer.Argument(metavar="SWEEP…", help=SWEEP)] = None,
    form: Annotated[str, typer.Option("--format", help="markdown, latex or csv.")] = "markdown",
    metric: Annotated[
        str | None,
        typer.Option(help="What they tell; default: the final objective. test_accuracy, too."),
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="A condition on trials.")] = None,
    storage: Storage = "sweeps",
) -> None:
    """The paper's tables of what completed: radius, scale, timing, radius and scale, each with SGD
    and PUGD; of the sweep that was updated last or of those that are named."""
    from rts_search.answers.paper_tables import tables as of_the_paper
    from rts_search.answers.standing import newest_sweep
    from rts_search.answers.typeset import check_format, typeset

    check_format(form)
    folders = folders_of(sweeps or [newest_sweep(storage)], storage) or []
    print(typeset(of_the_paper(folders, metric, where), form), end="")
