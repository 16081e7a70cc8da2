"""Sweeps in Python and in notebooks: `rts_search.open("demo").best()`, its plots, and `run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pyarrow as pa

from results.query import trial_curve
from results.ranking import Ranking
from results.schema import TRIALS
from rts_search.answers.standing import nothing_came
from rts_search.here import delete_sweep, print_found, run_here
from rts_search.report.command import KINDS, figure_of
from rts_search.report.page import TITLES
from rts_search.report.theme import HEIGHT, look
from rts_search.show.console import make_console
from rts_search.show.tables import describe_trial
from rts_search.spec.changes import check_changes
from rts_search.spec.folder import SPEC, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import python_spec
from rts_search.spec.trust import check_trust
from rts_search.sweep import Sweep as Opened
from rts_search.sweep import load_model as load_weights

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from search_spaces.space import Space

P = ParamSpec("P")
R = TypeVar("R")

# what `best` tells first
FIRST = ("configuration", "test_accuracy", "seeds", "deviation", "gradient_evaluations")


def plain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """What is raised for a user's mistake says all that there is to say: IPython, which asks the
    error itself, shows its line without a traceback, unless it is to be `verbose`."""

    @wraps(function)
    def asked(*given: P.args, **named: P.kwargs) -> R:
        try:
            return function(*given, **named)
        except (ValueError, ConnectionError) as error:
            line = f"{type(error).__name__}: {error}"
            if not named.get("verbose"):
                error._render_traceback_ = lambda *_: [line]  # type: ignore[union-attr]
            raise

    return asked


class Sweep(Opened):
    """A sweep as its folder has it now, while it runs or after.

    Tables are DataFrames, in which integers with gaps stay integers and times have their zone.
    `plot_curves()` and the other plots are the report's figures. Methods raise ValueError, in one
    line, for what is not there.
    """

    if TYPE_CHECKING:  # the plots, which are made of the report's list below

        def __getattr__(self, name: str) -> Callable[..., go.Figure]: ...

    @property
    @plain_errors
    def trials(self) -> pd.DataFrame:
        """A row a trial, controls included; docs/ledger.md names the columns."""
        return self.query("SELECT * FROM trials ORDER BY number NULLS LAST, trial_id")

    @property
    @plain_errors
    def epochs(self) -> pd.DataFrame:
        """A row an epoch of all trials, by trial, rung and epoch."""
        return self.query("SELECT * FROM epochs ORDER BY trial_id, rung, epoch")

    @plain_errors
    def curve(self, trial: str) -> pd.DataFrame:
        """The epochs of the trial with this name, or with this unique beginning."""
        name = self.trial(trial)["trial_id"]
        return frame(trial_curve(self.folder.storage, self.folder, name))

    @plain_errors
    def query(self, sql: str) -> pd.DataFrame:
        """An answer in SQL (DuckDB) over its `trials` and `epochs`."""
        return frame(self.arrow(sql))

    @plain_errors
    def best(self, top: int = 10, metric: str | None = None, **asked: Any) -> pd.DataFrame:
        """The `top` completed trials by a metric (by default the objective at the end), the best
        first, with the columns of `trials`, of which those that tell most are in front. Runs of one
        configuration on several seeds are one row. The other arguments are those of `ranking`,
        which has the controls, too."""
        return best_of(self.ranking(top=top, metric=metric, **asked))

    @property
    @plain_errors
    def space(self) -> Space:
        """What is searched, the training settings beside the optimizer's included. Raises
        ValueError for a space that is code of the sweep's author, which reading does not run."""
        from search_spaces.registry import also, get_space

        spec = self.spec
        if ":" in spec.space:
            raise ValueError(
                f"space {spec.space!r} is code of its own, and reading a sweep runs none: import "
                "it yourself"
            )
        return also(get_space(spec.space), spec.search.also)


open_sweep = plain_errors(Sweep.open)
load_model = plain_errors(load_weights)


def _plotter(kind: str, words: str) -> Callable[..., go.Figure]:
    @plain_errors
    def draw(self: Sweep, where: str | None = None, **asked: Any) -> go.Figure:
        figure, _ = figure_of(kind, self, where, **asked)
        title = {"text": TITLES[kind], "x": 0.01, "y": 0.97, "yanchor": "top"}
        return figure.update_layout(
            template=look(night=False),
            paper_bgcolor="white",
            height=figure.layout.height or HEIGHT,
            margin={"t": 80},
            title=title,
        )

    draw.__name__ = f"plot_{kind}"
    draw.__qualname__ = f"{Sweep.__qualname__}.{draw.__name__}"
    draw.__doc__ = (
        f"{TITLES[kind]}, as plotly's figure. {words}\n\n"
        "`where`: only of trials for which a condition in SQL holds. Others are options of "
        f"`rts-search plot {kind}`. Raises ValueError where there is nothing to draw."
    )
    return draw


for _kind, _words in KINDS.items():
    setattr(Sweep, f"plot_{_kind}", _plotter(_kind, _words))


def frame(table: pa.Table) -> pd.DataFrame:
    """Arrow's table as pandas': integers and booleans are pandas' own, which may have gaps, and
    sums, which DuckDB has as decimals, are numbers."""
    import pandas as pd

    def kind(arrow: pa.DataType) -> Any:
        if pa.types.is_boolean(arrow):
            return pd.BooleanDtype()
        name = str(arrow).replace("i", "I").replace("u", "U")  # as in UInt8
        return getattr(pd, f"{name}Dtype")() if pa.types.is_integer(arrow) else None

    for place, column in enumerate(table.schema):
        if pa.types.is_decimal(column.type):
            table = table.set_column(place, column.name, _number(table.column(place)))
    found: pd.DataFrame = table.to_pandas(types_mapper=kind)
    return found


def _number(decimals: pa.ChunkedArray) -> pa.ChunkedArray:
    if decimals.type.scale == 0:
        with suppress(pa.ArrowInvalid):  # too large
            return decimals.cast(pa.int64())
    return decimals.cast(pa.float64())


def best_of(ranking: Ranking) -> pd.DataFrame:
    """The ranked trials, what tells most in front."""
    rows = [row | {"configuration": describe_trial(row)} for row in ranking.trials]
    added = {"configuration": pa.string(), "seeds": pa.int64()}
    added |= dict.fromkeys((ranking.metric, "mean", "deviation"), pa.float64())
    kinds = added | {column.name: column.type for column in TRIALS}
    names = dict.fromkeys(["trial_id", ranking.metric, *FIRST, *kinds])
    schema = pa.schema([(name, kinds[name]) for name in names])
    return frame(pa.Table.from_pylist(rows, schema=schema))


@plain_errors
def run(
    spec: str | os.PathLike[str] | Mapping[str, Any] | SweepSpec,
    settings: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    storage: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust: bool = False,
    address: str | None = None,
    verbose: bool = False,
) -> Sweep:
    """Run a sweep here, as `rts-search sweep` does, and open it.

    `spec` is a preset's name, a YAML file, a mapping or a SweepSpec; `settings` come instead of its
    own, as in `{"data.name": "digits", "search.trials": 9}`. A sweep of that name that is there is
    refused, unless to `resume` it, also with more trials, or to `overwrite` it; `trust` one whose
    folder is another user's. `address` is that of a Ray cluster to join.

    Interrupting ends it in order: all that was done is kept, and its `Sweep` is returned.
    Raises ValueError, in one line, for what cannot run, and where nothing came of it.
    """
    given = {"name": name, "storage": storage}
    given = {key: value for key, value in given.items() if value is not None}
    asked = python_spec(spec, {**(settings or {}), **given})
    if resume and overwrite:
        raise ValueError("resume goes on with a sweep that overwrite would delete: give one")
    _make_way(asked, resume, overwrite, trust)
    result, sweep = run_here(asked, address, verbose, new=not resume), Sweep(asked.folder)
    if result.interrupted:
        print(f"{result.interrupted}: everything so far is kept; run it with resume=True to go on")
        return sweep
    print_found(sweep, make_console())
    if result.used_up:
        print(f"{result.used_up}; with resume=True and a larger budget it goes on")
    if reason := result.mistake or nothing_came(sweep):
        raise ValueError(reason)
    return sweep


def _make_way(spec: SweepSpec, resume: bool, overwrite: bool, trust: bool) -> None:
    """Raises ValueError if a sweep of this name is there and in the way."""
    folder = spec.folder
    if not folder.exists(SPEC):
        return
    if overwrite:
        delete_sweep(spec)
    elif resume:
        check_changes(folder, read_spec(folder), spec)
        check_trust(folder, spec, trust)
    else:
        raise ValueError(
            f"sweep {spec.name!r} exists in {spec.storage_path}: open({folder.argument()!r}) reads "
            "it, resume=True goes on with it, overwrite=True replaces it; or give another name"
        )
