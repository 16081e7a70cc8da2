"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from results.storage import SweepFolder

SpecFile = Annotated[Path | None, typer.Argument(metavar="SPEC.yaml", show_default=False)]

Preset = Annotated[
    str | None, typer.Option(help="A built-in spec: demo, quick, paper, paper-100, …")
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override a field of the spec; may be repeated."),
]

Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS", help="Join the Ray cluster at this address ('auto': the local one)."
    ),
]

Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Show Ray's and Tune's own output, and the traceback of an error in your own code.",
    ),
]

Traceback = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Show the traceback of an error in your own code."),
]

Storage = Annotated[str, typer.Option(help="Folder or pyarrow.fs URI that holds the sweeps.")]

SWEEP = "A name in the storage or, with a slash, the path or URI of a sweep's folder."

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help=SWEEP)]

Sweeps = Annotated[
    list[str] | None,
    typer.Option("--sweep", help="Only this sweep (name, path or URI); may be repeated."),
]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]

Format = Annotated[str, typer.Option("--format", help="csv, json or parquet.")]

Dashboard = Annotated[
    str,
    typer.Option(
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="The cluster's dashboard, http://head:8265.",
    ),
]

JobsOf = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="A cluster's dashboard: sweeps as jobs there."),
]

Follow = Annotated[bool, typer.Option("--follow", help="Show the live table until it ends.")]

Retries = Annotated[
    int, typer.Option(min=0, help="Stay, and hand a lost job in again so many times.")
]

Trust = Annotated[
    bool,
    typer.Option("--trust", help="Although the sweep, or code that it names, is another user's."),
]

Install = Annotated[
    bool, typer.Option("--install", help="Nodes install our dependencies at the versions here.")
]


def folders_of(sweeps: list[str] | None, storage: str) -> list[SweepFolder] | None:
    """The folders of sweeps as users name them; None for all of the storage."""
    from results.database import find_sweep

    return [find_sweep(sweep, storage) for sweep in sweeps] if sweeps else None
