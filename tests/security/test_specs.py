"""Specs are data: no tag, no field but `package.module:function` runs code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from results.storage import SweepFolder
from rts_search.spec.folder import SPEC, read_spec, write_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import load_spec, read_yaml

TAGS = [
    "!!python/object/apply:os.mkdir [executed]",
    "!!python/object/new:os.mkdir [executed]",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/object:pathlib.Path {}",
    "!custom x",
]


def refused(tmp_path: Path, error: pytest.ExceptionInfo[ValueError]) -> None:
    assert "not valid YAML" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()
    assert "antigravity" not in sys.modules


@pytest.fixture(autouse=True)
def _stand_in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_a_spec(tmp_path: Path, tag: str) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: {tag}\n")
    for source in (path, f"{{model: {{args: {{width: {tag}}}}}}}"):
        with pytest.raises(ValueError, match="YAML") as error:
            load_spec(source)
        refused(tmp_path, error)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_an_override(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ValueError, match="YAML") as error:
        load_spec("{}", [f"model.args={tag}"])
    refused(tmp_path, error)


@pytest.mark.parametrize("tag", TAGS)
def test_tags_in_a_stored_spec(tmp_path: Path, tag: str) -> None:
    """Another user's sweep, in a storage that is shared."""
    folder = SweepFolder(tmp_path, "theirs")
    write_spec(folder, SweepSpec())
    folder.write(SPEC, folder.read(SPEC) + f"history: {tag}\n".encode())
    with pytest.raises(ValueError, match="not as rts-search wrote it") as error:
        read_spec(folder)
    refused(tmp_path, error)


def test_what_python_writes_itself_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        read_yaml(yaml.dump({"name": Path("x")}))


def is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def text_fields(model: type[BaseModel], above: str = "") -> list[str]:
    """All settings that take any text."""
    found = []
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        models = [a for a in (annotation, *get_args(annotation)) if is_model(a)]
        if models:
            found += [text for model in models for text in text_fields(model, f"{above}{name}.")]
        elif re.search(r"\bstr\b", repr(annotation)):
            found.append(f"{above}{name}")
    return found


def test_only_these_settings_are_ever_imported(tmp_path: Path) -> None:
    """A new setting that takes text must be looked at here."""
    imported = {"data.name", "model.name", "space", "task.name"}
    plain = {"name", "storage", "data.root", "model.pretrained", "model.args", "search.sampler",
             "search.start_from", "search.also", "search.warm_start", "train.device",
             "optimizer.trigger.name", "search.objective", "task.objective",
             "task.args"}  # fmt: skip
    assert set(text_fields(SweepSpec)) == imported | plain


@pytest.mark.parametrize(
    "setting",
    ["data.root", "model.pretrained", "search.sampler", "train.device", "search.warm_start",
     "model.args", "search.also", "search.start_from", "storage", "optimizer.trigger"],
)  # fmt: skip
def test_no_other_setting_imports_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    from rts_search.search.checks import check_spec

    (tmp_path / "evil_module.py").write_text("open('executed', 'w').close()\ndef run(*a): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RTS_SEARCH_CACHE", str(tmp_path / "cache"))
    name: Any = "evil_module:run"
    value = {"model.args": {"width": name}, "search.also": [name], "search.warm_start": [name],
             "search.start_from": [{"x": name}], "optimizer.trigger": {"name": name}}  # fmt: skip
    text = yaml.safe_dump(value.get(setting, name), default_flow_style=True)
    text = text.removesuffix("...\n").strip()
    try:
        check_spec(load_spec("{space: rts}", [f"{setting}={text}"]))
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
    assert "evil_module" not in sys.modules
    assert not (tmp_path / "executed").exists()
