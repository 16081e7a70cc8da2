"""What sweeps say side by side, and earlier work that joins them: `compare`, `tables`, `import`."""

from __future__ import annotations

from typing import Annotated

import typer

from rts_search.cli.options import Json, Storage

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
