"""Sweeps as Ray jobs, found on a cluster by their names."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rts_search.cluster.package import runtime_env, staged
from rts_search.cluster.session import check_reachable, prepare_environment
from rts_search.spec.model import SweepSpec

SWEEP, STORAGE = "rts-search-sweep", "rts-search-storage"  # in a job's metadata
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
NO_RETRY = (2, 130)  # exit codes: a user's mistake, an interrupt
STOP_SECONDS = 120  # what a driver is given to end in order
POLL_SECONDS = 2.0
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class Job:
    """A job of ours as the cluster knows it. `exit_code` is the driver's, `message` Ray's."""

    job_id: str
    sweep: str
    storage: str
    status: str
    message: str
    exit_code: int | None
    started: datetime | None
    ended: datetime | None

    @property
    def over(self) -> bool:
        return self.status in ENDED

    @property
    def worth_a_retry(self) -> bool:
        return self.status == "FAILED" and self.exit_code not in NO_RETRY

    def why(self) -> str:
        """The last line that its driver wrote, else Ray's message."""
        lines = [line.strip() for line in self.message.splitlines() if line.strip()]
        return lines[-1].removeprefix("rts-search: ") if lines else self.status


class JobServer:
    """The jobs of a cluster, through its dashboard at `http://host:port`.

    Its methods raise ConnectionError, in one line, if the dashboard does not answer, or if it
    asks for a token that Ray's settings do not hold. The token is never shown.
    """

    def __init__(self, address: str) -> None:
        self.address = check_address(address)
        prepare_environment(self.address, verbose=False)
        from ray.job_submission import JobSubmissionClient

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._explained():
            self.client = JobSubmissionClient(self.address)

    def submit(
        self,
        name: str,
        storage: str,
        spec: SweepSpec | None,
        command: list[str],
        install: bool = False,
    ) -> str:
        """Hand in `rts-search COMMAND`, with this package and the spec; returns the job's id.

        The job runs on the head, in a folder with the spec as `sweep.yaml` and, if the spec names
        functions of one's own, with the files of the working directory. With `install` the nodes
        install the versions of our dependencies that are installed here.
        """
        running = self.newest(name)
        if running is not None and not running.over:
            raise ValueError(
                f"sweep {name!r} runs on {self.address} already, as job {running.job_id}; "
                f"follow it with: rts-search status {name} --address {self.address} --follow"
            )
        metadata = {SWEEP: name, STORAGE: storage, "job_name": name}
        if spec is not None:
            metadata |= {"space": spec.space, "trials": str(spec.search.trials)}
        with staged(spec) as folder, self._explained():
            return str(
                self.client.submit_job(
                    entrypoint=shlex.join(["python", "-m", "rts_search.cli", *command]),
                    submission_id=self._free_id(name),
                    runtime_env=runtime_env(folder, install, STOP_SECONDS),
                    metadata=metadata,
                )
            )

    def jobs(self) -> list[Job]:
        """Our jobs, the newest first."""
        with self._explained():
            found = [_job(details) for details in self.client.list_jobs()]
        ours = [job for job in found if job is not None]
        beginning = datetime.min.replace(tzinfo=UTC)
        return sorted(ours, key=lambda job: job.started or beginning, reverse=True)

    def newest(self, sweep: str) -> Job | None:
        """The newest job of a sweep, which may also be given by a job's own id."""
        named = (job for job in self.jobs() if sweep in (job.sweep, job.job_id))
        return next(named, None)

    def find(self, sweep: str) -> Job:
        """As `newest`. Raises ValueError if there is none."""
        job = self.newest(sweep)
        if job is None:
            known = ", ".join(dict.fromkeys(each.sweep for each in self.jobs())) or "none"
            raise ValueError(f"no job of a sweep {sweep!r} on {self.address}; there are: {known}")
        return job

    def logs(self, job: Job) -> str:
        with self._explained():
            return str(self.client.get_job_logs(job.job_id))

    def tail(self, job_id: str, write: Callable[[str], Any]) -> None:
        """Write the job's output as it comes, from its beginning, until it ends."""

        async def copy() -> None:
            async for lines in self.client.tail_job_logs(job_id):
                write(lines)

        with self._explained():
            asyncio.run(copy())

    def stop(self, job: Job, timeout: float) -> bool:
        """Ask the job's driver to end the sweep, as Ctrl-C would; False if it has not after
        `timeout` seconds."""
        with self._explained():
            self.client.stop_job(job.job_id)
        deadline = time.monotonic() + timeout
        while not self.find(job.job_id).over:
            if time.monotonic() >= deadline:
                return False
            time.sleep(1.0)
        return True

    def _free_id(self, name: str) -> str:
        """The sweep's name; for further jobs of it `name.2`, `name.3`, …"""
        taken = {details.submission_id for details in self.client.list_jobs()}
        number = 2
        if name not in taken:
            return name
        while f"{name}.{number}" in taken:
            number += 1
        return f"{name}.{number}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            missing = "missing" in str(error).lower()
            what = "asks for a token, and none was found" if missing else "refused the token"
            raise ConnectionError(
                f"the cluster at {self.address} {what}; save what `ray get-auth-token` says on its "
                "head into a file, mode 600, and name that in RAY_AUTH_TOKEN_PATH (or use "
                "~/.ray/auth_token)"
            ) from None
        except (RuntimeError, OSError) as error:  # requests' errors are OSErrors
            if isinstance(error, ConnectionError) and str(error).startswith("no Ray dashboard"):
                raise
            reason = " ".join(str(error).split())[:300]
            if reason.startswith("Request failed with status code"):  # as when Ray just begins
                raise ConnectionError(f"Ray at {self.address} refused: {reason}") from None
            raise ConnectionError(f"no Ray dashboard answers at {self.address}: {reason}") from None


def check_address(address: str) -> str:
    """A dashboard's address. Raises ValueError for another one, ConnectionError if nothing
    listens there."""
    if not address:
        raise ValueError(
            "no cluster is named: give --address, its dashboard's URL such as http://head:8265, or "
            "set RAY_API_SERVER_ADDRESS"
        )
    if not re.fullmatch(r"https?://[^/\s]+/?", address):
        raise ValueError(
            f"address {address!r} is not a dashboard's, such as http://head:8265 (a driver joins "
            "host:6379 with: rts-search sweep --address)"
        )
    check_reachable(address.rstrip("/"))
    return address.rstrip("/")


def _job(details: Any) -> Job | None:
    metadata = details.metadata or {}
    if SWEEP not in metadata or details.submission_id is None:
        return None

    def time_of(milliseconds: int | None) -> datetime | None:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None

    return Job(
        job_id=details.submission_id,
        sweep=metadata[SWEEP],
        storage=metadata.get(STORAGE, ""),
        status=str(details.status.value),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started=time_of(details.start_time),
        ended=time_of(details.end_time),
    )
