"""The best trials of sweeps, by a metric, among those that can be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import duckdb

from results.database import Storage, Sweeps, ask, essence, tables_in
from results.meanings import MINIMISED, OBJECTIVES, OWN, minimised
from results.names import unknown
from results.schema import records

# what trials may be ranked by: whether lower is better
_OF_TRIALS = {
    "final_val_accuracy": False,
    "best_val_accuracy": False,
    "images_per_second": False,
    "gradient_evaluations": True,
    "train_seconds": True,
    "eval_seconds": True,
    "epoch_seconds": True,
    "peak_memory_bytes": True,
}
# as means over the last max(1, T // 20) epochs, like final_val_accuracy
_OF_EPOCHS = {
    **{f"final_{name}": name in MINIMISED for name in OBJECTIVES if name != "val_accuracy"},
    "final_generalization_gap": True,
    "final_perturbed_loss": True,
    "final_loss_rise": True,
}
# what the run at the rung reached cost: of a completed trial, T epochs without the climb to there
_OF_RUNS = {
    "run_gradient_evaluations": "max(gradient_evaluations)",
    "run_train_seconds": "sum(train_seconds)",
}
METRICS = _OF_TRIALS | _OF_EPOCHS | dict.fromkeys(_OF_RUNS, True)


@dataclass(frozen=True)
class Reruns:
    """How many runs on several seeds there are, of how many configurations, and their pooled
    standard deviation around the mean of their configuration."""

    runs: int
    configurations: int
    deviation: float


@dataclass(frozen=True)
class Ranking:
    """Trials, best first, and the controls beside them; rows of `trials` with the metric.

    Runs of one configuration are one row, that of the best of them, ranked by their `mean`; with
    several `seeds`, `deviation` is theirs (ddof 1). A control is `untuned` if its arm had one try
    and trials of its sweep have other settings than it, besides the optimizer's own. `ranked` is
    the number of trials that were compared, of which `trials` are the top; `reruns` are of all.
    """

    metric: str
    lower_is_better: bool
    ranked: int
    trials: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    reruns: Reruns | None = None

    @property
    def objective(self) -> str | None:
        """That of its sweeps, if it is what they are ranked by."""
        name = self.metric.removeprefix("final_")
        found = {row["objective"] for row in (*self.trials, *self.controls)}
        return name if found == {name} else None

    @property
    def on_test(self) -> bool:
        """Whether what its trials call validation is the test set, of all or of none."""
        return any(row["selected_on"] == "test" for row in (*self.trials, *self.controls))

    @property
    def sweeps(self) -> list[str]:
        return sorted({row["sweep"] for row in (*self.trials, *self.controls)})


def arms(controls: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The controls of each arm of each sweep, in the order in which they come."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in controls:
        found.setdefault((row["sweep"], row["control"]), []).append(row)
    return list(found.values())


def lower_is_better(metric: str) -> bool:
    """Raises ValueError for a metric that trials are not ranked by."""
    if metric.startswith(("test_", "best_test_")):
        raise ValueError(
            f"trials are not ranked by {metric}: a choice made on the test set makes its figures "
            f"too good; rank by final_val_accuracy and read {metric} of the winner"
        )
    if is_own(metric):
        return minimised(metric)
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return METRICS[metric]


def is_own(metric: str) -> bool:
    """Whether it is the final objective of a task of one's own, as `final_val_mse:min`."""
    return metric.startswith("final_") and OWN.fullmatch(metric.removeprefix("final_")) is not None


def best(storage: Storage, sweeps: Sweeps = None, **asked: Any) -> Ranking:
    """As `rankings`, of sweeps that can be compared. Raises ValueError if they cannot."""
    found = rankings(storage, sweeps, **asked)
    if len(found) > 1:
        groups = "; ".join(f"{', '.join(each.sweeps)}: {setting(each)}" for each in found)
        raise ValueError(
            f"trials are ranked together where data, model, T and objective agree, not here: "
            f"{groups}; name those that do, or choose them by a condition (where)"
        )
    return found[0]


def rankings(
    storage: Storage,
    sweeps: Sweeps = None,
    *,
    top: int = 10,
    metric: str | None = None,
    where: str | None = None,
    include_all: bool = False,
) -> list[Ranking]:
    """The `top` searched trials by a metric of METRICS, and all controls, which `where` spares.

    Without a metric, by the sweeps' own objective at the end. What does not agree in data, model,
    T and (then) objective is never in one ranking; there is always one. Only trials that completed
    their whole schedule are compared, unless `include_all`; never those that have no value. Ties go
    to the cheaper trial, then by sweep, number and name. `where` is a condition in SQL on the
    columns of `trials`. Raises ValueError.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if metric:
        lower_is_better(metric)  # refused before anything is read
    condition = condition_of(where)
    tables = {"trials", *tables_in(where or "")}
    found: list[Ranking] = []
    objectives, mixed = _asked(storage, sweeps)
    for objective in [None] if metric else objectives:
        by = metric or f"final_{objective}"
        ascending = lower_is_better(by)
        done = "true" if include_all else "outcome = 'completed'"
        own = f"{done} AND {OBJECTIVE} = '{objective}'" if objective else done
        asked = f"{own} AND (control IS NOT NULL OR {condition})"
        sql = _ranking_sql(by, ascending, asked, top, mixed)
        read = {*tables, *([] if by in _OF_TRIALS or is_own(by) else ["epochs"])}
        groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for row in records(ask(storage, sql, sweeps=sweeps, tables=read, searched=True)):
            groups[row.pop("comparable")].append(row)
        found += [_ranking(by, ascending, groups[key]) for key in sorted(groups)]
    return found or [Ranking(by, ascending, 0, [], [])]


def _asked(storage: Storage, sweeps: Sweeps) -> tuple[list[str], bool]:
    """The objectives of the sweeps, and whether settings may differ: there are several sweeps, or
    single runs."""
    columns = ["objective", "number", "control", "source"]
    (row,) = ask(
        storage, _ASKED, sweeps=sweeps, tables=["trials"], trial_columns=columns, searched=True
    ).to_pylist()
    return row["names"] or ["val_accuracy"], bool(row["mixed"])


def _ranking(metric: str, ascending: bool, rows: list[dict[str, Any]]) -> Ranking:
    of_all = [{name: row.pop(name) for name in ("ranked", "reruns")} for row in rows]
    trials = [
        {name: row[name] for name in row if name != "untuned"}
        for row in rows
        if row["control"] is None
    ]
    controls = [row for row in rows if row["control"] is not None]
    ranked = next((each["ranked"] for each in of_all if each["ranked"]), 0)
    reruns = Reruns(**of_all[0]["reruns"]) if of_all and of_all[0]["reruns"] else None
    return Ranking(metric, ascending, ranked, trials, controls, reruns)


def setting(ranking: Ranking) -> str:
    """What its trials have in common."""
    return setting_of((ranking.trials or ranking.controls)[0])


def setting_of(row: Mapping[str, Any]) -> str:
    """As in `data digits (300 images), model mlp, T 9`."""
    images = f" ({row['config_train_size']:,} images)" if row["config_train_size"] else ""
    told = {"data": row["config_data"], "model": row["config_model"], "T": row["total_epochs"]}
    words = [f"{what} {'not known' if value is None else value}" for what, value in told.items()]
    words[0] += images
    on_test = row["selected_on"] == "test"
    return ", ".join(words + (["validated on the test set"] if on_test else []))


def condition_of(where: str | None) -> str:
    """A user's condition on the columns of `trials`, checked. Raises ValueError."""
    if where is None:
        return "true"
    try:
        duckdb.SQLExpression(where)  # one expression, and nothing after it
    except duckdb.Error as error:
        raise ValueError(f"where {where!r} is not a condition: {essence(error)}") from None
    return f"(\n{where}\n)"


# rows of earlier versions have no objective: nothing but the accuracy is known
OBJECTIVE = "coalesce(objective, 'val_accuracy')"
TOLD = f"""{OBJECTIVE} AS objective,
    CASE WHEN objective IS NULL THEN final_val_accuracy ELSE final_objective END AS final_objective
"""
# a run with settings of its own: trained alone, or imported
_SINGLE = "(number IS NULL AND control IS NULL) OR source IS NOT NULL"
_ASKED = f"""
    SELECT list_sort(list(DISTINCT {OBJECTIVE})) AS names,
        count(DISTINCT sweep) > 1 OR bool_or({_SINGLE}) AS mixed
    FROM trials
"""
OBJECTIVE_COLUMNS = ("objective", "final_objective", "final_val_accuracy")  # what that reads
# what must agree for values to be comparable: the images, their labels, the network, the length
SETTING = {
    "data": "config_data",
    "train size": "config_train_size::VARCHAR",
    "model": "config_model",
    "T": "total_epochs::VARCHAR",
    "validation fraction": "config_json->>'$.data.validation_fraction'",
    "validation seed": "config_json->>'$.data.validation_seed'",
    "image size": "config_json->>'$.data.image_size'",
    "model settings": "config_json->>'$.model'",
    # later than the others
    "label noise": "coalesce(config_json->>'$.data.label_noise', '0.0')",
    "label noise seed": "coalesce(config_json->>'$.data.label_noise_seed', '0')",
}
# and, to be ranked together, what was validated on
_SETTING = f"[{', '.join(SETTING.values())}, coalesce(selected_on, '')]"
# all but the optimizer's own parameters: what a control has to be tuned in, if trials differ in it
_BESIDE = """json_merge_patch(config_json, '{"optimizer": null, "data": {"residence": null},
    "train": {"epochs": null, "seed": null, "device": null}}')::VARCHAR"""
# settings that earlier versions had not, as they are by default, which is what those did
_LATER = ',"after":{"lr_factor":1.0,"anneal":"keep"}', ',"label_noise":0.0,"label_noise_seed":0'
_TOLD = reduce(lambda text, later: f"replace({text}, '{later}', '')", _LATER, "config_json")
# equal for runs that differ only in the seed, or in where their images lay, which changes no bit; a
# control is compared in its own sweep
WITHOUT_SEED = f"""json_merge_patch({_TOLD},
    '{{"train": {{"seed": null}}, "data": {{"residence": null}}}}')::VARCHAR"""
_CONFIGURATION = f"[{WITHOUT_SEED}, CASE WHEN control IS NOT NULL THEN sweep END]"
# as they are in the columns too, so that few texts need to be taken apart: runs of one
# configuration have the same
_ALIKE = """hash(config_lr, config_momentum, config_weight_decay, config_batch_size,
    config_radius_beta_min, config_radius_beta_max, config_scale_beta_min, config_scale_beta_max,
    config_trigger, config_trigger_gamma, config_trigger_fraction, config_rho)"""


def _one_of_each(where: str, until: str, *names: str) -> str:
    """The trials' columns that tell settings, of one trial for each beginning of `config_json`
    until a name: texts of one beginning agree in what these names hold. As texts of another order
    do not have them there, they stand for themselves."""
    head = f"split_part(config_json, '}},\"{until}\":{{', 1)"
    told = " AND ".join(f"contains({head}, '\"{name}\":{{')" for name in names)
    columns = "sweep, config_data, config_train_size, config_model, total_epochs, selected_on"
    return f"""(SELECT {columns}, any_value(config_json) AS config_json FROM trials
        WHERE {where} GROUP BY {columns}, CASE WHEN {told} THEN {head} ELSE config_json END)"""


def _ranking_sql(metric: str, ascending: bool, condition: str, top: int, mixed: bool) -> str:
    """Rows of the top trials and of all controls, best first, with the number of the group in
    which they are `comparable`: a sweep has the settings of all its searched trials, what it
    searches included; a single run has its own. Of most trials only a few columns are read."""
    own = metric in _OF_TRIALS or is_own(metric)
    told = "final_objective" if is_own(metric) else metric
    way = "ASC" if ascending else "DESC"
    rest = "gradient_evaluations, sweep, number, trial_id"
    controlled = "sweep IN (SELECT sweep FROM tops WHERE control IS NOT NULL)"
    several = "number IS NOT NULL AND source IS NULL AND sweep IN (FROM mixed)"
    tuned = f"control IS NULL AND {controlled}"
    return f"""
        WITH lean AS MATERIALIZED (
            SELECT sweep, trial_id, number, control, source, gradient_evaluations, config_seed,
                {told} AS value, {_ALIKE} AS alike, {condition} AS asked
            FROM trials {"" if own else of_last_run(metric)}
        ),
        chosen AS (
            SELECT * EXCLUDE asked FROM lean
            WHERE asked AND value IS NOT NULL AND NOT isnan(value::DOUBLE)
        ),
        mixed AS (SELECT DISTINCT sweep FROM lean WHERE {mixed}),
        singles AS (
            SELECT sweep, trial_id FROM lean WHERE sweep IN (FROM mixed) AND (
                {_SINGLE}
                OR sweep NOT IN (SELECT sweep FROM lean WHERE number IS NOT NULL)
            )
        ),
        searched AS (
            SELECT sweep, list_sort(list(DISTINCT {_SETTING})) AS settings
            FROM {_one_of_each(several, "train", "data", "model")} GROUP BY sweep
        ),
        settings AS (
            SELECT sweep, NULL AS trial_id, settings FROM searched UNION ALL
            SELECT sweep, trial_id, [{_SETTING}] FROM trials SEMI JOIN singles
                USING (sweep, trial_id)
        ),
        places AS (
            SELECT sweep, trial_id, dense_rank() OVER (ORDER BY settings) AS comparable
            FROM settings
        ),
        told AS (
            SELECT chosen.*, coalesce(single.comparable, several.comparable, 0) AS comparable
            FROM chosen LEFT JOIN (SELECT * FROM places WHERE trial_id IS NULL) AS several
                ON several.sweep = chosen.sweep
            LEFT JOIN (SELECT * FROM places WHERE trial_id IS NOT NULL) AS single
                ON single.sweep = chosen.sweep AND single.trial_id = chosen.trial_id
        ),
        alike AS (
            SELECT sweep, trial_id FROM chosen SEMI JOIN (
                SELECT alike FROM chosen GROUP BY alike HAVING count(*) > 1
            ) USING (alike)
        ),
        configurations AS (
            SELECT sweep, trial_id, {_CONFIGURATION} AS configuration
            FROM trials SEMI JOIN alike USING (sweep, trial_id) WHERE config_json IS NOT NULL
        ),
        grouped AS (
            SELECT told.*, avg(value) OVER runs AS mean,
                count(DISTINCT coalesce(config_seed, 0)) OVER runs AS seeds,
                CASE WHEN seeds > 1 THEN stddev_samp(value) OVER runs END AS deviation,
            FROM told JOIN configurations USING (sweep, trial_id)
            WINDOW runs AS (PARTITION BY comparable, control, configuration)
            QUALIFY row_number() OVER (
                PARTITION BY comparable, control, configuration ORDER BY value {way}, {rest}
            ) = 1
        ),
        firsts AS (
            FROM grouped UNION ALL
            SELECT *, value::DOUBLE, 1, NULL FROM told
            ANTI JOIN configurations USING (sweep, trial_id)
        ),
        reruns AS (
            SELECT comparable, {{
                'runs': sum(seeds)::BIGINT, 'configurations': count(*),
                'deviation': sqrt(sum((seeds - 1) * deviation ** 2) / sum(seeds - 1))
            }} AS reruns FROM firsts WHERE seeds > 1 GROUP BY comparable
        ),
        counts AS (
            SELECT comparable, count(*) FILTER (control IS NULL) AS ranked
            FROM told GROUP BY comparable
        ),
        tops AS (
            FROM firsts QUALIFY control IS NOT NULL OR row_number() OVER (
                PARTITION BY comparable, control IS NULL ORDER BY mean {way}, {rest}
            ) <= {top}
        ),
        beside AS (
            SELECT sweep, list(DISTINCT {_BESIDE}) AS tried
            FROM {_one_of_each(tuned, "optimizer", "data", "model", "train")} GROUP BY sweep
        )
        SELECT trials.* REPLACE ({TOLD}), {"" if metric in _OF_TRIALS else f'value AS "{metric}",'}
            mean, seeds, deviation, CASE WHEN trials.control IS NOT NULL
                THEN len(list_distinct(list_append(tried, {_BESIDE}))) > 1
                AND count(*) OVER (PARTITION BY trials.sweep, trials.control) = 1
            END AS untuned, ranked, reruns, comparable
        FROM trials JOIN (
            SELECT sweep, trial_id, value, mean, seeds, deviation, comparable,
                row_number() OVER (ORDER BY mean {way}, {rest}) AS place FROM tops
        ) USING (sweep, trial_id) JOIN counts USING (comparable)
        LEFT JOIN reruns USING (comparable) LEFT JOIN beside USING (sweep)
        ORDER BY place
    """


def of_last_run(metric: str) -> str:
    """The join that adds to `trials` what the epochs at the rung that each trial reached say: a
    cost, or the mean of an epoch's metric over the last of them."""
    if metric in _OF_RUNS:
        value, since = _OF_RUNS[metric], "0"
    else:
        value = f"avg({metric.removeprefix('final_')})"
        since = (
            "max(epoch) OVER (PARTITION BY sweep, trial_id, rung) - greatest(1, total_epochs // 20)"
        )
    return f"""
        LEFT JOIN (
            SELECT sweep, trial_id, {value} AS {metric} FROM (
                FROM epochs QUALIFY rung = max(rung) OVER (PARTITION BY sweep, trial_id)
                AND epoch > {since}
            ) GROUP BY ALL
        ) USING (sweep, trial_id)
    """
