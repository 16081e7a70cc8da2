"""Commands that list spaces, models and datasets, and check the installation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rts_search.cli.options import Json

app = typer.Typer()


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(metavar="SPACE", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """The search spaces; with a name, its parameters and bounds."""
    from results.export import print_json
    from rts_search.show.console import make_console
    from rts_search.show.tables import print_rows
    from search_spaces.builtin import SPACES
    from search_spaces.registry import get_space
    from search_spaces.space import describe

    console = make_console()
    if name is None:
        rows = [{"space": s.name, "searches": s.description} for s in SPACES.values()]
        if as_json:
            print_json({"spaces": rows})
        else:
            print_rows(console, ["space", "searches"], rows)
        return
    found = describe(get_space(name))
    if as_json:
        told = [{"name": p.name, "values": p.bounds, "conditional": p.conditional} for p in found]
        print_json({"parameters": told})
        return
    parameters = [
        {"parameter": p.name, "values": p.bounds, "": "conditional" if p.conditional else ""}
        for p in found
    ]
    print_rows(console, ["parameter", "values", ""], parameters)


@app.command()
def models(as_json: Json = False) -> None:
    """The models by name."""
    from trainables.models import model_names

    print_names("models", model_names(), as_json)


@app.command()
def datasets(as_json: Json = False) -> None:
    """The datasets by name."""
    from trainables.data import dataset_names

    print_names("datasets", dataset_names(), as_json)


def print_names(what: str, names: Sequence[str], as_json: bool) -> None:
    from results.export import print_json

    if as_json:
        print_json({what: list(names)})
    else:
        print("\n".join(names))


@app.command()
def doctor(
    storage: Annotated[str, typer.Option(help="Also check that this can be written.")] = "sweeps",
) -> None:
    """Check versions, devices, Ray, storage and data, and say what to mend."""
    from rts_search.cli.doctor import run_checks
    from rts_search.show.console import make_console

    if not run_checks(make_console(), storage):
        raise SystemExit(1)
