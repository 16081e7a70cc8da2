"""What holds on new seeds: `confirm`, `verify`, `switch-curve`, `selftest`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rts_search.cli.options import SWEEP, Json, Storage

app = typer.Typer()


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
        test.block_sizes(looks),
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
