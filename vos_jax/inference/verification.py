"""Looking at the label maps of a whole data set before they are handed in.

Everything that a server would refuse, or silently misread, is found in one pass and listed: by
sequence, by kind, with file, expectation and fix. One mask per thread is in memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from etils import epath

from vos_jax.data.clip import VOID
from vos_jax.data.folders import some
from vos_jax.data.image_file import bits_per_sample, load, open_image, read_bytes
from vos_jax.data.masks import MANY_IDS, known_palettes, pixel_values
from vos_jax.notes import progress_bar

GREY, COLOURS = "grey", "other colours"  # why a mask is re-written
THREADS = 8  # files may lie on a remote store
SHOWN = 3  # problems of one kind in one sequence
SHOWN_SEQUENCES = 10


@dataclass(frozen=True)
class Expected:
    """What a server wants of one sequence.

    frames: stems in order. size: (H, W) of every mask. first: object id -> place in `frames` of
    the first one that may hold it.
    """

    name: str
    frames: tuple[str, ...]
    size: tuple[int, int]
    first: Mapping[int, int]


@dataclass(frozen=True)
class Problem:
    """One thing a server would stumble over; problems of one kind are listed together."""

    kind: str
    text: str


@dataclass(frozen=True)
class Checked:
    """One sequence of the results after looking at every mask.

    files: stem -> mask of each expected frame. rewritten: stem -> GREY or COLOURS, masks that are
    right but have to be written anew.
    unscored, others: files that stay out of the zip, masks of unlisted frames and anything else.
    """

    expected: Expected
    files: Mapping[str, epath.Path]
    rewritten: Mapping[str, str]
    unscored: int
    others: int
    problems: Sequence[Problem]


def verify(
    pred: epath.PathLike,
    expected: Sequence[Expected],
    *,
    allow_unlisted: bool = False,
) -> list[Checked]:
    """Look at every mask of the results for a data set.

    Args:
        pred: folder of <sequence>/<frame>.png; may be remote.
        expected: one for each sequence that must be there.
        allow_unlisted: masks of further frames are fine; they are counted and not looked at.

    Returns one `Checked` per sequence, all without problems. Raises FileNotFoundError where `pred`
    is no folder, ValueError with all that is wrong: missing and extra sequences and frames, wrong
    names, wrong sizes, files whose pixel values are no ids, unknown ids, objects too early.
    """
    pred = epath.Path(pred)
    if not pred.is_dir():
        raise FileNotFoundError(f"{pred}: no such folder of results (--pred)")
    entries = [entry for entry in pred.iterdir() if not entry.name.startswith(".")]
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    problems = _sequence_problems(pred, folders, expected)
    checked = []
    with ThreadPoolExecutor(THREADS) as pool:
        for one in progress_bar(expected, desc="verify", unit="sequence"):
            if one.name in folders:
                checked.append(_check(folders[one.name], one, allow_unlisted, pool))
                if checked[-1].problems:
                    problems[one.name] = checked[-1].problems
    if problems:
        raise ValueError(_refusal(pred, problems, len(expected)))
    return checked


def _sequence_problems(
    pred: epath.Path, folders: Mapping[str, epath.Path], expected: Sequence[Expected]
) -> dict[str, list[Problem]]:
    """Sequences that are missing, and folders that are none."""
    wanted = {one.name for one in expected}
    around = [name for name in folders if name not in wanted and _holds_any(folders[name], wanted)]
    inside = f"; are the results in {folders[around[0]]}?" if around else ""
    problems = {
        one.name: [
            Problem(
                "missing sequence",
                f"{pred / one.name}: no such folder, expected {len(one.frames)} masks of the"
                f" sequence{inside or '; segment it too'}",
            )
        ]
        for one in expected
        if one.name not in folders
    }
    for name in sorted(set(folders) - wanted):
        fix = "remove it, or choose the right --benchmark, --split or --meta"
        if name in around:
            fix = "give the folder that holds the sequences itself"
        text = f"{folders[name]}: not one of the {len(wanted)} sequences of the data set; {fix}"
        problems[name] = [Problem("extra sequence", text)]
    return problems


def _holds_any(folder: epath.Path, names: set[str]) -> bool:
    return any(entry.name in names for entry in folder.iterdir())


def _check(
    folder: epath.Path, expected: Expected, allow_unlisted: bool, pool: ThreadPoolExecutor
) -> Checked:
    """Names first, then every expected mask that is there."""
    files = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    masks = {file.stem: file for file in files if file.suffix.lower() == ".png"}
    others = Counter(file.suffix for file in files if file.suffix.lower() != ".png")
    unlisted = set(masks) - set(expected.frames)
    problems = _name_problems(folder, set(masks), expected, allow_unlisted, others)
    present = [(t, stem) for t, stem in enumerate(expected.frames) if stem in masks]
    results = pool.map(lambda at: _check_mask(masks[at[1]], expected, at[0]), present)
    rewritten = {}
    for (_, stem), (why, found) in zip(present, results, strict=True):
        problems += found
        if why:
            rewritten[stem] = why
    kept = {stem: masks[stem] for _, stem in present}
    return Checked(expected, kept, rewritten, len(unlisted), others.total(), problems)


def _name_problems(
    folder: epath.Path, found: set[str], expected: Expected, allow_unlisted: bool, others: Counter
) -> list[Problem]:
    frames = expected.frames
    missing = [stem for stem in frames if stem not in found]
    extra = sorted(found - set(frames))
    if allow_unlisted and len(found) > len(frames):
        extra = []
    if not missing and (allow_unlisted or not extra):
        return []
    text = f"{folder}: expected {len(frames)} masks {frames[0]}.png .. {frames[-1]}.png"
    if missing:
        text += f", {len(missing)} of them missing: {some(missing)}"
    if extra:
        text += f", found {len(extra)} others: {some(extra)}"
    if missing and extra:
        return [Problem("wrong names", f"{text}; {_renaming(found, frames)}")]
    if extra:
        return [Problem("extra frames", f"{text}; the sequence has no such frames: remove them")]
    text += "; a mask is wanted for every one of these frames, also where it is empty"
    if others:
        kinds = ", ".join(f"{n} {suffix or 'without ending'}" for suffix, n in others.items())
        text += f" (the folder also holds {kinds}: masks must end in .png)"
    return [Problem("missing frames", text)]


def _renaming(found: set[str], frames: Sequence[str]) -> str:
    """What to do about names that are not those of the frames."""
    if len(found) == len(frames) and all(name.isdecimal() for name in (*found, *frames)):
        pairs = zip(sorted(map(int, found)), sorted(map(int, frames)), strict=True)
        shifts = {one - other for one, other in pairs}
        if shifts == {0}:
            return "the numbers are right but written differently: name masks as the frames"
        if len(shifts) == 1:
            return f"all numbers are off by {shifts.pop():+d}: name masks as the frames"
    return "name every mask as its frame"


def _check_mask(
    file: epath.Path, expected: Expected, place: int
) -> tuple[str | None, list[Problem]]:
    """Why the mask has to be written anew, if it has, and what is wrong with it."""
    try:
        values, why = read_values(file)
    except ValueError as error:
        return None, [Problem("not a palette or grey PNG", str(error))]
    problems = []
    if values.shape != expected.size:
        text = (
            f"{file}: expected {_by(expected.size)} (height x width) as the frames of the"
            f" sequence, found {_by(values.shape)}; write masks at the size of the frames"
        )
        problems.append(Problem("wrong size", text))
    return why, problems + _id_problems(file, values, expected, place)


def read_values(file: epath.Path) -> tuple[np.ndarray, str | None]:
    """Pixel values int32 [H, W] as a server sees them, and why the file has to be written anew.

    Unlike `read_mask`, which understands many kinds of images, this takes what a server takes: a
    palette or grey PNG, its values as stored. None as reason: nothing is to be changed.

    Raises ValueError for any other file.
    """
    image = open_image(read_bytes(file, "mask file"), str(file))
    grey = image.mode in ("1", "L", "I") or image.mode.startswith("I;16")
    if image.format != "PNG" or not (grey or image.mode == "P"):
        raise ValueError(
            f"{file}: expected a palette or grey PNG, found a {image.format} of mode"
            f" {image.mode}; servers read pixel values as object ids: save the mask as palette PNG"
            " (read_mask and write_mask of vos_jax.data.masks turn DAVIS colours into ids)"
        )
    bits = bits_per_sample(image)
    if grey:
        load(image, str(file))
        step = 255 // (2**bits - 1) if bits in (2, 4) else 1  # Pillow spreads them to 0..255
        return np.asarray(image, np.int32) // step, GREY
    values = pixel_values(image, str(file))[0].astype(np.int32)
    colours = np.reshape(image.getpalette(), (-1, 3))  # small files hold fewer than 256
    known = any((colours == palette[: len(colours)]).all() for palette in known_palettes())
    return values, None if known and values.max() < len(colours) else COLOURS


def _id_problems(
    file: epath.Path, values: np.ndarray, expected: Expected, place: int
) -> list[Problem]:
    """Ids the sequence does not have, and objects before their first frame."""
    counts = np.bincount(values.ravel())
    present = [int(value) for value in np.flatnonzero(counts) if value != 0]
    unknown = [key for key in present if key not in expected.first]
    early = [key for key in present if expected.first.get(key, 0) > place]
    problems = []
    known = f"expected ids out of {[0, *sorted(expected.first)]}"
    if len(unknown) > MANY_IDS:
        text = (
            f"{file}: {known}, found {len(unknown)} other values: an anti-aliased or smoothly"
            " resized mask; take the argmax at the frames' size, or resize with nearest neighbour"
        )
        problems.append(Problem("anti-aliased", text))
    elif unknown:
        found = ", ".join(f"{key} ({counts[key]} pixels)" for key in unknown)
        fix = "keep the ids of the given masks, and resize masks with nearest neighbour only"
        if unknown == [VOID]:
            fix = "255 is void, not an object: write background as 0 and objects as their ids"
        problems.append(Problem("unknown ids", f"{file}: {known}, found also {found}; {fix}"))
    for key in early:
        text = (
            f"{file}: object {key} is first given in frame"
            f" {expected.frames[expected.first[key]]}, expected no pixel of it before, found"
            f" {counts[key]}; write background there"
        )
        problems.append(Problem("object too early", text))
    return problems


def _refusal(pred: epath.Path, problems: Mapping[str, Sequence[Problem]], wanted: int) -> str:
    """All sequences with problems by name, the first ones with what is wrong."""
    total = sum(map(len, problems.values()))
    lines = [
        f"{pred} is not ready: {_count(total, 'problem')} in"
        f" {_count(len(problems), 'folder')} ({wanted} sequences expected); no zip was written"
    ]
    for name in list(problems)[:SHOWN_SEQUENCES]:
        lines.append(f"{name}: {_count(len(problems[name]), 'problem')}")
        kinds: dict[str, list[str]] = {}
        for problem in problems[name]:
            kinds.setdefault(problem.kind, []).append(problem.text)
        for kind, texts in kinds.items():
            lines += [f"  {kind}: {text}" for text in texts[:SHOWN]]
            if len(texts) > SHOWN:
                lines.append(f"  {kind}: and {len(texts) - SHOWN} more")
    if len(problems) > SHOWN_SEQUENCES:
        rest = [f"{name} ({len(problems[name])})" for name in list(problems)[SHOWN_SEQUENCES:]]
        lines.append(f"and in {_count(len(rest), 'more folder')}: {', '.join(rest)}")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
