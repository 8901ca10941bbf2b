"""YouTube-VOS 2018/2019 in its official folder layout.

    <root>/<split>/JPEGImages/<video>/00000.jpg
    <root>/<split>/Annotations/<video>/00000.png     every 5th frame, or first appearances only
    <root>/<split>/meta.json    videos.<video>.objects.<id>.{category, frames}

Each object is given at the first frame that meta.json lists for it, which may be later than frame
0, and scored at its other listed frames, unless the masks of listed frames are withheld, as in the
valid and test splits: then nothing of the video is scored. Ids need not be contiguous. Running on
every frame and on every 5th gives different scores: say which with the number.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath

from vos_jax.data.clip import Objects, Video
from vos_jax.data.frames import list_images, read_image
from vos_jax.data.masks import read_mask

FRAMES = ("all", "annotated")


def open_youtube_vos(dir: str, split: str, frames: str = "all") -> list[Video]:
    """The videos of one split, sorted by name; no pixel is read here.

    frames: "all" images on disk, or only the "annotated" ones: those that meta.json lists for an
    object or that have a mask.
    Errors: FileNotFoundError for a missing folder, meta.json or frame; ValueError for a meta.json
    that is not one, or an object whose first frame has no mask.
    """
    if frames not in FRAMES:
        raise ValueError(f"youtube_vos: expected frames to be one of {FRAMES}, got {frames!r}")
    root = epath.Path(dir) / split
    for folder in (epath.Path(dir), root, root / "JPEGImages", root / "Annotations"):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; YouTube-VOS has <dir>/<split>/JPEGImages,"
                " <dir>/<split>/Annotations and <dir>/<split>/meta.json"
            )
    videos = _read_meta(root / "meta.json")

    def open_one(name: str) -> Video:
        return _open_video(root, name, videos[name], frames)

    with ThreadPoolExecutor(8) as pool:  # thousands of folders to list, maybe on a remote store
        return list(pool.map(open_one, sorted(videos)))


def _read_meta(path: epath.Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; it lists the objects of every video")
    try:
        videos = json.loads(path.read_text())["videos"]
        for name, video in videos.items():
            for key, facts in video["objects"].items():
                if not (1 <= int(key) <= 254 and facts["frames"]):
                    raise ValueError(f"object {key!r} of video {name!r} has no frames or a bad id")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected videos.<name>.objects.<id 1..254>.frames, found {error!r}"
        ) from error
    if not videos:
        raise ValueError(f"{path}: the list of videos is empty")
    return videos


def _open_video(root: epath.Path, name: str, meta: dict, frames: str) -> Video:
    images, masks = root / "JPEGImages" / name, root / "Annotations" / name
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: video {name!r} is in meta.json but has no such folder"
            )
    listed = {int(key): facts["frames"] for key, facts in meta["objects"].items()}
    mask_files = {file.stem: file for file in list_images(masks) if file.suffix == ".png"}
    wanted = set(mask_files).union(*listed.values())
    frame_files = {file.stem: file for file in list_images(images)}
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
    objects = meta["objects"]
    categories = [objects[key].get("category", "") for key in sorted(objects, key=int)]

    def describe() -> Objects:
        size = read_image(files[0]).shape[:2]
        ids = np.array(sorted(listed), np.int32)
        return Objects(ids, given, scored, categories if any(categories) else None, size)

    return Video(
        name=name,
        dataset="youtube_vos",
        frame_names=stems,
        mask_files=[str(mask_files[stem]) if stem in mask_files else None for stem in stems],
        load_frame=lambda t: read_image(files[t]),
        load_mask=lambda t: read_mask(mask_files[stems[t]]),
        describe=describe,
    )


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
