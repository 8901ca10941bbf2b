"""Zips of label maps for evaluation servers, verified before anything is written.

    DAVIS 2017 test-dev and test-challenge      <sequence>/<frame>.png
    YouTube-VOS valid and test                  Annotations/<video>/<frame>.png

The DAVIS server wants the sequences at the top of the zip, without a folder around them
(evaluation_codalab.py of davis2017-evaluation); YouTube-VOS wants that one folder, and of each
video the frames that meta.json lists for any object (as in the released evaluation code of XMem,
AOT and CFBI). Servers read pixel values as object ids, so a mask is a palette or grey PNG of the
frames' size. The true masks are the servers' secret: what can be checked here is the form.
"""

import os
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from etils import epath

from vos_jax.data.clip import Video
from vos_jax.data.davis import open_davis
from vos_jax.data.masks import encode_mask
from vos_jax.data.packed import data_folder
from vos_jax.data.youtube_vos import open_youtube_vos, read_meta
from vos_jax.files import named_errors
from vos_jax.inference.verification import (
    COLOURS,
    GREY,
    THREADS,
    Checked,
    Expected,
    read_values,
    verify,
)
from vos_jax.inference.writers import new_file
from vos_jax.notes import progress_bar

DAVIS_SPLITS = {"davis2017-test-dev": "test-dev", "davis2017-test-challenge": "test-challenge"}
YOUTUBE_VOS = "youtube-vos"
SERVERS = (*DAVIS_SPLITS, YOUTUBE_VOS)
YOUTUBE_SPLITS = ("valid", "test")

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: equal masks give equal zips


@dataclass(frozen=True)
class Submission:
    """A zip that was written: where, how large, and what went in and stayed out."""

    server: str
    path: str
    bytes: int
    checked: Sequence[Checked]

    @property
    def names(self) -> list[str]:
        """The files of the zip, sorted."""
        return _names(self.server, self.checked)

    def report(self) -> str:
        """The summary in a few lines."""
        anew = Counter(why for one in self.checked for why in one.rewritten.values())
        unscored = sum(one.unscored for one in self.checked)
        others = sum(one.others for one in self.checked)
        frames = len(self.names)
        lines = [
            f"{self.server}: {len(self.checked)} sequences, {frames} frames,"
            f" {self.bytes / 1e6:.2f} MB -> {self.path}",
            f"copied as they are: {frames - anew.total()} masks",
            f"re-written as palette PNG with the DAVIS colours: {anew.total()} masks"
            f" ({anew[GREY]} grey, {anew[COLOURS]} with other colours)",
            f"left out: {unscored} masks of frames that are not scored, {others} other files",
            f"checked: the zip holds the {frames} expected files and nothing else",
        ]
        return "\n".join(lines)


def write_submission(
    server: str,
    pred: epath.PathLike,
    out: epath.PathLike,
    expected: Sequence[Expected],
    *,
    overwrite: bool = False,
) -> Submission:
    """Verify label maps and write them as the zip that a server takes.

    All masks are looked at before the first byte is written, one sequence after the other; the
    zip grows in a temporary file beside `out` and is moved there when it is complete. Its bytes
    depend on the masks only.

    Args:
        server: one of `SERVERS`.
        pred: folder of <sequence>/<frame>.png.
        out: the zip; may be remote, like `pred`.
        expected: of `expected_sequences`.
        overwrite: allow `out` to be replaced.

    Raises:
        ValueError: something a server would refuse or misread; the message lists all of it.
        FileNotFoundError: `pred` is no folder. FileExistsError: `out` exists.
    """
    out = new_file(out, overwrite)
    checked = verify(pred, expected, allow_unlisted=server == YOUTUBE_VOS)
    checked.sort(key=lambda one: f"{one.expected.name}/")  # the order of the names in the zip
    names = _names(server, checked)
    part = out.parent / f"{out.name}.part-{uuid.uuid4().hex[:8]}"
    try:
        with named_errors(out):
            _write_zip(part, names, _contents(checked))
        _check_names(part, names)
        new_file(out, overwrite)  # nobody wrote it meanwhile
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Submission(server, os.fspath(out), out.stat().length, checked)


def expected_sequences(
    server: str, data: epath.PathLike, split: str = "valid", meta: epath.PathLike | None = None
) -> list[Expected]:
    """What a server wants, from the data set's own lists.

    Args:
        server: one of `SERVERS`.
        data: root of the data set in its official layout; DAVIS is taken at 480p.
        split, meta: of YouTube-VOS, which of `YOUTUBE_SPLITS`, and another list than
            <data>/<split>/meta.json.

    Raises FileNotFoundError and ValueError where the data set is incomplete, and ValueError for
    an unknown server.
    """
    if server in DAVIS_SPLITS:
        videos = open_davis(os.fspath(data), DAVIS_SPLITS[server])
        listed = [set(video.frame_names) for video in videos]
    elif server == YOUTUBE_VOS:
        # the reader would look in the split's folder
        own = epath.Path(Path.cwd()) / epath.Path(meta) if meta else ""
        videos = open_youtube_vos(os.fspath(data), split, frames="annotated", meta=own)
        objects = read_meta(own or data_folder(data) / split / "meta.json")
        listed = [_listed_frames(objects[video.name]) for video in videos]
    else:
        raise ValueError(f"expected one of {', '.join(SERVERS)}, got {server!r}")
    with ThreadPoolExecutor(THREADS) as pool:  # the size may need an image of every video
        found = list(pool.map(_expected, videos, listed))
    return [one for one in found if one.frames]


def _listed_frames(video: Mapping) -> set[str]:
    return {stem for facts in video["objects"].values() for stem in facts["frames"]}


def _expected(video: Video, listed: set[str]) -> Expected:
    """An object may be there from its given frame on, which is one of the listed ones."""
    places = [t for t, stem in enumerate(video.frame_names) if stem in listed]
    given = video.given.argmax(0)
    first = {int(k): int(np.searchsorted(places, t)) for k, t in zip(video.ids, given, strict=True)}
    frames = tuple(video.frame_names[t] for t in places)
    return Expected(video.name, frames, tuple(video.original_size), first)


def _names(server: str, checked: Sequence[Checked]) -> list[str]:
    top = "Annotations/" if server == YOUTUBE_VOS else ""
    return [f"{top}{one.expected.name}/{file}" for one in checked for file in _files(one)]


def _files(one: Checked) -> list[str]:
    return sorted(f"{stem}.png" for stem in one.expected.frames)


def _contents(checked: Sequence[Checked]) -> Iterator[bytes]:
    """The files in the order of `_names`; read ahead by at most one sequence."""
    with ThreadPoolExecutor(THREADS) as pool:
        for one in progress_bar(checked, desc="write", unit="sequence"):
            yield from pool.map(partial(_content, one), _files(one))


def _content(one: Checked, name: str) -> bytes:
    stem = name.removesuffix(".png")
    file = one.files[stem]
    return encode_mask(read_values(file)[0]) if stem in one.rewritten else file.read_bytes()


def _write_zip(path: epath.Path, names: Sequence[str], contents: Iterator[bytes]) -> None:
    with path.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in zip(names, contents, strict=True):
            entry = zipfile.ZipInfo(name, EPOCH)  # stored: PNG is compressed already
            entry.create_system = 3  # the same on every machine: Unix, readable by all
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _check_names(path: epath.Path, names: Sequence[str]) -> None:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        found = archive.namelist()
    if found != list(names):
        raise ValueError(
            f"{path}: expected {len(names)} files in the zip, found {len(found)} or others; it was"
            " removed: write it again"
        )
