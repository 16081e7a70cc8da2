"""`rts-search estimate`: what a sweep will cost, before it is launched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from rts_search.cli.options import Json, Overrides, Preset, SpecFile, Traceback
from rts_search.estimate.tables import print_estimate

if TYPE_CHECKING:
    pass

app = typer.Typer()


@app.command()
def estimate(
    spec: SpecFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    cpus: Annotated[
        float | None, typer.Option(min=0, help="CPUs of the cluster; default: this machine's.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="GPUs of the cluster; default: this machine's.")
    ] = None,
    probe: Annotated[
        bool, typer.Option(help="Train for some seconds if no earlier sweep tells the speed.")
    ] = True,
    verbose: Traceback = False,
    as_json: Json = False,
) -> None:
    """Estimate a sweep's epochs, gradient evaluations and hours, rung by rung."""
    from results.export import plain, print_json
    from rts_search.search.checks import check_spec
    from rts_search.show.console import make_console
    from rts_search.spec.reading import asked_spec

    changes = list(overrides or [])
    asked = asked_spec(spec, preset, changes)
    notes = check_spec(asked)
    import torch

    from rts_search.estimate.cost import estimate as make_estimate

    cpus = float(len(os.sched_getaffinity(0))) if cpus is None else cpus
    gpus = float(torch.cuda.device_count()) if gpus is None else gpus
    found = make_estimate(asked, cpus, gpus, probe)
    if as_json:
        print_json({**plain(found), "notes": notes})
    else:
        print_estimate(make_console(), asked, found, notes)
