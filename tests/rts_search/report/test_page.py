"""A report's text: the answer first, words of others escaped, and written whole or not at all."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from results.ledger import Ledger
from results.storage import SweepFolder
from rts_search.driver.control import Control
from rts_search.driver.lock import hold_lock
from rts_search.notebook import Sweep
from rts_search.report import command, figures
from rts_search.report.command import plot, report
from rts_search.report.data import MOST, read
from rts_search.report.page import PLOTS, write
from rts_search.spec.folder import write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from tests.rts_search.answers.recorded import trial
from tests.rts_search.report.ledgers import WORDS, claim_in, reported

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    "<a href='https://example.com'>here</a>"
)


def body(text: str) -> str:
    """The page without scripts and style, as it is written."""
    return re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)


def words(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", body(text)))


def figures_of(text: str) -> dict[str, object]:
    pattern = r'<div id="(\w+)"[^>]*></div><script type="application/json">(.*?)</script>'
    return {name: json.loads(told) for name, told in re.findall(pattern, text)}


def test_the_answer_comes_first(tmp_path: Path) -> None:
    sweep = reported(tmp_path)
    text = words(write(read(sweep)))
    assert text.index("No claim yet") < text.index("is the best of") < text.index(WORDS)
    assert f"rts-search confirm {sweep.argument}" in text
    assert "60 validation images measure it to ±" in text
    assert "1 failed" in text
    assert f"go on with: rts-search resume {sweep.argument}" in text  # nobody runs it
    claim_in(sweep.folder)
    claimed = write(read(sweep))
    text = words(claimed)
    assert "No claim yet" not in text
    assert text.index("t0008 beats every baseline") < text.index("is the best of")
    assert "12,345 gradient evaluations (12,000 spent)" in text
    assert {*figures_of(claimed)} == {"claims", *PLOTS}


def test_the_spec_on_the_page_is_that_of_the_sweep(tmp_path: Path) -> None:
    sweep = reported(tmp_path)
    (spec,) = re.findall(r"<pre>(name: .*?)</pre>", body(write(read(sweep))), flags=re.DOTALL)
    assert load_spec(html.unescape(spec)) == sweep.spec


def test_words_of_others_are_text(tmp_path: Path) -> None:
    sweep = reported(tmp_path, text=HOSTILE)
    claim_in(sweep.folder, HOSTILE)
    text = write(read(sweep))
    assert HOSTILE in words(text)
    assert "<img" not in text
    assert text.count("</script>") == len(figures_of(text)) + 2  # plotly, and what draws with it
    for told in figures_of(text).values():
        assert "<a" not in json.dumps(told)  # plotly reads tags in labels


def test_rungs_count_every_trial_once(tmp_path: Path) -> None:
    told = read(reported(tmp_path))
    found = figures.stops(told)
    assert found is not None
    counts = {trace.name: trace.y for trace in found.data}
    assert counts["went on, or completed"] == (27, 24)
    assert counts["stopped there"] == (3, 0)
    assert counts["not stopped, and not completed"] == (0, 3)  # diverged, failed, runs


def test_figures_on_the_test_set_are_labelled(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "theirs")
    with Ledger(folder) as ledger:
        for number in range(3):
            own = {"source": "a.json", "selected_on": "test", "trigger_epoch": 3 + number}
            ledger.put_trial(trial(f"t{number}", {}, 0.9 + number / 100, **own))
    text = write(read(Sweep(folder)))
    assert "Its validation set is the test set" in words(text)
    assert "val accuracy (on the test set)" in json.dumps(figures_of(text)["firing"])
    assert "a.json" in words(text)


def test_trials_of_several_settings(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "mixed")
    with Ledger(folder) as ledger:
        for number in range(6):
            own = {"source": "a.json", "train": {"epochs": 10 + number % 2}}
            ledger.put_trial(trial(f"t{number}", {}, 0.9 + number / 100, **own))
    text = words(write(read(Sweep(folder))))
    assert "Its trials have 2 settings of data, model, T and objective." in text
    assert "several settings, which have no one front" in text
    told = read(Sweep(folder), "total_epochs = 10")
    assert [each.name for each in told.trials] == ["t0", "t2", "t4"]
    text = words(write(told))
    assert "3 trials and 0 controls, where total_epochs = 10" in text
    assert f"rts-search report {folder.argument()} --where 'total_epochs = 10'" in text
    assert "settings of data" not in text
    with pytest.raises(ValueError, match="is not a condition"):
        read(Sweep(folder), "1 = 1; DROP TABLE trials")


def test_sweeps_of_which_there_is_little(tmp_path: Path) -> None:
    begun = SweepSpec(name="begun", storage=str(tmp_path))
    write_spec(begun.folder, begun)
    text = write(read(Sweep(begun.folder)))
    assert figures_of(text) == {}
    assert all(html.escape(each.absent) in text for each in PLOTS.values())
    single = SweepFolder(tmp_path, "single")  # as `rts-search train` makes
    with Ledger(single) as ledger:
        ledger.put_trial(trial("run", {}, 0.5))
    assert "run is the best of 1 trial" in words(write(read(Sweep(single))))
    (tmp_path / "begun" / "claims").mkdir()
    (tmp_path / "begun" / "claims" / "a.yaml").write_text("claim: no")
    assert "the claims cannot be read" in words(write(read(Sweep(begun.folder))))


def test_a_page_of_many_trials_is_small(tmp_path: Path) -> None:
    sweep = reported(tmp_path, trials=MOST + 20)
    text = write(read(sweep))
    assert len(text) < 10e6
    assert f"Points are {MOST:,} of them" in words(text)
    assert "At most 300 trials are drawn" in words(text)


def test_files_are_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = reported(tmp_path / "sweeps")
    report(sweep, None, print)
    page = tmp_path / "r-report.html"
    assert str(page) in capsys.readouterr().out
    assert page.read_text().endswith("</html>\n")
    plot("firing", sweep, None, print)
    assert [*figures_of((tmp_path / "r-firing.html").read_text())] == ["firing"]
    plot("curves", sweep, Path("deep/c.json"), print)
    assert json.loads(Path("deep/c.json").read_text())["data"]
    with pytest.raises(ValueError, match="unknown plot 'firings': did you mean 'firing'"):
        plot("firings", sweep, None, print)
    with pytest.raises(ValueError, match=r"a\.gif': plots are written as \.html, \.htm, \.json"):
        plot("firing", sweep, Path("a.gif"), print)
    with pytest.raises(ValueError, match=r"r\.txt': a report is a page, \.html"):
        report(sweep, Path("r.txt"), print)
    begun = SweepSpec(name="begun", storage=str(tmp_path / "sweeps"))
    write_spec(begun.folder, begun)
    with pytest.raises(ValueError, match=r"begun: no curves to draw\. No epoch yet"):
        plot("curves", Sweep(begun.folder), None, print)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "r-firing.html",
        "r-report.html",
    ]


def test_a_sweep_that_runs_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, page = reported(tmp_path), tmp_path / "live.html"
    held = hold_lock(sweep.folder)
    seen: list[str] = []

    def wait(seconds: float) -> None:
        seen.append(page.read_text())
        if len(seen) == 2:
            control.__exit__(None, None, None)
            held.__exit__(None, None, None)

    monkeypatch.setattr(command.time, "sleep", wait)
    held.__enter__()
    control = Control(sweep.folder)
    control.__enter__()
    report(sweep, page, print, live=True)
    assert len(seen) == 2
    assert all('data-again="10"' in text for text in seen)
    assert "data-again" not in body(page.read_text())  # it has ended
    assert "Ctrl-C ends that" in capsys.readouterr().out
