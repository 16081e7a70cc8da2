"""A spec from YAML, presets and `--set`; every mistake is one line."""

from __future__ import annotations

import copy
import os
import re
import types
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from results.storage import read_file
from rts_search.spec.model import SweepSpec
from rts_search.spec.written import LARGEST, Written, read_argument, read_stored, read_written
from trainables.names import unknown
from trainables.triggers import TriggerConfig

M = TypeVar("M", bound=BaseModel)
Override = str | tuple[str, Any]  # `a.b=c` as it was typed, or the setting a.b and its value

# settings in which `~` and `$VAR` stand for what they do in a shell
PATHS = ("storage", "storage.path", "data.root", "model.pretrained", "search.warm_start")
# how pydantic names the alternatives of a union in an error's location
BOOLEANS = {"yes": True, "on": True, "no": False, "off": False}  # YAML 1.1's, beside true and false
UNION_MEMBER = re.compile(r"(bool|float|str|ControlsConfig|StorageConfig)$|(literal|list|dict)\[")


def load_spec(source: Path | str, overrides: Iterable[Override] = ()) -> SweepSpec:
    """The spec in a YAML file, or text, with overrides. Raises ValueError, one line."""
    return parse(SweepSpec, apply_overrides(read_yaml(source), overrides))


def asked_spec(spec: Path | None, preset: str | None, overrides: Iterable[str]) -> SweepSpec:
    """A command's spec: from a file or a preset. Raises ValueError unless one of both is given."""
    if spec is not None and preset is None:
        return load_spec(spec, overrides)
    if preset is not None and spec is None:
        return load_preset(preset, overrides)
    raise ValueError(f"give either a SPEC.yaml or --preset NAME ({', '.join(presets())})")


def python_spec(
    spec: str | os.PathLike[str] | Mapping[str, Any] | SweepSpec,
    settings: Mapping[str, Any],
) -> SweepSpec:
    """A spec as Python code asks for it: a file, a preset, a mapping or an object, with `settings`
    (as in `{"search.trials": 9}`) instead of its own. Raises ValueError, one line."""
    changes = [(str(key), value) for key, value in settings.items()]
    if isinstance(spec, SweepSpec):
        return parse(SweepSpec, apply_overrides(spec.model_dump(mode="json"), changes))
    if isinstance(spec, Mapping):
        return parse(SweepSpec, apply_overrides(copy.deepcopy(dict(spec)), changes))
    path = Path(spec)
    if path.exists() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return load_spec(path, changes)
    return load_preset(str(spec), changes)


def read_yaml(source: Path | str, stored: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file, or in YAML text, for `parse`; its values are plain where it was
    `stored` by us. Raises ValueError, one line."""
    text = source if isinstance(source, str) else _read(source)
    where = f"{source}: " if isinstance(source, Path) else ""
    try:
        content = (read_stored if stored else read_written)(text)
    except ValueError as error:
        raise ValueError(f"{where}not valid YAML: {error}") from None
    if not isinstance(content, dict):
        value = content.value if isinstance(content, Written) else content
        found = "but it is empty" if value is None else f"not {type(value).__name__}"
        raise ValueError(f"{where}a mapping of settings is needed, {found}")
    return content


def apply_overrides(content: dict[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """The content with each of them set. Raises ValueError for one of another form."""
    for override in overrides:
        key, value = _typed(override) if isinstance(override, str) else override
        _set(content, key, value, key if isinstance(override, tuple) else f"--set {override!r}")
    return content


def parse(model: type[M], content: Any) -> M:
    """Validate plain or written data; every problem becomes part of one line of a ValueError."""
    content = _plain(content, model)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_explain(model, content, problem) for problem in error.errors()]
        raise ValueError("; ".join(dict.fromkeys(problems))) from None


def presets() -> list[str]:
    """The names of the specs that come with the package."""
    folder = resources.files("rts_search.spec") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def load_preset(name: str, overrides: Iterable[Override] = ()) -> SweepSpec:
    content, asked = _preset(name), list(overrides)
    if any(each[:1] == ("space",) or str(each).startswith("space=") for each in asked):
        content.get("search", {}).pop("start_from", None)  # points of the preset's own space
    return parse(SweepSpec, apply_overrides(content, asked))


def preset_words(name: str) -> list[str]:
    """What a preset says of itself: the comment that it begins with."""
    lines = takewhile(lambda line: line.startswith("#"), _preset_text(name).splitlines())
    base = read_yaml(_preset_text(name)).get("like")
    return [line.removeprefix("# ") for line in lines] + (preset_words(base.text) if base else [])


def _preset(name: str) -> dict[str, Any]:
    """Its settings, over those of the preset that it is `like`."""
    content = read_yaml(_preset_text(name))
    base = _preset(content.pop("like").text) if "like" in content else {}
    return base | {
        key: base[key] | value if isinstance(value, dict) and key in base else value
        for key, value in content.items()
    }


def _preset_text(name: str) -> str:
    if name not in presets():
        raise unknown("preset", name, presets())
    return (resources.files("rts_search.spec") / "presets" / f"{name}.yaml").read_text("utf-8")


def _read(path: Path) -> str:
    try:
        content = read_file(path, LARGEST)
        return content.decode()
    except OSError as error:
        raise ValueError(f"spec {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"spec {str(path)!r} is not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"spec {error}") from None


def _typed(override: str) -> tuple[str, Any]:
    """The key and the value of one like `train.lr=0.05`."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {override!r} is not of the form a.b=c")
    try:
        return key, read_argument(value)
    except ValueError as error:
        raise ValueError(
            f"--set {_shown(override)}: {_shown(value)} is not valid YAML: {error}"
        ) from None


def _set(content: dict[str, Any], key: str, value: Any, shown: str) -> None:
    """Set one dotted key."""
    *path, last = key.split(".")
    for part in path:
        child = content.setdefault(part, {})
        if isinstance(child, Written):
            child = content[part] = child.value
        if part == "storage" and isinstance(child, str):  # its path alone
            child = content[part] = {"path": child}
        if not isinstance(child, dict):
            raise ValueError(f"{shown}: {part} is a value, not a group of settings")
        content = child
    content[last] = value


def _plain(asked: Any, annotation: Any, at: tuple[str, ...] = ()) -> Any:
    """Plain data: what was written as it stands where the setting is text, else its value."""
    if isinstance(asked, Written):
        kinds, value, setting = _members(annotation), asked.value, ".".join(at)
        if bool in kinds and str not in kinds and asked.text.lower() in BOOLEANS:
            value = BOOLEANS[asked.text.lower()]
        text = (
            str in kinds and value is not None and (type(value) not in kinds or type(value) is str)
        )
        if setting in PATHS and (text or asked.text == "~"):
            return _expanded(setting, asked.text)
        if type(value) is bool and bool not in kinds and {int, float} & {*kinds}:  # not 1 or 0
            raise ValueError(f"{setting}: {asked.text}: a number is needed")
        asked = asked.text if text else value
    if isinstance(asked, os.PathLike):
        return os.fspath(asked)
    if isinstance(asked, dict):
        return {
            key: _plain(value, _inside(annotation, key), (*at, key)) for key, value in asked.items()
        }
    if isinstance(asked, list):
        return [_plain(value, _inside(annotation), at) for value in asked]
    return asked


def _expanded(setting: str, text: str) -> str:
    for match in re.finditer(r"\$(?:(\w+)|\{([^}]*)\})", text):
        if (match[1] or match[2]) not in os.environ:
            raise ValueError(f"{setting}: {text!r}: the environment variable {match[0]} is not set")
    expanded = os.path.expandvars(os.path.expanduser(text))
    if expanded.startswith("~"):
        raise ValueError(f"{setting}: {text!r}: there is no such home folder; write ./~ for a file")
    return expanded


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
        names = [name.strip("'") for name in names]
        # as YAML has them
        names = [name.lower() if name in ("True", "False") else name for name in names]
        return str(unknown(path, str(given).lower() if isinstance(given, bool) else given, names))
    if problem["type"] == "model_type":
        found = "but it is empty" if given is None else f"not {type(given).__name__}"
        return f"{path}: a mapping of settings is needed, {found}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path}: {_shown(given)}: {message[0].lower()}{message[1:]}"


def _shown(given: Any) -> str:
    """As it was given, if that is not too long."""
    text = repr(given)
    return text if len(text) <= 100 else f"{text[:60]} … ({len(text)} characters)"


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
    return [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]


def _members(annotation: Any) -> list[Any]:
    """The alternatives of a union; of another type, itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for arg in get_args(annotation) for member in _members(arg)]
    return [annotation]


def _inside(annotation: Any, key: str | None = None) -> Any:
    """The type of what stands under a key, or (None) in a list; Any where that is not known."""
    found = [_annotation(model, key) for model in _models_in(annotation)]
    for member in _members(annotation):
        if get_origin(member) is (list if key is None else dict):
            found.append(get_args(member)[-1])
    return Union[tuple(known for known in found if known is not None) or Any]  # noqa: UP007
