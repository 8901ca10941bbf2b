"""DAVIS 2016 and 2017 in their official folder layout.

    <root>/JPEGImages/<resolution>/<sequence>/00000.jpg
    <root>/Annotations/<resolution>/<sequence>/00000.png               semi-supervised task
    <root>/Annotations_unsupervised/<resolution>/<sequence>/00000.png  unsupervised task
    <root>/ImageSets/2017/<split>.txt           one sequence a line
    <root>/ImageSets/2019/<split>.txt           unsupervised test-dev and test-challenge
    <root>/ImageSets/{2016,480p}/<split>.txt    year 2016: that, or one "image mask" pair a line

Objects are 1..K, K the highest id of frame 0's mask, given there; an id below K counts also if it
has no pixel, as in the official evaluation. Semi-supervised: scored in frames 1..T-2 (the official
evaluation drops the two ends). Unsupervised: scored in all frames, 255 is void. In year 2016 all
objects of a sequence are one; a root that holds only the lists of 2017 is read with those. A
sequence with nothing but the first mask (test-dev, test-challenge) is annotated only there; the
unsupervised test splits have no mask at all. Source: davis2017-evaluation (davis.py, evaluation.py)
and fperazzi/davis.
"""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.clip import VOID, Objects, Video
from vos_jax.data.folders import PairedFiles, frames_of, inner_name, read_lines, some
from vos_jax.data.frames import list_masks, read_image
from vos_jax.data.masks import read_mask
from vos_jax.data.packed import data_folder

YEARS = (2016, 2017)
RESOLUTIONS = ("480p", "Full-Resolution")
ANNOTATIONS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}
TEST_SPLITS = ("test-dev", "test-challenge")


def open_davis(
    dir: str,
    split: str,
    year: int = 2017,
    resolution: str = "480p",
    task: str = "semi-supervised",
) -> list[Video]:
    """The sequences of one split, in the order of its list; no pixel is read here.

    split: train, val, test-dev, test-challenge, or any other list there is. year: 2016 (one merged
    object) or 2017. resolution: "480p" or "Full-Resolution". task: "semi-supervised" or
    "unsupervised", which differ in annotations and scored frames.
    Raises FileNotFoundError for a missing folder or list, ValueError for an unknown option, an
    empty list, a sequence without frames, or frames and masks that do not match.
    """
    if year not in YEARS:
        raise ValueError(f"davis: expected year 2016 or 2017, got {year!r}")
    if resolution not in RESOLUTIONS:
        raise ValueError(f"davis: expected resolution one of {RESOLUTIONS}, got {resolution!r}")
    if task not in ANNOTATIONS:
        raise ValueError(f"davis: expected task one of {tuple(ANNOTATIONS)}, got {task!r}")
    if year == 2016 and task == "unsupervised":
        raise ValueError(
            "davis: year 2016 has one annotation for both tasks; leave task='semi-supervised', its"
            " scored frames are those of the 2016 evaluation"
        )
    root = data_folder(dir)
    images = root / "JPEGImages" / resolution
    masks = root / ANNOTATIONS[task] / resolution
    withheld = task == "unsupervised" and split in TEST_SPLITS
    for folder in (root, images) if withheld else (root, images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; a DAVIS root holds JPEGImages/{resolution},"
                f" {ANNOTATIONS[task]}/{resolution} and ImageSets"
                + _reason(root, folder, resolution, task)
            )
    names = _sequences(root, split, _lists(root, split, year, task), year)
    describe = partial(_numbered_objects, inner=task == "semi-supervised")
    return [
        _open_sequence(images / name, masks / name, name, year, describe, withheld)
        for name in names
    ]


def _reason(root: epath.Path, folder: epath.Path, resolution: str, task: str) -> str:
    """Why a folder may be missing, as the end of a message."""
    other = next(name for name in ANNOTATIONS if name != task)
    if (
        folder == root / ANNOTATIONS[task] / resolution
        and (root / ANNOTATIONS[other] / resolution).is_dir()
    ):
        return (
            f"; only {ANNOTATIONS[other]}/{resolution} is there, the annotations of the {other}"
            f" task: set task={other!r}, or download those of the {task} task"
        )
    return " (does `dir` point at it?)"


def _lists(root: epath.Path, split: str, year: int, task: str) -> list[epath.Path]:
    """The files that may list the sequences; the first found is used."""
    sets = root / "ImageSets"
    if year == 2017:
        folder = "2019" if task == "unsupervised" and split in TEST_SPLITS else "2017"
        return [sets / folder / f"{split}.txt"]
    own = [sets / "2016", sets / "480p"]
    if not any(folder.is_dir() for folder in own) and (sets / "2017").is_dir():
        own = [sets / "2017"]
    return [folder / f"{split}.txt" for folder in own]


def _sequences(root: epath.Path, split: str, candidates: list[epath.Path], year: int) -> list[str]:
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        folders = [file.parent for file in candidates if file.parent.is_dir()]
        known = sorted({file.stem for folder in folders for file in folder.iterdir()})
        raise FileNotFoundError(
            f"{' or '.join(map(str, candidates))}: no such list of sequences;"
            f" splits that exist for year {year}: {', '.join(known) or 'none'}"
        )
    names = [inner_name(listed_sequence(line, found), str(found), 1) for line in read_lines(found)]
    if not names:
        raise ValueError(f"{found}: the list of sequences is empty")
    return list(dict.fromkeys(names))


def listed_sequence(line: str, path: epath.Path) -> str:
    """The name in a line: all of it, or that in "/JPEGImages/480p/NAME/00000.jpg /Annot..."."""
    if "/" not in line:
        return line
    name = re.match(r"(?:[^/]*/)*?([^/]+)/[^/.]+\.\w+(?:\s|$)", line)
    if name is None:
        raise ValueError(
            f"{path}: expected a sequence or '/JPEGImages/480p/SEQUENCE/00000.jpg' a line, found"
            f" {line!r}"
        )
    return name[1]


def _open_sequence(
    images: epath.Path,
    masks: epath.Path,
    name: str,
    year: int,
    describe: Callable[[np.ndarray, int], Objects],
    withheld: bool,
) -> Video:
    annotated = not withheld or masks.is_dir()
    for folder in (images, masks) if annotated else (images,):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: sequence {name!r} is listed but has no such folder")
    frame_files = frames_of(images)
    stems = [file.stem for file in frame_files]
    by_stem = {}
    if annotated:
        by_stem = {file.stem: file for file in list_masks(masks)}
        _check_masks(masks, stems, set(by_stem))
    mask_files = [by_stem.get(stem) for stem in stems]
    read = partial(read_mask, binary=True if year == 2016 else None)
    pairs = PairedFiles(frame_files, mask_files, read)
    return Video(
        name=name,
        dataset=f"davis{year}",
        frame_names=stems,
        mask_files=[None if file is None else str(file) for file in mask_files],
        load_frame=pairs.frame,
        load_mask=pairs.mask,
        describe=partial(_described, describe, pairs.mask, frame_files)
        if annotated
        else partial(_unknown_objects, frame_files),
    )


def _described(
    describe: Callable[[np.ndarray, int], Objects],
    load_mask: Callable[[int], np.ndarray],
    frame_files: list[epath.Path],
) -> Objects:
    return describe(load_mask(0), len(frame_files))


def _numbered_objects(first_mask: np.ndarray, num_frames: int, inner: bool) -> Objects:
    """Objects 1..K of frame 0; inner: the first and the last frame are not scored."""
    ids = np.arange(1, 1 + np.where(first_mask == VOID, 0, first_mask).max(), dtype=np.int32)
    given = np.zeros((num_frames, len(ids)), bool)
    given[0] = True
    scored = np.ones_like(given)
    if inner:
        scored[[0, -1]] = False
    return Objects(ids, given, scored, None, first_mask.shape)


def _unknown_objects(frame_files: list[epath.Path]) -> Objects:
    """Nothing is known of the objects where all masks are withheld."""
    none = np.zeros((len(frame_files), 0), bool)
    size = read_image(frame_files[0]).shape[:2]
    return Objects(np.zeros(0, np.int32), none, none, None, size)


def _check_masks(folder: epath.Path, frames: list[str], masks: set[str]) -> None:
    """Either every frame has a mask or only the first one has."""
    if masks == set(frames[:1]):
        return
    missing = [stem for stem in frames if stem not in masks]
    extra = sorted(masks - set(frames))
    if missing or extra:
        raise ValueError(
            f"{folder}: expected a mask for each of the {len(frames)} frames (or for the first"
            f" only), found {len(masks)} masks; frames without mask: {some(missing)}; masks"
            f" without frame: {some(extra)}"
        )
