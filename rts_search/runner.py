"""From a spec to a sweep: `run_sweep` is the main flow, `run_trials` what happens under it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from results.ledger import Ledger
from results.meanings import column
from results.storage import SweepFolder
from results.trials import LONG_AGO, StoredTrial, read_trials
from rts_search.cluster.placement import Placement, place
from rts_search.cluster.session import Session, ray_session
from rts_search.driver.budget import Budget, UsedUp
from rts_search.driver.control import Control
from rts_search.driver.interrupt import Interrupt, raise_on_signals, signals_raise
from rts_search.driver.lock import hold_lock, taken
from rts_search.estimate.left import time_left
from rts_search.search.checks import check_spec, sharing
from rts_search.search.edges import plain_ranges
from rts_search.search.known import COLUMNS
from rts_search.search.lost import bring_back
from rts_search.search.plan import Teller, know_effects, open_study, plan
from rts_search.search.study import IN_A_ROW, SearchStudy
from rts_search.search.tpe import OBSERVATIONS
from rts_search.search.trunks import Effects
from rts_search.show.console import prose
from rts_search.show.metrics import SweepMetrics
from rts_search.show.progress import Progress
from rts_search.show.tables import in_words
from rts_search.show.trackers import make_trackers
from rts_search.spec.folder import SPEC, begun_or_not_there, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import fingerprints
from rts_search.stopping.stopper import Stopper, describe_stop, make_stopper
from rts_search.trials.assign import make_assign
from rts_search.trials.failures import failures_as_they_are
from rts_search.trials.recorder import GIVE_UP_SECONDS, Recorder
from rts_search.trials.rows import LOOKED, looks, step_values
from rts_search.trials.thaw import is_thawed, thaw
from rts_search.trials.trial import PLAIN, SGD, LiveTrial, controls, trials_in
from rts_search.trials.tune import NoPrinting, PlanSearcher, Seam, TuneStopper
from trainables.checkpoint import TRUNKS
from trainables.tune import package_fingerprints

HURRY_SECONDS = 3.0  # after a signal, for a storage that fails


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. `interrupted` is why it stopped before its trials did, `used_up` the
    budget that ended it; both None if all its trials ran. `mistake` is what in its space ended it.
    """

    folder: SweepFolder
    interrupted: str | None = None
    used_up: UsedUp | None = None
    mistake: str | None = None


def run_sweep(
    spec: SweepSpec,
    console: Console,
    address: str | None = None,
    verbose: bool = False,
    accept_changes: bool = False,
    new: bool = False,
    thawed: Collection[str] = (),
) -> SweepResult:
    """Run a sweep, or go on with one whose folder exists, until its trials or its budget end.

    It goes on after its data or its own code have changed only if that is accepted; its `thawed`
    trials, which were stopped, go on too. Raises ValueError, in one line, for a spec that cannot
    run; and TakenError, which is one, while another driver has the sweep, or if it should be `new`
    and is not.
    """
    notes = check_spec(spec)
    folder = spec.folder
    trackers = make_trackers(spec, folder)  # which may say at once that they cannot be had
    say = partial(prose, console)
    with (
        signals_raise(),
        hold_lock(folder, say),
        Control(folder) as control,
        begun_or_not_there(folder := control.confirmed()),
    ):
        if new and folder.exists(SPEC):
            raise taken(folder, "was begun meanwhile")
        sweep = take_up(spec, folder, accept_changes, trackers, notes, say, thawed)
        budget = Budget(spec, control.seconds, sweep.stored)
        if len(sweep.ended) >= trials_in(spec):
            say(
                f"all {len(sweep.ended)} trials of {spec.name} have ended: nothing left to do; for "
                f"more: rts-search resume {folder.argument()} --trials N"
            )
            return SweepResult(folder)
        if used_up := budget.used_up():
            return SweepResult(folder, used_up=used_up)
        result = run_under_ray(sweep, control, budget, console, address, verbose)
    for line in last_words(spec, sweep.study, result):
        say(line)
    return replace(result, mistake=mistake(sweep.study))


@dataclass(frozen=True)
class Sweep:
    """A sweep as its driver takes it up: its trials on disk, and what is made from them. `notes`
    are for the user; `trackers` are Tune's own callbacks, which Ray keeps for TensorBoard, MLflow
    and W&B."""

    spec: SweepSpec
    folder: SweepFolder
    stored: Sequence[StoredTrial]
    study: SearchStudy
    stopper: Stopper
    recorder: Recorder
    trackers: Sequence[Any]
    notes: list[str]
    shares: bool  # the SGD before triggers fire

    @property
    def ended(self) -> list[StoredTrial]:
        return [trial for trial in self.stored if trial.outcome.finished]


def take_up(
    spec: SweepSpec,
    folder: SweepFolder,
    accept_changes: bool,
    trackers: Sequence[Any],
    notes: list[str],
    say: Callable[[str], None],
    thawed: Collection[str] = (),
) -> Sweep:
    """Open the ledger, and make from it the search, the stopper and the recorder; then write the
    spec."""
    ledger = Ledger(folder)
    lost = bring_back(spec, folder, ledger)
    for line in lost.lines:
        say(line)
    thaw(folder, ledger, thawed)
    stored = read_trials(
        folder, [*COLUMNS, *LOOKED, "epoch_seconds", column(spec.search.objective)]
    )
    study, warm = open_study(spec, stored, lost.numbers)
    write_spec(folder, spec, fingerprints(spec), accept_changes, plain_ranges(spec))
    stopper = make_stopper(spec)
    refill(stopper, spec, stored)
    ended = [trial for trial in stored if trial.outcome.finished]
    recorder = Recorder(spec, folder, ledger, stopper, ended)
    return Sweep(
        spec, folder, stored, study, stopper, recorder, trackers, notes + warm, sharing(spec)[0]
    )


def refill(stopper: Stopper, spec: SweepSpec, stored: Sequence[StoredTrial]) -> None:
    """Let the stopper know the trials that the ledger has, epoch by epoch as they came: so it has
    the verdicts of earlier drivers again, also the last one of a trial whose end was not written,
    and which reports again. Of a thawed trial all until its stop is known.
    """
    objective, shown, thawed = spec.search.objective, [], []
    for trial in stored:
        if trial.trial_id == SGD:
            stopper.hear_control(step_values(trial.epochs, objective, False))
        if trial.number is None:
            continue
        sgd = trial.row["config_trigger"] == PLAIN
        found = looks(trial.epochs, objective, stopper.by_schedule, sgd)
        if is_thawed(trial.row):
            last = trial.row["stopped_epoch"]
            found = [look for look in found if look.epoch <= last]
            thawed.append((trial.number, trial.row["lost_rung"], last))
        came = {(row["total_epochs"], row["epoch"]): row["time"] for row in trial.epochs}
        for look in found:
            shown.append((came[look.total, look.epoch] or LONG_AGO, trial.number, look))
    for _, number, look in sorted(shown, key=itemgetter(0, 1)):  # a trial's are in order
        stopper.judge(number, look)
    for stop in thawed:
        stopper.thaw(*stop)


def run_under_ray(
    sweep: Sweep,
    control: Control,
    budget: Budget,
    console: Console,
    address: str | None,
    verbose: bool,
) -> SweepResult:
    """Start or join Ray, place the trials, and run them."""
    spec, say = sweep.spec, partial(prose, console)
    with ray_session(address, verbose) as session:
        raise_on_signals()
        placement = place(spec, sweep.folder, session, say, control.poll)
        for line in announcement(sweep, session, placement) + sweep.notes:
            say(line)
        live: dict[str, LiveTrial] = {}
        with (
            Progress(spec, live, console, sweep.ended, time_left(spec, budget)) as progress,
            Interrupt(budget, control, sweep.recorder.given_up) as interrupt,
        ):
            metrics = SweepMetrics(spec.name, live, progress, budget)
            threads, packages = placement.layout.threads, package_fingerprints()
            effects = Effects(sweep.folder, sweep.stopper, threads, packages)
            know_effects(spec, sweep.study, effects, sweep.ended)
            teller = Teller(spec, sweep.study, say)
            observers = [sweep.recorder, teller, budget, progress, metrics]
            seam = Seam(spec, live, observers, interrupt.user_stopped)
            trials = plan(spec, sweep.study, {trial.trial_id for trial in sweep.ended})
            work = Work(spec, sweep.folder, trials, sweep.stopper, sweep.shares, sweep.trackers)
            run_trials(work, control, seam, placement, interrupt, session.folder, verbose)
    return finish(sweep.recorder, live, interrupt)


@dataclass(frozen=True)
class Work:
    """What Tune is to run: the trials in their order, None while the next one is not known yet, and
    who stops them. `shares`: the SGD before triggers fire."""

    spec: SweepSpec
    folder: SweepFolder
    trials: Iterator[LiveTrial | None]
    stopper: Stopper
    shares: bool
    trackers: Sequence[Any] = ()


def run_trials(
    work: Work,
    control: Control,
    seam: Seam,
    placement: Placement,
    interrupt: Interrupt,
    temporary: Path | None,
    verbose: bool,
) -> None:
    """Run the trials under Ray Tune, and tell the seam, until they end or are interrupted.

    `temporary` is where Tune's own files go, if not with all that is temporary.
    """
    spec, layout = work.spec, placement.layout
    assign = make_assign(
        spec,
        work.folder,
        control.claim,
        work.stopper,
        layout.threads,
        layout.gpu,
        in_words,
        work.folder.uri_of(TRUNKS) if work.shares else None,
    )
    with (
        tempfile.TemporaryDirectory(prefix="rts-search-", dir=temporary) as scratch,
        failures_as_they_are(),
    ):
        tune.Tuner(
            placement.trainable(),
            tune_config=tune.TuneConfig(
                search_alg=PlanSearcher(work.trials, assign, seam, interrupt.stop_all),
                scheduler=TuneStopper(
                    work.stopper, seam.live, spec.search.objective, layout.concurrent
                ),
                num_samples=-1,  # the plan says when it is at its end
                max_concurrent_trials=None if layout.grows else layout.concurrent,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=scratch,  # Tune's own files are not needed again
                stop=interrupt,
                callbacks=[seam, NoPrinting(), *work.trackers],
                failure_config=tune.FailureConfig(max_failures=spec.resources.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=1 if verbose else 0,
                progress_reporter=tune.CLIReporter(),  # its notebook's one would clear the cell
            ),
        ).fit()


def finish(recorder: Recorder, live: dict[str, LiveTrial], interrupt: Interrupt) -> SweepResult:
    """The last words on disk: if trials are left, that they go on at a resume."""
    reason = interrupt.reason
    if live:
        recorder.interrupt(live.values(), reason := reason or "Tune ended before its trials did")
    if not recorder.settle(HURRY_SECONDS if interrupt.signal else GIVE_UP_SECONDS):
        told = dict.fromkeys(filter(None, (reason, recorder.cannot_write)))
        told["what was not written is trained again"] = None
        return SweepResult(recorder.folder, interrupted="; ".join(told))
    if reason is None:
        recorder.ledger.compact()
        recorder.tidy()
    if interrupt.used_up is not None:
        return SweepResult(recorder.folder, used_up=interrupt.used_up)
    return SweepResult(recorder.folder, interrupted=reason)


def announcement(sweep: Sweep, session: Session, placement: Placement) -> list[str]:
    """What is about to run, and where to watch it."""
    spec, folder, ended = sweep.spec, sweep.folder, len(sweep.ended)
    lines = [
        f"sweep {spec.name}: {spec.search.trials} {spec.space} configurations"
        + (f" and {count} controls" if (count := len(controls(spec))) else "")
        + f", {spec.search.sampler}, {describe_stop(spec)}"
        + (f"; {ended} trials have ended already" if ended else ""),
        ", ".join(f"{what} {name}" for what, name in spec.base.named.items()),
        *placement.lines,
        *long_search(spec),
        f"ledger {folder.uri}",
        # also for a death that leaves no last word, such as that of Ray's head
        f"after a crash go on with: rts-search resume {folder.argument()}",
    ]
    if session.dashboard:
        lines.append(f"dashboard {session.dashboard}  (a token is asked for: ray get-auth-token)")
    return lines


def long_search(spec: SweepSpec) -> list[str]:
    if spec.search.sampler != "tpe" or spec.search.trials <= OBSERVATIONS:
        return []
    return [f"tpe looks at {OBSERVATIONS} trials at most: the newest, and the best of the others"]


LEFT_OUT = {
    "known": "proposals known already, told as their twins, not trained again: {}",
    "never": "proposals that are never perturbed, told as sgd, not trained nor counted: {} (by "
    "trigger: {})",
    "rejected": "proposals rejected by the space (TrialPruned), not trained: {}",
    "invalid": "proposals that made no valid configuration, and failed: {}; the last: {}",
}


def mistake(study: SearchStudy) -> str | None:
    """What in its space ended the search."""
    if study.end_reason != "invalid":
        return None
    line = f"{IN_A_ROW['invalid']} proposals in a row made no valid configuration: "
    return line + study.mistake


def last_words(spec: SweepSpec, study: SearchStudy, result: SweepResult) -> list[str]:
    """What became of proposals that were not trained."""
    never = ", ".join(f"{trigger} {n}" for trigger, n in study.never.most_common())
    told = {"invalid": study.mistake, "never": never}
    lines = [LEFT_OUT[why].format(n, told.get(why)) for why, n in study.left_out.items()]
    found, ended_early = study.handed_out, result.interrupted is None and result.used_up is None
    if ended_early and found < spec.search.trials:
        why = {
            "known": "the space is exhausted",
            "never": f"{IN_A_ROW['never']} proposals in a row are never perturbed",
            "rejected": f"the space rejected {IN_A_ROW['rejected']} proposals in a row",
            "invalid": "the space makes no valid configuration any more",
        }[study.end_reason or "known"]
        lines.append(
            f"{why}: {found} different configurations, fewer than search.trials "
            f"{spec.search.trials}"
        )
    return lines
