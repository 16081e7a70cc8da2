"""`rts-search replay`: from what is recorded to tables, rows and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from results.database import Sweeps
from results.export import print_json
from rts_search.importing.columns import pairs
from rts_search.replay import render
from rts_search.replay.curves import Ints, RecordedCurves
from rts_search.replay.measure import Settings, measure, random_curve
from rts_search.replay.policies import default_policies, parse_policy
from rts_search.replay.ranks import rank_rows, spread
from rts_search.replay.sources import export, from_files, from_sweeps


@dataclass(frozen=True)
class Source:
    """What to replay: sweeps of a storage, or `files` with their `columns` as OURS=THEIRS."""

    storage: str
    sweeps: Sweeps
    files: Sequence[Path] | None
    columns: Sequence[str]
    where: str | None
    epochs: int | None

    def read(self) -> RecordedCurves:
        """Raises ValueError."""
        if self.files and self.sweeps:
            raise ValueError("give either sweeps or --curves FILE, not both")
        mapping = pairs(self.columns)
        if self.files:
            return from_files(self.files, mapping, self.where, self.epochs)
        if self.where or set(mapping) - {"value"}:
            raise ValueError("--where and --column are for --curves FILE; of sweeps, value only")
        value = mapping.get("value", "val_accuracy")
        return from_sweeps(self.storage, self.sweeps, value, self.epochs)


@dataclass(frozen=True)
class Shown:
    """Where the answer goes, beside standard output."""

    ranks: bool = False
    markdown: bool = False
    output: Path | None = None
    plot: Path | None = None
    json: bool = False

    def table(self, table: render.Table) -> None:
        if self.markdown:
            print(render.markdown(table))
        else:
            render.print_table(table)


def replay(source: Source, names: Sequence[str], settings: Settings, shown: Shown) -> list[str]:
    """Measure and show; returns notes for the user. Raises ValueError."""
    curves = source.read()
    policies = [parse_policy(name) for name in names] or default_policies(curves)
    measured = measure(curves, policies, settings, _track)
    if shown.json:
        ranked = {"ranks": rank_rows(curves), "spread": spread(curves)} if shown.ranks else {}
        print_json({"policies": render.figures(measured), **ranked})
    else:
        shown.table(render.policy_table(measured))
        if shown.ranks and (rows := rank_rows(curves)):
            shown.table(render.rank_table(rows))
        if shown.ranks:
            print(render.spread_line(spread(curves)))
    if shown.output:
        render.write_rows(measured, shown.output)
    if shown.plot:
        render.write_plot(measured, random_curve(curves, policies, settings), shown.plot)
    return [*curves.notes, _about(curves, settings)]


def _track(draws: Sequence[Ints]) -> Iterable[Ints]:
    """The draws, with a bar on a terminal's standard error until all are replayed."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(draws, "replays", console=console, transient=True, disable=not console.is_terminal)


def _about(curves: RecordedCurves, settings: Settings) -> str:
    seeds = curves.seeds()
    judged = (
        "judged by the mean over the seeds that no policy saw"
        if len(seeds) > 1
        else "judged by the value that picked it, since one seed is recorded: regret is too low"
    )
    sure = "" if settings.bootstrap else "; --bootstrap 100 adds intervals over configurations"
    shared = f"nothing is shared: {curves.unshared}"
    if curves.trunks:
        shared = "before they fire the runs of a seed are one SGD run, which a search pays once"
    return (
        f"{len(curves.configs)} configurations, T = {curves.epochs}, {len(seeds)} seeds; {shared}; "
        f"{settings.replays} replays each; the pick is {judged}{sure}."
    )


def export_curves(storage: str, sweeps: Sweeps, path: Path) -> None:
    rows = export(storage, sweeps, path)
    print(f"{rows} rows of curves in {path} ({path.stat().st_size / 1e6:.1f} MB)")
