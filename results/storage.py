"""Where sweeps live: a local folder or any `pyarrow.fs` URI, S3 included."""

from __future__ import annotations

import os
import re
import shlex
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

if TYPE_CHECKING:
    pass

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MARKS = ("spec.yaml", "epochs", "trials")  # a folder that holds one of these is a sweep
_SPEC = 1 << 20  # bytes of a spec, at most
DEFAULT = "sweeps"  # the storage where none is given
ASIDE = ".aside"  # where files of a sweep are written before they are renamed into place
# `s3://KEY:SECRET@bucket`; a port is followed by a slash, as in `hdfs://host:9000/who@home`
_USERINFO = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/@?]*:(?!\d+/)[^@?]*@")
# in a spec as drivers write it; readers ask nothing else of a spec
_FOLLOWS = re.compile(rb"^storage:\n(?:  .*\n)*?  follow_links: true$", re.MULTILINE)
_PARAMETER = re.compile(
    r"[?&]([^=&]*(?:access_key|secret|password|token|credential|account_key|signature)[^=&]*)=",
    re.IGNORECASE,
)


def refuse_secret(uri: str) -> str:
    """`uri` if it holds no credentials. Raises ValueError, which does not repeat them."""
    parameter = _PARAMETER.search(uri) if "://" in uri else None
    if not _USERINFO.match(uri) and parameter is None:
        return uri
    held = "before the @" if parameter is None else f"as {parameter[1]}="
    raise ValueError(
        f"this {uri.partition(':')[0]}:// URI holds credentials {held}, which would be written "
        "into files and logs; leave them out, and give them as AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role"
    )


def open_storage(storage: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """The file system and the path on it of a local folder or a URI.

    S3-compatible servers are named in the URI:
    `s3://bucket/prefix?scheme=http&endpoint_override=host:port`.
    Raises ValueError for a URI that `pyarrow.fs` does not know.
    """
    return _open(_normal(storage))


def _normal(storage: str | os.PathLike[str]) -> str:
    """`storage` as a URI or an absolute local path."""
    text = refuse_secret(os.fspath(storage))
    if text.startswith("file://"):
        return str(fs.FileSystem.from_uri(text)[1])
    return text if _URI.match(text) else os.path.abspath(os.path.expanduser(text))


def is_uri(storage: str | os.PathLike[str]) -> bool:
    """Whether `storage` is a URI, and not a local path."""
    return _URI.match(os.fspath(storage)) is not None


@lru_cache(maxsize=32)
def _open(storage: str) -> tuple[fs.FileSystem, str]:
    if not _URI.match(storage):
        return fs.LocalFileSystem(), storage
    try:
        filesystem, root = fs.FileSystem.from_uri(storage)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"storage {storage!r} is not a local path or a URI that pyarrow opens, such as "
            f"s3://bucket/prefix: {error}"
        ) from None
    return filesystem, root.rstrip("/")


def is_name(name: str) -> bool:
    """Whether it can be part of a path: of a sweep, or of a trial."""
    return _NAME.fullmatch(name) is not None


def check_name(what: str, name: str) -> str:
    """`name` if it can be part of a path. Raises ValueError otherwise."""
    if not is_name(name):
        raise ValueError(
            f"{what} {name!r} must be letters, digits, '.', '_' and '-', at most 128 of them, "
            "beginning with a letter or digit"
        )
    return name


def write_aside(path: Path, data: bytes, aside: Path) -> None:
    """Write a local file at `aside`, then rename it to `path`: readers see all of it or nothing."""
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(aside, "xb") as out:  # never through a link
            out.write(data)
            out.flush()
            os.fsync(out.fileno())  # else a power cut may leave the new name with no content
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def check_file(path: str | os.PathLike[str], most: int | None = None) -> None:
    """Raises ValueError where no plain file is, or one of more than `most` bytes; OSError where
    there is nothing."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise ValueError(f"{os.fspath(path)!r} is {kind}, not a file")
    if most is not None and found.st_size > most:
        raise ValueError(
            f"{os.fspath(path)!r} has {found.st_size / 1024:,.0f} KiB, above {most / 1024:,.0f}"
        )


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """A local file that a user names, or another has left. Raises as `check_file` does."""
    check_file(path, most)
    with open(path, "rb") as file:
        return file.read(most)


class SweepFolder:
    """One sweep's folder, `<storage>/<name>`; paths given to its methods are relative to it.

    `uri` is its absolute local path or its URI, `local_path` is None on an object store.
    Nothing is read, written or deleted through a link that leads out, but with `follow_links`.
    Raises ValueError for a name that is no plain file name, or a storage that cannot be opened.
    """

    @classmethod
    def at(
        cls, sweep: str | os.PathLike[str], storage: str | os.PathLike[str] = DEFAULT
    ) -> SweepFolder:
        """A sweep as users name it: with a slash, the path or URI of its folder (`sweeps/demo`,
        `./demo`, `s3://bucket/prefix/demo`); without one, its name in the storage."""
        text = os.fspath(sweep)
        if "/" not in text:
            return cls(storage, text)
        if not is_uri(text) or text.startswith("file://"):
            return cls(*os.path.split(_normal(text).rstrip("/")))
        path, mark, query = text.partition("?")
        parent, _, name = path.rstrip("/").rpartition("/")
        if parent.endswith(":/"):
            raise ValueError(f"{text!r} is no sweep's folder: one lies in a bucket or a folder")
        return cls(parent + mark + query, name)

    def __init__(
        self, storage: str | os.PathLike[str], name: str, follow_links: bool = False
    ) -> None:
        self.follow_links = follow_links
        self.storage, self.name = _normal(storage), check_name("sweep", name)
        self.filesystem, root = open_storage(self.storage)
        self.root = f"{root.rstrip('/')}/{name}"
        local = isinstance(self.filesystem, fs.LocalFileSystem)
        self.local_path: Path | None = Path(self.root) if local else None

    def __repr__(self) -> str:
        return f"SweepFolder({self.storage!r}, {self.name!r})"

    def __reduce__(self) -> tuple[type[SweepFolder], tuple[str, str, bool]]:
        return SweepFolder, (self.storage, self.name, self.follow_links)

    @property
    def uri(self) -> str:
        return self.uri_of("")

    def uri_of(self, path: str) -> str:
        """The absolute local path or the URI of a file or folder in the sweep."""
        if self.local_path is not None:
            return self.path_of(path)
        base, _, query = self.storage.partition("?")
        inside = f"{self.name}/{path}" if path else self.name
        return f"{base.rstrip('/')}/{inside}" + (f"?{query}" if query else "")

    def argument(self, path: str = "") -> str:
        """The sweep, or what is in it, as `at` understands it: an argument of a command that is
        typed here, quoted for a shell."""
        if self.storage == _normal(DEFAULT):
            return shlex.quote(f"{self.name}/{path}" if path else self.name)
        return shlex.quote(self.uri_of(path))

    def is_sweep(self) -> bool:
        """Whether it holds a spec or a ledger."""
        infos = self.filesystem.get_file_info([self.path_of(mark) for mark in MARKS])
        return any(info.type != fs.FileType.NotFound for info in infos)

    def exists(self, path: str = "") -> bool:
        return bool(self._info(path).type != fs.FileType.NotFound)

    def read(self, path: str, most: int | None = None) -> bytes:
        """A file's content, whole. Raises FileNotFoundError, and ValueError where no plain file is
        (a pipe would never end), or one of more than `most` bytes."""
        if self.local_path is not None:
            check_file(self.path_of(path), most)
        elif most is not None and (self._info(path).size or 0) > most:
            raise ValueError(f"{self.uri_of(path)!r} is larger than {most / 1024:,.0f} KiB")
        # An object store tells the size first and sends that many bytes then: of a file that was
        # replaced by a longer one in between, the beginning only. Hence the second look.
        while True:
            # as it is: by default pyarrow would unpack .gz and the like
            with self.filesystem.open_input_stream(self.path_of(path), compression=None) as stream:
                content = bytes(stream.readall())
            if self.local_path is not None or self._info(path).size == len(content):
                return content

    def write(self, path: str, data: bytes) -> None:
        """Write or replace a file, whole: no reader and no crash ever sees half of it."""
        target = self._own_path(path)
        if self.local_path is not None:
            aside = self._own_path(f"{ASIDE}/{uuid.uuid4().hex}")
            write_aside(Path(target), data, Path(aside))
            return
        with self.filesystem.open_output_stream(target, compression=None) as stream:
            stream.write(data)

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with all in it; nothing happens if there is none."""
        if not path.strip("/."):
            raise ValueError("delete needs the path of a file or folder inside the sweep")
        here, kind = self._own_path(path), self._info(path).type
        if self.local_path is not None and os.path.islink(here):
            os.unlink(here)
        elif kind == fs.FileType.Directory:
            self.filesystem.delete_dir(here)
        elif kind != fs.FileType.NotFound:
            self.filesystem.delete_file(here)

    def delete_empty(self, path: str) -> None:
        """Delete a folder if nothing is in it."""
        if self.local_path is not None:
            with suppress(OSError):
                os.rmdir(self._own_path(path))
        elif not self.filesystem.get_file_info(fs.FileSelector(self.path_of(path))):
            self.delete(path)

    def move(self, path: str, to: str) -> None:
        """Move a file within the sweep; there must be none yet where it goes. On an object store it
        is in both places for a moment. Raises FileNotFoundError if there is none."""
        here, there = self._own_path(path), self._own_path(to)
        if self.local_path is not None:
            Path(there).parent.mkdir(parents=True, exist_ok=True)
        self.filesystem.move(here, there)

    def files(self, path: str = "") -> list[str]:
        """The names of the files in a folder, sorted, hidden ones left out."""
        kinds = self._entries(path)
        return sorted(name for name, kind in kinds.items() if kind == fs.FileType.File)

    def list(self, path: str = "") -> list[str]:
        """The names of all in a folder, as `files` gives them; empty if there is no folder."""
        return sorted(self._entries(path))

    def leads_out(self, path: str = "") -> bool:
        """Whether the path is a symbolic link that leads out of the storage, and is not followed:
        a reader does where the spec says so, and spec and link are its user's own, or root's."""
        return self._is_link_out(path) and not self._is_followed(path)

    def _is_link_out(self, path: str = "") -> bool:
        here = self.path_of(path)
        if self.local_path is None or self.follow_links or not os.path.islink(here):
            return False
        return not Path(os.path.realpath(here)).is_relative_to(os.path.realpath(self.storage))

    def _is_followed(self, link: str) -> bool:
        try:
            owners = {os.lstat(self.path_of(path)).st_uid for path in (link, MARKS[0])}
            told = owners <= {0, os.geteuid()} and _FOLLOWS.search(self.read(MARKS[0], _SPEC))
        except (OSError, ValueError):
            return False
        return bool(told)

    def refuse_links(self) -> None:
        """Raises ValueError if there is a link, however deep, that leads out of the sweep's folder,
        or the folder is one that leads out of the storage: for who writes and deletes here."""
        if self.local_path is None or self.follow_links:
            return
        links = [self.root] if self._is_link_out() else _links(self.root)
        for link in links:
            target = os.path.realpath(link)
            if link == self.root or not _within(target, os.path.realpath(self.root)):
                raise ValueError(
                    f"{link} is a link that leads out, to {target}: a sweep writes and deletes in "
                    "its own folder only; put there what it leads to, or set "
                    "storage.follow_links=true in the spec"
                )

    def remove_leftovers(self, older_than_seconds: float = 3600.0) -> None:
        """Remove what processes that were killed had written aside (local disks only)."""
        if self.local_path is None or not (self.local_path / ASIDE).is_dir():
            return
        for entry in os.scandir(os.path.dirname(self._own_path(f"{ASIDE}/any"))):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_mtime < time.time() - older_than_seconds:
                os.unlink(entry)

    def _own_path(self, path: str) -> str:
        """As `path_of`, for what is written or deleted. Raises OSError behind a link that leads
        out."""
        here = self.path_of(path)
        if self.local_path is not None and not self.follow_links:
            parent = os.path.realpath(os.path.dirname(here))
            if not _within(parent, os.path.realpath(self.root)):
                raise OSError(f"{here} is behind a link that leads out of the sweep's folder")
        return here

    def path_of(self, path: str) -> str:
        """The path on `filesystem` of a file or folder in the sweep."""
        if not path:
            return self.root
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"path {path!r} leads out of the sweep's folder")
        return f"{self.root}/{path}"

    def _entries(self, path: str) -> dict[str, fs.FileType]:
        if self.local_path is not None:
            found = _local_entries(self.path_of(path))
        else:
            selector = fs.FileSelector(self.path_of(path), allow_not_found=True)
            found = {e.base_name: e.type for e in self.filesystem.get_file_info(selector)}
        return {name: kind for name, kind in found.items() if not name.startswith(".")}

    def _info(self, path: str) -> fs.FileInfo:
        return self.filesystem.get_file_info(self.path_of(path))


def _local_entries(path: str) -> dict[str, fs.FileType]:
    """As pyarrow lists a folder, but with the links to nowhere, which it leaves out."""
    try:
        with os.scandir(path) as entries:
            return {entry.name: _kind(entry) for entry in entries}
    except FileNotFoundError:
        return {}


def _kind(entry: os.DirEntry[str]) -> fs.FileType:
    try:
        if entry.is_file():
            return fs.FileType.File
        return fs.FileType.Directory if entry.is_dir() else fs.FileType.Unknown
    except OSError:  # a link to itself
        return fs.FileType.Unknown


def _links(place: str) -> Iterator[str]:
    """The symbolic links in a folder and the folders in it; none is followed."""
    if not os.path.isdir(place):
        return
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield entry.path
            elif entry.is_dir(follow_symlinks=False):
                yield from _links(entry.path)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def sweep_names(storage: str | os.PathLike[str]) -> list[str]:
    """The sweeps in a storage, sorted: folders that hold a spec or a ledger."""
    filesystem, root = open_storage(storage)
    entries = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True))
    names = sorted(
        entry.base_name
        for entry in entries
        if entry.type == fs.FileType.Directory and is_name(entry.base_name)
    )
    return _marked(filesystem, root, names)


def _marked(filesystem: fs.FileSystem, root: str, names: list[str]) -> list[str]:
    """The folders that hold one of the marks, or that we may not look into."""
    try:
        found = filesystem.get_file_info([f"{root}/{n}/{mark}" for n in names for mark in MARKS])
    except PermissionError:
        one = len(names) == 1
        return names if one else [n for name in names for n in _marked(filesystem, root, [name])]
    known = {info.path.split("/")[-2] for info in found if info.type != fs.FileType.NotFound}
    return [name for name in names if name in known]
