"""Watches a submitted sweep to its end, and submits it again when it is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from rts_search.cluster.jobs import POLL_SECONDS, Job, JobServer

Submit = Callable[[], str]  # hands the sweep in again; returns the new job's id
Show = Callable[[str, Callable[[], bool]], None]  # follows a job while it runs


class Supervisor:
    """Watches a job until it is over; `retries` times a lost one is handed in again.

    A job is lost when its driver dies of no mistake in the spec, or when the head dies and a new
    one knows nothing of it. While the dashboard does not answer there is nothing to do but wait.
    """

    def __init__(
        self, server: JobServer, submit: Submit, retries: int, say: Callable[[str], None]
    ) -> None:
        self.server, self.submit, self.retries, self.say = server, submit, retries, say
        self.away = False

    def watch(self, job_id: str, show: Show) -> Job:
        """The job that the sweep ended with.

        Raises ConnectionError if it is lost and may not be handed in again.
        """
        while True:
            show(job_id, partial(self._runs, job_id))
            job = self._wait(job_id)
            if job is not None and (not job.worth_a_retry or self.retries == 0):
                return job
            if self.retries == 0:
                raise ConnectionError(
                    f"the cluster at {self.server.address} no longer knows job {job_id}: its head "
                    "was replaced; hand the sweep in again with: rts-search resume"
                )
            self.retries -= 1
            self.say(f"job {job_id} was lost ({job.why() if job else 'with its head'})")
            job_id = self._submit_again()
            self.say(f"handed in again as job {job_id}; {self.retries} more times at most")

    def _runs(self, job_id: str) -> bool:
        """Whether the job may still run, as far as can be told now."""
        job = self._look(job_id)
        return self.away or (job is not None and not job.over)

    def _wait(self, job_id: str) -> Job | None:
        """The job once it is over; None if the cluster no longer knows it."""
        while True:
            job = self._look(job_id)
            if not self.away and (job is None or job.over):
                return job
            time.sleep(POLL_SECONDS)

    def _look(self, job_id: str) -> Job | None:
        try:
            job = self.server.newest(job_id)
        except ConnectionError as error:
            if not self.away:
                self.say(f"{error}; waiting until it does")
            self.away = True
            return None
        self.away = False
        return job

    def _submit_again(self) -> str:
        told = ""
        while True:
            try:
                return self.submit()
            except ConnectionError as error:
                if str(error) != told:
                    self.say(f"{error}; trying again")
                told = str(error)
            time.sleep(POLL_SECONDS)
