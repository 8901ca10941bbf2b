"""Which layout a folder has, and the check of each that has label maps.

A layout is recognised by its folders' names alone (docs/files.md lists them). What a layout asks
for is checked file by file; at last its own reader opens it, so that what training would refuse is
told here.
"""

from collections.abc import Callable
from functools import partial

from etils import epath

from vos_jax.data.folders import some, subfolders
from vos_jax.data.frames import list_images
from vos_jax.data.images import JPEG_SUFFIXES, open_images, pair_folders, read_pair_mask
from vos_jax.data.youtube_vos import open_youtube_vos, read_meta
from vos_jax.data_checks.davis import check_davis
from vos_jax.data_checks.findings import Findings
from vos_jax.data_checks.sequences import bar, check_sequence, listed, opened
from vos_jax.data_checks.tables import (
    check_coco,
    check_polygons,
    check_youtube_vis,
    splits_with_tables,
)

FRAMES, MASKS = "frames", "masks"  # the folders of one video


def check(path: epath.PathLike, masks: epath.PathLike | None = None) -> Findings:
    """Recognises the layout of a folder and checks everything in it.

    masks: where `path` is a folder of frames, their masks. Raises FileNotFoundError where nothing
    is at `path`, ValueError where it is a file; everything else is a problem of the findings.
    """
    root = epath.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    found = Findings(str(path))
    run = _recognised(root, None if masks is None else epath.Path(masks))
    try:
        run(found)
    except (ValueError, OSError) as error:
        found.refused(error)
    return found


def _recognised(root: epath.Path, masks: epath.Path | None) -> Callable[[Findings], None]:
    """The check of the layout that a folder has."""
    if masks is not None:
        return partial(_one_video, root, masks)
    if not root.is_dir():
        raise ValueError(f"{root}: is a file; give the folder of the data set, or of the frames")
    if (root / "meta.json").is_file() and (root / "JPEGImages").is_dir():
        return partial(_youtube_vos, root.parent, [root.name])
    if (root / "JPEGImages").is_dir():
        return partial(check_davis, root)
    if splits := [f.name for f in subfolders(root) if (f / "meta.json").is_file()]:
        return partial(_youtube_vos, root, splits)
    of_videos, of_images = splits_with_tables(root)
    if of_videos:
        return partial(check_youtube_vis, root, of_videos)
    if of_images:
        return partial(check_coco, root, of_images)
    if (root / FRAMES).is_dir() and (root / MASKS).is_dir():
        return partial(_one_video, root / FRAMES, root / MASKS)
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return partial(check_polygons, root)
    if (files := list_images(root)) and not _side_by_side(files):
        return partial(_one_video, root, None)
    try:
        return partial(_pairs, root, *pair_folders(root))
    except ValueError:
        pass
    return partial(_unknown, root)


def _unknown(root: epath.Path, found: Findings) -> None:
    inside = [f.name for f in subfolders(root)]
    found.problem(
        "folder of no known layout",
        f"{root}: holds the folders {some(inside)}; expected JPEGImages and Annotations (DAVIS),"
        " <split>/meta.json (YouTube-VOS), <split>.json (YouTube-VIS), annotations/instances_*.json"
        f" (COCO), images and masks (pairs), {FRAMES} and {MASKS} (one video) or frames themselves;"
        " docs/own_data.md shows them",
    )


def _youtube_vos(root: epath.Path, splits: list[str], found: Findings) -> None:
    found.layout = "YouTube-VOS"
    for split in splits:
        folder = root / split
        videos = read_meta(folder / "meta.json")
        found.splits[split] = len(videos)
        for name in bar(sorted(videos)):
            _youtube_vos_video(folder, name, videos[name]["objects"], found)
        unlisted = sorted({f.name for f in subfolders(folder / "JPEGImages")} - set(videos))
        if unlisted:
            found.remark(
                "video that meta.json does not list",
                f"{folder / 'JPEGImages' / unlisted[0]}: not in {folder / 'meta.json'}, so it is"
                " not used",
                len(unlisted),
            )
        opened(found, open_youtube_vos, root, split)


def _youtube_vos_video(folder: epath.Path, name: str, objects: dict, found: Findings) -> None:
    masks_folder = folder / "Annotations" / name
    images = listed(found, folder / "JPEGImages" / name)
    masks = listed(found, masks_folder, masks=True)
    ids = check_sequence(found, images, masks)
    for key, facts in objects.items():
        first = min(facts["frames"], default=None)
        if first is not None and first in masks and first in ids and int(key) not in ids[first]:
            found.problem(
                "object that its first mask does not show",
                f"{masks[first]}: meta.json says that object {key} begins here, the mask shows"
                f" {some([*map(str, ids[first])])}; mend the mask or the list of frames",
            )
    unlisted = sorted({i for stem in ids for i in ids[stem]} - {int(key) for key in objects})
    if unlisted:
        place = next(stem for stem in ids if unlisted[0] in ids[stem])
        found.problem(
            "object that meta.json does not list",
            f"{masks[place]}: shows object {unlisted[0]}, meta.json lists"
            f" {some(sorted(objects, key=int))}; add it there or take it out of the masks",
            len(unlisted),
        )


def _pairs(root: epath.Path, images: epath.Path, masks: epath.Path, found: Findings) -> None:
    found.layout = "pairs of image and mask"
    together = images == masks  # JPEG and PNG side by side
    files = {f.stem: f for f in list_images(images) if not together or _is_jpeg(f)}
    of_masks = {f.stem: f for f in list_images(masks) if not together or not _is_jpeg(f)}
    for stem, image in bar(files.items()):
        mask = {stem: of_masks[stem]} if stem in of_masks else {}
        check_sequence(found, {stem: image}, mask, read_pair_mask)
    if missing := [stem for stem in files if stem not in of_masks]:
        message = f"{masks}: images {some(missing)} have no mask; add it, or take the image away"
        found.problem("frame with no mask", message, len(missing))
    if lost := [stem for stem in of_masks if stem not in files]:
        message = f"{of_masks[lost[0]]}: there is no image of this name in {images}"
        found.problem("mask without frame", message, len(lost))
    opened(found, open_images, root)


def _one_video(frames: epath.Path, masks: epath.Path | None, found: Findings) -> None:
    found.layout = "frames of one video" + (" and masks" if masks is not None else "")
    images = listed(found, frames)
    if masks is None:
        check_sequence(found, images, {})
        found.remark(
            "folder without masks",
            f"{frames}: frames alone; give their masks with --masks DIR, or let segment find them",
        )
        return
    of_masks = listed(found, masks, masks=True)
    ids = check_sequence(found, images, of_masks)
    first = next(iter(images), None)
    if first is not None and first not in of_masks:
        found.problem(
            "frame with no mask",
            f"{masks}: the first frame, {first}, has none; segment needs {first}.png, masks of"
            " other frames add or correct objects",
        )
    elif first in ids and not ids[first]:
        found.problem(
            "first mask without object", f"{of_masks[first]}: expected objects, found none"
        )


def _side_by_side(files: list[epath.Path]) -> bool:
    """Whether there is a JPEG and a PNG of one stem, an image and its mask."""
    jpegs = {file.stem for file in files if _is_jpeg(file)}
    return any(file.stem in jpegs for file in files if not _is_jpeg(file))


def _is_jpeg(file: epath.Path) -> bool:
    return file.suffix.lower() in JPEG_SUFFIXES
