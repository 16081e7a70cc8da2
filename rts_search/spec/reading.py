"""A spec from YAML, presets and `--set`; every mistake is one line."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from rts_search.spec.model import SweepSpec
from trainables.names import unknown
from trainables.triggers import TriggerConfig

M = TypeVar("M", bound=BaseModel)


# how pydantic names the alternatives of a union in an error's location
UNION_MEMBER = re.compile(r"(bool|float|str|ControlsConfig)$|(literal|list|dict)\[")


def load_spec(source: Path | str, overrides: Iterable[str] = ()) -> SweepSpec:
    """The spec in a YAML file, or text, with `a.b=c` overrides. Raises ValueError, one line."""
    return parse(SweepSpec, apply_overrides(read_yaml(source), overrides))


def asked_spec(spec: Path | None, preset: str | None, overrides: Iterable[str]) -> SweepSpec:
    """A command's spec: from a file or a preset. Raises ValueError unless one of both is given."""
    if spec is not None and preset is None:
        return load_spec(spec, overrides)
    if preset is not None and spec is None:
        return load_preset(preset, overrides)
    raise ValueError(f"give either a SPEC.yaml or --preset NAME ({', '.join(presets())})")


def read_yaml(source: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file, or in YAML text. Raises ValueError, one line."""
    text = source if isinstance(source, str) else _read(source)
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{where}not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}a mapping of settings is needed, not {type(content).__name__}")
    return content


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The content with each `a.b=c` set. Raises ValueError for one of another form."""
    for override in overrides:
        _override(content, override)
    return content


def parse(model: type[M], content: Any) -> M:
    """Validate plain data; every problem becomes part of one line of a ValueError."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_explain(model, content, problem) for problem in error.errors()]
        raise ValueError("; ".join(dict.fromkeys(problems))) from None


def presets() -> list[str]:
    """The names of the specs that come with the package."""
    folder = resources.files("rts_search.spec") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_preset(name: str, overrides: Iterable[str] = ()) -> SweepSpec:
    if name not in presets():
        raise unknown("preset", name, presets())
    text = (resources.files("rts_search.spec") / "presets" / f"{name}.yaml").read_text("utf-8")
    return load_spec(text, overrides)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"spec {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"spec {str(path)!r} is not UTF-8 text") from None


def _override(content: dict[str, Any], override: str) -> None:
    """Set one dotted key, as in `train.lr=0.05`; the value is YAML."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override!r} is not of the form a.b=c")
    *path, last = key.split(".")
    for part in path:
        child = content.setdefault(part, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set {override!r}: {part} is a value, not a group of settings")
        content = child
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {override!r}: {value!r} is not valid YAML") from None


def _explain(model: type[BaseModel], content: Any, problem: Any) -> str:
    location, given = problem["loc"], problem["input"]
    path = _dotted(location) or "spec"
    if problem["type"] == "extra_forbidden":
        *outer, last = location
        where = _dotted(outer)
        what = f"setting in {where}" if where else "setting"
        return str(unknown(what, last, _fields_at(model, outer, content)))
    if problem["type"] == "literal_error":
        names = problem["ctx"]["expected"].replace(" or ", ", ").split(", ")
        return str(unknown(path, given, [name.strip("'") for name in names]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path}: {given!r}: {message[0].lower()}{message[1:]}"


def _dotted(location: Iterable[Any]) -> str:
    return ".".join(part for part in map(str, location) if not UNION_MEMBER.match(part))


def _fields_at(model: type[BaseModel], location: Iterable[Any], content: Any) -> list[str]:
    """The names that are allowed at a location of the model, through unions."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        models = [m for owner in models for m in _models_in(_annotation(owner, part))] or models
        content = content.get(part) if isinstance(content, dict) else None
    if models == [TriggerConfig] and isinstance(content, dict):
        models = [TriggerConfig.kinds[content["name"]]]
    return sorted({name for m in models for name in m.model_fields})


def _annotation(model: type[BaseModel], field: Any) -> Any:
    return model.model_fields[field].annotation if field in model.model_fields else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _models_in(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for arg in get_args(annotation) for m in _models_in(arg)]
    return []
