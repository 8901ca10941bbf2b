"""The check of a root in the layout of DAVIS 2016 or 2017, semi-supervised or unsupervised."""

from functools import partial

from etils import epath

from vos_jax.data.davis import ANNOTATIONS, RESOLUTIONS, listed_sequence, open_davis
from vos_jax.data.folders import read_lines, some, subfolders
from vos_jax.data.masks import read_mask
from vos_jax.data_checks.findings import Findings
from vos_jax.data_checks.sequences import (
    bar,
    check_sequence,
    listed,
    need_first_objects,
    need_masks,
    opened,
)

SEMI, UNSUPERVISED = ANNOTATIONS
LISTS = {2017: ("2017", "2019"), 2016: ("2016", "480p")}  # folders of ImageSets
WITHHELD = "2019"  # lists sequences that may have no mask


def check_davis(root: epath.Path, found: Findings) -> None:
    """Every sequence at every resolution, for every task whose annotations are there."""
    found.layout = "DAVIS"
    resolutions = [name for name in RESOLUTIONS if (root / "JPEGImages" / name).is_dir()]
    if not resolutions:
        inside = some([f.name for f in subfolders(root / "JPEGImages")])
        found.problem(
            "no folder of a resolution",
            f"{root / 'JPEGImages'}: expected {' or '.join(RESOLUTIONS)} in it, whatever the size"
            f" of the frames, and the sequences in that, found {inside}; move the sequences to"
            f" JPEGImages/{RESOLUTIONS[0]} and Annotations/{RESOLUTIONS[0]}",
        )
        return
    sets = root / "ImageSets"
    there = {folder.name for folder in subfolders(sets)} if sets.is_dir() else set()
    year = 2016 if there and not there.intersection(LISTS[2017]) else 2017
    lists = sorted(file for name in LISTS[year] for file in (sets / name).glob("*.txt"))
    tasks = [task for task, name in ANNOTATIONS.items() if (root / name).is_dir()]
    withheld = _names([file for file in lists if file.parent.name == WITHHELD])
    if not tasks and not withheld:
        found.problem(
            "missing file or folder", f"{root / 'Annotations'}: no such folder; it holds the masks"
        )
        return
    for resolution in resolutions:
        images = root / "JPEGImages" / resolution
        for task in tasks or [UNSUPERVISED]:
            folder = root / ANNOTATIONS[task] / resolution
            for frames in bar(subfolders(images)):
                masks = folder / frames.name
                bare = task == UNSUPERVISED and frames.name in withheld and not masks.is_dir()
                _check_sequence(frames, None if bare else masks, task, year, found)
        _check_lists(images, lists, found)
        for file in lists:
            task = UNSUPERVISED if file.parent.name == WITHHELD else (tasks or [UNSUPERVISED])[0]
            opened(found, open_davis, root, file.stem, year, resolution, task)


def _check_sequence(
    frames: epath.Path, folder: epath.Path | None, task: str, year: int, found: Findings
) -> None:
    """folder: of the masks, None where they are withheld."""
    images = listed(found, frames)
    masks = {} if folder is None else listed(found, folder, masks=True)
    ids = check_sequence(found, images, masks, partial(read_mask, binary=year == 2016 or None))
    if folder is None or not images or not masks:
        return
    need_masks(found, list(images), masks, folder)
    if task == SEMI:
        need_first_objects(found, next(iter(images)), ids, folder)


def _check_lists(images: epath.Path, lists: list[epath.Path], found: Findings) -> None:
    there = {folder.name for folder in subfolders(images)}
    for file in lists:
        names = _names([file])
        found.splits[f"{file.parent.name}/{file.stem}"] = len(names)
        lost = sorted(names - there)
        if lost:
            found.problem(
                "listed sequence without folder",
                f"{file}: {lost[0]} is not in {images}; add it or take it from the list",
                len(lost),
            )
    unlisted = there - _names(lists)
    if not lists:
        found.problem(
            "missing file or folder",
            f"{images.parents[1] / 'ImageSets/2017/train.txt'}: no such list; it names the"
            " sequences to train on, one a line (val.txt those to evaluate)",
        )
    elif unlisted:
        found.remark(
            "sequence in no list",
            f"{images / min(unlisted)}: no file of {lists[0].parent} names it, so it is not used",
            len(unlisted),
        )


def _names(lists: list[epath.Path]) -> set[str]:
    return {listed_sequence(line, file) for file in lists for line in read_lines(file)}
