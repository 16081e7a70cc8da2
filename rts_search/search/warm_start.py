"""What earlier sweeps know, for a new one to begin with."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from results.parts import epoch_dataset, read_parts
from results.storage import SweepFolder
from rts_search.search.checks import search_space
from rts_search.search.known import Earlier
from rts_search.search.study import SearchStudy
from rts_search.search.suits import LEARNING
from rts_search.search.twins import identity
from rts_search.spec.folder import changed, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.stopping.stopper import make_stopper
from rts_search.trials.rows import last_run, step_values
from search_spaces.space import ChoosingTrial, Params, Space, apply, check_point
from trainables.config import TrialConfig

POINTS = 5  # of a sweep whose values do not count here, that are tried first
STATES = {
    "completed": "complete",
    "stopped": "pruned",
    "user_stopped": "pruned",
    "diverged": "fail",
    "collapsed": "fail",
}
TRAINED = ("data", "model", "train", "optimizer")  # groups of settings that decide a result
FREE = ("train.device", "train.seed")

Epochs = list[dict[str, Any]]


def warm_start(spec: SweepSpec, study: SearchStudy) -> list[str]:
    """Let the search begin with what the sweeps in `search.warm_start` have learnt.

    A trial is an observation here if its config is the one that this sweep would train for the
    same parameters, whatever its device and seed. Of a sweep without such trials the best points
    are tried first, where they lie in the space. Returns what to tell the user. Once in a sweep's
    life. Raises ValueError, in one line, for a sweep that is not there.
    """
    if study.warm_started or not spec.search.warm_start:
        return []
    space = search_space(spec)
    sources = [_read(spec, space, name) for name in dict.fromkeys(spec.search.warm_start)]
    study.warm_start(
        [trial for source in sources for trial in source.known],
        [point for source in sources for point in source.points],
    )
    return [source.line for source in sources]


@dataclass(frozen=True)
class Source:
    """An earlier sweep: its observations, or else points to try; and the line that says so."""

    known: list[Earlier]
    points: list[Params]
    line: str


def _read(spec: SweepSpec, space: Space, name: str) -> Source:
    folder = _folder(spec, name)
    other = read_spec(folder)
    epochs = _epochs(folder, spec.search.objective)
    same_steps = make_stopper(other).by_schedule == make_stopper(spec).by_schedule
    known: list[Earlier] = []
    others: list[Earlier] = []
    outside = 0
    for row in _ended(folder):
        params = json.loads(row["params"])
        trial = _observe(spec, row, params, epochs.get(row["trial_id"], []), same_steps)
        if not _lies_in(space, params):
            outside += 1
        elif trial is not None:
            (known if _agrees(spec, space, trial) else others).append(trial)
    points = [] if known else _best(spec, others)
    return Source(known, points, _line(spec, other, name, known, points, outside))


def _folder(spec: SweepSpec, name: str) -> SweepFolder:
    """`name` is of a sweep in the same storage, or the path or URI of a sweep's folder."""
    path, _, query = name.partition("?")
    parent, slash, last = path.rstrip("/").rpartition("/")
    storage = (parent or "/") + (f"?{query}" if query else "") if slash else spec.storage
    folder = SweepFolder(storage, last)
    if folder.uri == SweepFolder(spec.storage, spec.name).uri:
        raise ValueError(f"search.warm_start names {name!r}, which is this sweep: name another")
    return folder


def _ended(folder: SweepFolder) -> list[dict[str, Any]]:
    """The searched trials that have ended, by number; failures that may be chance are none."""
    rows = [row for part in read_parts(folder, "trials").values() for row in part.to_pylist()]
    newest = {row["trial_id"]: row for row in sorted(rows, key=lambda row: row["updated"])}
    ended = [row for row in newest.values() if row["outcome"] in STATES]
    return sorted((row for row in ended if row["number"] is not None), key=lambda r: r["number"])


def _epochs(folder: SweepFolder, objective: str) -> dict[str, Epochs]:
    """Every trial's epochs, in order; of their columns those that values are made of."""
    columns = ["trial_id", "rung", "epoch", "total_epochs", "gradient_evaluations", "train_seconds"]
    table = epoch_dataset([folder]).to_table(columns=[*columns, objective])
    unique = {(row["trial_id"], row["rung"], row["epoch"]): row for row in table.to_pylist()}
    found: dict[str, Epochs] = {}
    for key in sorted(unique):
        found.setdefault(key[0], []).append(unique[key])
    return found


def _observe(
    spec: SweepSpec, row: dict[str, Any], params: Params, epochs: Epochs, same_steps: bool
) -> Earlier | None:
    """The trial by this sweep's objectives, None if it has no value that counts here."""
    state: Any = STATES[row["outcome"]]
    objective = spec.search.objective
    steps = step_values(epochs, objective, make_stopper(spec).by_schedule) if same_steps else {}
    values = None
    if state == "complete":
        run = last_run(epochs)
        final = step_values(run, objective, True).get(row["total_epochs"])
        if final is None or not math.isfinite(final):
            return None
        values = [final] + [_cost(run, spec.search.against)] * bool(spec.search.against)
    elif state == "pruned" and (spec.search.against or not steps):
        return None
    try:
        config = TrialConfig.model_validate_json(row["config_json"])
    except ValueError:  # of another version
        return None
    steps = {step: value for step, value in steps.items() if math.isfinite(value)}
    return Earlier(f"{row['sweep']}/{row['trial_id']}", params, config, state, values, steps)


def _cost(run: Epochs, against: str | None) -> float:
    if against == "gradient_evaluations":
        return float(run[-1][against])
    return math.fsum(row["train_seconds"] for row in run)


def _lies_in(space: Space, params: Params) -> bool:
    try:
        check_point(space, params)
    except Exception:  # a space of the user's own may fail on another's parameters in any way
        return False
    return True


def _agrees(spec: SweepSpec, space: Space, trial: Earlier) -> bool:
    """Whether this sweep would train the same config for the trial's parameters."""
    here = apply(space, ChoosingTrial(lambda name, _: trial.params[name]), spec.base)
    seed = {"seed": trial.config.train.seed}
    same_seed = here.model_copy(update={"train": here.train.model_copy(update=seed)})
    return identity(same_seed) == identity(trial.config)


def _best(spec: SweepSpec, trials: Sequence[Earlier]) -> list[Params]:
    sign = -1 if spec.direction == "maximize" else 1
    completed = [(trial.values[0], trial) for trial in trials if trial.values]
    completed.sort(key=lambda found: sign * found[0])
    return [trial.params for _, trial in completed[:POINTS]]


def _line(
    spec: SweepSpec,
    other: SweepSpec,
    name: str,
    known: Sequence[Earlier],
    points: Sequence[Params],
    outside: int,
) -> str:
    left = f"; {outside} trials lie outside of the space" if outside else ""
    if known:
        count = Counter(trial.state for trial in known)
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
