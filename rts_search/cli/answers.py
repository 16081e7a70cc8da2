"""What sweeps say, on a page or side by side, and earlier work that joins them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rts_search.cli.options import SWEEP, Json, Storage, SweepArgument, Trust, folders_of

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
    where: Where = None,
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


Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file.", show_default=False)
]

Where = Annotated[str | None, typer.Option(metavar="SQL", help="A condition on trials.")]


@app.command()
def report(
    sweep: SweepArgument,
    output: Output = None,
    live: Annotated[
        bool, typer.Option("--live", help="Write it again and again while the sweep runs.")
    ] = False,
    where: Where = None,
    storage: Storage = "sweeps",
) -> None:
    """A sweep as one page that opens offline: the answer, figures, tables, and what repeats it.
    Written to SWEEP-report.html."""
    from rts_search.notebook import open_sweep
    from rts_search.report.command import report as write

    write(open_sweep(sweep, storage), output, print, live=live, where=where)


OF_LANDSCAPE = "Of a landscape"


@app.command()
def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="curves, history, schedules, firing, parallel, importance, slices, rungs, pareto, "
            "rise or landscape.",
        ),
    ],
    sweep: SweepArgument,
    output: Output = None,
    where: Where = None,
    trials: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B…",
            help="Of a history or landscape: trials, and arms such as sgd. Default: the best and "
            "the controls.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="The loss of which images: train or validation. Default: train.",
            rich_help_panel=OF_LANDSCAPE,
        ),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(help="How many at most. Default: 1000.", rich_help_panel=OF_LANDSCAPE),
    ] = None,
    points: Annotated[
        int | None,
        typer.Option(
            help="On a direction, an odd number; their square on a plane. Default: 21.",
            rich_help_panel=OF_LANDSCAPE,
        ),
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option(
            help="How far, in norms of the filters. Default: 1.", rich_help_panel=OF_LANDSCAPE
        ),
    ] = None,
    directions: Annotated[
        int | None,
        typer.Option(help="How many at random. Default: 5.", rich_help_panel=OF_LANDSCAPE),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of directions and images. Default: 0.", rich_help_panel=OF_LANDSCAPE),
    ] = None,
    trust: Trust = False,
    storage: Storage = "sweeps",
) -> None:
    """One of the report's figures, or a loss landscape, as a file: a page (.html), plotly's .json,
    or an image (.svg, .pdf, .png). By default SWEEP-KIND.html."""
    from rts_search.notebook import open_sweep
    from rts_search.report.command import plot as draw

    draw(
        kind,
        open_sweep(sweep, storage),
        output,
        print,
        where,
        names=[name.strip() for each in trials or [] for name in each.split(",") if name.strip()],
        trust=trust,
        on=on,
        images=images,
        points=points,
        reach=reach,
        directions=directions,
        seed=seed,
    )


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
