"""COCO's json for frames of videos, and YouTube-VIS' json.

COCO: the folder in an image's file_name, if any, is its sequence; frames are in the natural order
of their names. What tells objects apart through the frames is the first of track_id and instance_id
that an annotation, or its "attributes", has. Without any, the n-th annotation of every image is
taken for object n. Crowds become void. In the annotations of YouTube-VIS each is a track.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from etils import epath

from vos_jax.data.coco import Categories, categories_of, images_of, read_tables, size_of
from vos_jax.data.frames import in_order
from vos_jax.data.rle import from_segmentation
from vos_jax.data.track_files import read_annotations
from vos_jax.importing.drawn import DrawnSequence, Shape
from vos_jax.importing.frames import FolderFrames, inside
from vos_jax.notes import note

IDENTITIES = ("track_id", "instance_id")


def read_coco(source: epath.Path, frames: epath.Path) -> list[DrawnSequence]:
    """The sequences of an annotation file, by their names; raises ValueError that names it."""
    content = read_tables(source, ("images", "categories", "annotations"))
    categories = categories_of(content["categories"], source)
    images, by_image = images_of(content, source)
    by_order = _by_order(content["annotations"], source)
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, image in images.items():
        where = f"{source}, image {key}"
        name = inside(image.get("file_name", ""), where)
        if name.name in groups[str(name.parent)]:
            raise ValueError(f"{where}: a second image of the frame {name}")
        groups[str(name.parent)][name.name] = key
    found = []
    for folder, keys in sorted(groups.items()):
        flat = len(groups) == 1 and not (frames / folder).is_dir()
        opened = FolderFrames(frames if flat else frames / folder)
        shapes = {}
        for file in in_order(map(epath.Path, keys)):
            key = keys[file.name]
            where = f"{source}, image {key}"
            stem = opened.checked(file.name, where)
            opened.check_size(stem, size_of(images[key], where), where)
            entries = enumerate(by_image.get(key, ()), 1)
            size = opened.size(stem)
            shapes[stem] = [_shape(e, n * by_order, categories, size, source) for n, e in entries]
        name = epath.Path(folder).name or frames.name
        found.append(DrawnSequence(name, opened, shapes))
    return found


def read_youtube_vis(source: epath.Path, frames: epath.Path) -> list[DrawnSequence]:
    """The videos of an annotation file in its order; raises ValueError that names it."""
    file = read_annotations(source)
    file.require_truth()
    names = dict(zip(file.categories.ids, file.categories.names, strict=True))
    found = []
    for video in file.videos.values():
        where = f"{source}, video {video.id}"
        paths = [inside(name, where) for name in video.file_names]
        folder = paths[0].parent
        if any(path.parent != folder for path in paths):
            raise ValueError(f"{where}: expected its frames in one folder, found several")
        opened = FolderFrames(frames / folder)
        stems = [opened.checked(path.name, where) for path in paths]
        shapes: dict[str, list[Shape]] = {stem: [] for stem in stems}
        for stem in stems:
            opened.check_size(stem, video.size, where)
        for number, track in enumerate(file.truths(video.id), 1):
            identity = None if track.crowd else number
            for stem, rle in zip(stems, track.rles, strict=True):
                if rle is not None:
                    shapes[stem].append(Shape(identity, names[track.category_id], rle))
        found.append(DrawnSequence(folder.name or str(video.id), opened, shapes))
    return found


def _by_order(entries: list[Mapping], source: epath.Path) -> bool:
    """Whether no annotation says which object it is; ValueError where only some do."""
    known = [_identity(entry) is not None for entry in entries if not entry.get("iscrowd")]
    if not any(known):
        note(
            f"{source}: no annotation has {' or '.join(IDENTITIES)}: the n-th annotation of every"
            " image is taken for object n"
        )
        return True
    if not all(known):
        raise ValueError(
            f"{source}: {known.count(False)} of {len(known)} annotations have no"
            f" {' or '.join(IDENTITIES)}, the others do; give all of them one"
        )
    return False


def _identity(entry: Mapping) -> Any:
    attributes = entry.get("attributes")
    places = (entry, attributes if isinstance(attributes, Mapping) else {})
    values = [place[key] for place in places for key in IDENTITIES if place.get(key) is not None]
    return values[0] if values and isinstance(values[0], (int, str)) else None


def _shape(
    entry: Mapping, order: int, categories: Categories, size: tuple[int, int], source: epath.Path
) -> Shape:
    """order: the annotation's number in its image where that is its object, else 0."""
    where = f"{source}, annotation {entry.get('id')}"
    name = categories.names[categories.class_of(entry.get("category_id"), where) - 1]
    rle = from_segmentation(entry.get("segmentation"), size, where)
    if rle is None:
        raise ValueError(f"{where}: has no segmentation; a box alone tells no mask")
    identity = None if entry.get("iscrowd") else order or _identity(entry)
    return Shape(identity, name, rle)
