"""`--json`: one document on standard output, of the shape that docs/commands.md tells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from results.schema import EPOCHS, TRIALS
from rts_search.sweep import Sweep
from tests.rts_search.cli.calling import cli
from tests.rts_search.cli.test_end import sweep

__all__ = ["sweep"]

DOCS = (Path(__file__).parents[3] / "docs" / "commands.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `([a-zA-Z -]+)` \| (.*) \|$", DOCS, re.M))
DIGITS = ("--set", "data.name=digits")
COMMANDS = {
    "best": ("best",),
    "best --pareto": ("best", "--pareto", "--cost", "gradient_evaluations"),
    "compare": ("compare", "demo", "demo/sgd"),
    "list": ("list",),
    "status": ("status", "demo"),
    "show": ("show", "demo/t0018"),
    "audit": ("audit", "demo"),
    "query": ("query", "SELECT trial_id, ended FROM trials LIMIT 2"),
    "estimate": ("estimate", "--preset", "quick", *DIGITS, "--no-probe"),
    "firing": ("firing", "--preset", "quick", *DIGITS, "--set", "train.epochs=2"),
    "replay": ("replay", "demo", "--policy", "none", "--replays", "2"),
    "selftest": ("selftest", "--simulations", "2000"),
    "spaces": ("spaces",),
    "spaces SPACE": ("spaces", "rts"),
    "models": ("models",),
    "datasets": ("datasets",),
}


def ask(*command: str) -> Any:
    done = cli(*command, "--json")
    assert (done.code, done.err if command[0] not in ("replay", "firing") else "") == (0, "")
    assert done.out.count("\n") == 1 or command[0] == "query"
    return json.loads(done.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def words(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_document_is_as_the_docs_tell_it(sweep: Sweep, name: str) -> None:
    document, told = ask(*COMMANDS[name]), ROWS[name]
    if name == "query":
        assert told == "an array of rows"
        assert [list(row) for row in document] == [["trial_id", "ended"]] * 2
        return
    first, each, inner = told.partition(", each with ")
    if not each:
        first, each, inner = told.partition(": null where nothing is stopped, else its ")
    assert set(document) == set(words(re.sub(r": the front.*|; with.*", "", first)))
    if each:
        (found,) = document.values()
        assert set(found[0] if isinstance(found, list) else found) == set(words(inner))


def test_every_command_that_has_it_is_told() -> None:
    assert set(ROWS) >= set(COMMANDS)
    assert set(COMMANDS) == {name for name in ROWS if name in COMMANDS or "json" in name}


def test_rows_are_the_ledgers(sweep: Sweep) -> None:
    (ranking,) = ask("best", "--top", "2")["rankings"]
    assert (ranking["metric"], ranking["objective"]) == ("final_val_accuracy", "val_accuracy")
    assert [row["trial_id"] for row in ranking["trials"]] == ["t0018", "t0016"]
    extra = {"mean", "seeds", "deviation"}
    assert set(ranking["trials"][0]) == {*TRIALS.names, *extra}
    assert set(ranking["controls"][0]) == {*TRIALS.names, *extra, "untuned"}
    assert (ranking["controls"][0]["untuned"], ranking["reruns"]) == (True, None)
    shown = ask("show", "demo/t0018")
    assert set(shown["trial"]) == set(TRIALS.names)
    assert set(shown["epochs"][0]) == set(EPOCHS.names)
    status = ask("status")
    assert status["sweep"] == ask("list")["sweeps"][0]
    assert status["best"]["trial_id"] == "t0018"
    assert status["audit"] == ask("audit", "demo")["audit"]


def test_nothing_there_is_a_document_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask("list") == {"sweeps": []}
    done = cli("best", "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    refused = cli("status", "--json", "--follow")
    assert (refused.code, refused.out) == (2, "")
