"""What earlier sweeps know, for a new one to begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from results.meanings import Outcome
from results.storage import SweepFolder
from results.trials import Row, StoredTrial, read_trials
from rts_search.search.known import COLUMNS, Known, fired, identity, told_of, worst
from rts_search.search.suits import LEARNING
from rts_search.spec.folder import changed, read_spec
from rts_search.spec.model import SweepSpec
from search_spaces.space import ChoosingTrial, Params, Space, apply, check_point
from trainables.config import TrialConfig

POINTS = 5  # of a sweep whose values do not count here, that are tried first
TRAINED = ("data", "model", "train", "optimizer")  # groups of settings that decide a result
FREE = ("train.device", "train.seed")


@dataclass(frozen=True)
class WarmStart:
    """What earlier sweeps give: observations, points to try first, and lines that say so."""

    known: list[Known]
    points: list[Params]
    lines: list[str]


def warm_start(spec: SweepSpec, space: Space, begun: bool = False) -> WarmStart:
    """What the sweeps in `search.warm_start` have learnt.

    A trial is an observation here if its config is the one that this sweep would train for the
    same parameters, whatever its device and seed. Of a sweep without such trials the best points
    are tried first, where they lie in the space. Raises ValueError, in one line, for a sweep that
    is not there; a sweep that has `begun` already goes on without it.
    """
    found = WarmStart([], [], [])
    for name in dict.fromkeys(spec.search.warm_start):
        try:
            source = _read(spec, space, name)
        except ValueError as error:
            if not begun:
                raise
            source = WarmStart([], [], [f"warm start: nothing more from {name}: {error}"])
        found.known.extend(source.known)
        found.points.extend(source.points)
        found.lines.extend(source.lines)
    return found


def _read(spec: SweepSpec, space: Space, name: str) -> WarmStart:
    folder = _folder(spec, name)
    other = read_spec(folder)
    same_rungs = other.stop.by_schedule == spec.stop.by_schedule
    known: list[Known] = []
    others: list[Known] = []
    outside = 0
    for stored in read_trials(folder, [*COLUMNS, spec.search.objective], _counts):
        trial = _observe(spec, f"{folder.name}/{stored.trial_id}", stored, same_rungs)
        if not _lies_in(spec, space, stored.params):
            outside += 1
        elif trial is not None:
            (known if _agrees(spec, space, trial) else others).append(trial)
    points = [] if known else _best(spec, others)
    return WarmStart(known, points, [_line(spec, other, name, known, points, outside)])


def _counts(row: Row) -> bool:
    """Searched trials that have ended; failures that may be chance say nothing."""
    return row["number"] is not None and Outcome(row["outcome"]).repeats


def _folder(spec: SweepSpec, name: str) -> SweepFolder:
    folder = SweepFolder.at(name, spec.storage_path)
    if folder.uri == spec.folder.uri:
        raise ValueError(f"search.warm_start names {name!r}, which is this sweep: name another")
    return folder


def _observe(spec: SweepSpec, name: str, stored: StoredTrial, same_rungs: bool) -> Known | None:
    """The trial by this sweep's objectives, None if it has no value that counts here."""
    end = told_of(spec, stored, same_rungs)
    if end.state == "fail":  # no steps that count here, or one of two objectives
        return None
    try:
        config = TrialConfig.model_validate_json(stored.row["config_json"])
    except ValueError:  # of another version
        return None
    last = stored.epochs[-1] if stored.epochs else None
    firing = fired(last) if last and last["total_epochs"] == config.train.epochs else None
    return Known(name, stored.params, config, end, firing=firing)


def _lies_in(spec: SweepSpec, space: Space, params: Params) -> bool:
    try:
        check_point(space, params)
        _config(spec, space, params)
    except Exception:  # a space of the user's own may fail on another's parameters in any way
        return False
    return True


def _agrees(spec: SweepSpec, space: Space, trial: Known) -> bool:
    """Whether this sweep would train the same config for the trial's parameters."""
    here = _config(spec, space, trial.params)
    seed = {"seed": trial.config.train.seed}
    same_seed = here.model_copy(update={"train": here.train.model_copy(update=seed)})
    return identity(same_seed) == identity(trial.config)


def _config(spec: SweepSpec, space: Space, params: Params) -> TrialConfig:
    return apply(space, ChoosingTrial(lambda name, _: params[name]), spec.base)


def _best(spec: SweepSpec, trials: Sequence[Known]) -> list[Params]:
    sign = -1 if spec.direction == "maximize" else 1
    completed = [
        (trial.told.values[0], trial)
        for trial in trials
        if trial.told and trial.told.values and trial.told != worst(spec)
    ]
    completed.sort(key=lambda found: sign * found[0])
    return [trial.params for _, trial in completed[:POINTS]]


def _line(
    spec: SweepSpec,
    other: SweepSpec,
    name: str,
    known: Sequence[Known],
    points: Sequence[Params],
    outside: int,
) -> str:
    left = f"; {outside} trials lie outside of the space" if outside else ""
    if known:
        ends = [trial.told for trial in known if trial.told]
        count = Counter(
            "diverged or collapsed" if end == worst(spec) else end.state for end in ends
        )
        states = ", ".join(f"{n} {state}" for state, n in count.items())
        seeds = {trial.config.train.seed for trial in known} - {spec.train.seed}
        seed = f", with train.seed {min(seeds)}, here {spec.train.seed}" if seeds else ""
        learns = spec.search.sampler in LEARNING
        use = "" if learns else f" ({spec.search.sampler} learns nothing from them)"
        return f"warm start: {len(known)} trials of {name} ({states}{seed}){use}{left}"
    why = _difference(other, spec)
    if points:
        return f"warm start: the {len(points)} best points of {name} come first; {why}{left}"
    return f"warm start: nothing from {name}; {why}{left}"


def _difference(other: SweepSpec, spec: SweepSpec) -> str:
    """Why the values of another sweep do not count here."""
    for key, (old, new) in changed(other, spec).items():
        if key.partition(".")[0] in TRAINED and key not in FREE:
            return f"its values do not count here: {key} is {old!r} there, {new!r} here"
    return "it has no ended trial that this sweep would train as well"
