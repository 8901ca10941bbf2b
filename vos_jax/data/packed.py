"""Folders of a data set packed into a few large files, which every reader takes for the folder.

    <dir>/<pack>-00000.tfrecord, <pack>-00001.tfrecord, ...
    <dir>/packed.jsonl

Stores and network disks open files slowly, and a data set has hundreds of thousands. Every record
of the TFRecord files is one file of the folder, byte for byte, in the order of their names.
packed.jsonl has two lines: what the pack is, with the files of records, and for every packed file
the number of its file of records, where in it its bytes lie, how many they are and their CRC-32.
So any frame is one read of its bytes. `<pack>` is drawn anew for each packing; packed.jsonl comes
last, and files of records that it does not name count for nothing.

`data_folder` gives a path that lists and reads the packed files as if they lay in the folder.
"""

import errno
import functools
import io
import json
import os
import posixpath
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

INDEX = "packed.jsonl"
FORMAT = "vos_jax packed folder"
VERSION = 1
HEADER, FOOTER = 12, 4  # bytes of a TFRecord around the data: length and checksums


class Record(NamedTuple):
    """Where the bytes of a packed file lie, and their CRC-32."""

    file: str
    start: int
    length: int
    crc32: int


def data_folder(dir: epath.PathLike) -> epath.Path:
    """The folder of a data set, packed or as it is.

    Raises ValueError where the packed folder is damaged, incomplete or of another version.
    """
    folder = epath.Path(dir)
    if isinstance(folder, PackedPath) or not (folder / INDEX).is_file():
        return folder
    return PackedPath.of(folder, "", read_index(folder))


def index_bytes(pack: str, records: Mapping[str, Record]) -> bytes:
    """The content of packed.jsonl. records: by the names of the files, relative, with /."""
    files = sorted({record.file for record in records.values()})
    number = {file: n for n, file in enumerate(files)}
    rows = {name: [number[record.file], *record[1:]] for name, record in records.items()}
    body = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    about = {"format": FORMAT, "version": VERSION, "pack": pack, "records": files}
    return json.dumps(about | {"crc32": zlib.crc32(body)}).encode() + b"\n" + body + b"\n"


def read_index(folder: epath.Path) -> dict[str, Any]:
    """The packed files as a tree: name -> `Record`, or such a dict for a folder."""
    path = folder / INDEX
    first, _, body = path.read_bytes().partition(b"\n")
    try:
        about = json.loads(first)
        kind, version = about["format"], about["version"]
    except (ValueError, KeyError, TypeError):
        kind = version = None
    if kind != FORMAT or version != VERSION:
        raise ValueError(
            f"{path}: expected {FORMAT!r} of version {VERSION}, found {kind!r} of version"
            f" {version!r}; pack the data set again with this vos_jax"
        )
    if zlib.crc32(body.removesuffix(b"\n")) != about.get("crc32"):
        raise ValueError(f"{path}: cut off or damaged: its checksum is wrong; fetch it again")
    present = {file.name for file in folder.iterdir()}
    if missing := [name for name in about["records"] if name not in present]:
        raise FileNotFoundError(
            f"{folder / missing[0]}: this and {len(missing) - 1} more of"
            f" {len(about['records'])} files of packed data are not there; fetch them"
        )
    tree: dict[str, Any] = {}
    for name, (number, start, length, crc32) in json.loads(body).items():
        *parents, last = name.split("/")
        inside = functools.reduce(lambda at, part: at.setdefault(part, {}), parents, tree)
        inside[last] = Record(about["records"][number], start, length, crc32)
    return tree


@epath.register_path_cls
class PackedPath(epath.Path):
    """A file or folder inside a packed folder: what readers of data sets ask of a path.

    It is called as if it lay in the folder. It pickles with the place of its own bytes alone.
    """

    _folder: epath.Path  # the packed one
    _inside: str  # name in it
    _found: Mapping | Record | None  # what is there
    _tree: Mapping | None = None  # of the whole packed folder

    @classmethod
    def of(
        cls, folder: epath.Path, inside: str, tree: Mapping | None, found: Any = None
    ) -> "PackedPath":
        """The path of `inside`, a name in the packed folder; found: what is there, if known."""
        path = cls(os.fspath(folder / inside))
        path._folder, path._inside, path._tree = folder, inside, tree
        path._found = _at(tree, inside) if found is None else found
        return path

    def __reduce__(self):
        tree = None if isinstance(self._found, Record) else self._tree
        return PackedPath.of, (self._folder, self._inside, tree, self._found)

    def __str__(self) -> str:
        return os.fspath(self._folder / self._inside)

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, other: epath.PathLike) -> epath.Path:
        return self.joinpath(other)

    def joinpath(self, *others: epath.PathLike) -> epath.Path:
        """As of any path: absolute parts and ways out of the folder lead to plain paths."""
        if not others:
            return self
        texts = [os.fspath(other) for other in others]
        for n in reversed(range(len(texts))):
            if texts[n].startswith("/") or "://" in texts[n]:
                return epath.Path(texts[n]).joinpath(*texts[n + 1 :])
        inside = posixpath.normpath(posixpath.join(self._inside, *texts))
        if inside.split("/")[0] == "..":
            return self._folder / inside
        return PackedPath.of(self._folder, "" if inside == "." else inside, self._tree)

    @property
    def parent(self) -> epath.Path:
        return self / ".." if self._inside else self._folder.parent

    def exists(self) -> bool:
        return self._found is not None

    def is_dir(self) -> bool:
        return isinstance(self._found, Mapping)

    def iterdir(self) -> Iterator["PackedPath"]:
        if not self.is_dir():
            reason = errno.ENOTDIR if self.exists() else errno.ENOENT
            raise OSError(reason, os.strerror(reason), str(self))
        for name, found in self._found.items():
            inside = posixpath.join(self._inside, name)
            yield PackedPath.of(self._folder, inside, self._tree, found)

    def open(self, mode: str = "r", **options: Any) -> io.IOBase:
        """The bytes, or the text, of a packed file, in memory."""
        if set(mode) - set("rbt"):
            raise ValueError(f"{self}: a packed data set is only read; unpack or pack it again")
        content = io.BytesIO(self.read_bytes())
        return content if "b" in mode else io.TextIOWrapper(content, **options)

    def read_bytes(self) -> bytes:
        """The bytes that were packed; ValueError where they are not those any more."""
        if not isinstance(self._found, Record):
            reason = errno.EISDIR if self.is_dir() else errno.ENOENT
            raise OSError(reason, os.strerror(reason), str(self))
        place = self._folder / self._found.file
        with place.open("rb") as file:
            file.seek(self._found.start)
            content = file.read(self._found.length)
        if len(content) < self._found.length or zlib.crc32(content) != self._found.crc32:
            raise ValueError(
                f"{place}: cut off or damaged: {self._inside} is expected in the"
                f" {self._found.length} bytes from {self._found.start} on; fetch the file again"
            )
        return content


def _at(tree: Mapping | None, inside: str) -> Mapping | Record | None:
    """What a tree has under a name with /."""
    found: Any = tree
    for part in filter(None, inside.split("/")):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
