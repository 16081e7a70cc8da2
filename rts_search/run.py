"""From a spec to a sweep: `run_sweep` is the main flow."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.cluster.layout import Layout
from rts_search.cluster.placement import Placement, place
from rts_search.cluster.session import Session, ray_session
from rts_search.driver.budget import Budget, UsedUp
from rts_search.driver.control import Control
from rts_search.driver.interrupt import Interrupt
from rts_search.driver.lock import hold_lock, journal_path
from rts_search.search.checks import check_spec
from rts_search.search.plan import open_study, plan
from rts_search.search.study import SearchStudy
from rts_search.search.warm_start import warm_start
from rts_search.show.progress import Progress
from rts_search.show.tables import describe_trial
from rts_search.show.trackers import make_trackers
from rts_search.spec.folder import SPEC, begun_or_not_there, write_spec
from rts_search.spec.model import SweepSpec, patience_seconds, storage_option
from rts_search.stopping.stopper import Stopper, describe_stop, make_stopper
from rts_search.trials.recorder import Recorder
from rts_search.trials.rows import UNFINISHED, trial_row
from rts_search.trials.trial import LiveTrial, trials_in
from trainables.tune import Assignment, package_fingerprints


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. `interrupted` is why it stopped before its trials did, `used_up` the
    budget that ended it; both None if all its trials ran."""

    folder: SweepFolder
    interrupted: str | None = None
    used_up: UsedUp | None = None


def run_sweep(
    spec: SweepSpec, console: Console, address: str | None = None, verbose: bool = False
) -> SweepResult:
    """Run a sweep, or go on with one whose folder exists, until its trials or its budget end.

    Raises ValueError, in one line, for a spec that cannot run.
    """
    notes = check_spec(spec)
    folder = SweepFolder(spec.storage, spec.name)
    trackers = make_trackers(spec, folder)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    with hold_lock(folder, say), Control(folder) as control, begun_or_not_there(folder):
        if not folder.exists(SPEC):  # a journal without a spec is of a sweep that is gone
            journal_path(folder).unlink(missing_ok=True)
        ledger = Ledger(folder)
        study = open_study(spec, folder)
        notes += warm_start(spec, study)
        study.rebuild(ledger.trials())  # what a lost journal knew
        write_spec(folder, spec)
        recorder = Recorder(spec, folder, ledger, study, make_stopper(spec))
        ended = take_up(recorder)
        budget = Budget(spec.budget, spec.direction, control.seconds)
        budget.restore(folder, (trial.value for trial in study.completed()))
        if len(ended) >= trials_in(spec):
            say(
                f"all {len(ended)} trials of {spec.name} have ended: nothing left to do; for more: "
                f"rts-search resume {spec.name} --trials N"
            )
            return SweepResult(folder)
        if used_up := budget.used_up():
            return SweepResult(folder, used_up=used_up)
        with ray_session(address, verbose) as session:
            placement = place(spec, folder, session, say)
            announce(console, spec, folder, session, placement, len(ended), notes)
            trials = plan(spec, study, {row["trial_id"] for row in ended})
            with (
                Progress(spec.name, trials_in(spec), recorder.live, console) as progress,
                Interrupt(budget, control) as interrupt,
            ):
                progress.restore(ended)
                tune_trials(
                    spec, recorder, progress, trials, placement, trackers, interrupt, verbose
                )
        result = finish(recorder, interrupt)
    for line in last_words(spec, study, result):
        say(line)
    return result


def last_words(spec: SweepSpec, study: SearchStudy, result: SweepResult) -> list[str]:
    """What became of proposals that were not trained."""
    lines, count = [], study.count()
    if known := study.duplicates():
        lines.append(
            f"{known} proposals were known already: told as their twins, not trained again"
        )
    if result.interrupted is None and result.used_up is None and count < spec.search.trials:
        lines.append(
            f"the space is exhausted: {count} different configurations, fewer than search.trials "
            f"{spec.search.trials}"
        )
    return lines


def finish(recorder: Recorder, interrupt: Interrupt) -> SweepResult:
    """The last words on disk: if trials are left, that they go on at a resume."""
    reason = interrupt.reason
    if recorder.live:
        recorder.interrupt(reason := reason or "Tune ended before its trials did")
    if not recorder.settle():
        return SweepResult(recorder.folder, interrupted=recorder.given_up())
    if reason is None:
        recorder.ledger.compact()
        recorder.tidy()
    if interrupt.used_up is not None:
        return SweepResult(recorder.folder, used_up=interrupt.used_up)
    return SweepResult(recorder.folder, interrupted=reason)


def take_up(recorder: Recorder) -> list[dict[str, Any]]:
    """Bring back what an earlier driver knew; returns the rows of the trials that had ended.

    A trial's end may be in the ledger and not in the journal, if the driver died in between.
    Rungs are filled from the journal, unfinished trials included: whatever it knows of those was
    followed by the verdict to go on.
    """
    rows = [row for row in recorder.ledger.trials() if row["outcome"] not in UNFINISHED]
    running = {trial.number for trial in recorder.study.trials() if trial.state == "running"}
    for row in rows:
        recorder.restore(row)
        if row["number"] in running:
            recorder.catch_up(row)
    for number, values in recorder.study.intermediates().items():
        recorder.stopper.refill(number, values)
    return rows


def announce(
    console: Console,
    spec: SweepSpec,
    folder: SweepFolder,
    session: Session,
    placement: Placement,
    ended: int,
    notes: list[str],
) -> None:
    """What is about to run, and where to watch it."""
    lines = [
        f"sweep {spec.name}: {spec.search.trials} {spec.space} configurations"
        + (" and 3 controls" if spec.search.controls else "")
        + f", {spec.search.sampler}, {describe_stop(spec)}"
        + (f"; {ended} trials have ended already" if ended else ""),
        f"data {spec.data.name}, model {spec.model.name}",
        *placement.lines,
        f"ledger {folder.uri}",
        # also for a death that leaves no last word, such as that of Ray's head
        f"after a crash go on with: rts-search resume {spec.name}{storage_option(spec)}",
    ]
    if session.dashboard:
        lines.append(f"dashboard {session.dashboard}  (a token is asked for: ray get-auth-token)")
    for line in lines + notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def tune_trials(
    spec: SweepSpec,
    recorder: Recorder,
    progress: Progress,
    trials: Iterator[LiveTrial | None],
    placement: Placement,
    trackers: list[Any],
    interrupt: Interrupt,
    verbose: bool,
) -> None:
    """Run the trials under Ray Tune, until they end or are interrupted."""
    from ray import tune

    from rts_search.run import make_assign
    from rts_search.trials.failures import failures_as_they_are
    from rts_search.trials.tune import PlanSearcher, RecorderCallback, TuneStopper

    layout = placement.layout
    assign = make_assign(spec, recorder.folder, layout, recorder.stopper)
    with (
        tempfile.TemporaryDirectory(prefix="rts-search-") as scratch,
        failures_as_they_are(),
    ):
        tune.Tuner(
            placement.trainable(),
            tune_config=tune.TuneConfig(
                search_alg=PlanSearcher(trials, assign, recorder),
                scheduler=TuneStopper(recorder, layout.concurrent),
                num_samples=-1,  # the plan says when it is at its end
                max_concurrent_trials=None if layout.grows else layout.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=scratch,  # Tune's own files are not needed again
                stop=interrupt,
                callbacks=[RecorderCallback(recorder, progress, interrupt), *trackers],
                failure_config=tune.FailureConfig(max_failures=spec.resources.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=1 if verbose else 0,
            ),
        ).fit()


def in_words(trial: LiveTrial) -> str:
    """A trial's configuration as the tables tell it."""
    row = trial_row(trial, "running", None, started=datetime.now(UTC), device=None)
    words = describe_trial(defaultdict(lambda: None, row))  # in the ledger the rest is null
    return words.replace(" (not fired)", "")  # it has not begun


def make_assign(
    spec: SweepSpec, folder: SweepFolder, layout: Layout, stopper: Stopper
) -> Callable[[LiveTrial], Assignment]:
    """How the sweep turns a trial into what its worker is told."""
    packages = package_fingerprints()

    def climb(trial: LiveTrial) -> list[list[int]]:
        if trial.number is None:
            return [[0, trial.total_epochs]]
        return [list(rung) for rung in stopper.climb(trial.number)]

    def assign(trial: LiveTrial) -> Assignment:
        return Assignment(
            sweep=spec.name,
            trial_id=trial.trial_id,
            number=trial.number,
            words=in_words(trial),
            config=trial.config.model_dump_json(),
            climb=climb(trial),
            checkpoints=folder.uri_of(f"checkpoints/{trial.trial_id}"),
            checkpoint_seconds=spec.checkpoint.every_seconds,
            patience_seconds=patience_seconds(spec),
            objective=spec.search.objective,
            threads=layout.threads,
            gpus=layout.gpu,
            packages=packages,
        )

    return assign
