"""From a spec to a sweep: `run_sweep` is the main flow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.checks import check_spec, search_space
from rts_search.interrupt import Interrupt
from rts_search.layout import Layout, make_layout
from rts_search.progress import Progress
from rts_search.ray_session import Session, ray_session
from rts_search.recorder import Recorder
from rts_search.rows import UNFINISHED
from rts_search.spec import SweepSpec
from rts_search.stoppers import make_stopper
from rts_search.study import SearchStudy
from rts_search.sweep_files import SPEC, hold_lock, journal_path, save_journal, write_spec
from rts_search.trackers import make_trackers
from rts_search.trials import LiveTrial, controls, plan, trial_name
from search_spaces.registry import start_points


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended; `interrupted` is why it stopped before its trials did, or None."""

    folder: SweepFolder
    interrupted: str | None


def run_sweep(
    spec: SweepSpec, console: Console, address: str | None = None, verbose: bool = False
) -> SweepResult:
    """Run a sweep, or go on with one whose folder exists, until its trials or its budget end.

    Raises ValueError, in one line, for a spec that cannot run.
    """
    notes = check_spec(spec)
    folder = SweepFolder(spec.storage, spec.name)
    trackers = make_trackers(spec, folder)
    with hold_lock(folder):
        if not folder.exists(SPEC):  # a journal without a spec is of a sweep that is gone
            journal_path(folder).unlink(missing_ok=True)
        study = open_study(spec, folder)
        write_spec(folder, spec)
        ledger = Ledger(folder)
        recorder = Recorder(spec, folder, ledger, study, make_stopper(spec))
        ended = take_up(recorder)
        if len(ended) >= trials_in(spec):
            console.print(f"all {len(ended)} trials of {spec.name} have ended: nothing left to do")
            return SweepResult(folder, None)
        with ray_session(address, verbose) as session:
            layout = make_layout(spec.resources, session.cpus, session.gpus)
            announce(console, spec, folder, session, layout, len(ended), notes)
            with Progress(spec.name, trials_in(spec), recorder.live, console) as progress:
                progress.restore(ended)
                trials = plan(spec, study, {row["trial_id"] for row in ended})
                interrupted = tune_trials(
                    spec, recorder, progress, trials, layout, trackers, verbose
                )
        if interrupted:
            recorder.interrupt(interrupted)
        save_journal(folder)
        ledger.close()
        if not interrupted:
            ledger.compact()
    return SweepResult(folder, interrupted)


def trials_in(spec: SweepSpec) -> int:
    """All trials of a sweep: those asked for, and the controls."""
    return spec.search.trials + (len(controls(spec.base)) if spec.search.controls else 0)


def open_study(spec: SweepSpec, folder: SweepFolder) -> SearchStudy:
    """The searcher's memory, new or reopened; start points are enqueued when it is new."""
    space = search_space(spec)
    study = SearchStudy.open(
        journal_path(folder),
        space,
        spec.base,
        spec.search.sampler,
        spec.search.seed,
        spec.search.objective,
        spec.direction,
    )
    if spec.search.start_from != "none":
        study.enqueue(start_points(space, spec.search.start_from))
    return study


def take_up(recorder: Recorder) -> list[dict[str, Any]]:
    """Bring back what an earlier driver knew; returns the rows of the trials that had ended.

    A trial's end may be in the ledger and not in the journal, if the driver died in between.
    Rungs are filled from the journal, unfinished trials included.
    """
    rows = [row for row in recorder.ledger.trials() if row["outcome"] not in UNFINISHED]
    running = {trial.number for trial in recorder.study.trials() if trial.state == "running"}
    for row in rows:
        recorder.restore(row)
        if row["number"] in running:
            recorder.catch_up(row)
    for number, values in recorder.study.intermediates().items():
        recorder.stopper.refill(trial_name(number), values)
    return rows


def announce(
    console: Console,
    spec: SweepSpec,
    folder: SweepFolder,
    session: Session,
    layout: Layout,
    ended: int,
    notes: list[str],
) -> None:
    """What is about to run, and where to watch it."""
    lines = [
        f"sweep {spec.name}: {spec.search.trials} {spec.space} configurations"
        + (" and 3 controls" if spec.search.controls else "")
        + f", {spec.search.sampler}, stopper {spec.stop.policy}, T = {spec.train.epochs}"
        + (f"; {ended} trials have ended already" if ended else ""),
        f"data {spec.data.name}, model {spec.model.name}; {layout}",
        f"ledger {folder.uri}",
    ]
    if session.dashboard:
        lines.append(f"dashboard {session.dashboard}  (a token is asked for: ray get-auth-token)")
    for line in lines + notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def tune_trials(
    spec: SweepSpec,
    recorder: Recorder,
    progress: Progress,
    trials: Iterator[LiveTrial],
    layout: Layout,
    trackers: list[Any],
    verbose: bool,
) -> str | None:
    """Run the trials under Ray Tune; returns why they were interrupted, or None."""
    from ray import tune

    from rts_search.tune_glue import PlanSearcher, RecorderCallback, make_assign
    from trainables.tune import TrialRunner

    searcher = PlanSearcher(trials, make_assign(spec, recorder.folder, layout), recorder)
    with (
        tempfile.TemporaryDirectory(prefix="rts-search-") as scratch,
        Interrupt(spec.budget) as stop,
    ):
        tune.Tuner(
            tune.with_resources(TrialRunner, {"cpu": layout.cpu, "gpu": layout.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=recorder.stopper,
                num_samples=-1,  # the plan says when it is at its end
                max_concurrent_trials=layout.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=scratch,  # Tune's own files are not needed again
                stop=stop,
                callbacks=[RecorderCallback(recorder, progress), *trackers],
                failure_config=tune.FailureConfig(max_failures=spec.resources.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=1 if verbose else 0,
            ),
        ).fit()
    return stop.reason or ("Tune ended before its trials did" if recorder.live else None)
