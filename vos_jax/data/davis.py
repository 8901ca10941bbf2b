"""DAVIS 2016 and 2017 in their official folder layout.

    <root>/JPEGImages/<resolution>/<sequence>/00000.jpg
    <root>/Annotations/<resolution>/<sequence>/00000.png
    <root>/ImageSets/2017/<split>.txt           one sequence a line
    <root>/ImageSets/{2016,480p}/<split>.txt    year 2016: that, or one "image mask" pair a line

Objects are the ids of frame 0's mask, given there and scored in frames 1..T-2 (the official
evaluation drops the two ends). In year 2016 all objects of a sequence are one. A sequence with
nothing but the first mask (test-dev) is annotated only there.
"""

from etils import epath

from vos_jax.data.clip import Video, first_frame_objects
from vos_jax.data.frames import list_images, read_image
from vos_jax.data.masks import read_mask

RESOLUTIONS = ("480p", "Full-Resolution")
LISTS = {2016: ("2016", "480p"), 2017: ("2017",)}  # folders in ImageSets, the first found is used


def open_davis(dir: str, split: str, year: int = 2017, resolution: str = "480p") -> list[Video]:
    """The sequences of one split, in the order of its list; no pixel is read here.

    year: 2016 (one merged object) or 2017. resolution: "480p" or "Full-Resolution".
    Errors: FileNotFoundError for a missing folder or list, ValueError for an empty list, a
    sequence without frames, or frames and masks that do not match.
    """
    if year not in LISTS:
        raise ValueError(f"davis: expected year 2016 or 2017, got {year!r}")
    if resolution not in RESOLUTIONS:
        raise ValueError(f"davis: expected resolution one of {RESOLUTIONS}, got {resolution!r}")
    root = epath.Path(dir)
    images = root / "JPEGImages" / resolution
    masks = root / "Annotations" / resolution
    for folder in (root, images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; a DAVIS root holds JPEGImages/{resolution},"
                f" Annotations/{resolution} and ImageSets (does `dir` point at it?)"
            )
    names = _sequences(root, split, year)
    return [_open_sequence(images / name, masks / name, name, year) for name in names]


def _sequences(root: epath.Path, split: str, year: int) -> list[str]:
    candidates = [root / "ImageSets" / folder / f"{split}.txt" for folder in LISTS[year]]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        folders = [file.parent for file in candidates if file.parent.is_dir()]
        known = sorted({file.stem for folder in folders for file in folder.iterdir()})
        raise FileNotFoundError(
            f"{' or '.join(map(str, candidates))}: no such list of sequences;"
            f" splits that exist for year {year}: {', '.join(known) or 'none'}"
        )
    lines = [line.split()[0] for line in found.read_text().splitlines() if line.strip()]
    # "/JPEGImages/480p/bear/00000.jpg ..." names the sequence in the last folder of the path.
    names = [line.split("/")[-2] if "/" in line else line for line in lines]
    if not names:
        raise ValueError(f"{found}: the list of sequences is empty")
    return list(dict.fromkeys(names))


def _open_sequence(images: epath.Path, masks: epath.Path, name: str, year: int) -> Video:
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: sequence {name!r} is listed but has no such folder")
    frame_files = list_images(images)
    if not frame_files:
        raise ValueError(f"{images}: sequence {name!r} has no frame")
    stems = [file.stem for file in frame_files]
    by_stem = {file.stem: file for file in list_images(masks) if file.suffix == ".png"}
    _check_masks(masks, stems, set(by_stem))
    mask_files = [by_stem.get(stem) for stem in stems]
    binary = True if year == 2016 else None

    def load_mask(t: int):
        return read_mask(mask_files[t], binary=binary)

    return Video(
        name=name,
        dataset=f"davis{year}",
        frame_names=stems,
        mask_files=[None if file is None else str(file) for file in mask_files],
        load_frame=lambda t: read_image(frame_files[t]),
        load_mask=load_mask,
        describe=lambda: first_frame_objects(load_mask(0), len(stems)),
    )


def _check_masks(folder: epath.Path, frames: list[str], masks: set[str]) -> None:
    """Either every frame has a mask or only the first one has."""
    if masks == set(frames[:1]):
        return
    missing = [stem for stem in frames if stem not in masks]
    extra = sorted(masks - set(frames))
    if missing or extra:
        raise ValueError(
            f"{folder}: expected a mask for each of the {len(frames)} frames (or for the first"
            f" only), found {len(masks)} masks; frames without mask: {_some(missing)}; masks"
            f" without frame: {_some(extra)}"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return (shown or "none") + (f" and {len(names) - 3} more" if len(names) > 3 else "")
