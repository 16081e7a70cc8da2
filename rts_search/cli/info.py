"""Commands that list spaces, models and datasets, and check the installation."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(metavar="SPACE", show_default=False)] = None,
) -> None:
    """The search spaces; with a name, its parameters and bounds."""
    from rts_search.show.tables import print_rows
    from search_spaces.builtin import SPACES
    from search_spaces.registry import get_space
    from search_spaces.space import describe

    console = Console()
    if name is None:
        rows = [{"space": s.name, "searches": s.description} for s in SPACES.values()]
        print_rows(console, ["space", "searches"], rows)
        return
    parameters = [
        {"parameter": p.name, "values": p.bounds, "": "conditional" if p.conditional else ""}
        for p in describe(get_space(name))
    ]
    print_rows(console, ["parameter", "values", ""], parameters)


@app.command()
def models() -> None:
    """The models by name."""
    from trainables.models import model_names

    print("\n".join(model_names()))


@app.command()
def datasets() -> None:
    """The datasets by name."""
    from trainables.data import dataset_names

    print("\n".join(dataset_names()))


@app.command()
def doctor(
    storage: Annotated[str, typer.Option(help="Also check that this can be written.")] = "sweeps",
) -> None:
    """Check versions, devices, Ray, storage and data, and say what to mend."""
    from rts_search.cli.doctor import run_checks

    if not run_checks(Console(), storage):
        raise SystemExit(1)
