"""What labelling tools write becomes a data set in the DAVIS layout.

    python -m vos_jax.import_annotations --from TOOL --source PATH --frames PATH --out DIR

    --from        --source                               --frames
    coco          the json file                          folder of its images, or of their folders
    youtube-vis   the json file                          JPEGImages, the folder of the videos
    labelme       folder of json files, or of folders    folder of the frames, or of their folders
    cvat          annotations.xml, CVAT for video 1.1    folder of the frames, or the video file

DIR gets JPEGImages/480p (whatever the size), Annotations/480p with palette PNGs, a list of the
sequences in ImageSets/2017 and objects.json, the names of the objects. An object keeps its id
through a sequence; of shapes that overlap, later ones lie over earlier ones. Frames that nobody
annotated and those before the first object are left out. Nothing is overwritten.

Example: vos-jax import-annotations --from labelme --source labels --frames frames --out mine
"""

import json
import sys
from collections.abc import Sequence

from absl import flags
from etils import epath

from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command
from vos_jax.data.masks import write_mask
from vos_jax.files import keep_apart, write_whole
from vos_jax.importing.coco import read_coco, read_youtube_vis
from vos_jax.importing.cvat import read_cvat
from vos_jax.importing.drawn import DrawnSequence, Numbered, numbered
from vos_jax.importing.labelme import read_labelme
from vos_jax.inference.writers import prepare_folder
from vos_jax.notes import note, progress_bar

READERS = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "youtube-vis": read_youtube_vis,
}
RESOLUTION = "480p"  # what the reader of DAVIS asks for unless told otherwise


def import_annotations(
    tool: str,
    source: epath.PathLike,
    frames: epath.PathLike,
    out: epath.PathLike,
    split: str = "train",
) -> str:
    """Writes the data set `out` from what a tool of READERS wrote; returns what it holds.

    Everything is read and checked before anything is written, the list of sequences comes last.
    Raises FileNotFoundError and ValueError that name the file, FileExistsError unless `out` is
    empty or new.
    """
    place, frames = epath.Path(source), epath.Path(frames)
    if not frames.exists():
        raise FileNotFoundError(f"{frames}: no such folder of frames (--frames)")
    sequences = READERS[tool](place, frames)
    _check_names(sequences, place)
    numbers = [numbered(s) for s in progress_bar(sequences, desc="paint", unit="sequence")]
    root = prepare_folder(out)
    pairs = list(zip(sequences, numbers, strict=True))
    for sequence, found in progress_bar(pairs, desc="write", unit="sequence"):
        _write(sequence, found, root)
    objects = {sequence.name: found.names for sequence, found in pairs}
    text = json.dumps(objects, indent=1)
    write_whole(_made(root) / "objects.json", text.encode())
    listing = "".join(f"{name}\n" for name in objects)
    write_whole(_made(root / "ImageSets/2017") / f"{split}.txt", listing.encode())
    total = sum(map(len, objects.values()))
    frames_written = sum(len(found.stems) for found in numbers)
    return f"wrote {root}: {len(objects)} sequences, {frames_written} frames, {total} objects"


def _write(sequence: DrawnSequence, found: Numbered, root: epath.Path) -> None:
    """Frames and masks of a sequence."""
    stems = found.stems
    left_out = len(sequence.frames.stems) - len(stems)
    if left_out:
        note(
            f"{sequence.name}: {left_out} of {len(sequence.frames.stems)} frames are left out: not"
            " annotated, or before the first object"
        )
    wanted = set(stems)
    masks = _made(root / "Annotations" / RESOLUTION / sequence.name)
    for stem, labels in sequence.painted():
        if stem in wanted:
            write_mask(masks / f"{stem}.png", found.ids[labels])
    sequence.frames.write(stems, _made(root / "JPEGImages" / RESOLUTION / sequence.name))


def _check_names(sequences: Sequence[DrawnSequence], source: epath.Path) -> None:
    names = [sequence.name for sequence in sequences]
    for name in names:
        if not name.strip() or name.startswith(".") or names.count(name) > 1 or "/" in name:
            raise ValueError(
                f"{source}: expected sequences in folders of different names, which they get,"
                f" found {name!r}; rename the folder of the frames"
            )


def _made(folder: epath.Path) -> epath.Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags()
    flag(values, "from", None, "what wrote the annotations", choices=READERS)
    path_flag(values, "source", "the annotations: a file or folder, see above")
    path_flag(values, "frames", "the frames: a folder or, of cvat, a video file")
    path_flag(values, "out", "folder of the new data set")
    flag(values, "split", "train", "name of the list of sequences in ImageSets/2017")
    parse_flags(values, argv, required=("from", "source", "frames", "out"))
    return values


def run(args: flags.FlagValues) -> str:
    """Do what the command line says; returns what was written."""
    keep_apart({"--source": args.source, "--frames": args.frames}, {"--out": args.out})
    return import_annotations(args["from"].value, args.source, args.frames, args.out, args.split)


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with a message that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
