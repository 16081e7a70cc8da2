"""What holds on new seeds: `confirm`, `verify`, `switch-curve`, `selftest`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from rts_search.cli.options import (
    SWEEP,
    Address,
    Json,
    Overrides,
    Preset,
    SpecFile,
    Storage,
    SweepArgument,
    Trust,
    Verbose,
)

app = typer.Typer()
T = TypeVar("T")


@app.command()
def confirm(
    sweep: SweepArgument,
    top: Annotated[
        int | None, typer.Option(min=1, help="So many candidates, distinct in effect [5].")
    ] = None,
    tune: Annotated[
        int | None, typer.Option(min=1, help="Tune each baseline first, with so many trials.")
    ] = None,
    gain: Annotated[
        float | None,
        typer.Option(
            min=1e-9,
            help="Smallest gain of interest, in points [0.5]; of a task, in its metric [1 %].",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(min=1e-6, max=0.49, help="How often a claim may be false [0.05]."),
    ] = None,
    looks: Annotated[str | None, typer.Option(help="Seeds at each look [5,8,11,15,20].")] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Compare all candidates, not the one picked.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Another claim, on other seeds.")] = False,
    storage: Storage = "sweeps",
    trust: Trust = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Test the best of a sweep against tuned baselines, on new seeds; goes on if it was begun."""
    from results.database import find_sweep
    from rts_search.claims.inference import block_sizes
    from rts_search.spec.folder import read_spec
    from rts_search.spec.trust import check_trust

    blocks = None if looks is None else block_sizes(looks)
    folder = find_sweep(sweep, storage)
    spec = read_spec(folder)
    check_trust(folder, spec, trust)
    prepare(address, verbose, f"confirm {folder.name}")
    from rts_search.claims import words
    from rts_search.claims.confirm import Asked
    from rts_search.claims.confirm import confirm as run
    from rts_search.show.console import make_console

    if gain is not None and spec.task is None:
        gain /= 100
    asked = Asked(top, tune, gain, alpha, blocks, thorough, new)
    again = f"rts-search confirm {folder.argument()}"
    stored = until_end(lambda: run(spec.folder, asked, make_console(), address, verbose), again)
    print_all(words.report(stored.claim, stored.verdicts or {}))
    place = spec.folder.uri_of(f"claims/{stored.claim.id}.yaml")
    print(f"next: rts-search verify {place}")


@app.command()
def verify(
    claim: Annotated[Path, typer.Argument(metavar="CLAIM.yaml")],
    overrides: Overrides = None,
    storage: Storage = "sweeps",
    trust: Trust = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Run a claim's arms again on other seeds, also on another machine: does the claim stand?"""
    prepare(address, verbose, f"verify {claim}")
    from rts_search.claims import words
    from rts_search.claims.verify import verify as run
    from rts_search.show.console import make_console

    original, again = until_end(
        lambda: run(claim, storage, list(overrides or []), trust, make_console(), address, verbose),
        f"rts-search verify {claim}",
    )
    print_all(words.report(again.claim, again.verdicts or {}))
    print_all(words.stands(original.claim, original.verdicts or {}, again.verdicts or {}))


@app.command()
def switch_curve(
    spec: SpecFile = None,
    preset: Preset = None,
    overrides: Overrides = None,
    points: Annotated[
        int, typer.Option(min=3, help="Epochs to switch at, the first included.")
    ] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="From train.seed on.")] = 3,
    name: Annotated[
        str | None, typer.Option(help="Where it is recorded [the spec's name, and -curve].")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder or pyarrow.fs URI, as `--set storage=`.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it, as .svg or .png.")
    ] = None,
    as_json: Json = False,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """When to perturb: accuracy against the epoch of the switch; goes on if it was begun."""
    from results.export import check_plot, print_json
    from rts_search.spec.reading import asked_spec

    if plot is not None:
        check_plot(plot)
    changes = list(overrides or []) + ([f"storage={storage}"] if storage is not None else [])
    asked = asked_spec(spec, preset, changes)
    asked = asked.model_copy(update={"name": name or f"{asked.name}-curve"})
    prepare(address, verbose, f"switch-curve {asked.name}", as_json)
    from rts_search.apart import apart
    from rts_search.claims import curve
    from rts_search.show.console import make_console, prose

    console = make_console(error=as_json)
    for note in apart("trainables.own.start:check_run", asked.base):
        prose(console, note)
    found = until_end(
        lambda: curve.switch_curve(asked, points, seeds, console, address, verbose),
        "the same command",
    )
    if as_json:
        print_json(found)
    else:
        curve.print_curve(console, found)
    if plot is not None:
        curve.plot_curve(found, plot)


@app.command()
def selftest(
    sweep: Annotated[
        str | None,
        typer.Argument(metavar="[SWEEP]", help=f"Whose reruns say the deviation. {SWEEP}"),
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of reruns, in points; default: the sweep's, else 0.3."),
    ] = None,
    gain: Annotated[float, typer.Option(help="The true gain, in points.")] = 0.5,
    correlation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of two arms' runs on one seed.")
    ] = 0.14,
    candidates: Annotated[int, typer.Option(min=1)] = 5,
    arms: Annotated[int, typer.Option(min=1, help="Baselines.")] = 5,
    pick: Annotated[int, typer.Option(min=1, help="Seeds that pick the candidate.")] = 3,
    looks: Annotated[str, typer.Option(help="Seeds at each look.")] = "5,8,11,15,20",
    alpha: Annotated[float, typer.Option(help="False claims that are allowed.")] = 0.05,
    futility: Annotated[
        float, typer.Option(help="Power left under which a baseline is given up.")
    ] = 0.1,
    thorough: Annotated[bool, typer.Option(help="All candidates against all baselines.")] = False,
    simulations: Annotated[int, typer.Option(min=2_000, help="Of each world.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
    storage: Storage = "sweeps",
) -> None:
    """Simulate confirms: how often they claim what is not so, what they find, in how many runs."""
    from results.database import find_sweep
    from results.export import print_json
    from rts_search.claims import selftest as test
    from rts_search.claims.inference import block_sizes
    from rts_search.claims.simulate import Setting, design_of, simulated
    from rts_search.replay.render import print_table

    if sweep is not None and deviation is None:
        found, how = test.rerun_deviation(find_sweep(sweep, storage))
        print(how, file=sys.stderr)
        deviation = None if found is None else 100 * found
    design = design_of(
        candidates,
        arms,
        pick,
        block_sizes(looks),
        alpha=alpha,
        gain=gain / 100,
        futility=futility,
        thorough=thorough,
    )
    points = 0.3 if deviation is None else deviation
    setting = Setting(design, points / 100, gain / 100, correlation)
    outcomes = simulated(setting, simulations, seed)
    if as_json:
        print_json(test.figures(setting, outcomes))
    else:
        print(*test.told(setting), sep="\n")
        print_table(test.table(outcomes))
    if above := test.too_often(design, outcomes):
        raise SystemExit(f"false claims may be above {100 * alpha:g} %: {', '.join(above)}")


def prepare(address: str | None, verbose: bool, what: str, as_json: bool = False) -> None:
    """Before Ray is loaded, which takes seconds."""
    from rts_search.cluster.session import prepare_environment

    prepare_environment(address, verbose)
    said = sys.stderr if as_json else sys.stdout
    print(f"{what}: loads the data, starts Ray …", file=said, flush=True)


def until_end(run: Callable[[], T], again: str) -> T:
    """What it gives; where it ends early, how to go on."""
    from rts_search.claims.staged import EndedEarlyError

    try:
        return run()
    except (EndedEarlyError, KeyboardInterrupt) as reason:
        print(f"{reason or 'interrupted by SIGINT'}: everything so far is kept")
        print(f"go on with: {again}")
        raise SystemExit(130) from None


def print_all(lines: list[str]) -> None:
    for line in lines:
        print(line)
