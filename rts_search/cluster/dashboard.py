"""Finds Ray's dashboard, Prometheus and Grafana, and installs our charts and alerts.

Ray writes configurations for Prometheus and Grafana into its session's folder, on the head node,
and Grafana loads every dashboard that lies there. Ours goes beside Ray's own.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import yaml

TIMEOUT_SECONDS = 3.0
DATA = files("rts_search.cluster") / "monitoring_files"
DASHBOARD = "rts_search_grafana_dashboard.json"
ALERTS = "rts_search_alerts.yaml"
PROMETHEUS = "rts_search_prometheus.yml"


@dataclass(frozen=True)
class RunningRay:
    """A Ray that runs: the URL of its dashboard, and its session's folder if that is here."""

    url: str
    session: Path | None

    @property
    def prometheus_config(self) -> Path | None:
        """With our rules if they were provisioned, else Ray's own."""
        if self.session is None:
            return None
        folder = self.session / "metrics" / "prometheus"
        ours = folder / PROMETHEUS
        return ours if ours.exists() else folder / "prometheus.yml"


def find_ray(address: str | None) -> RunningRay:
    """The Ray at `http://host:port` (its dashboard) or `host:port`; the one on this machine else.

    Raises ConnectionError, in one line, if there is none, or if there are several.
    """
    if address and "//" in address:
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise ValueError(f"--address {address!r} is neither http://host:port nor host:port")
        return RunningRay(address.rstrip("/"), None)
    from rts_search.cluster.scratch import own_folder
    from rts_search.cluster.session import check_reachable, prepare_environment

    if address:
        check_reachable(address)
    prepare_environment(address or "auto", verbose=False)
    # as `ray job` and `ray status` find it: they join no cluster for it
    from ray._common.utils import get_default_ray_temp_dir
    from ray.dashboard.utils import ray_address_to_api_server_url
    from ray.exceptions import RayError
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        url = ray_address_to_api_server_url(address)
        name = _internal_kv_get(b"session_name", namespace=b"session").decode()
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConnectionError(reason) from None
    places = (Path(get_default_ray_temp_dir()), own_folder() / "ray")  # the latter a sweep's own
    return RunningRay(url, next((each for p in places if (each := p / name).exists()), None))


def ask(url: str) -> str | None:
    """What answers there; None if nothing does, or an error."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def asks_token(ray: RunningRay) -> bool | None:
    """Whether the dashboard asks for a token; None if it does not answer."""
    answer = ask(f"{ray.url}/api/authentication_mode")
    return None if answer is None else '"token"' in answer


def prometheus_host() -> str:
    """Where Ray looks for Prometheus, if it was started with this environment."""
    return os.environ.get("RAY_PROMETHEUS_HOST", "http://localhost:9090")


def grafana_host() -> str:
    """Where Ray looks for Grafana, if it was started with this environment."""
    return os.environ.get("RAY_GRAFANA_HOST", "http://localhost:3000")


def provision(ray: RunningRay) -> list[Path]:
    """Put our dashboard and rules where Ray's own lie; returns the files written.

    Ray's Prometheus configuration stays as it is: one beside it adds our rules.
    Raises ValueError if this is not the head node, or Ray has not written its files.
    """
    if ray.session is None:
        raise ValueError(
            "the folder of Ray's session is not here: provision on Ray's head node, with "
            "RAY_TMPDIR set if Ray was started with --temp-dir"
        )
    prometheus = ray.session / "metrics" / "prometheus"
    grafana = ray.session / "metrics" / "grafana" / "dashboards"
    if not (prometheus / "prometheus.yml").exists() or not grafana.is_dir():
        raise ValueError(f"Ray has no configurations in {ray.session}/metrics (no dashboard?)")
    content = yaml.safe_load((prometheus / "prometheus.yml").read_text("utf-8"))
    content["rule_files"] = [*content.get("rule_files", []), str(prometheus / ALERTS)]
    written = {
        grafana / DASHBOARD: (DATA / "grafana_dashboard.json").read_text("utf-8"),
        prometheus / ALERTS: (DATA / "alerts.yaml").read_text("utf-8"),
        prometheus / PROMETHEUS: yaml.safe_dump(content, sort_keys=False),
    }
    for path, text in written.items():
        path.write_text(text, "utf-8")
    return list(written)
