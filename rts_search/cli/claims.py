"""What holds on new seeds: `confirm`, `verify`, `switch-curve`, `selftest`."""

from __future__ import annotations

import typer

app = typer.Typer()
