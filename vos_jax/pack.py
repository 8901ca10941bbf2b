"""Pack the folder of a data set into a few large files, which train and score like the folder.

    python -m vos_jax.pack --source DIR --out DIR [--parts NAME,NAME] [--shard_mb N] [--overwrite]

    python -m vos_jax.pack --source /data/DAVIS --out /packed/DAVIS \
        --parts JPEGImages/480p,Annotations/480p,ImageSets

Then `--config.data.dir=/packed`, or any other flag that takes the data set, in place of /data: in a
config nothing else changes. For stores (gs://...) and network disks, which open single files
slowly. Every data set in folders can be packed: DAVIS, YouTube-VOS, images with masks and so on.
Files are kept byte for byte, as records of TFRecord files; hidden files are left out. --parts
takes these folders and files of the source alone. Until all is written there is no packed data
set, or the one that --overwrite replaces.

Example: vos-jax pack --source data/DAVIS --out packed/DAVIS
"""

import contextlib
import itertools
import os
import re
import secrets
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import flags
from etils import epath

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.folders import require_folders
from vos_jax.data.packed import FOOTER, HEADER, INDEX, Record, data_folder, index_bytes
from vos_jax.files import is_remote, keep_apart, resolved, write_whole
from vos_jax.notes import progress_bar

SHARD_MB = 256
_OWN = re.compile(r"[0-9a-f]{8}-\d{5}\.tfrecord")


def pack(
    source: epath.PathLike,
    out: epath.PathLike,
    parts: Sequence[str] = (),
    shard_mb: int = SHARD_MB,
    overwrite: bool = False,
) -> tuple[int, int, int]:
    """Write the packed form of a folder; returns how many files, files of records and bytes.

    parts: names in the source, () for all of it. shard_mb: a file of records ends once it has so
    many megabytes.
    Raises FileNotFoundError where the source or a part is not there; ValueError where `out` holds
    anything else than a packed data set, or one and overwrite is False; OSError where something
    cannot be read or written. What was there before is then still there, and nothing else.
    """
    source, out = data_folder(source), epath.Path(out)
    require_folders((source,), "--source is the folder of a data set")
    _check_place(source, out, overwrite)
    files = dict(_files_of(source, parts))
    if not files:
        raise ValueError(f"{source}: the folder holds no file to pack")
    out.mkdir(parents=True, exist_ok=True)
    name = secrets.token_hex(4)
    try:
        records = _write_records(files, out, name, shard_mb * 10**6)
        write_whole(out / INDEX, index_bytes(name, records))
    except BaseException:
        _remove(out, lambda file: file.name.startswith(name))
        raise
    _remove(out, lambda file: not file.name.startswith(name))
    shards = {record.file for record in records.values()}
    return len(records), len(shards), sum(record.length for record in records.values())


def _check_place(source: epath.Path, out: epath.Path, overwrite: bool) -> None:
    keep_apart({"--source": source}, {"--out": out})
    if not is_remote(out) and (resolved(out) + "/").startswith(resolved(source) + "/"):
        raise ValueError(f"--out {out} lies in --source {source}; write to another place")
    if not out.exists():
        return
    held = [file.name for file in out.iterdir()] if out.is_dir() else [out.name]
    other = [name for name in held if name != INDEX and not _OWN.fullmatch(name)]
    if other:
        raise ValueError(
            f"--out {out}: expected a new folder or one with packed data alone, found {other[0]}"
        )
    if INDEX in held and not overwrite:
        raise ValueError(f"{out / INDEX} exists; --overwrite replaces the packed data set")


def _files_of(source: epath.Path, parts: Sequence[str]) -> Iterator[tuple[str, epath.Path]]:
    """Name in the source, with /, and path of each file, in the order in which they are packed."""
    for part in sorted(set(parts)) or [""]:
        place = source / part
        if part.startswith("/") or ".." in part.split("/"):
            raise ValueError(f"--parts: expected names in the source, found {part!r}")
        if not place.exists():
            raise FileNotFoundError(f"{place}: no such folder or file; it is named by --parts")
        yield from _walk(place, part.strip("/"), ()) if place.is_dir() else [(part, place)]


def _walk(
    folder: epath.Path, name: str, above: tuple[str, ...]
) -> Iterator[tuple[str, epath.Path]]:
    place = resolved(folder)
    if place in above:
        raise ValueError(f"{folder}: a link to a folder that it lies in; remove it")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.startswith("."):
            continue
        inside = f"{name}/{file.name}" if name else file.name
        if file.is_dir():
            yield from _walk(file, inside, (*above, place))
        elif file.is_file() if is_remote(file) else os.path.isfile(file):  # no pipe
            yield inside, file
        else:
            raise ValueError(f"{file}: neither a file nor a folder, or a link to nothing")


def _write_records(
    files: Mapping[str, epath.Path], out: epath.Path, name: str, most: int
) -> dict[str, Record]:
    """Where each file lies in the files of records, which are written here."""
    import tensorflow as tf

    records: dict[str, Record] = {}
    shards = (f"{name}-{number:05d}.tfrecord" for number in itertools.count())
    shard, end = "", most
    bar = progress_bar(files.items(), desc="packing", unit="file", leave=False, delay=2)
    try:
        with contextlib.ExitStack() as writers:
            for inside, file in bar:
                if end >= most:
                    writers.close()
                    shard, end = next(shards), 0
                    writer = writers.enter_context(tf.io.TFRecordWriter(str(out / shard)))
                content = file.read_bytes()
                writer.write(content)
                records[inside] = Record(shard, end + HEADER, len(content), zlib.crc32(content))
                end += HEADER + len(content) + FOOTER
    except tf.errors.OpError as error:
        raise OSError(f"{out / shard}: cannot be written: {error.message}") from None
    return records


def _remove(folder: epath.Path, chosen: Callable[[epath.Path], bool]) -> None:
    """The files of records among those that are chosen."""
    for file in list(folder.iterdir()):
        if _OWN.fullmatch(file.name) and chosen(file):
            file.unlink()


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    path_flag(values, "source", "folder of the data set; may be gs://")
    path_flag(values, "out", "folder of the packed data set; may be gs://")
    flag(values, "parts", None, "folders and files in --source, with commas between; default: all")
    flag(values, "shard_mb", SHARD_MB, "megabytes of a file of records, about", at_least=1)
    flag(values, "overwrite", False, "replace a packed data set")
    parse_flags(values, argv, required=("source", "out"))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns the summary."""
    parts = [part for part in (args.parts or "").split(",") if part]
    files, shards, size = pack(args.source, args.out, parts, args.shard_mb, args.overwrite)
    return f"{args.out}: {files} files in {shards} files of records, {size / 1e6:.1f} MB"


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
