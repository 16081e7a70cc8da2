"""Writes a sweep's ledger, and keeps the weights of its best trials."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from results.ledger import Ledger
from results.meanings import Outcome, merit
from results.storage import SweepFolder
from results.trials import StoredTrial
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import Stopper
from rts_search.trials.observer import Observer
from rts_search.trials.rows import (
    epoch_row,
    final_value,
    look_at,
    looks,
    step_values,
    stored_final,
    trial_row,
)
from rts_search.trials.trial import SGD, LiveTrial
from trainables.checkpoint import (
    FILES,
    LEFT,
    STATE,
    TRUNKS,
    WEIGHTS,
    CheckpointFolder,
    pack,
    weights_from,
)

FLUSH_SECONDS = 5.0
END_SECONDS = 1.0  # an end waits so long for others, with which it is written
RETRY_SECONDS = 2.0  # between attempts to write while the storage fails
GIVE_UP_SECONDS = 120.0


class Recorder(Observer):
    """The first of the observers.

    Order matters for crashes: a trial's row is on disk before it begins, its last epochs, its
    verdict and its end are written together, and its checkpoint goes last, so that whatever is
    missing can be had from what came before. While the storage cannot be written (a full disk, a
    server that is down) rows wait in memory, and no trial begins. `ended` are the trials that
    earlier drivers saw to their end, of this `stage` as all whose checkpoints it tends.
    """

    def __init__(
        self,
        spec: SweepSpec,
        folder: SweepFolder,
        ledger: Ledger,
        stopper: Stopper,
        ended: Iterable[StoredTrial] = (),
        stage: str | None = None,
    ) -> None:
        self.spec, self.folder, self.ledger, self.stopper = spec, folder, ledger, stopper
        own = (row for row in ledger.trials() if row["stage"] == stage)
        self.started = {row["trial_id"]: row["started"] for row in own}
        self.objective = spec.search.objective
        # (merit by the objective, trial id) of those whose weights are kept, best first: of
        # searched trials, and of controls
        self.kept: dict[bool, list[tuple[float, str]]] = {False: [], True: []}
        self.frozen: set[str] = set()  # stopped trials whose checkpoints are kept
        self.unsaved: list[Callable[[], None]] = []  # what ends do once they are on disk
        self.failing_since: float | None = None
        self.failure = ""
        self.tried = 0.0
        there = set(folder.list("checkpoints"))
        for trial in (trial for trial in ended if trial.trial_id in there):
            final = stored_final(trial, self.objective)
            self._keep_or_drop(trial.trial_id, trial.outcome, trial.row["control"], final)

    def begins(self, trial: LiveTrial) -> None:
        trial.started = self.started.setdefault(trial.trial_id, trial.started)
        self._put(trial)
        if self._just_failed() or not self._written(self.ledger.flush_beginnings):
            raise OSError(self.failure)

    def reported(self, trial: LiveTrial, epochs: Sequence[dict[str, Any]]) -> None:
        for metrics in epochs:
            self.ledger.add_epoch(epoch_row(trial.trial_id, metrics))
        if trial.trial_id == SGD and self.stopper.by_firing:
            self.stopper.hear_control(step_values(trial.history, self.objective, False))

    def ended(self, trial: LiveTrial) -> None:
        if trial.outcome is not Outcome.STOPPED and trial.number is not None:
            # its last value counts for the others; and what a checkpoint held of a trial that has
            # ended with its first report was shown to nobody yet
            by_schedule = self.stopper.by_schedule
            found = looks(trial.history, self.objective, by_schedule, trial.is_sgd)
            self.stopper.refill(trial.number, found)
        if trial.outcome is Outcome.STOPPED and trial.number is not None:
            trial.message = self.stopper.why(trial.number)
        self._put(trial)
        name, outcome, control = trial.trial_id, trial.outcome, trial.control
        final = final_value(trial.history, self.objective)
        # by a tick that writes it
        self.unsaved.append(lambda: self._keep_or_drop(name, outcome, control, final))

    def interrupt(self, trials: Iterable[LiveTrial], message: str) -> None:
        """The sweep ends before these trials do: they go on when it is resumed."""
        for trial in trials:
            trial.outcome, trial.message = Outcome.INTERRUPTED, message
            self._put(trial)

    def tick(self) -> None:
        """Writes what has waited for some seconds."""
        if self.failing_since is None:
            self._flush(END_SECONDS if self.unsaved else FLUSH_SECONDS)
        elif not self._just_failed():
            self._flush()

    def settle(self, patience: float = GIVE_UP_SECONDS) -> bool:
        """Write all that waits; False if the storage has failed for so long."""
        while not self._flush():
            if self._failing_for() >= patience:
                return False
            time.sleep(RETRY_SECONDS)
        return True

    def tidy(self) -> None:
        """Once all trials have ended: of these only the kept weights stay, and of trunks what is
        whole. A worker on a node that was cut off may have saved a trial after it had ended
        elsewhere."""
        kept = {trial_id for some in self.kept.values() for _, trial_id in some}
        there = set(self.folder.list("checkpoints")) - self.frozen
        for trial_id in self.started.keys() & there:
            if trial_id not in kept or not self._has_weights(trial_id):
                self._drop(trial_id)
        for trunk in self.folder.list(TRUNKS):
            for name in self.folder.list(f"{TRUNKS}/{trunk}"):
                if LEFT.fullmatch(name):
                    self.folder.delete(f"{TRUNKS}/{trunk}/{name}")

    def given_up(self) -> str | None:
        """Why the sweep must end: its storage has not been writable for two minutes."""
        return self.cannot_write if self._failing_for() >= GIVE_UP_SECONDS else None

    @property
    def cannot_write(self) -> str:
        return f"{self.folder.uri} cannot be written: {self.failure}"

    def _failing_for(self) -> float:
        return time.monotonic() - self.failing_since if self.failing_since is not None else 0.0

    def _just_failed(self) -> bool:
        return self.failing_since is not None and time.monotonic() - self.tried < RETRY_SECONDS

    def _flush(self, max_age_seconds: float | None = None) -> bool:
        """Write what has waited so long, and then do what ends do; False if the storage fails."""

        def write() -> None:
            while self.ledger.flush(max_age_seconds) and self.unsaved:
                self.unsaved[0]()
                self.unsaved.pop(0)

        return self._written(write)

    def _written(self, write: Callable[[], None]) -> bool:
        self.tried = time.monotonic()
        try:
            write()
        except OSError as error:
            self.failure = str(error)
            self.failing_since = self.failing_since or time.monotonic()
            return False
        self.failing_since = None
        return True

    def _put(self, trial: LiveTrial) -> None:
        row = trial_row(trial, self.objective)
        if trial.number is not None:
            row |= {
                "rungs": len(self.stopper.rungs),
                "audited": self.stopper.audited(trial.number),
                "lost_rung": self.stopper.lost.get(trial.number),
            }
            if trial.number in self.stopper.thawed:
                row |= {
                    "stopped_epoch": self.stopper.thawed[trial.number],
                    "stopped_rung": self.stopper.lost[trial.number],
                }
        if trial.outcome is Outcome.STOPPED:
            last = look_at(trial.history[-1], row["final_objective"], trial.is_sgd)
            row |= {"stopped_epoch": last.epoch, "stopped_rung": self.stopper.rung_at(last)}
        self.ledger.put_trial(row)

    def _keep_or_drop(
        self, trial_id: str, outcome: Outcome, control: str | None, final: float | None
    ) -> None:
        """Keep the weights of the completed trials that are best by the objective, whose value
        at the end is `final`, and of as many controls; all other checkpoints go. One without
        weights holds no place."""
        if outcome is Outcome.STOPPED and self.spec.checkpoint.keep_stopped:
            self.frozen.add(trial_id)
            return
        if outcome is Outcome.COMPLETED and final is None:
            return  # its epochs were lost
        completed = outcome is Outcome.COMPLETED and final is not None and not math.isnan(final)
        if not (completed and self.spec.checkpoint.keep_top and self._has_weights(trial_id)):
            self._drop(trial_id)
            return
        assert final is not None
        kept = self.kept[control is not None]
        kept.append((merit(final, self.objective), trial_id))
        kept.sort(key=lambda one: (-one[0], one[1]))
        for _, dropped in kept[self.spec.checkpoint.keep_top :]:
            self._drop(dropped)
        del kept[self.spec.checkpoint.keep_top :]

    def _has_weights(self, trial_id: str) -> bool:
        """Whether a completed trial has its weights, or its last checkpoint, from which they are
        made where its worker found no room: now or, as long as there is none, at the sweep's end or
        by a resume. The checkpoint goes once they are there."""
        weights = f"checkpoints/{trial_id}/{WEIGHTS}"
        if not self.folder.exists(weights):
            held = CheckpointFolder(self.folder.uri_of(f"checkpoints/{trial_id}")).load(STATE)
            content = weights_from(held)
            if content is None:
                return False
            try:
                self.folder.write(weights, pack(content))
            except OSError:
                return True
        self._drop(trial_id, STATE)
        return True

    def _drop(self, trial_id: str, only: str | None = None) -> None:
        """Delete a trial's checkpoints, or the one; all else there, if only a folder in which
        there are none, is somebody's."""
        place = f"checkpoints/{trial_id}"
        ours = FILES if only is None else (only, f"{only}.part")
        found = set(self.folder.files(place)).intersection(ours)
        for name in sorted(found):
            self.folder.delete(f"{place}/{name}")
        if found:
            self.folder.delete_empty(place)
