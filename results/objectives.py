"""What a search may optimise, and which way each of it goes."""

from __future__ import annotations

from typing import Literal, get_args

Objective = Literal["val_accuracy", "val_loss", "train_loss", "train_accuracy"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
MINIMISED: tuple[Objective, ...] = ("val_loss", "train_loss")
MAXIMISED = tuple(name for name in OBJECTIVES if name not in MINIMISED)


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """In Optuna's words."""
    return "minimize" if objective in MINIMISED else "maximize"
