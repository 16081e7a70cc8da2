"""Commands that run sweeps, end them, and train one configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rts_search.cli.options import (
    Address,
    Follow,
    JobsOf,
    Overrides,
    Preset,
    Retries,
    SpecFile,
    Storage,
    SweepArgument,
    Traceback,
    Trust,
    Verbose,
)

app = typer.Typer()


@app.command()
def sweep(
    spec: SpecFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    name: Annotated[
        str | None, typer.Option(help="The sweep's name; refused if it exists.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder or pyarrow.fs URI, as `--set storage=`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Delete a sweep of that name first.")] = False,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of that name if it has begun.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print the resolved spec and the plan; download nothing.")
    ] = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Run a sweep from a spec or a preset."""
    from rts_search.cli import launch
    from rts_search.driver.lock import TakenError
    from rts_search.spec.reading import asked_spec, preset_words

    changes = list(overrides or [])
    by_name = name is not None or any(change.startswith("name=") for change in changes)
    changes += [f"name={name}"] if name is not None else []
    changes += [f"storage={storage}"] if storage is not None else []
    asked = asked_spec(spec, preset, changes)
    if go_on and overwrite:
        raise ValueError("--resume goes on with a sweep that --overwrite would delete: give one")
    by_name = by_name or overwrite
    while True:
        settled = launch.settle_name(asked, by_name, overwrite, dry_run, go_on)
        if dry_run:
            return launch.print_plan(settled, preset_words(preset) if preset else [])
        try:
            return launch.launch(settled, address, verbose, new=not go_on)
        except TakenError:  # begun by another command since the name was free: take the next
            if by_name or go_on:
                raise


@app.command()
def resume(
    sweep: SweepArgument,
    trials: Annotated[int | None, typer.Option(help="So many trials in all.")] = None,
    hours: Annotated[float | None, typer.Option(help="So many hours in all.")] = None,
    overrides: Overrides = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder or pyarrow.fs URI that holds the sweeps.")
    ] = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes",
            help="Although its data, your own code or its spec.yaml have changed.",
        ),
    ] = False,
    trust: Trust = False,
    thaw: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRIAL",
            help="Let this trial go on, which was stopped and kept; may be repeated.",
        ),
    ] = None,
    aside: Annotated[
        list[str] | None,
        typer.Option(
            "--set-aside",
            metavar="FILE",
            help="Go on without this part of the ledger, which cannot be read; may be repeated.",
        ),
    ] = None,
    address: Address = None,
    follow: Follow = False,
    max_retries: Retries = 0,
    verbose: Verbose = False,
) -> None:
    """Go on with a sweep, also for more trials or longer; ended trials are not run again.

    With the address of a dashboard, http://head:8265, as a job there.
    """
    from results.database import find_sweep
    from rts_search.cli import launch
    from rts_search.spec.changes import resumed_spec
    from rts_search.spec.trust import check_trust

    changes = list(overrides or [])
    changes += [f"search.trials={trials}"] if trials is not None else []
    changes += [f"budget.hours={hours}"] if hours is not None else []
    if address is not None and address.startswith("http"):
        from rts_search.cli.remote import hand_in_resume

        options = [part for change in changes for part in ("--set", change)]
        options += ["--accept-changes"] if accept_changes else []
        options += [part for file in aside or [] for part in ("--set-aside", file)]
        options += [part for trial in thaw or [] for part in ("--thaw", trial)]
        hand_in_resume(address, sweep, storage, options, follow, max_retries, trust)
        return
    folder = find_sweep(sweep, storage or "sweeps")
    spec = resumed_spec(folder, changes)
    check_trust(folder, spec, trust)
    if aside:
        launch.put_aside(spec.folder, aside)
    launch.launch(spec, address, verbose, accept_changes, thawed=dict.fromkeys(thaw or []))


@app.command()
def stop(
    sweep: SweepArgument,
    trial: Annotated[str | None, typer.Option(help="End only this trial, for good.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end.")] = 300,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Ask, and do not wait.")] = False,
    storage: Storage = "sweeps",
    address: JobsOf = None,
) -> None:
    """End a running sweep from another terminal or machine, as Ctrl-C would; or one trial."""
    from results.database import find_sweep
    from rts_search.driver import control

    if address is not None and trial is None:
        from rts_search.cli.remote import stop_job

        if not stop_job(address, sweep, 0 if no_wait else timeout) and not no_wait:
            raise SystemExit(f"rts-search: not ended after {timeout:g} s; it will, unless it hangs")
        return
    if address is not None:
        from rts_search.cluster.jobs import JobServer

        job = JobServer(address).find(sweep)
        sweep, storage = job.sweep, job.storage
    if not control.stop(find_sweep(sweep, storage), trial, 0 if no_wait else timeout, print):
        if no_wait:
            return
        raise SystemExit(f"rts-search: not ended after {timeout:g} s; it will, unless it hangs")


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG.yaml", help="data, model, train, optimizer as in a spec."),
    ] = None,
    trial: Annotated[
        str | None, typer.Option(metavar="SWEEP/TRIAL", help="Take a trial's configuration.")
    ] = None,
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="The name under which it is recorded.")] = "train",
    threads: Annotated[
        int | None, typer.Option(min=1, help="By default as the trial had, or one a core.")
    ] = None,
    storage: Storage = "sweeps",
    trust: Trust = False,
    verbose: Traceback = False,
) -> None:
    """Train one configuration, with the same loop and ledger as a sweep; keeps its weights."""
    from rts_search.train import train_one

    train_one(config, trial, list(overrides or []), storage, name, threads, trust)


@app.command()
def reproduce(
    trial: Annotated[str, typer.Argument(metavar="SWEEP/TRIAL")],
    storage: Storage = "sweeps",
    trust: Trust = False,
) -> None:
    """Train a trial again, and say whether it is equal to the bit, or where it parts."""
    from rts_search.reproduce import reproduce as train_again

    train_again(trial, storage, trust)
