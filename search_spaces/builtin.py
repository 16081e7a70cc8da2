"""The built-in spaces.

The spaces search (log α_start, log α_end, shape), which needs no conditional parameters and is
continuous through the constant schedule; `paper` searches the paper's strategies and β instead.
"""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial

from search_spaces import start_points as start
from search_spaces.space import Space

Overrides = dict[str, Any]

RADIUS_BOUNDS = (0.01, 100.0)
SCALE_BOUNDS = (0.01, 10.0)
LR_FACTOR_BOUNDS = (0.03, 30.0)  # on digits below 0.1 hardly moves, 100 is at chance
LAST = 0.999  # fires in the last epoch, for any T up to 1,000; 1 never does


def _schedule(trial: BaseTrial, name: str, low: float, high: float) -> Overrides:
    return {
        "alpha_start": trial.suggest_float(f"{name}_alpha_start", low, high, log=True),
        "alpha_end": trial.suggest_float(f"{name}_alpha_end", low, high, log=True),
        "shape": trial.suggest_categorical(f"{name}_shape", ["plain", "inverse"]),
    }


def _trigger(trial: BaseTrial) -> Overrides:
    name = trial.suggest_categorical("trigger", ["variance", "cosine", "gap", "epoch"])
    if name == "variance":
        gamma = trial.suggest_float("trigger_gamma", 0.002, 0.25, log=True)
        return {"name": name, "gamma": gamma, "k": trial.suggest_categorical("trigger_k", [10, 20])}
    if name == "cosine":
        return {"name": name, "kappa": trial.suggest_float("trigger_kappa", 0.0, 0.9)}
    if name == "gap":
        return {"name": name, "mu": trial.suggest_float("trigger_mu", 0.01, 4.0, log=True)}
    return {"name": name, "fraction": trial.suggest_float("trigger_fraction", 0.0, 1.0)}


def _rts(**parts: Overrides | float) -> Overrides:
    return {"optimizer": {"family": "rts", **parts}}


def radius(trial: BaseTrial) -> Overrides:
    return _rts(radius=_schedule(trial, "radius", *RADIUS_BOUNDS))


def scale(trial: BaseTrial) -> Overrides:
    return _rts(scale=_schedule(trial, "scale", *SCALE_BOUNDS))


def timing(trial: BaseTrial) -> Overrides:
    return _rts(trigger=_trigger(trial))


def radius_scale(trial: BaseTrial) -> Overrides:
    return _rts(
        radius=_schedule(trial, "radius", *RADIUS_BOUNDS),
        scale=_schedule(trial, "scale", *SCALE_BOUNDS),
    )


def rts(trial: BaseTrial) -> Overrides:
    return _rts(
        radius=_schedule(trial, "radius", *RADIUS_BOUNDS),
        scale=_schedule(trial, "scale", *SCALE_BOUNDS),
        trigger=_trigger(trial),
    )


def switch(trial: BaseTrial) -> Overrides:
    """All of RTS for one task, where any trigger is but the epoch at which it fires."""
    return _rts(
        radius=_schedule(trial, "radius", *RADIUS_BOUNDS),
        scale=_schedule(trial, "scale", *SCALE_BOUNDS),
        trigger={"name": "epoch", "fraction": trial.suggest_float("trigger_fraction", 0.0, LAST)},
    )


def late(trial: BaseTrial) -> Overrides:
    """α_r and α_s are constants: in so short a phase a schedule, whose t counts from the run's
    start, moves too little to tell its two ends apart."""
    left = trial.suggest_float("trigger_left", 0.02, 0.5, log=True)
    return _rts(
        trigger={"name": "epoch", "fraction": 1 - left},
        after={
            "lr_factor": trial.suggest_float("after_lr_factor", *LR_FACTOR_BOUNDS, log=True),
            "anneal": trial.suggest_categorical("after_anneal", ["keep", "own"]),
        },
        radius=trial.suggest_float("radius_alpha", *RADIUS_BOUNDS, log=True),
        scale=trial.suggest_float("scale_alpha", *SCALE_BOUNDS, log=True),
    )


def _paper_schedule(trial: BaseTrial, name: str) -> Overrides:
    """β as wide as the author's runs: α up to 100, or 1/β up to 1000. Whichever of a schedule's
    two β is the smaller one counts as β_min: fixed bounds cannot say that."""
    strategies = ["constant", "cos", "isin", "sin", "icos"]
    strategy = trial.suggest_categorical(f"{name}_strategy", strategies)
    if strategy == "constant":
        low = high = trial.suggest_float(f"{name}_beta", 0.0, 5.0)
    elif strategy in ("cos", "sin"):
        low = trial.suggest_float(f"{name}_beta_min", 0.0, 5.0)
        high = trial.suggest_float(f"{name}_beta_max", 0.01, 100.0, log=True)
    else:  # α = 1/β: another meaning, hence other parameters
        low = trial.suggest_float(f"{name}_inverse_beta_min", 0.001, 5.0, log=True)
        high = trial.suggest_float(f"{name}_inverse_beta_max", 0.01, 100.0, log=True)
    return {"strategy": strategy, "beta_min": min(low, high), "beta_max": max(low, high)}


def _paper_trigger(trial: BaseTrial) -> Overrides:
    name = trial.suggest_categorical("trigger", ["always", "variance", "gap", "cosine"])
    if name == "variance":
        gamma = trial.suggest_float("trigger_gamma", 0.002, 0.25, log=True)
        return {"name": name, "gamma": gamma, "k": trial.suggest_categorical("trigger_k", [10, 20])}
    if name == "gap":
        mu = trial.suggest_float("trigger_mu", 2.0, 4.0)
        return {"name": name, "mu": mu, "period": 3}
    return {"name": name, "k": 10, "kappa": 0.9} if name == "cosine" else {"name": name}


def paper(trial: BaseTrial) -> Overrides:
    return _rts(
        radius=_paper_schedule(trial, "radius"),
        scale=_paper_schedule(trial, "scale"),
        trigger=_paper_trigger(trial),
    )


def baselines(trial: BaseTrial) -> Overrides:
    family = trial.suggest_categorical("family", ["sgd", "pugd", "sam", "asam"])
    train = {
        "lr": trial.suggest_float(f"{family}_lr", 0.01, 1.0, log=True),
        "weight_decay": trial.suggest_float(f"{family}_weight_decay", 1e-5, 1e-2, log=True),
    }
    optimizer: Overrides = {"family": family}
    if family == "sam":
        optimizer["rho"] = trial.suggest_float("sam_rho", 0.01, 0.5, log=True)
    elif family == "asam":
        optimizer["rho"] = trial.suggest_float("asam_rho", 0.05, 5.0, log=True)
    return {"optimizer": optimizer, "train": train}


SPACES = {
    space.name: space
    for space in (
        Space("radius", "radius schedule; scale and trigger as in the spec", radius, start.RADIUS),
        Space("scale", "scale schedule; radius and trigger as in the spec", scale, start.SCALE),
        Space("timing", "trigger; radius and scale as in the spec", timing, start.TIMING),
        Space(
            "radius_scale",
            "radius and scale schedules; trigger as in the spec",
            radius_scale,
            start.RADIUS_SCALE,
        ),
        Space("rts", "radius, timing and scale together", rts, start.RTS),
        Space(
            "switch",
            "radius and scale schedules, and where in T the trigger fires",
            switch,
            start.SWITCH,
        ),
        Space(
            "late",
            "firing in the last 2–50 % of T, lr then, radius, scale (beyond the paper)",
            late,
            start.LATE,
        ),
        Space("paper", "the paper's strategies, bounds (β) and triggers", paper, start.PAPER),
        Space(
            "baselines",
            "SGD, PUGD, SAM and ASAM, each with its own lr, weight decay and ρ",
            baselines,
            start.BASELINES,
        ),
    )
}
