"""What the paper's author's file names say of the runs in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.config import OptimizerConfig, TrialConfig
from trainables.schedules import Schedule

SCRATCH = "upanets16"  # the model where a name begins with no other
_N = r"\d+(?:\.\d+)?"
_T = r"(?P<T>[1-9]\d{0,6})"


def _schedule(name: str) -> str:
    return rf"(?P<{name}>i?(?:cos|sin))_?(?P<{name}_max>{_N})_(?P<{name}_min>{_N})"


_FAMILIES = {
    "sgd": rf"org_{_T}",
    "pugd": rf"pugd_{_T}",
    "radius": rf"pugdr_{_schedule('radius')}_{_T}",
    "scale": rf"pugds_{_schedule('scale')}_{_T}",
    "radius_scale": rf"pugdrs_{_schedule('radius')}_{_schedule('scale')}_{_T}",
    "timing_var": rf"pugdt_var_{_T}init_t(?P<init>{_N})gamma(?P<gamma>{_N})_k(?P<k>\d+)",
    "timing_delta": rf"pugdt_delta_{_T}xi(?P<xi>{_N})mu(?P<mu>{_N})_t(?P<period>\d+)",
}
_NAMES = {
    family: re.compile(rf"(?:(?P<model>[a-z][a-z0-9]*)_)?{pattern}(?:_bk\d*)?")
    for family, pattern in _FAMILIES.items()
}
# Published under the wrong schedule's name: what their loss curves show was run.
_REALLY = {
    **dict.fromkeys(("pugdr_icos_2_0.01_400", "pugdr_icos_3_0.1_400"), "cos"),
    **dict.fromkeys(("pugdr_isin_2_0.01_400", "pugdr_isin_2_0.1_400"), "sin"),
    **dict.fromkeys(("pugdr_isin_3_0.1_40", "pugdr_isin_3_0.1_400"), "sin"),
    **dict.fromkeys(("pugdr_icos_2_0.1_200", "pugdr_isin_2_0.1_200"), "constant"),
}


@dataclass(frozen=True)
class Named:
    """A run by its name: its `family` in the author's words (`radius`, `timing_var`), T, and the
    optimizer that was really run, where `doubts` say that the name tells another."""

    family: str
    model: str
    epochs: int
    optimizer: OptimizerConfig
    doubts: tuple[str, ...] = ()

    @property
    def tuned(self) -> bool:
        """Fine-tuned from weights of ImageNet."""
        return self.model != SCRATCH

    def config(self, data: str, epochs: int, held_out: bool) -> TrialConfig:
        """As the paper's protocol has it, for so many epochs; a fifth of the training images was
        `held_out` to validate on."""
        split = {"validation_fraction": 0.2} if held_out else {}
        model: dict[str, Any] = {"name": self.model, "pretrained": self.tuned}
        train = {"epochs": epochs, "batch_size": 500, "schedule_by": "epoch", "seed": 42}
        return TrialConfig.model_validate(
            {
                "data": {"name": data, **split},
                "model": model,
                "train": train,
                "optimizer": self.optimizer,
            }
        )


def named(name: str) -> Named:
    """Raises ValueError for a name that does not tell what was run."""
    for family, pattern in _NAMES.items():
        if match := pattern.fullmatch(name):
            return _read(name, family, match)
    raise ValueError("its name tells no settings")


def _read(name: str, family: str, match: re.Match[str]) -> Named:
    told = match.groupdict()
    model = told["model"] or SCRATCH
    parts, doubts = _schedules(name, told, tuned=model != SCRATCH)
    content: dict[str, Any] = {"family": family if family in ("sgd", "pugd") else "rts", **parts}
    if family == "timing_var":
        gamma, k = float(told["gamma"]), int(told["k"])
        content["trigger"] = {"name": "variance", "gamma": gamma, "k": k}
        if float(told["init"]) * 10 != float(told["T"]):
            doubts.append(f"σ²_init is over {told['init']} epochs, where ours is over T/10")
    elif family == "timing_delta":
        content["trigger"] = {"name": "gap", "mu": told["mu"], "period": told["period"]}
    optimizer = OptimizerConfig.model_validate(content)
    return Named(family, model, int(told["T"]), optimizer, tuple(doubts))


def _schedules(
    name: str, told: Mapping[str, str | None], tuned: bool
) -> tuple[dict[str, Schedule], list[str]]:
    """Radius and scale as they were run. Raises ValueError for one that is none."""
    found, doubts = {}, []
    for part in ("radius", "scale"):
        if (strategy := told.get(part)) is None:
            continue
        betas = {"beta_min": told[f"{part}_min"], "beta_max": told[f"{part}_max"]}
        really = _REALLY.get(name, strategy) if part == "radius" else strategy
        if really == "constant":
            found[part] = Schedule()
            doubts.append(f"its name says {part} {strategy}, its loss α about 1")
            continue
        found[part] = Schedule.model_validate({"strategy": really, **betas})
        if really != strategy:
            doubts.append(f"its name says {part} {strategy}, its loss {really}")
        if tuned:  # the author's loop for these never calls the schedule
            found[part] = Schedule.model_validate(found[part].alpha_start)
            doubts.append(f"its name says {part} {strategy}, which stayed where it began")
    return found, doubts
