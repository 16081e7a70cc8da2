"""Triggers against the reference's logic on random histories, and their edge cases."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.optimizer import History, fires, first_epoch, statistic_and_threshold
from trainables.triggers import EpochObservation, Trigger, TriggerConfig

CONFIGS = st.one_of(
    st.builds(
        lambda k, gamma: {"name": "variance", "k": k, "gamma": gamma},
        st.integers(2, 12),
        st.floats(0.05, 2),
    ),
    st.builds(
        lambda k, kappa: {"name": "cosine", "k": k, "kappa": kappa},
        st.integers(1, 12),
        st.floats(-0.5, 0.5),
    ),
    st.builds(
        lambda mu, period, baseline: {
            "name": "gap",
            "mu": mu,
            "period": period,
            "baseline": baseline,
        },
        st.floats(0.5, 3),
        st.integers(1, 4),
        st.sampled_from(["fixed", "dynamic"]),
    ),
    st.builds(lambda e: {"name": "epoch", "epoch": e}, st.integers(1, 40)),
    st.builds(lambda f: {"name": "epoch", "fraction": f / 8}, st.integers(0, 8)),
    st.sampled_from([{"name": "always"}, {"name": "never"}]),
)


def make(config: dict, epochs: int = 20, steps: int = 5) -> Trigger:
    return TriggerConfig.model_validate(config).make(epochs, steps)


def observe(trigger: Trigger, epoch: int, norms=(), cosines=(), train_loss=0.0, val_loss=0.0):
    trigger.observe(EpochObservation(epoch, norms, cosines, train_loss, val_loss))


@settings(max_examples=300, deadline=None)
@given(CONFIGS, st.integers(1, 45), st.integers(1, 8), st.integers(0, 2**31), st.data())
def test_agrees_with_reference(config, epochs, steps, seed, data):
    rng = np.random.default_rng(seed)
    trigger, seen, firing, frozen = make(config, epochs, steps), History(), None, None
    reload_at = data.draw(st.integers(1, epochs))
    if config["name"] == "always" or (
        config["name"] == "epoch" and first_epoch(config, epochs) == 1
    ):
        firing = 1
    for epoch in range(1, epochs + 1):
        assert trigger.perturbing(epoch) == (firing is not None and epoch >= firing)
        norms = rng.gamma(2.0, size=steps) * (1 + epochs / epoch)
        cosines = rng.uniform(-1, 1, size=steps - (epoch == 1))
        train_loss, val_loss = rng.uniform(size=2) * (1, 1 + epoch / epochs)
        observe(trigger, epoch, norms, cosines, train_loss, val_loss)
        seen.norms += list(norms)
        seen.cosines += list(cosines)
        seen.gaps.append(abs(val_loss - train_loss))
        statistic, threshold = statistic_and_threshold(config, seen, epochs, steps)
        if frozen is not None:
            threshold = frozen
        if firing is None and epoch < epochs and fires(config, seen, epochs, steps):
            firing = epoch + 1
            frozen = threshold if config.get("baseline") == "dynamic" else None
        assert trigger.firing_epoch == firing
        ours = np.array([trigger.statistic, trigger.threshold], dtype=float)  # None is NaN
        wanted = np.array([statistic, threshold], dtype=float)
        np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-15)
        if epoch == reload_at:
            state = json.loads(json.dumps(trigger.state_dict()))
            trigger = make(config, epochs, steps)
            trigger.load_state_dict(state)


@pytest.mark.parametrize(
    ("fraction", "epochs", "first"),
    [(0.0, 10, 1), (0.5, 10, 6), (0.35, 10, 4), (1.0, 10, None), (0.29, 100, 30), (0.7, 10, 8)],
)
def test_fraction_of_the_run(fraction, epochs, first):
    trigger = make({"name": "epoch", "fraction": fraction}, epochs)
    for epoch in range(1, epochs + 1):
        assert trigger.perturbing(epoch) == (first is not None and epoch >= first)
        observe(trigger, epoch)
    assert trigger.firing_epoch == first


def test_needs():
    needs = {
        name: (trigger.needs_norms, trigger.needs_cosines)
        for name in ("variance", "cosine", "gap", "always", "never")
        for trigger in [make({"name": name})]
    }
    assert needs.pop("variance") == (True, False)
    assert needs.pop("cosine") == (False, True)
    assert set(needs.values()) == {(False, False)}


def test_variance_window_spans_epochs_and_baseline_is_a_tenth_of_the_run():
    trigger = make({"name": "variance", "k": 4, "gamma": 0.5}, epochs=30, steps=2)
    observe(trigger, 1, norms=[1.0, 3.0])
    assert (trigger.statistic, trigger.threshold) == (None, None)
    observe(trigger, 2, norms=[5.0, 7.0])
    assert (trigger.statistic, trigger.threshold) == (5.0, None)
    observe(trigger, 3, norms=[5.0, 5.0])  # six steps: a tenth of sixty
    assert trigger.threshold == pytest.approx(0.5 * np.var([1, 3, 5, 7, 5, 5]))
    assert trigger.statistic == 0.75  # of 5, 7, 5, 5
    assert trigger.firing_epoch == 4


def test_fires_once_and_goes_on_reporting():
    trigger = make({"name": "cosine", "k": 2, "kappa": 0.5})
    observe(trigger, 1, cosines=[0.9, 0.9])
    observe(trigger, 2, cosines=[-1.0, -1.0])
    observe(trigger, 3, cosines=[0.9, 0.8])
    assert trigger.firing_epoch == 2
    assert trigger.statistic == pytest.approx(0.85)
    assert trigger.perturbing(3)
    assert not trigger.perturbing(1)


def test_does_not_fire_after_the_last_epoch():
    trigger = make({"name": "cosine", "k": 1, "kappa": 0.5}, epochs=2)
    observe(trigger, 1, cosines=[0.0])
    observe(trigger, 2, cosines=[0.9])
    assert trigger.firing_epoch is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["variance", "cosine", "gap"])
def test_not_finite_never_fires(name, bad):
    trigger = make({"name": name})
    for epoch in range(1, 21):
        values = [1.0] * 4 + [bad]
        observe(trigger, epoch, norms=values, cosines=values, val_loss=bad if epoch > 3 else 0.1)
    assert trigger.firing_epoch is None


def test_skipped_steps_do_not_spoil_the_variance_baseline():
    trigger = make({"name": "variance", "k": 4, "gamma": 0.5}, epochs=10, steps=6)
    observe(trigger, 1, norms=[math.inf, 1.0, 3.0, 5.0, 7.0, 9.0])
    assert trigger.threshold == pytest.approx(0.5 * np.var([1, 3, 5, 7, 9]))


def test_imports_no_torch():
    code = "import sys, trainables.triggers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("epochs", "period", "first"), [(100, 3, 12), (50, 3, 6), (20, 3, 6), (20, 2, 4), (400, 3, 42)]
)
def test_the_gap_is_looked_at_in_epochs_that_the_period_divides(epochs, period, first):
    """Past ξ = max(3, T/10), as in the author's code; the next epoch is the first perturbed one."""
    trigger = make({"name": "gap", "period": period, "mu": 2.0}, epochs)
    for epoch in range(1, epochs + 1):
        observe(trigger, epoch, val_loss=1.0 if epoch <= max(3, round(epochs / 10)) else 9.0)
    assert trigger.firing_epoch == first + 1
    config = TriggerConfig.model_validate({"name": "gap", "period": period})
    assert config.first_epoch(epochs, 5) == first + 1
