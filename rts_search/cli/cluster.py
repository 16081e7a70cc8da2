"""Commands for sweeps that run as jobs on a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from rts_search.cli.options import (
    Dashboard,
    Follow,
    Install,
    Overrides,
    Preset,
    Retries,
    SpecFile,
)

app = typer.Typer()


@app.command()
def submit(
    spec: SpecFile = None,
    address: Dashboard = "",
    preset: Preset = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The sweep's name.")] = None,
    storage: Annotated[str | None, typer.Option(help="Where results go: a URI, s3://…")] = None,
    follow: Follow = False,
    max_retries: Retries = 0,
    install: Install = False,
    go_on: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep of that name if it has begun.")
    ] = False,
) -> None:
    """Run a sweep on a cluster, as a job of its own; returns at once unless it is to stay."""
    from rts_search.cli.remote import hand_in
    from rts_search.spec.reading import asked_spec

    changes = list(overrides or [])
    changes += [f"name={name}"] if name is not None else []
    changes += [f"storage={storage}"] if storage is not None else []
    asked = asked_spec(spec, preset, changes)
    hand_in(address, asked, follow, max_retries, install, go_on)


@app.command()
def logs(
    sweep: Annotated[
        str, typer.Argument(metavar="SWEEP", help="A sweep's name, path or URI, or a job's id.")
    ],
    address: Dashboard = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """What the driver of a submitted sweep printed."""
    from rts_search.cluster.jobs import JobServer

    server = JobServer(address)
    job = server.find(sweep)
    if follow:
        server.tail(job.job_id, lambda text: print(text, end="", flush=True))
    else:
        print(server.logs(job), end="")
