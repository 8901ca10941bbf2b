"""Writing files that others rely on: whole or not at all, and never in place of an input."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from etils import epath


@contextlib.contextmanager
def whole_file(path: epath.PathLike) -> Iterator[BinaryIO]:
    """A new file to write to, which gets the name `path` once the block has ended without error.

    Whatever was called `path` is there until then, and stays where the block, the disk or the
    process fails. Raises OSError with the name `path`.
    """
    path = epath.Path(path)
    if is_remote(path):  # an object store replaces an object at once
        with path.open("wb") as file:
            yield file
        return
    unfinished = path.parent / f".{uuid.uuid4().hex}.unfinished"
    try:
        with named_errors(path, own=True):
            file = open(unfinished, "xb")
        with named_errors(path), file:
            yield file
        with named_errors(path, own=True):
            os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Write a file whole or not at all; see `whole_file`."""
    with whole_file(path) as file:
        file.write(content)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path lies in an object store (gs://...)."""
    return "://" in os.fspath(path)


def resolved(path: epath.PathLike) -> str:
    """The one name of what a path means: links and .. followed; a remote path as it is."""
    return os.fspath(path).rstrip("/") if is_remote(path) else os.path.realpath(path)


def keep_apart(inputs: Mapping[str, epath.PathLike], outputs: Mapping[str, epath.PathLike]) -> None:
    """Raises ValueError where an output is an input, or two outputs are one.

    Both map a flag to its path, None where it was not given. The folder of an input file is an
    input, too: results get names that may be those of files in it.
    """
    taken = {}
    for name, path in inputs.items():
        if path:
            taken[resolved(path)] = f"{name} {path}"
            if not is_remote(path) and os.path.isfile(path):
                taken.setdefault(os.path.dirname(resolved(path)), f"the folder of {name} {path}")
    for name, path in outputs.items():
        if not path:
            continue
        if resolved(path) in taken:
            raise ValueError(
                f"{name} {path} is {taken[resolved(path)]}, which would be overwritten; write to"
                " another place"
            )
        taken[resolved(path)] = f"{name} {path}"


@contextlib.contextmanager
def named_errors(path: epath.PathLike, own: bool = False) -> Iterator[None]:
    """OSErrors of the system, such as a full disk, with the name of the file they are about.

    own: also those that name a file, where it can only be one beside `path` that stands for it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not own):
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
