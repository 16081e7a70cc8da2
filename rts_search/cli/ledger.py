"""Commands that ask the ledger. They import neither torch nor ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rts_search.cli.options import (
    SWEEP,
    Follow,
    Format,
    JobsOf,
    Json,
    Storage,
    SweepArgument,
    Sweeps,
    folders_of,
)

if TYPE_CHECKING:
    from results.storage import SweepFolder

app = typer.Typer()

SHOWN = 1_000  # rows
HALF_OF_ALL = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2e9, 1)


@app.command()
def best(
    sweeps: Annotated[list[str] | None, typer.Argument(metavar="SWEEP…", help=SWEEP)] = None,
    top: Annotated[int, typer.Option(help="How many trials.")] = 10,
    metric: Annotated[
        str | None, typer.Option(help="What to rank by; default: the sweep's objective.")
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="A condition on trials.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also trials that did not run to full T.")
    ] = False,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Those that no other one beats in accuracy and cost.")
    ] = False,
    cost: Annotated[str, typer.Option(help="For --pareto.")] = "run_gradient_evaluations",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, as .svg or .png.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="Print the best one alone: yaml, for `train`, or python, for your own loop.",
        ),
    ] = None,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """The best configurations against their controls, of the sweep that was updated last or of
    those that are named: in one list where data, model, T and objective agree."""
    from results import ranking
    from results.export import plain, print_json
    from rts_search.answers.standing import claim_lines, newest_sweep
    from rts_search.show.console import make_console, prose
    from rts_search.show.ranking import print_front, print_rankings

    folders = folders_of(sweeps or [newest_sweep(storage)], storage)
    chosen: dict[str, Any] = {"metric": metric, "where": where, "include_all": everything}
    if form is not None:
        from rts_search.answers.winner import check_form, winner

        check_form(form)
        if as_json or pareto or plot:
            raise ValueError("--as prints one configuration: leave out --json, --pareto and --plot")
        print(winner(ranking.best(storage, folders, top=1, **chosen), form), end="")
        return
    if pareto or plot:
        from results.export import check_plot
        from results.pareto import pareto as front_of
        from results.pareto import plot_front

        if plot:
            check_plot(plot)
        front = front_of(storage, folders, cost=cost, where=where)
        if as_json:
            print_json(front)
        else:
            print_front(make_console(), front)
        if plot:
            plot_front(front, plot)
        return
    found = ranking.rankings(storage, folders, top=top, **chosen)
    if as_json:
        told = [
            {**plain(each), "objective": each.objective, "sweeps": each.sweeps} for each in found
        ]
        print_json({"rankings": told})
        return
    console = make_console()
    print_rankings(console, found)
    ranked = {row["sweep"] for ranking in found for row in ranking.trials}
    if len(ranked) == 1 and found[0].objective:
        from rts_search.answers.audit import print_edges
        from rts_search.sweep import Sweep

        folder = _of(folders, storage, ranked.pop())
        print_edges(console, Sweep(folder))
        for line in claim_lines(folder):
            prose(console, line)


@app.command()
def audit(sweep: SweepArgument, as_json: Json = False, storage: Storage = "sweeps") -> None:
    """What the trials that went on regardless say of the sweep's early stopping."""
    from results.export import print_json
    from rts_search.answers.audit import audit_of, print_audit
    from rts_search.show.console import make_console
    from rts_search.sweep import Sweep

    opened = Sweep.open(sweep, storage)
    if as_json:
        print_json({"audit": audit_of(opened)})
    else:
        print_audit(make_console(), opened)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SELECT …", help="Over `trials` and `epochs`.")],
    sweeps: Sweeps = None,
    output: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    path: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file, .csv, .json or .parquet.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Also more than {SHOWN:,} rows on a terminal.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds until it is ended; 0: never.")
    ] = 600,
    memory: Annotated[
        float, typer.Option(min=0, help="GB until it is ended; 0: no limit. Default: half of all.")
    ] = HALF_OF_ALL,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """Ask the ledger in SQL (DuckDB, read-only), over the views `trials` and `epochs`."""
    from results.database import Limits
    from results.database import query as run_query
    from results.export import FORMATS, write_table
    from results.names import unknown
    from results.schema import records
    from rts_search.show.console import make_console
    from rts_search.show.tables import print_rows

    output = "json" if as_json else output
    if path is not None and output == "table":
        output = path.suffix.removeprefix(".")
    if output not in ("table", *FORMATS):
        raise unknown("format", output, ("table", *FORMATS))
    limits = Limits(timeout or None, memory or None)
    table = run_query(storage, sql, folders_of(sweeps, storage), limits)
    if output != "table":
        write_table(table, output, path)
        return
    console = make_console()
    if console.is_terminal and table.num_rows > SHOWN and not everything:
        raise ValueError(
            f"{table.num_rows:,} rows are many for a terminal: show them with --all, ask for fewer "
            "(LIMIT), or write them with --output rows.csv"
        )
    print_rows(console, table.column_names, records(table))


@app.command("list")
def list_sweeps(storage: Storage = "sweeps", address: JobsOf = None, as_json: Json = False) -> None:
    """The sweeps in the storage, or those handed in to a cluster."""
    if address is not None:
        from rts_search.cli.remote import print_jobs

        print_jobs(address, as_json)
        return
    from results.export import print_json
    from results.query import list_sweeps as listings
    from results.storage import SweepFolder
    from rts_search.answers.standing import as_it_stands
    from rts_search.show.console import make_console
    from rts_search.show.tables import print_listings

    standing = [as_it_stands(SweepFolder(storage, each.name), each) for each in listings(storage)]
    if as_json:
        print_json({"sweeps": [listing for listing, _ in standing]})
        return
    if not standing:
        print(f"no sweeps in {storage}; begin one with: rts-search sweep --preset demo")
        return
    print_listings(make_console(), [listing for listing, _ in standing])
    for line in filter(None, (line for _, line in standing)):
        print(line)


@app.command()
def status(
    sweep: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help=SWEEP, show_default=False)
    ] = None,
    storage: Storage = "sweeps",
    address: JobsOf = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """How a sweep stands (by default the one that was updated last), while it runs or after."""
    from results.export import plain, print_json
    from rts_search.answers.standing import newest_sweep, print_standing, standing
    from rts_search.sweep import Sweep

    if as_json and (follow or address is not None):
        raise ValueError("--json is of a sweep in a storage, once: leave out --follow, --address")
    if address is not None:
        from rts_search.cli.remote import print_status

        if sweep is None:
            raise ValueError(f"name the sweep; there are: rts-search list --address {address}")
        folder = print_status(address, sweep, follow)
        if folder is not None:
            print_standing(Sweep(folder))
        return
    opened = Sweep.open(sweep or newest_sweep(storage), storage)
    if as_json:
        found = plain(standing(opened))
        summary = found.pop("summary")
        print_json({"sweep": summary.pop("listing"), **summary, **found})
        return
    if follow:
        from rts_search.estimate.left import time_left
        from rts_search.show.console import make_console
        from rts_search.show.follow import follow as follow_sweep

        def runs() -> bool:
            return opened.driver() is not None

        follow_sweep(opened.folder, make_console(), runs, time_left)
    print_standing(opened)


@app.command()
def show(
    trial: Annotated[str, typer.Argument(metavar="TRIAL")],
    sweeps: Sweeps = None,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """One trial: its configuration, outcome and curves."""
    from results.export import print_json
    from results.query import find_trial, trial_curve
    from results.schema import records
    from rts_search.answers.standing import trial_as_it_stands, weights_at
    from rts_search.show.console import make_console
    from rts_search.show.tables import print_trial
    from rts_search.sweep import split_trial

    if "/" in trial and not sweeps:
        sweep, trial = split_trial(trial)
        sweeps = [sweep]
    folders = folders_of(sweeps, storage)
    row = find_trial(storage, trial, folders)
    folder = _of(folders, storage, row["sweep"])
    curve = records(trial_curve(storage, folder, row["trial_id"]))
    row, gone = trial_as_it_stands(folder, row)
    weights = weights_at(folder, row)
    if as_json:
        print_json({"trial": row, "epochs": curve, "weights": weights, "gone": gone})
    else:
        print_trial(make_console(), row, curve, weights, gone)


@app.command()
def export(
    table: Annotated[str, typer.Argument(help="trials or epochs.")] = "trials",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file; default: standard output.")
    ] = None,
    file_format: Format = "csv",
    sweeps: Sweeps = None,
    storage: Storage = "sweeps",
) -> None:
    """Write the ledger as CSV, JSON or Parquet."""
    from results.export import export as write

    count = write(storage, table, file_format, output, folders_of(sweeps, storage))
    if output is not None:
        print(f"{count} rows of {table} in {output}")


def _of(folders: list[SweepFolder] | None, storage: str, name: str) -> SweepFolder:
    """The folder of a sweep that was found among these, or (None) in the storage."""
    from results.storage import SweepFolder

    return next((f for f in folders or () if f.name == name), SweepFolder(storage, name))
