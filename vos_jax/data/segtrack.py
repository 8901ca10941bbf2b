"""SegTrack v2 and v1 in their official folder layouts.

    v2  <root>/JPEGImages/<sequence>/<frame>.{png,bmp}
        <root>/GroundTruth/<sequence>/<frame>.png             one object
        <root>/GroundTruth/<sequence>/<object>/<frame>.png    several, in folders 1, 2, ...
    v1  <root>/<sequence>/<frame>.{png,bmp}
        <root>/<sequence>/{ground-truth,ground_truth}/<frame>.{png,bmp}

Every frame is annotated; objects are those of frame 0, given there and scored from frame 1 to the
last. The masks of several objects become one label map with the folders' numbers as ids; where two
overlap, the higher number wins.

Layouts, the merging of overlaps, and that v1 names its masks in another way than its frames
(5117-8_70161.bmp and 0.bmp): the SegTrack and SegTrack2 loaders of Graviti-AI/tensorbay-python-sdk;
that v2's worm has a mask of no frame: a public preparation script. In v1 the n-th mask by number is
taken for the n-th frame; their numbers must run in parallel. Masks are black and white with a few
grey border pixels: 128 and more is object here (Graviti's loader makes those pixels void). No copy
of the data sets was at hand: this was tested on generated data.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects, Video, first_frame_objects
from vos_jax.data.folders import by_number, frames_of, read_at, require_folders, some, subfolders
from vos_jax.data.frames import list_images, read_image
from vos_jax.data.packed import data_folder

ALL = "all"
TRUTH_V1 = ("ground-truth", "ground_truth")
STRAY = ("worm", "0000000000")  # sequence and stem of v2's only mask that is of no frame
THRESHOLD = 128  # from this grey value on, a pixel is object
LAYOUT = (
    "SegTrack v2 has <dir>/JPEGImages/<sequence> and <dir>/GroundTruth/<sequence>, v1 has"
    " <dir>/<sequence>/ground-truth"
)

Layers = tuple[tuple[int, epath.Path], ...]  # (id, mask file) of each object in one frame


def open_segtrack(dir: str, split: str = ALL) -> list[Video]:
    """All sequences, or one, sorted by name; the layout tells the version; no pixel is read here.

    split: "all", or the name of a sequence.
    Raises FileNotFoundError for a missing folder or mask; ValueError for an unknown split, or
    frames and masks that do not match.
    """
    root = data_folder(dir)
    require_folders((root,), LAYOUT)
    if (root / "JPEGImages").is_dir():
        require_folders((root / "GroundTruth",), LAYOUT)
        sequences, open_one = subfolders(root / "JPEGImages"), _open_v2
    else:
        sequences, open_one = [f for f in subfolders(root) if _truth_v1(f)], _open_v1
    if not sequences:
        raise FileNotFoundError(f"{root}: no sequence found; {LAYOUT}")
    names = [folder.name for folder in sequences]
    if split not in (ALL, *names):
        raise ValueError(f"segtrack: expected split {ALL!r} or one of {names}, got {split!r}")
    return [open_one(folder) for folder in sequences if split in (ALL, folder.name)]


def read_layers(layers: Layers) -> np.ndarray:
    """The label map uint8 [H, W] of binary masks; a later one lies over those before.

    Raises ValueError for masks of different sizes; ValueError, FileNotFoundError naming the file.
    """
    labels = None
    for number, path in layers:
        inside = read_image(path)[..., 0] >= THRESHOLD
        if labels is None:
            labels = np.zeros(inside.shape, np.uint8)
        if inside.shape != labels.shape:
            raise ValueError(
                f"{path}: this mask is {inside.shape[0]}x{inside.shape[1]} (height x width), that"
                f" of object {layers[0][0]} is {labels.shape[0]}x{labels.shape[1]}; the masks of a"
                " frame must have one size"
            )
        labels[inside] = number
    return labels


def _open_v2(images: epath.Path) -> Video:
    truth = images.parent.parent / "GroundTruth" / images.name
    require_folders((truth,), LAYOUT)
    frame_files = frames_of(images)
    folders = subfolders(truth)
    if not folders:
        layers = [_masks_by_stem(truth, 1, frame_files)]
    else:
        wrong = [f.name for f in folders if not (f.name.isdecimal() and 1 <= int(f.name) <= 254)]
        if wrong:
            raise ValueError(
                f"{truth}: expected one folder per object, named 1, 2, ... (at most 254), found"
                f" {some(wrong)}"
            )
        numbered = sorted((int(folder.name), folder) for folder in folders)
        layers = [_masks_by_stem(folder, number, frame_files) for number, folder in numbered]
    return _video("segtrack_v2", images.name, frame_files, list(zip(*layers, strict=True)))


def _masks_by_stem(
    folder: epath.Path, number: int, frame_files: list[epath.Path]
) -> list[tuple[int, epath.Path]]:
    by_stem = {file.stem: file for file in list_images(folder)}
    stems = [file.stem for file in frame_files]
    missing = [stem for stem in stems if stem not in by_stem]
    extra = sorted(set(by_stem) - set(stems))
    extra = [stem for stem in extra if (folder.name, stem) != STRAY]
    if missing or extra:
        raise FileNotFoundError(
            f"{folder}: expected a mask for each of the {len(stems)} frames, found {len(by_stem)};"
            f" frames without mask: {some(missing)}; masks without frame: {some(extra)}; is the"
            " download complete?"
        )
    return [(number, by_stem[file.stem]) for file in frame_files]


def _truth_v1(folder: epath.Path) -> epath.Path | None:
    return next((folder / name for name in TRUTH_V1 if (folder / name).is_dir()), None)


def _open_v1(images: epath.Path) -> Video:
    truth = _truth_v1(images)
    frames, masks = by_number(frames_of(images)), by_number(frames_of(truth))
    frame_numbers, mask_numbers = sorted(frames), sorted(masks)
    offsets = {a - b for a, b in zip(frame_numbers, mask_numbers, strict=False)}
    if len(frames) != len(masks) or len(offsets) != 1:
        raise ValueError(
            f"{truth}: expected a mask for each of the {len(frames)} frames, numbered like them up"
            f" to one offset, found {len(masks)} masks numbered {mask_numbers[0]} to"
            f" {mask_numbers[-1]} where the frames are {frame_numbers[0]} to {frame_numbers[-1]};"
            " is the download complete?"
        )
    layers = [((1, masks[number]),) for number in mask_numbers]
    return _video("segtrack_v1", images.name, [frames[n] for n in frame_numbers], layers)


def _video(dataset: str, name: str, frame_files: list[epath.Path], layers: list[Layers]) -> Video:
    load_mask = partial(read_at, read_layers, layers)
    return Video(
        name=name,
        dataset=dataset,
        frame_names=[file.stem for file in frame_files],
        mask_files=[str(of_frame[-1][1]) for of_frame in layers],
        load_frame=partial(read_at, read_image, frame_files),
        load_mask=load_mask,
        describe=partial(_objects, load_mask, len(frame_files)),
    )


def _objects(load_mask, num_frames: int) -> Objects:
    facts = first_frame_objects(load_mask(0), num_frames)
    return replace(facts, scored=~facts.given)
