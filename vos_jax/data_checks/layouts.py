"""Which layout a folder has, and the check of each that has label maps.

A layout is recognised by its folders' names alone (docs/files.md lists them). What a layout asks
for is checked file by file; at last its own reader opens it, so that what training would refuse is
told here.
"""

from collections.abc import Callable, Iterable
from functools import partial

from etils import epath

from vos_jax.data.clip import Video
from vos_jax.data.davis import ANNOTATIONS, RESOLUTIONS, open_davis
from vos_jax.data.folders import read_lines, some, subfolders
from vos_jax.data.frames import list_images
from vos_jax.data.images import JPEG_SUFFIXES, open_images, pair_folders, read_pair_mask
from vos_jax.data.youtube_vos import open_youtube_vos, read_meta
from vos_jax.data_checks.findings import Findings
from vos_jax.data_checks.sequences import check_sequence, listed, need_first_objects, need_masks
from vos_jax.data_checks.tables import (
    check_coco,
    check_polygons,
    check_youtube_vis,
    splits_with_tables,
)
from vos_jax.notes import progress_bar

FRAMES, MASKS = "frames", "masks"  # the folders of one video


def check(path: epath.PathLike, masks: epath.PathLike | None = None) -> Findings:
    """Recognises the layout of a folder or annotation file and checks everything in it.

    masks: where `path` is a folder of frames, their masks. Raises FileNotFoundError where nothing
    is at a path; everything else is a problem of the findings.
    """
    root = epath.Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder or annotation file")
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
        return partial(_davis, root)
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


def _davis(root: epath.Path, found: Findings) -> None:
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
    tasks = [task for task, name in ANNOTATIONS.items() if (root / name).is_dir()]
    if not tasks:
        found.problem(
            "missing file or folder", f"{root / 'Annotations'}: no such folder; it holds the masks"
        )
        return
    lists = sorted((root / "ImageSets").glob("20*/*.txt"))
    for resolution in resolutions:
        images = root / "JPEGImages" / resolution
        for task in tasks:
            folder = root / ANNOTATIONS[task] / resolution
            for frames in _bar(subfolders(images)):
                _davis_sequence(frames, folder / frames.name, task, found)
        _davis_lists(images, lists, found)
        for file in lists:
            year = 2016 if file.parent.name == "2016" else 2017
            _opened(found, open_davis, root, file.stem, year, resolution, tasks[0])


def _davis_sequence(frames: epath.Path, folder: epath.Path, task: str, found: Findings) -> None:
    images, masks = listed(found, frames), listed(found, folder, masks=True)
    ids = check_sequence(found, images, masks)
    if not images or not masks:
        return
    need_masks(found, list(images), masks, folder)
    if task == "semi-supervised":
        need_first_objects(found, next(iter(images)), ids, folder)


def _davis_lists(images: epath.Path, lists: list[epath.Path], found: Findings) -> None:
    names = {folder.name for folder in subfolders(images)}
    in_lists: set[str] = set()
    for file in lists:
        listed_here = read_lines(file)
        found.splits[f"{file.parent.name}/{file.stem}"] = len(listed_here)
        in_lists.update(listed_here)
        lost = [name for name in listed_here if name not in names]
        if lost:
            found.problem(
                "listed sequence without folder",
                f"{file}: {lost[0]} is not in {images}; add it or take it from the list",
                len(lost),
            )
    if not lists:
        found.problem(
            "missing file or folder",
            f"{images.parents[1] / 'ImageSets/2017/train.txt'}: no such list; it names the"
            " sequences to train on, one a line (val.txt those to evaluate)",
        )
    elif names - in_lists:
        found.remark(
            "sequence in no list",
            f"{images / min(names - in_lists)}: no file of ImageSets/2017 names it, so it is not"
            " used",
            len(names - in_lists),
        )


def _youtube_vos(root: epath.Path, splits: list[str], found: Findings) -> None:
    found.layout = "YouTube-VOS"
    for split in splits:
        folder = root / split
        videos = read_meta(folder / "meta.json")
        found.splits[split] = len(videos)
        for name in _bar(sorted(videos)):
            _youtube_vos_video(folder, name, videos[name]["objects"], found)
        unlisted = sorted({f.name for f in subfolders(folder / "JPEGImages")} - set(videos))
        if unlisted:
            found.remark(
                "video that meta.json does not list",
                f"{folder / 'JPEGImages' / unlisted[0]}: not in {folder / 'meta.json'}, so it is"
                " not used",
                len(unlisted),
            )
        _opened(found, open_youtube_vos, root, split)


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
    for stem, image in _bar(files.items()):
        mask = {stem: of_masks[stem]} if stem in of_masks else {}
        check_sequence(found, {stem: image}, mask, read_pair_mask)
    if missing := [stem for stem in files if stem not in of_masks]:
        message = f"{masks}: images {some(missing)} have no mask; add it, or take the image away"
        found.problem("frame with no mask", message, len(missing))
    if lost := [stem for stem in of_masks if stem not in files]:
        message = f"{of_masks[lost[0]]}: there is no image of this name in {images}"
        found.problem("mask without frame", message, len(lost))
    _opened(found, open_images, root)


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


def _opened(found: Findings, read: Callable[..., list[Video]], *arguments) -> None:
    """What the reader itself has to say, where nothing has been found so far."""
    if found.problems:
        return
    try:
        for video in read(*arguments):
            _ = video.objects
    except (ValueError, OSError) as error:
        found.refused(error)


def _side_by_side(files: list[epath.Path]) -> bool:
    """Whether there is a JPEG and a PNG of one stem, an image and its mask."""
    jpegs = {file.stem for file in files if _is_jpeg(file)}
    return any(file.stem in jpegs for file in files if not _is_jpeg(file))


def _is_jpeg(file: epath.Path) -> bool:
    return file.suffix.lower() in JPEG_SUFFIXES


def _bar(items: Iterable) -> Iterable:
    return progress_bar(list(items), desc="check", unit="sequence")
