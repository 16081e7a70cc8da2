"""Schedules of the radius α_r, the scale α_s and the learning rate over a run."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from trainables.base import Config

Strategy = Literal["constant", "cos", "isin", "sin", "icos"]
Shape = Literal["plain", "inverse"]


class AfterConfig(Config):
    """What becomes of the learning rate when the trigger fires; before that it is lr·cosine(t/T).

    A perturbed step is lr long, an SGD step lr·‖g‖: what suits one need not suit the other. With
    `keep` the cosine goes on, times `lr_factor`. `own` is a complete cosine, which begins with
    lr_factor times the lr at the switch and falls to 0 at T as well.
    """

    lr_factor: float = Field(default=1.0, gt=0, le=1000)
    anneal: Literal["keep", "own"] = "keep"

    def lr_share(self, progress: float, fired: float | None) -> float:
        """lr's share at progress = t/T, where the trigger fired at progress `fired`, if it did."""
        if fired is None:
            return _cosine(progress)
        if self.anneal == "keep":
            return self.lr_factor * _cosine(progress)
        return self.lr_factor * _cosine(fired) * _cosine((progress - fired) / (1.0 - fired))


def _cosine(progress: float) -> float:
    """Falls from 1 to 0 as progress goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class Schedule(Config):
    """α over a run, with x = (π/2)·progress and progress = t/T in [0, 1].

    | strategy   | α                                   | over a run                  |
    |------------|-------------------------------------|-----------------------------|
    | `constant` | β_max (= β_min)                     | stays                       |
    | `cos`      | β_min + (β_max − β_min)·cos x       | falls from β_max to β_min   |
    | `isin`     | 1 / (β_min + (β_max − β_min)·sin x) | falls from 1/β_min, fast    |
    | `sin`      | β_min + (β_max − β_min)·sin x       | rises from β_min to β_max   |
    | `icos`     | 1 / (β_min + (β_max − β_min)·cos x) | rises to 1/β_min, late      |

    Built from the paper's `{strategy, beta_min, beta_max}`, from `{alpha_start, alpha_end, shape}`
    with shape `plain` or `inverse` (falling or rising follows), or from a bare number (constant).
    Both β are ≥ 0 with β_min ≤ β_max; the inverse forms need β_min > 0.
    """

    strategy: Strategy = "constant"
    beta_min: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    beta_max: float = Field(default=1.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _other_forms(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"strategy": "constant", "beta_min": value, "beta_max": value}
        if isinstance(value, dict) and {"alpha_start", "alpha_end"} <= value.keys():
            extra = value.keys() - {"alpha_start", "alpha_end", "shape"}
            if extra:
                raise ValueError(f"alpha_start and alpha_end do not go with {sorted(extra)}")
            return _betas(value["alpha_start"], value["alpha_end"], value.get("shape", "plain"))
        return value

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min {self.beta_min} is above beta_max {self.beta_max}")
        if self.strategy in ("isin", "icos") and self.beta_min <= 0:
            raise ValueError(f"{self.strategy} divides by β: beta_min must be above 0")
        if self.strategy == "constant" and self.beta_min != self.beta_max:
            raise ValueError("a constant schedule needs beta_min equal to beta_max")
        return self

    @classmethod
    def from_alpha(cls, start: float, end: float, shape: Shape = "plain") -> Self:
        """The member of the family that goes from α = start to α = end."""
        return cls.model_validate({"alpha_start": start, "alpha_end": end, "shape": shape})

    def __call__(self, progress: float) -> float:
        """α at progress = t/T; progress outside [0, 1] is clipped."""
        x = 0.5 * math.pi * min(max(progress, 0.0), 1.0)
        wave = math.cos(x) if self.strategy in ("cos", "icos") else math.sin(x)
        if self.strategy == "constant":
            return self.beta_max
        # weights, not a difference: exact at both ends, and never outside [β_min, β_max]
        beta = self.beta_min * (1.0 - wave) + self.beta_max * wave
        beta = min(max(beta, self.beta_min), self.beta_max)
        return 1.0 / beta if self.shape == "inverse" else beta

    @property
    def shape(self) -> Shape:
        return "inverse" if self.strategy in ("isin", "icos") else "plain"

    @property
    def alpha_start(self) -> float:
        return self(0.0)

    @property
    def alpha_end(self) -> float:
        return self(1.0)


def _betas(start: Any, end: Any, shape: Any) -> dict[str, Any]:
    """The paper's parameters for (α at the start, α at the end, shape)."""
    try:
        start, end = float(start), float(end)
    except (TypeError, ValueError):
        raise ValueError(
            f"alpha_start and alpha_end must be numbers, not {start!r}, {end!r}"
        ) from None
    if shape not in ("plain", "inverse"):
        raise ValueError(f"shape {shape!r} is not one of plain, inverse")
    if start == end:
        return {"strategy": "constant", "beta_min": start, "beta_max": start}
    if shape == "plain":
        low, high = sorted((start, end))
        return {"strategy": "cos" if start > end else "sin", "beta_min": low, "beta_max": high}
    if min(start, end) <= 0:
        raise ValueError("an inverse schedule needs alpha_start and alpha_end above 0")
    low, high = sorted((1.0 / start, 1.0 / end))
    return {"strategy": "isin" if start > end else "icos", "beta_min": low, "beta_max": high}
