"""Sweeps on a cluster: submitted, watched, listed, stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from results.storage import SweepFolder, is_uri
from rts_search.cluster.jobs import Job, JobServer
from rts_search.cluster.package import check_storage_is_shared
from rts_search.cluster.supervise import Show, Supervisor
from rts_search.spec.folder import SPEC, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.trust import check_trust
from rts_search.sweep import Sweep

BEGIN_SECONDS = 60.0  # until a job's spec must be seen, or its storage is not seen from here


@dataclass(frozen=True)
class Submitted:
    """A sweep on a cluster: where its jobs are, and where its ledger."""

    server: JobServer
    name: str
    storage: str


def hand_in(
    address: str, spec: SweepSpec, follow: bool, retries: int, install: bool, resume: bool = False
) -> None:
    """Submit a new sweep; with `resume` go on with it if it has begun."""
    check_storage_is_shared(spec.storage_path)
    server = JobServer(address)
    begin = ["sweep", "sweep.yaml", "--name", spec.name]
    again = [*begin, "--resume"]

    def submit(command: list[str]) -> str:
        return server.submit(spec.name, spec.storage_path, spec, command, install)

    job_id = submit(again if resume else begin)
    stay(
        Submitted(server, spec.name, spec.storage_path),
        job_id,
        lambda: submit(again),
        follow,
        retries,
    )


def hand_in_resume(
    address: str,
    name: str,
    storage: str | None,
    options: list[str],
    follow: bool,
    retries: int,
    trust: bool,
) -> None:
    """Go on with a sweep as a job. By its name and without `storage` it is where its last job had
    it. Whether another user's is trusted is asked here, where its folder is seen."""
    if "/" in name:
        check_storage_is_shared(name)
        folder = SweepFolder.at(name)
        name, storage = folder.name, folder.storage
    server = JobServer(address)
    where = storage or server.find(name).storage
    check_storage_is_shared(where)
    begun = seen(where, name)
    spec = read_spec(begun) if begun is not None else None
    if begun is not None and spec is not None:
        check_trust(begun, spec, trust)
    # the cluster's user is another one than who hands it in
    answered = ["--trust"] if trust or begun is not None else []
    command = ["resume", name, "--storage", where, *options, *answered]

    def submit() -> str:
        return server.submit(name, where, spec, command)

    stay(Submitted(server, name, where), submit(), submit, follow, retries)


def stay(
    sweep: Submitted, job_id: str, submit: Callable[[], str], follow: bool, retries: int
) -> None:
    """Say how the job is reached, and watch it if asked to. Exit code 1 if the sweep failed."""
    name, at = sweep.name, f"--address {sweep.server.address}"
    print(f"job {job_id}: sweep {name}, ledger {sweep.storage}")
    for command in (f"status {name} {at} --follow", f"logs {name} {at} -f", f"stop {name} {at}"):
        print(f"  rts-search {command}")
    if follow or retries:
        watch(sweep, job_id, submit, follow, retries)


def watch(
    sweep: Submitted, job_id: str, submit: Callable[[], str], follow: bool, retries: int
) -> None:
    """Until the sweep ends, in the end with its best configurations where the ledger is seen."""
    from rts_search.cli.launch import print_end
    from rts_search.show.console import make_console

    server, name, storage = sweep.server, sweep.name, sweep.storage
    console = make_console()
    supervisor = Supervisor(server, submit, retries, lambda line: print(line, flush=True))
    try:
        job = supervisor.watch(
            job_id, display(server, storage, name, console) if follow else nothing
        )
    except KeyboardInterrupt:
        print(f"\nthe sweep goes on: rts-search status {name} --address {server.address} --follow")
        raise SystemExit(130) from None
    print(f"job {job.job_id} {job.status}")
    if job.status != "SUCCEEDED":
        raise SystemExit(f"rts-search: {job.why()}")
    if follow and (folder := seen(storage, name)) is not None:
        print_end(Sweep(folder), console)


def display(server: JobServer, storage: str, name: str, console: Console) -> Show:
    """The live table where the ledger can be read from here, else what the driver prints."""
    from rts_search.estimate.left import time_left
    from rts_search.show.follow import follow

    def show(job_id: str, runs: Callable[[], bool]) -> None:
        folder, deadline = seen(storage, name), time.monotonic() + BEGIN_SECONDS
        while folder is None and runs() and time.monotonic() < deadline:
            time.sleep(1.0)
            folder = seen(storage, name)
        if folder is not None:
            follow(folder, console, runs, time_left)
        else:
            with suppress(ConnectionError):  # the supervisor finds out whether it comes back
                server.tail(job_id, lambda text: print(text, end="", flush=True))

    return show


def nothing(job_id: str, runs: Callable[[], bool]) -> None:
    """The display of a watch that shows none."""


def seen(storage: str, name: str) -> SweepFolder | None:
    """The sweep's folder, if it has begun and this machine sees its storage."""
    if not is_uri(storage) and not Path(storage).is_dir():
        return None
    try:
        folder = SweepFolder(storage, name)
        return folder if folder.exists(SPEC) else None
    except (OSError, ValueError):
        return None


def print_jobs(address: str, as_json: bool = False) -> None:
    """All sweeps that were handed in, the newest first."""
    from results.export import print_json
    from rts_search.show.console import make_console
    from rts_search.show.tables import print_rows

    server = JobServer(address)
    rows = [
        {
            "job": job.job_id,
            "sweep": job.sweep,
            "status": job.status,
            "started": f"{job.started:%Y-%m-%d %H:%M} UTC" if job.started else None,
            "storage": job.storage,
        }
        for job in server.jobs()
    ]
    if as_json:
        print_json({"jobs": rows})
        return
    if not rows:
        print(f"no sweeps on {server.address}; begin one with: rts-search submit SPEC.yaml")
        return
    print_rows(make_console(), list(rows[0]), rows)


def print_status(address: str, name: str, follow: bool) -> SweepFolder | None:
    """A sweep's newest job, and with `follow` its live table; returns its folder if it is seen."""
    server = JobServer(address)
    job = server.find(name)
    print(describe(job))
    folder = seen(job.storage, job.sweep)
    if follow and not job.over:
        sweep = Submitted(server, job.sweep, job.storage)
        watch(sweep, job.job_id, lambda: "", follow=True, retries=0)
        return None
    if folder is None:
        print(f"its ledger {job.storage} is not seen from here: rts-search logs {name}")
    return folder


def describe(job: Job) -> str:
    """One line, as in `job fashion FAILED (exit code 2): no sweep at …`."""
    text = f"job {job.job_id} {job.status}"
    if job.status == "FAILED":
        text += f" (exit code {job.exit_code}): {job.why()}"
    return text


def stop_job(address: str, name: str, timeout: float) -> bool:
    """End a sweep's job in order; False if it has not ended after `timeout` seconds."""
    server = JobServer(address)
    job = server.find(name)
    if job.over:
        raise ValueError(f"job {job.job_id} of sweep {job.sweep!r} is over already: {job.status}")
    print(f"asked job {job.job_id} to end the sweep")
    if not server.stop(job, timeout):
        return False
    print(f"sweep {job.sweep} has ended; its trials are kept")
    return True
