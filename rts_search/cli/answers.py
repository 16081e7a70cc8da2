"""What sweeps say side by side, and earlier work that joins them: `compare`, `tables`, `import`."""

from __future__ import annotations

import typer

app = typer.Typer()
