"""What earlier sweeps know, for a new one to begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from results.meanings import Outcome, column
from results.storage import SweepFolder
from results.trials import Row, StoredTrial, read_trials
from rts_search.search.known import COLUMNS, Known, Told, fired, identity, told_of, worst
from rts_search.search.suits import LEARNING
from rts_search.spec.folder import changed, read_spec
from rts_search.spec.model import SweepSpec
from search_spaces.points import point_of
from search_spaces.space import ChoosingTrial, Params, Space, apply, check_point
from trainables.config import TrialConfig

POINTS = 5  # of a sweep whose values do not count here, that are tried first
TRAINED = ("data", "model", "train", "optimizer")  # groups of settings that decide a result
FREE = ("train.device", "train.seed", "data.residence")


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
    trials = read_trials(folder, [*COLUMNS, column(spec.search.objective)], _counts)
    # what was imported has no spec: its trials are single runs of T epochs
    imported = bool(trials) and all(trial.row["source"] is not None for trial in trials)
    other = None if imported else read_spec(folder)
    same_rungs = (other is not None and other.stop.by_schedule) == spec.stop.by_schedule
    known: list[Known] = []
    others: list[tuple[float, Params]] = []
    outside, tested = 0, 0
    for stored in trials:
        params = _point(spec, space, stored)
        if params is None:
            outside += 1
            continue
        end = _end(spec, stored, same_rungs)
        if end is None:
            continue
        trial = _observe(f"{folder.name}/{stored.trial_id}", stored, params, end)
        if trial is not None and _agrees(spec, space, trial):
            known.append(trial)
        elif end.values and end != worst(spec):
            others.append((end.values[0], params))
            tested += stored.row["selected_on"] is not None
    points = [] if known else _best(spec, others)
    line = _line(spec, other, name, known, points, outside)
    if points and tested:
        line += (
            f"; the test set chose among {tested} of its trials: of what this sweep finds, test "
            "figures may be a little too good"
        )
    return WarmStart(known, points, [line])


def _counts(row: Row) -> bool:
    """Searched trials that have ended; failures that may be chance say nothing."""
    return row["number"] is not None and Outcome(row["outcome"]).repeats


def _folder(spec: SweepSpec, name: str) -> SweepFolder:
    folder = SweepFolder.at(name, spec.storage_path)
    if folder.uri == spec.folder.uri:
        raise ValueError(f"search.warm_start names {name!r}, which is this sweep: name another")
    return folder


def _end(spec: SweepSpec, stored: StoredTrial, same_rungs: bool) -> Told | None:
    """The trial's end by this sweep's objectives, None if it has no value that counts here."""
    objective = column(spec.search.objective)
    if any(row[objective] is None for row in stored.epochs):  # as only others write
        return None
    end = told_of(spec, stored, same_rungs)
    # failed: no steps that count here, or one of two objectives
    return None if end.state == "fail" else end


def _observe(name: str, stored: StoredTrial, params: Params, end: Told) -> Known | None:
    """None where its configuration is not known, or it was validated on the test set."""
    config = _config_of(stored)
    if config is None or stored.row["selected_on"] is not None:
        return None
    last = stored.epochs[-1] if stored.epochs else None
    firing = fired(last) if last and last["total_epochs"] == config.train.epochs else None
    return Known(name, params, config, end, firing=firing)


def _config_of(stored: StoredTrial) -> TrialConfig | None:
    try:
        return TrialConfig.model_validate_json(stored.row["config_json"] or "")
    except ValueError:  # of another version, or of no configuration of ours
        return None


def _point(spec: SweepSpec, space: Space, stored: StoredTrial) -> Params | None:
    """The trial's parameters in this space; those that its configuration has there, where it was
    imported and none were searched. None outside of the space."""
    if stored.row["source"] is not None and not stored.params:
        config = _config_of(stored)
        return None if config is None else point_of(space, config, spec.base)
    try:
        check_point(space, stored.params)
        _config(spec, space, stored.params)
    except Exception:  # a space of the user's own may fail on another's parameters in any way
        return None
    return stored.params


def _agrees(spec: SweepSpec, space: Space, trial: Known) -> bool:
    """Whether this sweep would train the same config for the trial's parameters."""
    here = _config(spec, space, trial.params)
    seed = {"seed": trial.config.train.seed}
    same_seed = here.model_copy(update={"train": here.train.model_copy(update=seed)})
    return identity(same_seed) == identity(trial.config)


def _config(spec: SweepSpec, space: Space, params: Params) -> TrialConfig:
    return apply(space, ChoosingTrial(lambda name, _: params[name]), spec.base)


def _best(spec: SweepSpec, trials: Sequence[tuple[float, Params]]) -> list[Params]:
    """Of values and points, each point once."""
    sign = -1 if spec.direction == "maximize" else 1
    best: list[Params] = []
    for _, params in sorted(trials, key=lambda found: sign * found[0]):
        if params not in best:
            best.append(params)
    return best[:POINTS]


def _line(
    spec: SweepSpec,
    other: SweepSpec | None,
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


def _difference(other: SweepSpec | None, spec: SweepSpec) -> str:
    """Why the values of another sweep do not count here."""
    if other is None:
        return "imported values count where data, model and training are known to be the same"
    for key, (old, new) in changed(other, spec).items():
        if key.partition(".")[0] in TRAINED and key not in FREE:
            return f"its values do not count here: {key} is {old!r} there, {new!r} here"
    return "it has no ended trial that this sweep would train as well"
