"""`rts-search dashboard` and `studio`: where a sweep can be watched, and what is missing for it."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rts_search.cli.options import Storage, SweepArgument

if TYPE_CHECKING:
    from rts_search.cluster.dashboard import RunningRay

SESSION_PROMETHEUS = "/tmp/ray/session_latest/metrics/prometheus/prometheus.yml"
SESSION_GRAFANA = "/tmp/ray/session_latest/metrics/grafana"

app = typer.Typer()


@app.command()
def dashboard(
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="The dashboard's URL, or host:port of the cluster; else the Ray of this machine.",
        ),
    ] = None,
    provision: Annotated[
        bool,
        typer.Option(help="On Ray's head: put our Grafana dashboard and alert rules beside Ray's."),
    ] = False,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open Ray's dashboard in a browser.")
    ] = False,
) -> None:
    """Where a sweep can be watched: Ray's dashboard, Prometheus, Grafana; and what is missing."""
    from rts_search.cluster import dashboard as parts

    try:
        ray = parts.find_ray(address)
    except ConnectionError as error:
        if provision or open_browser:
            raise
        ray = None
        _tell("Ray dashboard", "no", str(error))
    if ray is not None:
        if provision:
            for path in parts.provision(ray):
                print(f"wrote {path}")
        asks_token = parts.asks_token(ray)
        _tell("Ray dashboard", ray.url, "" if asks_token is not None else "does not answer")
        if asks_token:
            _hint("it asks for the token that `ray get-auth-token` prints on the head node")
    _tell_prometheus(ray)
    _tell_grafana(ray)
    if open_browser and ray is not None:
        webbrowser.open(ray.url)


@app.command()
def studio(
    sweep: SweepArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    journal: Annotated[
        Path | None,
        typer.Option(help="Write the study into this file (a journal of Optuna's) instead."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    storage: Storage = "sweeps",
) -> None:
    """A sweep in optuna-dashboard, as a study made from its ledger, until Ctrl-C."""
    from results.database import find_sweep
    from rts_search.answers import studio as study

    folder = find_sweep(sweep, storage)
    if journal is not None:
        trials = study.write_journal(folder, journal)
        print(f"wrote {journal}: study {folder.name}, {trials} trials")
        return
    with study.dashboard(folder, port) as server, suppress(KeyboardInterrupt):
        url = f"http://{study.HOST}:{server.server_port}/dashboard/studies/0"
        print(f"{folder.name} as it is now: {url}  (Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(url)
        server.serve_forever()


def _tell_prometheus(ray: RunningRay | None) -> None:
    from rts_search.cluster import dashboard as parts

    host = parts.prometheus_host()
    if parts.ask(f"{host}/api/v1/query?query=vector(1)") is not None:
        _tell("Prometheus", host, "answers")
        return
    _tell("Prometheus", host, "does not answer")
    config = ray.prometheus_config if ray else None
    _hint(f"start it on Ray's head: prometheus --config.file={config or SESSION_PROMETHEUS}")
    if config is None or config.name != parts.PROMETHEUS:
        _hint("with our alert rules: rts-search dashboard --provision, first")
    _hint("elsewhere: export RAY_PROMETHEUS_HOST=http://host:port before Ray starts")


def _tell_grafana(ray: RunningRay | None) -> None:
    from rts_search.cluster import dashboard as parts

    host = parts.grafana_host()
    if parts.ask(f"{host}/api/health") is not None:
        _tell("Grafana", host, "answers")
        return
    _tell("Grafana", host, "does not answer: Ray's Metrics page stays empty")
    folder = ray.session / "metrics" / "grafana" if ray and ray.session else None
    config = f"{folder or SESSION_GRAFANA}/grafana.ini"
    _hint(f"start it: grafana-server --homepath /usr/share/grafana --config {config} web")
    _hint("elsewhere: export RAY_GRAFANA_HOST=http://host:port before Ray starts")


def _tell(what: str, where: str, how: str) -> None:
    print(f"{what:14} {where}  {how}".rstrip())


def _hint(line: str) -> None:
    print(f"{'':14} {line}")
