"""`rts-search estimate` and `firing`: what a sweep will cost, and when its triggers will fire."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rts_search.cli.options import Json, Overrides, Preset, SpecFile, Storage, Traceback

if TYPE_CHECKING:
    from rts_search.estimate.firing import FiringTable

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
    import torch  # before the check, which needs no process of its own then

    notes = check_spec(asked)
    from rts_search.estimate.cost import estimate as make_estimate
    from rts_search.estimate.tables import print_estimate

    cpus = float(len(os.sched_getaffinity(0))) if cpus is None else cpus
    gpus = float(torch.cuda.device_count()) if gpus is None else gpus
    found = make_estimate(asked, cpus, gpus, probe)
    if as_json:
        print_json({**plain(found), "notes": notes})
    else:
        print_estimate(make_console(), asked, found, notes)


@app.command()
def firing(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SWEEP|SPEC.yaml",
            show_default=False,
            help="A sweep (name, path or URI), of which the plain SGD is read, or a spec, of which "
            "it is trained.",
        ),
    ] = None,
    preset: Preset = None,
    overrides: Overrides = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="T; default: the spec's.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, as .svg or .png.")
    ] = None,
    verbose: Traceback = False,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """Which thresholds of each trigger fire at which epoch, never, or at the first one allowed."""
    from results.export import check_plot, print_json
    from rts_search.estimate.tables import plot_firing, print_firing
    from rts_search.show.console import make_console

    if plot is not None:
        check_plot(plot)
    found = _firing(source, preset, list(overrides or []), epochs, storage)
    if as_json:
        print_json(found)
    else:
        print_firing(make_console(), found)
    if plot is not None:
        plot_firing(found, plot)


def _firing(
    source: str | None, preset: str | None, changes: list[str], epochs: int | None, storage: str
) -> FiringTable:
    from results.database import find_sweep
    from rts_search.estimate.firing import spec_firing, sweep_firing
    from rts_search.spec.reading import asked_spec

    if source is None and preset is None:
        raise ValueError("give a SWEEP, a SPEC.yaml or --preset NAME")
    if source is not None and Path(source).suffix not in (".yaml", ".yml"):
        if preset is not None or changes:
            raise ValueError(f"--preset and --set belong to a spec, and {source} is a sweep")
        return sweep_firing(find_sweep(source, storage), epochs)
    spec = asked_spec(None if source is None else Path(source), preset, changes)
    from trainables.state import check_trainable

    for note in check_trainable(spec.base):
        print(note, file=sys.stderr)
    with _progress() as say:
        return spec_firing(spec, epochs, say)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on standard error that is written over; elsewhere than on a terminal the last one."""
    last = ""

    def say(line: str) -> None:
        nonlocal last
        last = line
        if sys.stderr.isatty():
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    try:
        yield say
    finally:
        if last:
            print("" if sys.stderr.isatty() else last, file=sys.stderr)
