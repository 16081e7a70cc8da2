"""A sweep that runs as a job, watched as a user would: Ray's real dashboard in a browser,
Prometheus with Ray's own service discovery, every query of our Grafana dashboard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

pytest.importorskip("selenium")

from rts_search.cluster.dashboard import DATA
from tests.monitoring.watching import Browser, Prometheus, browser, fetch, grafana_place, until
from tests.monitoring.watching import missing as packages_missing
from tests.sweeps.cluster import Cluster, unavailable
from tests.sweeps.harness import ROOT, Sweep

REASON = unavailable() or packages_missing()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=str(REASON))]
VARIABLES = {"$sweep": "watched", "$trial": ".*", "$SessionName": ".*"}
RETIRED_SECONDS = 35  # Ray exports every 10 s and forgets after 20 s


@dataclass(frozen=True)
class Watched:
    cluster: Cluster
    prometheus: Prometheus
    browser: Browser
    told: str  # by `rts-search dashboard --provision`

    @property
    def metrics(self) -> dict[str, str]:
        """The lines of our metrics on the head's own metrics ports, by what precedes the value."""
        found = self.cluster.head.home.glob("tmp/session_*/prom_metrics_service_discovery.json")
        nodes = [group for path in found for group in json.loads(path.read_text())]
        pages = [fetch(f"http://{target}/metrics") for node in nodes for target in node["targets"]]
        lines = [line for page in pages for line in page.splitlines()]
        ours = [line for line in lines if line.startswith("ray_rts_search_")]
        return dict(line.rsplit(" ", 1) for line in ours)


def on_head(cluster: Cluster, *command: str) -> str:
    """Run a command on the head node to its end; its output."""
    log = cluster.head.home / "log"
    before = log.stat().st_size
    code = cluster.head.command(*command).wait(timeout=60)
    text = log.read_bytes()[before:].decode()
    assert code == 0, text
    return text


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("watched")
    Sweep(
        home,
        name="watched",
        data={"train_size": 1400},
        model={"args": {"width": 512}},
        train={"epochs": 9, "batch_size": 20},
        search={"trials": 500, "controls": False, "sampler": "random", "start_from": "paper"},
    )
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(home))
        files = home / "node0" / "tmp"
        grafana = stack.enter_context(grafana_place(cluster.gateway))
        cluster.environment |= {"RAY_GRAFANA_HOST": grafana, "PYTHONPATH": str(ROOT)}
        cluster.add(2)
        until("Ray's configurations", lambda: list(files.glob("session_2*/metrics/grafana/*.ini")))
        storage = str(home / "sweeps")
        cluster.run(
            home, "submit", "spec.yaml", "--address", cluster.dashboard, "--storage", storage
        )
        logs = ("logs", "watched", "--address", cluster.dashboard)
        stack.callback(lambda: print(cluster.run(home, *logs)))  # shown by pytest at a failure
        until("a trial", lambda: list((home / "sweeps" / "watched").glob("trials/*.parquet")))
        told = on_head(cluster, "rts-search", "dashboard", "--provision")
        config = "/tmp/ray/session_latest/metrics/prometheus/rts_search_prometheus.yml"
        on_head(cluster, "promtool", "check", "config", config)
        cluster.head.command(
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'tsdb'}"
        )
        prometheus = Prometheus(f"http://{cluster.head.address}:9090")
        seen = stack.enter_context(
            browser(cluster.dashboard, cluster.token_file.read_text(), home / "profile")
        )
        yield Watched(cluster, prometheus, seen, told)


def test_the_command_tells_what_is_there_and_what_is_missing(watched: Watched) -> None:
    assert "rts_search_prometheus.yml" in watched.told
    assert f"http://{watched.cluster.head.address}:8265" in watched.told
    assert "ray get-auth-token" in watched.told
    assert watched.cluster.token_file.read_text() not in watched.told
    assert "Prometheus     http://localhost:9090  does not answer" in watched.told
    now = on_head(watched.cluster, "rts-search", "dashboard")
    assert "Prometheus     http://localhost:9090  answers" in now
    assert "answers" in now.partition("Grafana")[2]


def test_every_query_of_the_grafana_dashboard_returns_data(watched: Watched) -> None:
    dashboard = json.loads((DATA / "grafana_dashboard.json").read_text("utf-8"))
    queries = [panel["targets"][0]["expr"] for panel in dashboard["panels"]]
    for variable, value in VARIABLES.items():
        queries = [query.replace(variable, value) for query in queries]
    assert not [query for query in queries if "$" in query]
    for query in queries:
        series = until(query, lambda query=query: watched.prometheus.query(query), seconds=90)
        print(query, series[:2])
        assert all(labels["sweep"] == "watched" for labels, _ in series)


def test_series_are_named_by_sweep_and_trial_and_hold_what_the_trials_do(watched: Watched) -> None:
    query = watched.prometheus.query
    until("a metric", lambda: query("ray_rts_search_val_accuracy"))
    series = query("ray_rts_search_val_accuracy")
    assert all(labels["trial"].startswith("t0") and 0 <= value <= 1 for labels, value in series)
    assert {value for _, value in query("ray_rts_search_perturbing")} <= {0.0, 1.0}
    assert {value for _, value in query("ray_rts_search_rung")} <= {0.0, 1.0, 2.0}
    epochs = query("ray_rts_search_epochs_spent")[0][1]
    assert query("ray_rts_search_gradient_evaluations_spent")[0][1] >= epochs * 50
    until("more epochs", lambda: query("ray_rts_search_epochs_spent")[0][1] > epochs)
    assert query('ray_rts_search_trials{outcome="running"}')[0][1] in (1, 2)
    assert abs(time.time() - query("ray_rts_search_last_report_timestamp_seconds")[0][1]) < 60


def test_the_series_of_an_ended_trial_retires(watched: Watched) -> None:
    metric, query = "ray_rts_search_val_accuracy", watched.prometheus.query
    # Prometheus marks a series that its target no longer has as stale, at the next scrape
    retired = f"last_over_time({metric}[10m]) unless {metric}"
    gone = until("a retired series", lambda: query(retired), seconds=RETIRED_SECONDS + 30)
    print("retired:", [labels["trial"] for labels, _ in gone])
    for labels, _ in gone:
        assert not [line for line in watched.metrics if f'trial="{labels["trial"]}"' in line]
    until("running trials", lambda: query(metric))
    stopped = watched.prometheus.query('ray_rts_search_trials{outcome="stopped"}')[0][1]
    completed = watched.prometheus.query('ray_rts_search_trials{outcome="completed"}')[0][1]
    assert stopped + completed > 0


def test_alert_rules_are_loaded_and_silent(watched: Watched) -> None:
    def rules() -> list[dict[str, str]]:
        groups = watched.prometheus.get("rules")["groups"]
        assert isinstance(groups, list)
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] == "ok" for rule in found) else []

    found = until("the rules to be evaluated", rules)
    assert {(rule["name"], rule["state"]) for rule in found} == {
        ("SweepSilent", "inactive"),
        ("SweepTrialsFail", "inactive"),
    }


def test_the_sweep_is_a_job_in_rays_dashboard(watched: Watched) -> None:
    assert "RUNNING" in watched.browser.open("jobs", "watched")


def test_the_actors_name_their_sweep_and_their_logs_the_trials(watched: Watched) -> None:
    page = watched.browser
    assert "ALIVE" in page.open("actors", "TrialRunner(watched)")
    link = page.driver.find_element("xpath", "//a[contains(@href, '#/actors/')]")
    page.driver.get(link.get_attribute("href") or "")

    def log() -> str:
        page.driver.refresh()  # the page does not follow the log
        text = page.read("TrialRunner(watched)", ":actor_name:watched/t", " begins: rts ")
        return text if " ends: " in text else ""

    print(until("a trial's end in the actor's log", log))
