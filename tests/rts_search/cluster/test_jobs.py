"""What a job takes along, and what is made of a job that is lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rts_search.cluster import supervise
from rts_search.cluster.jobs import Job, JobServer, check_address
from rts_search.cluster.package import (
    PACKAGES,
    check_storage_is_shared,
    pinned,
    runtime_env,
    staged,
)
from rts_search.cluster.supervise import Supervisor
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec

JOB = Job("s", "s", "/shared", "RUNNING", "", None, None, None)


def test_a_job_takes_the_spec_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private.txt").write_text("mine")
    with staged(load_spec("name: s\ntrain: {epochs: 7}")) as folder:
        assert [path.name for path in folder.iterdir()] == ["sweep.yaml"]
        spec = SweepSpec.model_validate(yaml.safe_load((folder / "sweep.yaml").read_text("utf-8")))
        assert spec.train.epochs == 7
    assert not folder.exists()


def test_ones_own_modules_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py", "lib/deep.py", "sweeps/s/spec.yaml", ".git/HEAD", "results/x.py",
                 "env/pyvenv.cfg", "env/lib.py", "data.parquet"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with staged(load_spec("space: mine:space")) as folder:
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"mine.py", "lib/deep.py", "sweep.yaml"}


def test_a_folder_that_is_not_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open(tmp_path / "images.bin", "wb") as images:
        images.truncate(101 * 2**20)
    with pytest.raises(ValueError, match=r"holds 101 MiB .* submit from a folder"):
        staged(load_spec("space: mine:space")).__enter__()


def test_the_source_of_all_our_packages_goes_along(tmp_path: Path) -> None:
    found = runtime_env(tmp_path, install=False, stop_seconds=5)
    assert [Path(module).name for module in found["py_modules"]] == list(PACKAGES)
    assert all((Path(module) / "__init__.py").is_file() for module in found["py_modules"])
    assert "pip" not in found
    assert set(found["env_vars"]) == {"RAY_JOB_STOP_WAIT_TIME_S"}  # no token, no keys


def test_what_nodes_install_is_pinned_and_leaves_ray_alone() -> None:
    names = {line.split("==")[0] for line in pinned()}
    assert {"torch", "optuna", "pyarrow"} <= names
    assert "ray" not in names
    assert all(line.count("==") == 1 for line in pinned())


def test_a_storage_of_this_machine_alone_is_refused() -> None:
    for shared in ("/mnt/sweeps", "s3://bucket/prefix"):
        check_storage_is_shared(shared)
    with pytest.raises(ValueError, match=r"'sweeps' is a folder under the one you stand in"):
        check_storage_is_shared("sweeps")


@pytest.mark.parametrize("address", ["auto", "10.0.0.1:6379", "ray://head:10001", "http://a/b"])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"is not a dashboard's, such as http://head:8265"):
        check_address(address)
    with pytest.raises(ValueError, match=r"no cluster is named: give --address"):
        check_address("")


@pytest.mark.parametrize(
    ("status", "exit_code", "retry"),
    [
        ("FAILED", 1, True),
        ("FAILED", None, True),  # the driver was killed
        ("FAILED", 2, False),  # a mistake in the spec
        ("FAILED", 130, False),
        ("STOPPED", None, False),
        ("SUCCEEDED", 0, False),
    ],
)
def test_which_jobs_are_handed_in_again(status: str, exit_code: int | None, retry: bool) -> None:
    assert replace(JOB, status=status, exit_code=exit_code).worth_a_retry is retry


@pytest.mark.parametrize(
    ("sweep", "same"),
    [
        *[("s", True), ("s.2", True), ("/shared/s", True), ("/shared/x/../s/", True)],
        *[("s.3", False), ("/other/s", False), ("/shared/t", False), ("./s", False)],
    ],
)
def test_a_job_is_known_by_its_sweep(sweep: str, same: bool) -> None:
    assert replace(JOB, job_id="s.2").is_called(sweep) is same


def test_the_drivers_last_line_says_why() -> None:
    message = "Job entrypoint command failed, logs:\nsweep s\nrts-search: data 'x' is unknown\n\n"
    assert replace(JOB, message=message).why() == "data 'x' is unknown"
    assert replace(JOB, status="STOPPED").why() == "STOPPED"


class Story:
    """A server that gives one answer after the other: a job, None, or that it is away."""

    address = "http://head:8265"

    def __init__(self, *answers: Job | str | None) -> None:
        self.answers = list(answers)

    def newest(self, name: str) -> Job | None:
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise ConnectionError(answer)
        return answer


def watched(
    story: Story, retries: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[[], Job], list[str]]:
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0.0)
    said: list[str] = []
    supervisor = Supervisor(story, lambda: "s.2", retries, said.append)  # type: ignore[arg-type]
    return lambda: supervisor.watch("s", lambda job_id, runs: None), said


FAILED = replace(JOB, status="FAILED", exit_code=1, message="killed")
DONE = replace(JOB, job_id="s.2", status="SUCCEEDED", exit_code=0)


def test_a_lost_job_is_handed_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, said = watched(Story(JOB, FAILED, DONE), 1, monkeypatch)
    assert watch() == DONE
    assert said == [
        "job s was lost (killed)",
        "handed in again as job s.2; 0 more times at most",
    ]


def test_a_head_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, said = watched(Story("away", "away", None, DONE), 1, monkeypatch)
    assert watch() == DONE
    assert said[:2] == ["away; waiting until it does", "job s was lost (with its head)"]


def test_without_retries_a_lost_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = watched(Story(FAILED), 0, monkeypatch)
    assert watch() == FAILED
    watch, _ = watched(Story(None), 0, monkeypatch)
    with pytest.raises(ConnectionError, match="no longer knows job s: its head was replaced"):
        watch()


def test_why_it_is_not_handed_in_yet_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0.0)
    said: list[str] = []
    refusals = ["refused the token"] * 3

    def submit() -> str:
        if refusals:
            raise ConnectionError(refusals.pop())
        return "s.2"

    story = Story(FAILED, DONE)
    assert Supervisor(story, submit, 1, said.append).watch("s", lambda *_: None) == DONE  # type: ignore[arg-type]
    assert said[1:] == [
        "refused the token; trying again",
        "handed in again as job s.2; 0 more times at most",
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("Request failed with status code 500: No available agent"),
            r"^Ray at http://head:8265 refused: Request failed with status code 500: No available",
        ),
        (OSError("refused"), r"^no Ray dashboard answers at http://head:8265: refused$"),
    ],
)
def test_what_the_dashboard_refuses_is_not_its_absence(error: Exception, told: str) -> None:
    server = JobServer.__new__(JobServer)
    server.address = "http://head:8265"
    with pytest.raises(ConnectionError, match=told), server._explained():
        raise error
