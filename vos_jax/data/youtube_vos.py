"""YouTube-VOS 2018/2019 in its official folder layout.

    <root>/<split>/JPEGImages/<video>/00000.jpg
    <root>/<split>/Annotations/<video>/00000.png     every 5th frame, or first appearances only
    <root>/<split>/meta.json    videos.<video>.objects.<id>.{category, frames}
    <root>/[all_frames/]<split>_all_frames/JPEGImages/<video>/00000.jpg      optional download

Each object is given at the first frame that meta.json lists for it, which may be later than frame
0, and scored at its other listed frames, unless the masks of listed frames are withheld, as in the
valid and test splits: then nothing of the video is scored. Ids need not be contiguous. Running on
every frame and on every 5th gives different scores: say which with the number.

The images beside the masks of valid and test are every 5th frame of the clip; those at the full
rate are a download of their own, used for frames="all" where it lies beside the split (layouts
of the READMEs of RPCMVOS and of DEVA, which has the folder all_frames between).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects, Video
from vos_jax.data.folders import (
    PairedFiles,
    inner_name,
    read_at,
    read_json,
    read_lines,
    require_folders,
)
from vos_jax.data.frames import list_frames, list_masks, read_image
from vos_jax.data.masks import read_mask
from vos_jax.data.packed import data_folder

FRAMES = ("all", "annotated", "masks")
THINNED = ("valid", "test")  # splits whose JPEGImages hold every 5th frame


def open_youtube_vos(
    dir: str, split: str, frames: str = "all", meta: epath.PathLike = ""
) -> list[Video]:
    """The videos of one split, sorted by name; no pixel is read here.

    frames: "all" images on disk, or only the "annotated" ones: those that meta.json lists for an
    object or that have a mask. "masks": the same frames without their images, which need not be
    there (to score results nothing else is read). meta: another file in place of meta.json, e.g.
    one that lists a part of the training videos; absolute, or relative to the split's folder.
    Raises FileNotFoundError for a missing folder, meta.json or frame; ValueError for a meta.json
    that is not one, or an object whose first frame has no mask.
    """
    if frames not in FRAMES:
        raise ValueError(f"youtube_vos: expected frames to be one of {FRAMES}, got {frames!r}")
    folder = data_folder(dir)
    root = folder / split
    parts = ("Annotations",) if frames == "masks" else ("JPEGImages", "Annotations")
    require_folders(
        (folder, root, *(root / part for part in parts)),
        "YouTube-VOS has <dir>/<split>/JPEGImages, <dir>/<split>/Annotations and"
        " <dir>/<split>/meta.json, the splits are train, valid and test",
    )
    videos = read_meta(root / epath.Path(meta or "meta.json"))  # text would not do for gs://
    images = _images(root) if frames == "all" and split in THINNED else root / "JPEGImages"

    def open_one(name: str) -> Video:
        return _open_video(images / name, root / "Annotations" / name, videos[name], frames)

    with ThreadPoolExecutor(8) as pool:  # thousands of folders to list, maybe on a remote store
        return list(pool.map(open_one, sorted(videos)))


def read_categories(path: epath.PathLike) -> frozenset[str]:
    """Names of categories: a text file with one a line, a JSON list, or those of a meta.json.

    The seen categories of YouTube-VOS are those of its training videos: train/meta.json lists them.
    Raises FileNotFoundError, and ValueError for a file that names none.
    """
    path = epath.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it names the seen categories, one a line")
    if path.suffix.lower() != ".json":
        names = set(read_lines(path))
    elif isinstance(content := read_json(path), list):
        names = {str(name) for name in content}
    else:
        videos = _videos(content, path).values()
        names = {facts["category"] for video in videos for facts in video["objects"].values()}
    if not names - {""}:
        raise ValueError(f"{path}: expected names of categories, one a line, found none")
    return frozenset(names - {""})


def _images(root: epath.Path) -> epath.Path:
    """The frames at the full rate where they are there, else those beside the masks."""
    name = f"{root.name}_all_frames"
    for folder in (root.parent / name, root.parent / "all_frames" / name):
        if (folder / "JPEGImages").is_dir():
            return folder / "JPEGImages"
    return root / "JPEGImages"


def read_meta(path: epath.Path) -> dict[str, dict]:
    """The videos of a meta.json: name -> {"objects": {id as text: {"frames", "category"}}}.

    Frames and categories are text, as in the official files: numbers are taken as the names they
    are written as. Raises FileNotFoundError, and ValueError naming the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it lists the objects of every video")
    return _videos(read_json(path), path)


def _videos(content: Any, path: epath.Path) -> dict[str, dict]:
    try:
        videos = {
            inner_name(name, "videos", 1): {
                "objects": {k: _facts(k, o, name) for k, o in video["objects"].items()}
            }
            for name, video in content["videos"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected videos.<name>.objects.<id 1..254>.frames, found {error!r}"
        ) from error
    if not videos:
        raise ValueError(f"{path}: the list of videos is empty")
    return videos


def _facts(key: str, facts: dict, video: str) -> dict[str, Any]:
    """One object's facts, its frames as stems: converters of own data write numbers, too."""
    if not 1 <= int(key) <= 254:
        raise ValueError(f"object {key!r} of video {video!r}")
    frames = facts["frames"]
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"object {key!r} of video {video!r} with frames {frames!r}")
    wrong = [f for f in frames if isinstance(f, bool) or not isinstance(f, (str, int))]
    if wrong:
        raise ValueError(f"object {key!r} of video {video!r} with a frame {wrong[0]!r}")
    names = [f if isinstance(f, str) else f"{f:05d}" for f in frames]
    for name in names:
        inner_name(name, f"object {key!r} of video {video!r}", 1)
    category = facts.get("category")
    return {**facts, "frames": names, "category": "" if category is None else str(category)}


def _open_video(images: epath.Path, masks: epath.Path, meta: dict, frames: str) -> Video:
    name = images.name
    for folder in (masks,) if frames == "masks" else (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: video {name!r} is in meta.json but has no such folder"
            )
    listed = {int(key): facts["frames"] for key, facts in meta["objects"].items()}
    mask_files = {file.stem: file for file in list_masks(masks)}
    wanted = set(mask_files).union(*listed.values())
    if frames == "masks":
        frame_files = {stem: images / f"{stem}.jpg" for stem in sorted(wanted)}
    else:
        frame_files = {file.stem: file for file in list_frames(images)}
    missing = sorted(wanted - set(frame_files))
    if missing:
        raise FileNotFoundError(
            f"{images}: {len(missing)} frames with a mask or listed in meta.json have no image,"
            f" the first is {missing[0]}"
        )
    stems = [stem for stem in frame_files if frames == "all" or stem in wanted]
    if not stems:
        raise ValueError(f"{images}: video {name!r} has no frame")
    given, scored = _appearances(listed, stems, set(mask_files), masks)
    files = [frame_files[stem] for stem in stems]
    files_of_masks = [mask_files.get(stem) for stem in stems]
    if frames == "masks":  # whose images need not be there
        load_frame = partial(read_at, read_image, files)
        load_mask = partial(read_at, read_mask, files_of_masks)
    else:
        pairs = PairedFiles(files, files_of_masks, read_mask)
        load_frame, load_mask = pairs.frame, pairs.mask
    objects = meta["objects"]
    categories = [objects[key].get("category", "") for key in sorted(objects, key=int)]
    return Video(
        name=name,
        dataset="youtube_vos",
        frame_names=stems,
        mask_files=[None if file is None else str(file) for file in files_of_masks],
        load_frame=load_frame,
        load_mask=load_mask,
        describe=partial(
            _objects,
            partial(read_mask, next(iter(mask_files.values())))
            if mask_files
            else partial(read_image, files[0]),
            np.array(sorted(listed), np.int32),
            given,
            scored,
            categories if any(categories) else None,
        ),
    )


def _objects(
    read: Callable[[], np.ndarray],
    ids: np.ndarray,
    given: np.ndarray,
    scored: np.ndarray,
    categories: list[str] | None,
) -> Objects:
    """The size is only known from a mask, which is why this waits until it is asked for."""
    return Objects(ids, given, scored, categories, read().shape[:2])


def _appearances(
    listed: dict[int, list[str]], stems: list[str], annotated: set[str], folder: epath.Path
) -> tuple[np.ndarray, np.ndarray]:
    """given and scored, bool [T, K] each, K in ascending order of the ids."""
    row = {stem: t for t, stem in enumerate(stems)}
    given = np.zeros((len(stems), len(listed)), bool)
    scored = np.zeros_like(given)
    for k, key in enumerate(sorted(listed)):
        order = sorted(listed[key], key=row.__getitem__)
        if order[0] not in annotated:
            raise ValueError(
                f"{folder}: object {key} first appears in frame {order[0]}, which has no mask"
                f" {order[0]}.png"
            )
        given[row[order[0]], k] = True
        scored[[row[stem] for stem in order[1:]], k] = True
    withheld = not annotated.issuperset(set().union(*listed.values()))
    return given, scored & (not withheld)
