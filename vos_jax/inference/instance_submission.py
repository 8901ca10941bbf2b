"""The zip that the YouTube-VIS server takes: one file, results.json, verified before it is written.

The annotation file of the split, which has no annotations, says which videos, sizes, lengths and
categories there are. The entries are written anew with the official keys and compressed run
lengths, in the order of the videos.
"""

import os
import zipfile
from dataclasses import dataclass

from etils import epath

from vos_jax.data.track_files import read_annotations, read_results, results_json
from vos_jax.files import whole_file
from vos_jax.inference.submission import EPOCH
from vos_jax.inference.writers import new_file

YOUTUBE_VIS = "youtube-vis"
RESULTS = "results.json"


@dataclass(frozen=True)
class InstanceSubmission:
    """A zip that was written: where, how large, and what is in it."""

    path: str
    bytes: int
    videos: int
    without: int
    tracks: int
    masks: int

    def report(self) -> str:
        """The summary in a few lines."""
        return (
            f"{YOUTUBE_VIS}: {self.tracks} tracks with {self.masks} masks in {self.videos} videos,"
            f" {self.bytes / 1e6:.2f} MB -> {self.path}\n"
            f"videos without a track: {self.without}\n"
            f"checked: video ids, categories, lengths, sizes, and that every mask can be decoded;"
            f" the zip holds {RESULTS} alone"
        )


def write_instance_submission(
    pred: epath.PathLike,
    annotations: epath.PathLike,
    out: epath.PathLike,
    *,
    overwrite: bool = False,
) -> InstanceSubmission:
    """Verify a results.json and write it as the zip that the server takes.

    annotations: the json file of the split. Raises FileNotFoundError for a missing file,
    FileExistsError where `out` exists, ValueError for the first thing that does not fit.
    """
    out = new_file(out, overwrite)
    listed = read_annotations(annotations)
    results = read_results(pred, listed)
    tracks = {video: results.tracks(video) for video in listed.videos}
    text = results_json(tracks)
    entry = zipfile.ZipInfo(RESULTS, EPOCH)  # equal results give equal zips
    entry.create_system, entry.external_attr = 3, 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with whole_file(out) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, text)
    found = [track for of_video in tracks.values() for track in of_video]
    return InstanceSubmission(
        path=os.fspath(out),
        bytes=out.stat().length,
        videos=len(tracks),
        without=sum(not of_video for of_video in tracks.values()),
        tracks=len(found),
        masks=sum(rle is not None for track in found for rle in track.rles),
    )
