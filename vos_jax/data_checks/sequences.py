"""Frames and label maps of one sequence: every file goes through the readers of vos_jax.data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from etils import epath

from vos_jax.data.clip import Video, object_ids
from vos_jax.data.folders import frames_of, some
from vos_jax.data.frames import image_facts, list_masks
from vos_jax.data.masks import read_mask
from vos_jax.data_checks.findings import Findings
from vos_jax.notes import progress_bar

THREADS = 8

# Ids of the masks of a sequence that could be read, by frame.
Ids = Mapping[str, Sequence[int]]


def listed(found: Findings, folder: epath.Path, masks: bool = False) -> dict[str, epath.Path]:
    """The frames or masks of a folder by stem, none where they cannot be told."""
    try:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        files = list_masks(folder) if masks else frames_of(folder)
    except (ValueError, OSError) as error:
        found.refused(error)
        return {}
    return {file.stem: file for file in files}


def check_sequence(
    found: Findings,
    frames: Mapping[str, epath.Path],
    masks: Mapping[str, epath.Path],
    read: Callable[..., np.ndarray] = read_mask,
) -> Ids:
    """Opens every frame and mask, counts them and what is wrong with them; the ids by frame.

    read: of a mask, with the size and turn of its frame. What must have a mask is the layout's.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        facts = dict(zip(frames, pool.map(_facts, frames.values()), strict=True))
        there = [stem for stem in masks if stem in frames]
        ids = dict(zip(there, pool.map(partial(_ids, masks, facts, read), there), strict=True))
    for fault in (*facts.values(), *ids.values()):
        if isinstance(fault, Exception):
            found.refused(fault)
    sizes = [fact[0] for fact in facts.values() if not isinstance(fact, Exception)]
    if sizes:
        found.sizes[sizes[0]] += 1
    for stem, fact in facts.items():
        if not isinstance(fact, Exception) and fact[0] != sizes[0]:
            found.problem(
                "frame of another size than the first",
                f"{frames[stem]}: {_by(fact[0])}, the first frame is {_by(sizes[0])} (height x"
                " width); resize the frames of a sequence to one size",
            )
    lost = [str(file) for stem, file in masks.items() if stem not in frames]
    if lost:
        found.problem(
            "mask without frame",
            f"{lost[0]}: there is no frame of this name; a mask has its frame's name with the"
            " ending .png",
            len(lost),
        )
    found.frames += len(frames)
    found.masks += len(masks)
    known = {stem: value for stem, value in ids.items() if not isinstance(value, Exception)}
    found.objects.append(len({i for value in known.values() for i in value}))
    return known


def need_masks(
    found: Findings, stems: Sequence[str], masks: Mapping[str, epath.Path], folder: epath.Path
) -> None:
    """A mask for each frame, or for the first alone."""
    missing = [stem for stem in stems if stem not in masks]
    if not missing or (masks and missing == list(stems[1:])):
        return
    found.problem(
        "frame with no mask",
        f"{folder}: {some(missing)} of {len(stems)} frames; expected a mask for each frame or for"
        " the first alone: add them, or leave those frames out",
        len(missing),
    )


def need_first_objects(found: Findings, first: str, ids: Ids, folder: epath.Path) -> None:
    """The first mask shows the objects, numbered from 1 without gaps."""
    if first not in ids:  # missing or unreadable, which has been told
        return
    given = list(ids[first])
    if not given:
        found.problem(
            "first mask without object",
            f"{folder / first}.png: expected the objects of the sequence, found none; begin the"
            " sequence where they are visible",
        )
    elif given != list(range(1, len(given) + 1)):
        found.problem(
            "ids with gaps",
            f"{folder / first}.png: objects {some([*map(str, given)])}: in DAVIS the objects are 1"
            f" to the highest id, {given[-1]}, so those between would count as never found;"
            " renumber them without gaps",
        )
    later = sorted({i for stem in ids for i in ids[stem]} - set(given))
    if given and later:
        place = next(stem for stem in ids if later[0] in ids[stem])
        found.remark(
            "object that is not in the first mask",
            f"{folder / place}.png: object {later[0]} begins here; in DAVIS objects are those of"
            " the first mask, others are trained on but never given or scored: take the YouTube-VOS"
            " layout, whose meta.json says where each begins",
            len(later),
        )


def opened(found: Findings, read: Callable[..., list[Video]], *arguments) -> None:
    """What the reader itself has to say, where nothing has been found so far."""
    if found.problems:
        return
    try:
        for video in read(*arguments):
            _ = video.objects
    except (ValueError, OSError) as error:
        found.refused(error)


def bar(items: Iterable) -> Iterable:
    """The items with a progress bar."""
    return progress_bar(list(items), desc="check", unit="sequence")


def _facts(file: epath.Path) -> tuple[tuple[int, int], int] | Exception:
    try:
        return image_facts(file)
    except (ValueError, OSError) as error:
        return error


def _ids(
    masks: Mapping[str, epath.Path],
    facts: Mapping[str, tuple[tuple[int, int], int] | Exception],
    read: Callable[..., np.ndarray],
    stem: str,
) -> list[int] | Exception:
    fact = facts[stem]
    try:
        if isinstance(fact, Exception):
            return object_ids(read(masks[stem]))
        return object_ids(read(masks[stem], size=fact[0], turn=fact[1]))
    except (ValueError, OSError) as error:
        return error


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
