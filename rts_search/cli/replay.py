"""`rts-search replay`: policies tried on recorded curves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rts_search.cli.options import SWEEP, Json, Storage, folders_of

app = typer.Typer()


@app.command()
def replay(
    sweeps: Annotated[
        list[str] | None, typer.Argument(metavar="SWEEP…", help=f"{SWEEP} Default: all.")
    ] = None,
    curves: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Parquet with a row an epoch, instead of sweeps."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="OURS=THEIRS", help="A column's name in the files."),
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Which rows of files.")] = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            help="POLICY[:FIDELITY[:ETA[:FIRST_RUNG]]][:audit=SHARE][:clock=firing]"
            "[:judge_unfired=true]; may be repeated. Default: every stopper.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="T; default: the longest recorded.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Configurations that a search tries; default: all.")
    ] = None,
    replays: Annotated[int, typer.Option(help="Searches simulated of each policy.")] = 200,
    workers: Annotated[int, typer.Option(help="Trials that run at the same time.")] = 1,
    seed: Annotated[int, typer.Option(help="Of orders, seeds and policies.")] = 0,
    bootstrap: Annotated[
        int, typer.Option(help="Draws of configurations for 95 % intervals; takes longer.")
    ] = 0,
    ranks: Annotated[bool, typer.Option(help="Also how well short looks rank.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print Markdown tables.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="All figures: .parquet, .csv or .json.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Regret against cost: a .svg or .png.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Only write the sweeps' curves as one Parquet file.")
    ] = None,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """Try stoppers on recorded curves: what they would have cost, and lost."""
    from rts_search.replay import command
    from rts_search.replay.measure import Settings

    folders = folders_of(sweeps, storage)
    if export is not None:
        command.export_curves(storage, folders, export)
        return
    source = command.Source(storage, folders, curves, list(columns or []), where, epochs)
    settings = Settings(
        replays=replays,
        seed=seed,
        workers=workers,
        trials=trials,
        bootstrap=bootstrap,
    )
    shown = command.Shown(ranks, markdown, output, plot, as_json)
    for note in command.replay(source, list(policies or []), settings, shown):
        print(note, file=sys.stderr)
