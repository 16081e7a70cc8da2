"""Numbers that nothing can be done with: refused in one line that names setting, value and rule."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from pydantic import BaseModel

from rts_search.cli.launch import print_plan
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec
from tests.rts_search.cli.calling import cli

VALUES = [".inf", "-.inf", ".nan", "1e308", "5e-324", "1.0000001", str(2**31), str(2**63)]
VALUES += [str(10**400), "9" * 5000, "0x" + "f" * 5000, "2024-99-99"]


def numbers(model: type[BaseModel], above: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name != "trigger":
            yield from numbers(kind, f"{above}{name}.")
        elif "int" in repr(kind) or "float" in repr(kind):
            yield f"{above}{name}"


def test_every_number_of_a_spec() -> None:
    keys = list(numbers(SweepSpec))
    assert len(keys) > 30
    for key in keys:
        for value in VALUES:
            said = error_of(f"{key}={value}")
            assert "\n" not in said
            assert len(said) < 500
            assert not said or key.rpartition(".")[0] in said
            assert said or value not in (".inf", "-.inf", ".nan", "2024-99-99"), (key, value)


def error_of(asked: str) -> str:
    """Why it is refused; of what is not, that it is read back as it was."""
    try:
        spec = load_spec("{}", [asked])
    except ValueError as error:
        return str(error)
    assert load_spec(spec.model_dump_json()) == spec
    return ""


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("stop.eta=.inf", "stop.eta: inf: input should be a finite number"),
        (
            "stop.eta=1.0000001",
            "stop.eta: 1.0000001: input should be greater than or equal to 1.01",
        ),
        ("stop.eta=1e308", "stop.eta: 1e+308: input should be less than or equal to 1000"),
        ("budget.target=.nan", "budget.target: nan: input should be a finite number"),
        ("train.epochs=2147483648", "train.epochs: 2147483648: input should be less than or equal"),
        (
            f"train.device={'a' * 100_000}",
            "train.device: a text of 100,000 characters: it has 1,000",
        ),
        ("search.trials=1e12", "search.trials: 1000000000000: whole numbers are below 2^31"),
        ("search.seed=-9223372036854775808", "search.seed: -9223372036854775808: input should be"),
        (f"data.train_size={10**400}", "--set 'data.train_size=1"),
        ("model.args={width: .nan}", "model.args: {'width': nan}: plain data and finite numbers"),
        (
            "optimizer.trigger={name: gap, mu: .inf}",
            "optimizer.trigger.mu: inf: input should be a fin",
        ),
        ("search.also={lr: [0.1, .inf]}", "also: lr = [0.1, inf] must be"),
        ("budget.hours=2024-99-99", "budget.hours: '2024-99-99': input should be a valid number"),
    ],
)
def test_one_line_of_the_dry_run(
    asked: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("sweep", "--preset", "quick", "--set", asked, "--dry-run")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith(f"rts-search: {line}")


@pytest.mark.parametrize("asked", ["train.epochs=1e9", "stop.eta=1.01", "budget.hours=1e6"])
def test_what_is_large_and_allowed_has_a_plan(asked: str, tmp_path: Path) -> None:
    with redirect_stdout(io.StringIO()) as said:
        print_plan(load_spec("{}", [asked, f"storage={tmp_path}"]))
    assert "configurations of rts" in said.getvalue()


def test_what_is_counted_in_the_billions() -> None:
    spec = load_spec("{budget: {gradient_evaluations: 1e15}}")
    assert spec.budget.gradient_evaluations == 10**15
