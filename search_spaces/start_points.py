"""Known good points: the author's best settings, and the paper's protocol.

Provenance: the author's published histories (repository eeyzs1/CV_RTS, results/cifar_10, UPANets-16
from scratch, lr 0.1, weight decay 5e-4, batch 500). Accuracies are the best epoch's on the split
called "valid", single seed. Two headline files carry the wrong schedule's name; what stands here is
the schedule that their loss curves show. Runs that collapsed late, or whose file equals another's,
are left out, and so are points with α = 0 where a space is logarithmic in α.

The author's best runs perturb from the start. As many points or more are not his: they fire late,
where a run costs least and shares most with SGD's. They stand in turns: any first few have both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Points = tuple[Mapping[str, Any], ...]

# Training values of the paper's protocol, for the parameters that `also` adds to a space.
PROTOCOL: Mapping[str, Any] = {
    "lr": 0.1,
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "batch_size": 500,
}


def _alpha(name: str, start: float, end: float, shape: str = "plain") -> dict[str, Any]:
    return {f"{name}_alpha_start": start, f"{name}_alpha_end": end, f"{name}_shape": shape}


def _beta(name: str, strategy: str, low: float, high: float) -> dict[str, Any]:
    if strategy == "constant":
        return {f"{name}_strategy": strategy, f"{name}_beta": high}
    kind = "inverse_beta" if strategy in ("isin", "icos") else "beta"
    return {f"{name}_strategy": strategy, f"{name}_{kind}_min": low, f"{name}_{kind}_max": high}


_VARIANCE = {"trigger": "variance", "trigger_gamma": 0.2, "trigger_k": 10}
_GAP = {"trigger": "gap", "trigger_mu": 2.0}
_FROM_START, _HALF, _LAST_FIFTH, _LAST_TENTH = (
    {"trigger": "epoch", "trigger_fraction": fraction} for fraction in (0.0, 0.5, 0.8, 0.9)
)

_COS_RADIUS = _alpha("radius", 2.0, 0.01)  # pugdr_icos_2_0.01_400, which ran cos: 0.9419
_SIN_RADIUS = _alpha("radius", 0.01, 2.0)  # pugdr_isin_2_0.01_400, which ran sin: 0.9417
_ISIN_RADIUS = _alpha("radius", 100.0, 0.5, "inverse")  # CIFAR-100's winner, isin β 2, 0.01
_ONE_RADIUS = _alpha("radius", 1.0, 1.0)  # PUGD: pugd_400, 0.9353
_ONE_SCALE = _alpha("scale", 1.0, 1.0)
_ICOS_SCALE = _alpha("scale", 0.5, 1.0, "inverse")  # pugds_icos_2_1_400: 0.9392
# pugdrs_isin2_0.1_sin1.0_0.5_400: 0.9375
_BOTH = {**_alpha("radius", 10.0, 0.5, "inverse"), **_alpha("scale", 0.5, 1.0)}

RADIUS: Points = (_COS_RADIUS, _SIN_RADIUS, _ISIN_RADIUS, _ONE_RADIUS)

SCALE: Points = (
    _ICOS_SCALE,
    _alpha("scale", 1 / 3, 1.25, "inverse"),  # pugds_icos_3_0.8_400: 0.9379
    _alpha("scale", 1.25, 1 / 3, "inverse"),  # pugds_isin_3_0.8_400: 0.9373
    _ONE_SCALE,
)

TIMING: Points = (
    _VARIANCE,  # pugdt_var_100init_t10.0gamma0.2_k10: 0.9250 at T = 100 (PUGD 0.9211)
    _GAP,  # pugdt_delta_100xi10.0mu2_t3: 0.9226 at T = 100; its Δ_base is `fixed`
    _HALF,
    _FROM_START,  # PUGD
    _LAST_FIFTH,
    _LAST_TENTH,
)

RADIUS_SCALE: Points = (
    _BOTH,
    # pugdrs_isin2_0.1_cos1.0_0.5_400: 0.9366
    {**_alpha("radius", 10.0, 0.5, "inverse"), **_alpha("scale", 1.0, 0.5)},
    {**_COS_RADIUS, **_ONE_SCALE},
    {**_ISIN_RADIUS, **_ONE_SCALE},
    {**_ONE_RADIUS, **_ICOS_SCALE},
)

RTS: Points = (
    {**_COS_RADIUS, **_ONE_SCALE, **_FROM_START},
    {**_ONE_RADIUS, **_ONE_SCALE, **_HALF},
    {**_ISIN_RADIUS, **_ONE_SCALE, **_FROM_START},
    {**_ONE_RADIUS, **_ONE_SCALE, **_LAST_FIFTH},
    {**_ONE_RADIUS, **_ICOS_SCALE, **_FROM_START},
    {**_ONE_RADIUS, **_ONE_SCALE, **_LAST_TENTH},
    {**_BOTH, **_FROM_START},
    {**_BOTH, **_HALF},
    {**_ONE_RADIUS, **_ONE_SCALE, **_VARIANCE},
)

SWITCH: Points = tuple(
    {name: value for name, value in point.items() if name != "trigger"}
    for point in RTS
    if point["trigger"] == "epoch"
)


def _late(left: float, factor: float, anneal: str, radius: float = 1.0) -> dict[str, Any]:
    lr = {"after_lr_factor": factor, "after_anneal": anneal}
    return {"trigger_left": left, **lr, "radius_alpha": radius, "scale_alpha": 1.0}


LATE: Points = (
    _late(0.5, 1.0, "keep"),  # PUGD for the second half, the lr untouched
    _late(0.5, 10.0, "keep"),  # on digits without augmentation: loss 0.029, sgd 0.111, pugd 0.030
    _late(0.2, 3.0, "own"),
    _late(0.1, 1.0, "keep"),
    _late(0.5, 0.3, "own"),
)

_B_ONE_RADIUS = _beta("radius", "constant", 1.0, 1.0)
_B_ONE_SCALE = _beta("scale", "constant", 1.0, 1.0)
_ALWAYS = {"trigger": "always"}

PAPER: Points = (
    {**_beta("radius", "cos", 0.01, 2.0), **_B_ONE_SCALE, **_ALWAYS},
    {**_B_ONE_RADIUS, **_B_ONE_SCALE, **_VARIANCE},
    {**_beta("radius", "isin", 0.01, 2.0), **_B_ONE_SCALE, **_ALWAYS},
    {**_B_ONE_RADIUS, **_B_ONE_SCALE, **_GAP},
    # pugds_cos_1.5_0.0_400: 0.9399
    {**_B_ONE_RADIUS, **_beta("scale", "cos", 0.0, 1.5), **_ALWAYS},
    {**_B_ONE_RADIUS, **_B_ONE_SCALE, **_VARIANCE, "trigger_gamma": 0.05},  # later, if at all,
    {**_beta("radius", "isin", 0.1, 2.0), **_beta("scale", "sin", 0.5, 1.0), **_ALWAYS},
    {**_B_ONE_RADIUS, **_B_ONE_SCALE, **_GAP, "trigger_mu": 3.0},  # and so does this one
)

BASELINES: Points = tuple(
    {"family": family, f"{family}_lr": 0.1, f"{family}_weight_decay": 5e-4, **rho}
    for family, rho in (
        ("sgd", {}),
        ("pugd", {}),
        ("sam", {"sam_rho": 0.05}),
        ("asam", {"asam_rho": 0.5}),
    )
)
