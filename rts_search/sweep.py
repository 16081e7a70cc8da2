"""A sweep opened by its name, path or URI, as every command reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

import pyarrow as pa

from results.database import find_sweep, query
from results.query import SweepSummary, find_trial, sweep_summary
from results.ranking import Ranking, best
from results.storage import DEFAULT, SweepFolder, open_storage
from rts_search.spec.folder import SPEC, read_spec
from rts_search.spec.model import SweepSpec

if TYPE_CHECKING:
    from rts_search.driver.lock import Driver
    from trainables.weights import ImageModel


class Sweep:
    """A sweep as its folder has it now, while it runs or after.

    Methods raise ValueError, in one line, for what is not there.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder

    @classmethod
    def open(cls, sweep: str | os.PathLike[str], storage: str | os.PathLike[str] = DEFAULT) -> Self:
        """A sweep that is there: by its name in the storage or, with a slash, by the path or URI
        of its folder (`sweeps/demo`, `s3://bucket/prefix/demo`).

        Raises ValueError, in one line and with the nearest name, if there is none.
        """
        return cls(find_sweep(sweep, storage))

    def __repr__(self) -> str:
        return f"<Sweep {self.name} at {self.uri}>"

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.name

    @property
    def uri(self) -> str:
        """The absolute path or the URI of its folder."""
        return self.folder.uri

    @property
    def argument(self) -> str:
        """The sweep as a command that is typed here understands it."""
        return self.folder.argument()

    @property
    def has_spec(self) -> bool:
        """False for a ledger of single runs, as `rts-search train` makes."""
        return self.folder.exists(SPEC)

    @property
    def spec(self) -> SweepSpec:
        """What was asked, with what resumes have changed."""
        return read_spec(self.folder)

    def ranking(self, **asked: Any) -> Ranking:
        """Its best trials, with the controls beside them; the arguments are those of
        `results.ranking.best`."""
        return best(self.folder.storage, self.folder, **asked)

    def trial(self, name: str) -> dict[str, Any]:
        """The row of the trial with this name, or with this unique beginning."""
        return find_trial(self.folder.storage, name, self.folder)

    def arrow(self, sql: str) -> pa.Table:
        """An answer in SQL (DuckDB) over its `trials` and `epochs`, as Arrow's table."""
        return query(self.folder.storage, sql, self.folder)

    def summary(self) -> SweepSummary:
        """How it stands: outcomes, cost, triggers that fired."""
        return sweep_summary(self.folder.storage, self.folder)

    def driver(self) -> Driver | None:
        """Who runs it, as far as its files tell; None if nobody does."""
        from rts_search.driver.control import driver_of

        return driver_of(self.folder)


def split_trial(text: str) -> tuple[str, str]:
    """The sweep and the trial of `SWEEP/TRIAL`, where the sweep may be a path or URI.

    Raises ValueError for text of another form.
    """
    path, mark, query_part = text.partition("?")
    sweep, slash, trial = path.rpartition("/")
    if not (sweep and slash and trial):
        raise ValueError(f"trial {text!r} is not of the form SWEEP/TRIAL, such as demo/t0003")
    return sweep + mark + query_part, trial


def load_model(
    path: str | os.PathLike[str],
    *,
    weights: Literal["final", "best"] = "final",
    device: str = "cpu",
    model: Callable[..., Any] | None = None,
) -> ImageModel:
    """A completed trial's model, in evaluation mode: uint8 images [N, C, H, W] → logits.

    `path` is its `weights.pt` or the folder that holds it (`sweeps/demo/checkpoints/t0003`), or
    the URI of one. `weights` are those of the last epoch, or of the one with the `best` validation
    accuracy. A model of one's own is built by its function, given as `model`.
    Raises ValueError, in one line.
    """
    from trainables.checkpoint import WEIGHTS, read_file
    from trainables.weights import image_model

    filesystem, file = open_storage(path)
    file = file if file.endswith(".pt") else f"{file}/{WEIGHTS}"
    try:
        content = read_file(filesystem, file)
    except FileNotFoundError:
        raise ValueError(
            f"no weights at {file}: those of the best completed trials and controls are kept, "
            "checkpoint.keep_top of each"
        ) from None
    return image_model(content, file, weights, device, model)
