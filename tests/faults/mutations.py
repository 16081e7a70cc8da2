"""What can become of a file or a folder in a sweep: by a dying disk, another program, or malice.

Each mutation takes a random generator and the sweep's folder, changes it, and returns words for
what it did; None if there was nothing of its kind to change.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

Mutation = Callable[[Random, Path], str | None]
ODD_NAMES = ("part-\x1b[31m.parquet", "part-é.parquet", "-rf", "a b.parquet", "part-.parquet", "x")
ODD_TEXTS = (
    *("", "\x1b[2J\x07\x9b", "a" * 1_000_000, "\x00", "../../etc", "‮", "\n\n", "'; DROP"),
    *('{"a":', "[" * 50_000, "null", "9" * 500, "[1, 2]", "no such word"),
)
ODD_NUMBERS = (math.nan, math.inf, -math.inf, -1.0, 1e308, 0.0)
ODD_VALUES = (
    *(None, True, -1, 0, 10**30, math.nan, math.inf, "", "x", "\x1b[31m", [], {}, [[1]], {"a": 1}),
    *("9" * 5000, "2026-13-45", "a" * 100_000),
)


def files(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != ".driver.lock"]
    return sorted(found)


def pick(rng: Random, folder: Path, pattern: str = "**/*") -> Path | None:
    """A file: of each kind of file equally often."""
    kinds: dict[str, list[Path]] = {}
    for path in files(folder):
        if path.match(pattern) or pattern == "**/*":
            inside = path.relative_to(folder)
            kinds.setdefault(f"{inside.parts[0]} {inside.suffix} {inside.stem[:5]}", []).append(
                path
            )
    return rng.choice(kinds[rng.choice(sorted(kinds))]) if kinds else None


# The bytes of a file.


def bytes_of(rng: Random, folder: Path) -> str | None:
    path = pick(rng, folder)
    assert path is not None
    content = path.read_bytes()
    kind = rng.choice(list(BYTES))
    path.write_bytes(BYTES[kind](rng, content))
    return f"{path.relative_to(folder)}: {kind}"


def _flip(rng: Random, content: bytes, count: int) -> bytes:
    changed = bytearray(content)
    for _ in range(count if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _zero(rng: Random, content: bytes) -> bytes:
    begin = rng.randrange(len(content) + 1)
    end = min(len(content), begin + rng.choice([1, 64, 4096]))
    return content[:begin] + bytes(end - begin) + content[end:]


def _insert(rng: Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice([1, 100])) + content[at:]


BYTES: dict[str, Callable[[Random, bytes], bytes]] = {
    "empty": lambda rng, content: b"",
    "truncated": lambda rng, content: content[: rng.randrange(len(content) + 1)],
    "a bit flipped": lambda rng, content: _flip(rng, content, 1),
    "ten bits flipped": lambda rng, content: _flip(rng, content, 10),
    "a block of zeros": _zero,
    "all zeros": lambda rng, content: bytes(len(content)),
    "bytes put in": _insert,
    "its beginning is gone": lambda rng, content: content[rng.randrange(len(content) + 1) :],
    "twice": lambda rng, content: content * 2,
    "noise": lambda rng, content: rng.randbytes(len(content)),
}


# What stands in the place of a file or a folder.


def place_of(rng: Random, folder: Path) -> str | None:
    folders = sorted(path for path in folder.rglob("*") if path.is_dir())
    path = rng.choice(folders) if rng.random() < 0.3 else pick(rng, folder)
    assert path is not None
    kind = rng.choice(list(PLACES))
    outside = folder.parent.parent / "outside"
    PLACES[kind](path, outside)
    return f"{path.relative_to(folder)}: {kind}"


def _moved(path: Path, outside: Path) -> Path:
    """Out of the sweep, to where a link then leads."""
    outside.mkdir(exist_ok=True)
    return Path(shutil.move(path, outside / path.name))


def _gone(path: Path) -> Path:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return path


def _socket(path: Path, _: Path) -> None:
    here = os.getcwd()
    os.chdir(_gone(path).parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.chdir(here)


PLACES: dict[str, Callable[[Path, Path], Any]] = {
    "a folder": lambda path, _: _gone(path).mkdir(),
    "a folder with a file": lambda path, _: (_gone(path).mkdir(), (path / "mine").write_text("x")),
    "a file": lambda path, _: _gone(path).write_text("mine"),
    "a FIFO": lambda path, _: os.mkfifo(_gone(path)),
    "a socket": _socket,
    "a link out": lambda path, outside: path.symlink_to(_moved(path, outside)),
    "a link to nowhere": lambda path, _: _gone(path).symlink_to("/nowhere/at/all"),
    "a link to itself": lambda path, _: _gone(path).symlink_to(path.name),
    "a link to its sweep": lambda path, _: _gone(path).symlink_to(".."),
    "unreadable": lambda path, _: path.chmod(0),
}


def name_of(rng: Random, folder: Path) -> str | None:
    """Swapped, doubled, or under another name."""
    one, other = pick(rng, folder), pick(rng, folder)
    assert one is not None
    assert other is not None
    kind = rng.choice(["swapped", "doubled", "renamed", "added"])
    inside, name = one.relative_to(folder), rng.choice(ODD_NAMES)
    if kind == "swapped":
        mine, theirs = one.read_bytes(), other.read_bytes()
        one.write_bytes(theirs)
        other.write_bytes(mine)
        return f"{inside}: swapped with {other.relative_to(folder)}"
    if kind == "renamed":
        one.rename(one.parent / name)
    else:
        (one.parent / name).write_bytes(one.read_bytes() if kind == "doubled" else b"mine")
    return f"{inside}: {kind} as {name!r}"


# The contents of whole files: tables, a spec, a driver's record, checkpoints.


def table_of(rng: Random, folder: Path) -> str | None:
    path = pick(rng, folder, "*.parquet")
    if path is None:
        return None
    table = pq.read_table(path)
    kind = rng.choice(list(TABLES))
    done = TABLES[kind](rng, table)
    if done is None:
        return None
    changed, words = done
    pq.write_table(changed, path)
    return f"{path.relative_to(folder)}: {kind} {words[:80]!r}"


Changed = tuple[pa.Table, str] | None


def _column(rng: Random, table: pa.Table, kind: Callable[[pa.DataType], bool]) -> str | None:
    names = [field.name for field in table.schema if kind(field.type)]
    return rng.choice(names) if names else None


def _with(table: pa.Table, name: str, values: list[Any], type_: pa.DataType) -> pa.Table:
    index = table.column_names.index(name)
    nullable = table.schema.field(name).nullable or None in values
    column = pa.array(values, type_)
    metadata = table.schema.metadata
    changed = table.set_column(index, pa.field(name, type_, nullable), column)
    return changed.replace_schema_metadata(metadata)


def _some(rng: Random, table: pa.Table, name: str, value: Any) -> pa.Table:
    """One of its values, or all, replaced."""
    values = table[name].to_pylist()
    chosen = range(len(values)) if rng.random() < 0.3 else [rng.randrange(len(values))]
    for index in chosen:
        values[index] = value
    return _with(table, name, values, table.schema.field(name).type)


def _text(rng: Random, table: pa.Table) -> Changed:
    name, text = _column(rng, table, pa.types.is_string), rng.choice(ODD_TEXTS)
    return (_some(rng, table, name, text), f"{name} {text[:20]}") if name else None


def _number(rng: Random, table: pa.Table) -> Changed:
    if name := _column(rng, table, pa.types.is_floating):
        value = rng.choice(ODD_NUMBERS)
        return _some(rng, table, name, value), f"{name} {value}"
    return None


def _whole(rng: Random, table: pa.Table) -> Changed:
    if name := _column(rng, table, pa.types.is_integer):
        bits = table.schema.field(name).type.bit_width
        value = rng.choice([0, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))])
        return _some(rng, table, name, value), f"{name} {value}"
    return None


def _date(rng: Random, table: pa.Table) -> Changed:
    name = _column(rng, table, pa.types.is_timestamp)
    if name is None:
        return None
    values = table[name].cast(pa.int64()).to_pylist()
    value = rng.choice([2**63 - 1, -(2**63) + 1, 0, -(10**17), 10**18])
    values[rng.randrange(len(values))] = value
    column = pa.array(values, pa.int64()).cast(table.schema.field(name).type)
    index, field = table.column_names.index(name), table.schema.field(name)
    return table.set_column(index, field, column), f"{name} {value}"


def _null(rng: Random, table: pa.Table) -> Changed:
    name = rng.choice(table.column_names[:6])
    return _some(rng, table, name, None), name


def _type(rng: Random, table: pa.Table) -> Changed:
    name = rng.choice(table.column_names)
    type_ = rng.choice([pa.string(), pa.int64(), pa.float32(), pa.list_(pa.int8()), pa.binary()])
    return _with(table, name, [None] * table.num_rows, type_), f"{name} {type_}"


def _metadata(key: bytes, *values: bytes) -> Callable[[Random, pa.Table], Changed]:
    def change(rng: Random, table: pa.Table) -> Changed:
        value = rng.choice(values)
        metadata = {**(table.schema.metadata or {}), key: value}
        return table.replace_schema_metadata(metadata), value.decode(errors="replace")

    return change


def _dropped(rng: Random, table: pa.Table) -> Changed:
    name = rng.choice(table.column_names)
    return table.drop_columns([name]), name


def _renamed(rng: Random, table: pa.Table) -> Changed:
    names, new = table.column_names, rng.choice(["x", "\x1b[2J", "trial_id", "epoch"])
    names[index := rng.randrange(len(names))] = new
    return table.rename_columns(names), f"column {index} to {new}"


TABLES: dict[str, Callable[[Random, pa.Table], Changed]] = {
    "a text": _text,
    "a number": _number,
    "a whole number": _whole,
    "a date": _date,
    "a null": _null,
    "a type": _type,
    "a version": _metadata(b"rts_version", b"5", b"99", b"x", b"", b"\xff", b"9" * 5000),
    "another table": _metadata(b"rts_table", b"epochs", b"trials", b"x", b"\x1b[2J"),
    "replaces": _metadata(b"rts_replaces", b"{", b'["../spec.yaml"]', b"[1]", b"null", b'"x"'),
    "no metadata": lambda rng, table: (table.replace_schema_metadata(None), ""),
    "without a column": _dropped,
    "a column renamed": _renamed,
    "a column added": lambda rng, t: (t.append_column("mine", t[t.column_names[0]]), ""),
    "rows twice": lambda rng, table: (pa.concat_tables([table, table]), ""),
    "no rows": lambda rng, table: (table.slice(0, 0), ""),
}


def _odd(rng: Random, tree: Any) -> str:
    """Change something in a mapping of mappings and lists; where, and to what."""
    key = rng.choice(sorted(tree))
    if isinstance(tree[key], dict) and tree[key] and rng.random() < 0.8:
        return f"{key}.{_odd(rng, tree[key])}"
    if rng.random() < 0.2:
        del tree[key]
        return f"{key} deleted"
    tree[key] = value = rng.choice(ODD_VALUES)
    return f"{key} = {repr(value)[:40]}"


def spec_of(rng: Random, folder: Path) -> str | None:
    path = folder / "spec.yaml"
    text = path.read_text()
    if rng.random() < 0.3:
        kind = rng.choice(list(YAML))
        path.write_text(YAML[kind](text))
        return f"spec.yaml: {kind}"
    tree = yaml.safe_load(text)
    words = _odd(rng, tree)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return f"spec.yaml: {words}"


YAML: dict[str, Callable[[str], str]] = {
    "an object": lambda text: f"{text}\nx: !!python/object/apply:os.system ['touch /tmp/owned']\n",
    "nested lists": lambda text: f"x: {'[' * 20_000}\n{text}",
    "nested closed lists": lambda text: f"x: {'[' * 3_000}{']' * 3_000}\n{text}",
    "aliases": lambda text: (
        "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]\n" for n in range(9))
        + text
    ),
    "a key twice": lambda text: f"space: rts\nspace: pugd\n{text}",
    "tabs": lambda text: text.replace("  ", "\t"),
    "NUL": lambda text: text.replace("digits", "dig\x00its"),
    "a control sequence": lambda text: text.replace("digits", '"\\e[2J"'),
    "a list": lambda text: "- a\n- b\n",
    "a word": lambda text: "spec\n",
    "two documents": lambda text: f"{text}\n---\n{text}",
    "huge": lambda text: f"{text}\nx: {'a' * 20_000_000}\n",
}


def record_of(rng: Random, folder: Path) -> str | None:
    path = folder / "control" / "driver.json"
    if rng.random() < 0.3:
        text = rng.choice(["[]", "null", "1", '"x"', "[" * 100_000, "{" + '"a":{' * 5_000, "NaN"])
        path.write_text(text)
        return f"driver.json: {text[:20]}"
    tree = json.loads(path.read_text())
    if rng.random() < 0.5:
        tree["ended"] = False
    if rng.random() < 0.5:
        tree["heard"] = datetime.now(UTC).timestamp()
    words = _odd(rng, tree)
    path.write_text(json.dumps(tree))
    return f"driver.json: {words}"


def request_of(rng: Random, folder: Path) -> str | None:
    name = rng.choice(["stop.json", "stop-t0000.json", "stop-.json", "stop-\x1b[2J.json", "x"])
    (folder / "control" / name).write_text(rng.choice(["", "{}", "{", "[1]"]))
    return f"control/{name!r} added"


class Touches:
    """What a pickle of malice would run."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/owned",)


def checkpoint_of(rng: Random, folder: Path) -> str | None:
    path = pick(rng, folder, "*.pt")
    if path is None:
        return None
    tree = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    kind = rng.choice(["a list", "malice", "a tensor", "odd", "odd", "odd", "odd", "odd"])
    words = kind
    if kind == "odd":
        words = _odd(rng, tree)
    saved = {"a list": [1], "malice": {"x": Touches()}, "a tensor": torch.ones(2)}.get(kind, tree)
    torch.save(saved, path)
    return f"{path.relative_to(folder)}: {words}"


MUTATIONS: dict[Mutation, int] = {
    bytes_of: 34,
    place_of: 16,
    name_of: 8,
    table_of: 22,
    spec_of: 8,
    record_of: 4,
    request_of: 1,
    checkpoint_of: 7,
}


def mutate(rng: Random, folder: Path) -> tuple[str, str]:
    """Its kind, and words for what was done."""
    while True:
        (mutation,) = rng.choices(list(MUTATIONS), list(MUTATIONS.values()))
        words = mutation(rng, folder)
        if words is not None:
            return mutation.__name__, words
