"""YAML as people write it: text stays as written, numbers are decimal, nothing is dropped silently.

PyYAML follows YAML 1.1, where `010` is 8, `on` is true, `1e-3` is text and `2024-05-01` a date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
LARGEST = 512 * 1024  # bytes of a spec, which take some ten seconds to read
DEEPEST, MOST = 50, 100_000  # levels of a spec, and values with each *alias written out
DIGITS_READ = 40
BREAKS = "\x85\u2028\u2029"
DIGITS = r"[0-9]+(_[0-9]+)*"
NUMBER = rf"[-+]?(\.[0-9]+|{DIGITS}(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
KINDS = {  # in the order in which they are tried
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": rf"[-+]?{DIGITS}|0x[0-9a-fA-F]+",
    "float": rf"{NUMBER}|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}


TOO_DEEP = f"nested too deeply, in more than {DEEPEST} levels"


@dataclass(frozen=True)
class Written:
    """A value as it was written, and what YAML makes of it."""

    text: str
    value: Any


class _Unique(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _error("a name is needed before the colon", key)
            if key.value in lines:
                raise _error(f"{key.value!r} stands twice, first in line {lines[key.value]}", key)
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, TypeError):  # PyYAML's own
            tag = node.tag.replace(TAG, "!!")
            raise _error(f"a value is not what its tag says, {tag}", node) from None


class _AsWritten(_Unique):
    """Every scalar is a `Written`, every key text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0]:  # neither quoted nor tagged
            return TAG + _kind(value)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return {key.text: value for key, value in content.items()}

    def as_written(self, node: Any) -> Written:
        return Written(node.value, VALUES[node.tag.removeprefix(TAG)](node.value))


class _Dumper(yaml.SafeDumper):
    """Quotes text that is a number by either of the loaders, and escapes line breaks that YAML has
    beside ours, which PyYAML would write as they are and read as a space."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        escaped = '"' if any(each in text for each in BREAKS) else None
        return self.represent_scalar(f"{TAG}str", text, style=escaped)


VALUES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: _int(text),
    "float": lambda text: _float(text.lower()),
}
for kind in VALUES:
    _AsWritten.add_constructor(TAG + kind, _AsWritten.as_written)
_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver(TAG + "float", re.compile(f"^({NUMBER})$"), None)


def _int(text: str) -> int:
    if len(text) > DIGITS_READ:
        raise ValueError(f"{text[:10]}…, a number of {len(text)} digits; no setting takes such")
    return int(text, 16) if "x" in text else int(text)


def _float(text: str) -> int | float:
    """A whole number with an exponent, as in 1e6, is one."""
    value = float(re.sub(r"\.(?=inf|nan)", "", text))
    exact = "." not in text and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


def read_written(text: str) -> Any:
    """Mappings and lists of `Written`. Raises ValueError, one line."""
    return _read(_AsWritten, text)


def read_stored(text: str) -> Any:
    """What `dump` wrote, or PyYAML in earlier versions. Raises ValueError, one line."""
    return _read(_Unique, text)


def read_argument(text: str) -> Written:
    """The whole of an argument: quoted text, `[…]` and `{…}` are YAML, all else stands for itself.

    Raises ValueError, one line.
    """
    text = text.strip()
    if not text.startswith(("[", "{", '"', "'", "!")):
        return Written(text, VALUES.get(_kind(text), str)(text))
    try:
        loader = _AsWritten(text)
        node = _node(loader)
        assert node is not None
        if rest := text[node.end_mark.index :]:
            raise ValueError(f"{rest.strip()!r} would be dropped")
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(_explain(error)) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return value if isinstance(value, Written) else Written(text, value)


def dump(content: Any) -> str:
    """As `read_stored` and `read_written` read it back."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _kind(text: str) -> str:
    return next((kind for kind, form in KINDS.items() if re.fullmatch(form, text)), "str")


def _read(loader: type[_Unique], text: str) -> Any:
    try:
        reader = loader(text)
        node = _node(reader)
        return None if node is None else reader.construct_document(node)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where is not None else ""
        raise ValueError(line + _explain(error)) from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _node(loader: Any) -> Any:
    """The document before anything is made of it. Raises ValueError where that would be too much:
    a few lines of aliases of aliases stand for billions of values."""
    node, sizes = loader.get_single_node(), dict[int, int]()

    def size(node: yaml.Node, depth: int) -> int:
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)
        if sizes.get(id(node)) == 0:
            raise ValueError("an *alias is within its &anchor")
        if id(node) not in sizes:
            sizes[id(node)] = 0  # until it is known
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if node is not None and size(node, 0) > MOST:
        raise ValueError(f"it stands for more than {MOST:,} values, its *aliases written out")
    return node


def _error(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _explain(error: yaml.YAMLError) -> str:
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    return ": ".join(part for part in parts if part) or " ".join(str(error).split())
