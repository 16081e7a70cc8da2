"""What another has written into a ledger cannot control the terminal that shows it."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.schema import EPOCHS, TRIALS, check_row, to_table
from results.storage import SweepFolder
from rts_search.cli.app import main
from rts_search.driver.lock import DRIVER
from rts_search.show.console import CONTROLS, clean, cleaned_output, make_console
from rts_search.spec.folder import SPEC, write_spec
from rts_search.spec.model import SweepSpec
from tests.rts_search.cli.calling import cli
from trainables.config import TrialConfig

# a title, a link, a colour, a clear screen, C1's CSI, a return, a right-to-left, rich's own markup
NASTY = (
    "\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\a\x1b]8;;\x1b\\\x1b[31m\x1b[2J\x9b1A\rb\u202ec\x7f\b"
)
NASTY += "\u2028[red]d[/red][link=http://evil]e[/link]:boom:$(touch executed)"
READING = [
    "best s",
    "best s --json",
    "best s --all",
    "best s --pareto",
    "audit s",
    "query 'SELECT * FROM trials'",
    "query 'SELECT trial_id, message FROM trials'",
    "query 'SELECT * FROM trials' --format json",
    "list",
    "status s",
    "status s --json",
    "status s --follow",
    "show s/n",
    "show s/t",
    "show s/n --json",
    "export trials",
    "replay s --replays 2",
    "train --trial s/t",
    "resume s",
    "reproduce s/t",
    "stop s",
    "stop s --trial n",
]
OUTCOMES = ["completed", "running", "failed", "completed", "completed"]


@pytest.fixture
def nasty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose every text is nasty, where the columns hold text of any kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    content = {"name": "s", "storage": str(tmp_path / "sweeps"), "space": f"m:{NASTY}"}
    spec = SweepSpec.model_validate({**content, "model": {"name": f"m:{NASTY}", "args": {}}})
    folder = SweepFolder(spec.storage, "s")
    write_spec(folder, spec, ranges={NASTY: {"low": 0.0, "high": 1.0}})
    folder.write(DRIVER, json.dumps({"host": NASTY, "pid": 1, "key": NASTY, "heard": 0.0}).encode())
    free = {"message", "traceback", "config_data", "config_model", "device", "precision", "host"}
    free |= {"hardware", "git_commit", "versions", "config_trigger", "objective"}
    trials: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for number, outcome in enumerate(OUTCOMES):
        trial = f"t{number}{NASTY}" if number else f"n{NASTY}"
        row = {"sweep": "s", "trial_id": trial, "outcome": outcome, "number": number}
        row |= dict.fromkeys(free & {*TRIALS.names}, NASTY)
        row |= {"params": json.dumps({NASTY: 1.0, "y": NASTY}), "family": "sgd"}
        config = {"model": {"name": f"m:{NASTY}"}, "train": {"epochs": 100, "lr": 0.1 + number}}
        row |= {"config_json": TrialConfig.model_validate(config).model_dump_json()}
        row |= {"final_val_accuracy": 0.1 * number, "epochs": 100, "total_epochs": 100}
        now = datetime.now(UTC)
        row |= {"objective": "val_accuracy", "started": now, "updated": now}
        trials.append(check_row(row, TRIALS))
        for epoch in range(1, 101):
            row = {"sweep": "s", "trial_id": trial, "rung": 0, "epoch": epoch, "time": now}
            row |= {"epoch_seconds": 1.0, "gradient_evaluations": 1, "val_accuracy": 0.1}
            epochs.append(check_row({**row, "total_epochs": 100}, EPOCHS))
    for name, rows, schema in (("trials", trials, TRIALS), ("epochs", epochs, EPOCHS)):
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(rows, schema), sink)
        folder.write(f"{name}/part-00000000-{'0' * 32}.parquet", bytes(sink.getvalue()))
    return tmp_path


def test_nothing_in_a_ledger_reaches_the_terminal_as_it_is(nasty: Path) -> None:
    seen = 0
    for words in READING:
        done = cli(*shlex.split(words))
        said = done.out + done.err + str(done.code)
        if "export" in words:
            continue  # into a pipe: a file
        assert CONTROLS.search(said) is None, (words, said)
        assert "Traceback" not in said, (words, said)
        seen += "[red]d[/red]" in said
        if "json" in words and done.code == 0:
            assert any(NASTY in text for text in _texts(json.loads(done.out))), words
    assert seen > 10
    assert not Path("executed").exists()


def _texts(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [text for pair in found.items() for each in pair for text in _texts(each)]
    if isinstance(found, list):
        return [text for each in found for text in _texts(each)]
    return [found] if isinstance(found, str) else []


CODE = """
import sys
from rts_search.cli.app import main
for command in {commands}:
    try:
        main(command)
    except SystemExit as end:
        print(end.code)
"""


def test_a_terminal(nasty: Path) -> None:
    """Colours of ours are all that is left; bytes of a table too are cleaned here."""
    wanted = [words for words in READING if words.split()[0] in ("best", "show", "export", "list")]
    code = CODE.format(commands=[shlex.split(words) for words in wanted])
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave) as process:
        os.close(slave)
        said = b""
        while chunk := _read(master):
            said += chunk
        process.wait(60)
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode()).replace("\r\n", "\n")
    assert "\\u001b]0;owned" in text
    assert CONTROLS.search(text) is None
    assert "Traceback" not in text


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # closed on the other side
        return b""


def test_what_is_said_of_controls() -> None:
    assert clean("a\tb\nc → ± é 🎉") == "a\tb\nc → ± é 🎉"
    assert clean("\x1b[1;31ma\x1b[0m\x1b[2J") == "a\\u001b[2J"
    assert clean("a\rb\r\nc") == "a\nb\nc"
    assert json.loads(clean(json.dumps({"a": NASTY}, ensure_ascii=False))) == {"a": NASTY}


def test_prints_and_errors(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with cleaned_output():
        print(NASTY, NASTY)
        print(NASTY, file=sys.stderr)
        make_console().print(NASTY)
        sys.stderr.write("\r50 %")  # a download's bar
        sys.stdout.writelines([NASTY])
    out, err = capfd.readouterr()
    assert err.endswith("\r50 %")
    assert CONTROLS.search(out + err.removesuffix("\r50 %")) is None
    with pytest.raises(SystemExit) as end:
        main(["show", f"x/{NASTY}", "--storage", str(tmp_path / NASTY.replace("/", ""))])
    assert end.value.code == 2
    assert CONTROLS.search(capfd.readouterr().err) is None


def test_a_printed_command_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = SweepFolder("sweeps", "s")
    assert folder.argument("t0001") == "s/t0001"
    assert shlex.split(folder.argument(NASTY)) == [f"s/{NASTY}"]
    assert not folder.exists(SPEC)
