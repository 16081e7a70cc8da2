"""A sweep's metrics through a real Ray, and the files for Prometheus and Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from rich.console import Console

from results.trials import StoredTrial
from rts_search.cli.app import main
from rts_search.cluster.dashboard import (
    ALERTS,
    DASHBOARD,
    DATA,
    PROMETHEUS,
    RunningRay,
    provision,
)
from rts_search.driver.budget import Budget
from rts_search.show import metrics as monitoring
from rts_search.show.metrics import ENDED, SWEEP_METRICS, TRIAL_METRICS, SweepMetrics
from rts_search.show.progress import Progress
from rts_search.spec.model import SweepSpec
from rts_search.trials.trial import LiveTrial
from trainables.config import TrialConfig

HERE = Path(__file__).parent
Lines = dict[str, float]
EPOCH: dict[str, Any] = {
    "val_accuracy": 0.75,
    "epoch": 2,
    "total_epochs": 9,
    "rung": 1,
    "radius": 0.5,
    "scale": 2.0,
    "perturbing": True,
    "loss_rise": 0.25,
    "images_per_second": 1000.0,
}


@pytest.fixture(scope="module")
def scrape() -> Iterator[Callable[[], Lines]]:
    """Our metrics on a real Ray's port, exported every second instead of every ten."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"

    def lines() -> Lines:
        text = urllib.request.urlopen(url).read().decode()
        ours = [line for line in text.splitlines() if line.startswith("ray_rts_search_")]
        found = {}
        for line in ours:
            name, tags, value = re.match(r"ray_rts_search_(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
            own = re.findall(r'\b(sweep|trial|outcome)="([^"]*)"', tags)
            found[" ".join([name, *(value for _, value in sorted(own))])] = float(value)
        return found

    yield lines
    ray.shutdown()


ONE = {"rung": 0, "total_epochs": 1, "gradient_evaluations": 1, "epoch_seconds": 1.0}


def sweep_metrics(*trials: str, ended: int = 0) -> SweepMetrics:
    config = TrialConfig.model_validate({"data": {"name": "digits"}, "train": {"epochs": 9}})
    live = {name: LiveTrial(name, config, 0, history=[dict(EPOCH)], placed=True) for name in trials}
    old = [
        StoredTrial(
            defaultdict(
                lambda: None,
                {
                    "trial_id": f"old{number}",
                    "outcome": "completed" if number else "failed",
                    "params": "{}",
                    "family": "sgd",
                },
            ),
            [{**ONE, "epoch": 1, "val_accuracy": 0.5 + number / 100}] if number else [],
        )
        for number in range(ended)
    ]
    progress = Progress(SweepSpec(), live, Console(quiet=True), old)
    budget = Budget(SweepSpec(), lambda: 0.0)
    budget.add("old", [{"rung": 0, "epoch": 7, "gradient_evaluations": 70}])
    return SweepMetrics("s", live, progress, budget)


def wait_for(condition: Callable[[], bool], act: Callable[[], None] = lambda: None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        act()
        time.sleep(0.2)


@pytest.mark.slow
def test_what_runs_stays_and_the_series_of_an_ended_trial_retire(
    scrape: Callable[[], Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "REFRESH_SECONDS", 0.5)  # as the export: twenty times as often
    metrics = sweep_metrics("t0", "t1", ended=3)
    metrics.live["t1"].history[-1] |= {"loss_rise": None}
    wait_for(lambda: {"epoch s t0", "epoch s t1"} <= set(scrape()), metrics.tick)
    found = scrape()
    assert {name: found[f"{name} s t0"] for name in TRIAL_METRICS} == {
        name: float(EPOCH[name]) for name in TRIAL_METRICS
    }
    assert "loss_rise s t1" not in found  # it did not perturb
    del metrics.live["t0"]
    wait_for(lambda: "epoch s t0" not in scrape(), metrics.tick)
    assert found["epoch s t1"] == scrape()["epoch s t1"] == 2


@pytest.mark.slow
def test_totals_are_of_all_drivers_and_the_last_word_is_that_nothing_runs(
    scrape: Callable[[], Lines],
) -> None:
    metrics = sweep_metrics("t0", ended=3)
    metrics.reported(metrics.live["t0"], [])
    metrics.tick()
    wait_for(lambda: scrape().get("trials running s") == 1)
    found = scrape()
    assert found["epochs_spent s"] == 7
    assert found["gradient_evaluations_spent s"] == 70
    assert found["best_objective s"] == 0.52
    assert {o: found[f"trials {o} s"] for o in ENDED} == dict.fromkeys(ENDED, 0) | {
        "completed": 2,
        "failed": 1,
    }
    assert abs(found["last_report_timestamp_seconds s"] - time.time()) < 30
    metrics.close()
    wait_for(lambda: scrape().get("trials running s") == 0)


def test_without_ray_metrics_are_nothing() -> None:
    metrics = sweep_metrics("t0")
    metrics.reported(metrics.live["t0"], [])
    metrics.tick()
    metrics.close()


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DATA / "grafana_dashboard.json").read_text("utf-8"))
    asked = set(re.findall(r"ray_rts_search_(\w+)", json.dumps(dashboard)))
    assert asked == {*TRIAL_METRICS, *SWEEP_METRICS, "trials"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_docs_name_every_metric() -> None:
    text = (HERE.parents[2] / "docs" / "monitoring.md").read_text("utf-8")
    rows = re.findall(r"^\| (`[a-z_`, ]+) \| (?:trial|sweep)", text, re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {*TRIAL_METRICS, *SWEEP_METRICS, "trials"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    command = ["promtool", "test", "rules", str(HERE / "alerts_test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session's folder, with what Ray writes into it."""
    (tmp_path / "metrics" / "prometheus").mkdir(parents=True)
    (tmp_path / "metrics" / "grafana" / "dashboards").mkdir(parents=True)
    (tmp_path / "metrics" / "prometheus" / "prometheus.yml").write_text(
        "global: {scrape_interval: 10s}\nscrape_configs: [{job_name: ray}]\n"
    )
    (tmp_path / "metrics" / "grafana" / "dashboards" / "data_grafana_dashboard.json").write_text(
        '{"uid": "rays", "title": "Ray Data"}'
    )
    return tmp_path


def test_provisioning_leaves_rays_files_as_they_are(session: Path) -> None:
    before = {path: path.read_text() for path in session.rglob("*.*") if path.is_file()}
    running = RunningRay("http://127.0.0.1:1", session)
    assert running.prometheus_config == session / "metrics/prometheus/prometheus.yml"
    written = provision(running)
    assert provision(running) == written
    assert {path.name for path in written} == {DASHBOARD, ALERTS, PROMETHEUS}
    assert {path: path.read_text() for path in before} == before
    config = yaml.safe_load((session / "metrics/prometheus" / PROMETHEUS).read_text())
    assert config["scrape_configs"] == [{"job_name": "ray"}]
    assert config["rule_files"] == [str(session / "metrics/prometheus" / ALERTS)]
    assert running.prometheus_config == session / "metrics/prometheus" / PROMETHEUS


def test_the_command_tells_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_PROMETHEUS_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_GRAFANA_HOST", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as done:
        main(["dashboard", "--address", "127.0.0.1:9"])
    told = capsys.readouterr().out
    assert not done.value.code
    assert "no Ray at '127.0.0.1:9'" in told
    assert "prometheus --config.file=/tmp/ray/session_latest/metrics/" in told
    assert told.count("http://127.0.0.1:9  does not answer") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--address", "ftp://x"], "neither http://host:port nor host:port"),
        (["--address", "127.0.0.1:9", "--provision"], "no Ray at '127.0.0.1:9'"),
        (["--address", "http://127.0.0.1:9", "--provision"], "on Ray's head node"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["dashboard", *arguments])
    assert done.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_provisioning_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on Ray's head node"):
        provision(RunningRay("http://127.0.0.1:1", None))
    with pytest.raises(ValueError, match="no configurations"):
        provision(RunningRay("http://127.0.0.1:1", tmp_path))
