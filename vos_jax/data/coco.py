"""COCO's instance annotations: every image a video of one frame.

    <dir>/annotations/instances_<split>.json      images, categories, annotations
    <dir>/<split>/<file_name of an image>         such as train2017, val2017

An annotation has a segmentation (polygons, or run lengths where it is a crowd), a bbox
x y w h in continuous pixels and a category. Category ids have gaps; classes are numbered from 1
in the order of the ids. Format: cocodataset.org/#format-data.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vos_jax.data.folders import inner_name, read_at, read_json, require_folders, some
from vos_jax.data.frames import read_image
from vos_jax.data.image_file import MAX_PIXELS
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.packed import data_folder
from vos_jax.data.rle import RLE, from_segmentation


class Categories(NamedTuple):
    """names and ids of the categories in the order of the ids; class k is the k-th one."""

    names: list[str]
    ids: list[int]

    def class_of(self, category_id: Any, where: str) -> int:
        """The class 1, 2, ... of an id; ValueError where there is no such category."""
        if category_id not in self.ids:
            known = some([*map(str, self.ids)])
            raise ValueError(f"{where}: category_id is {category_id!r}, the file lists {known}")
        return self.ids.index(category_id) + 1


def open_coco(dir: str, split: str, annotations: str = "", images: str = "") -> list[InstanceVideo]:
    """One video per image of the file, also of those without annotation, in the order of their ids.

    annotations, images: the json file and the folder of the images where they lie elsewhere,
    absolute or relative to dir. No image is read here.
    Raises FileNotFoundError for a missing file or folder; ValueError for a file of another form,
    or one without annotations, as those of test images are.
    """
    root = data_folder(dir)
    path = root / (annotations or f"annotations/instances_{split}.json")
    folder = root / (images or split)
    require_folders((root, folder), "COCO has <dir>/annotations/instances_<split>.json and <split>")
    content = read_tables(path, ("images", "categories", "annotations"))
    categories = categories_of(content["categories"], path)
    listed, by_image = images_of(content, path)
    return [
        _video(listed[key], by_image.get(key, []), categories, folder, path)
        for key in sorted(listed)
    ]


def images_of(
    content: Mapping[str, Sequence[Mapping]], path: epath.PathLike
) -> tuple[dict[int, Mapping], dict[int, list[Mapping]]]:
    """The images of an annotation file by id, and the annotations of each that has any.

    Raises ValueError for an id that is no number or used twice, and for annotations of others.
    """
    listed: dict[int, Mapping] = {}
    for image in content["images"]:
        number = whole_number(image, "id", f"{path}, images")
        if number in listed:
            raise ValueError(f"{path}: two images have the id {number}")
        listed[number] = image
    by_image = defaultdict(list)
    for annotation in content["annotations"]:
        key = annotation.get("image_id")
        if not isinstance(key, int) or key not in listed:
            raise ValueError(
                f"{path}: annotations of images that the file does not list: {key!r}, of annotation"
                f" {annotation.get('id')}; it lists {some([*map(str, listed)])}"
            )
        by_image[key].append(annotation)
    return listed, dict(by_image)


def read_tables(
    path: epath.Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, list[dict]]:
    """The lists of these names in an annotation file; raises ValueError where one is not there.

    optional: lists that the file may lack.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected an object with {', '.join(names)}, found a list")
    for name in (*names, *(name for name in optional if content.get(name) is not None)):
        rows = content.get(name)
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise ValueError(
                f"{path}: expected a list {name!r}, found {sorted(content)}"
                if rows is None
                else f"{path}: expected {name!r} to be a list of objects"
            )
    return content


def categories_of(rows: Sequence[Mapping], path: epath.PathLike) -> Categories:
    """The categories of an annotation file; ValueError for none, or an id or name used twice."""
    try:
        named = {int(row["id"]): str(row["name"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected categories with id and name, found {error!r}") from None
    if not named or len(named) < len(rows) or len(set(named.values())) < len(rows):
        raise ValueError(
            f"{path}: expected categories of different ids and names, found {len(rows)} with"
            f" {len(named)} ids and {len(set(named.values()))} names"
        )
    ids = sorted(named)
    return Categories([named[i] for i in ids], ids)


def size_of(image: Mapping, where: str) -> tuple[int, int]:
    """(H, W) that an annotation file gives for an image; ValueError where it is none."""
    size = whole_number(image, "height", where), whole_number(image, "width", where)
    check_size(size, where)
    return size


def check_size(size: tuple[int, int], where: str) -> None:
    """Raises ValueError for the size (H, W) of no image, or one that could not be read."""
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{where}: expected height and width of 1 to {MAX_PIXELS} pixels together, found"
            f" {size[0]} and {size[1]}"
        )


def _video(
    image: Mapping,
    annotations: Sequence[Mapping],
    categories: Categories,
    folder: epath.Path,
    path: epath.Path,
) -> InstanceVideo:
    where = f"{path}, image {image.get('id')}"
    try:
        file, size = inner_name(str(image["file_name"]), where), size_of(image, where)
        instances = _instances(annotations, categories, size, where)
    except KeyError as error:
        raise ValueError(f"{where}: {error.args[0]} is missing") from None
    segmentations = [annotation.get("segmentation") for annotation in annotations]
    return InstanceVideo(
        name=epath.Path(file).stem,
        dataset="coco",
        frame_names=[epath.Path(file).stem],
        load_frame=partial(read_at, read_image, [folder / file]),
        load_rles=partial(_rles, segmentations, size, where),
        describe=partial(_itself, instances),
        video_id=image["id"],
        category_ids=categories.ids,
    )


def _instances(
    annotations: Sequence[Mapping], categories: Categories, size: tuple[int, int], where: str
) -> Instances:
    corners = np.array([box_corners(a["bbox"], where) for a in annotations], np.float32)
    return Instances(
        ids=np.arange(1, len(annotations) + 1, dtype=np.int32),  # the file's exceed 32 bits
        classes=np.array(
            [categories.class_of(a["category_id"], where) for a in annotations], np.int32
        ),
        crowd=np.array([is_crowd(a, where) for a in annotations], bool),
        valid=np.array([[_area(a, where) > 0 for a in annotations]], bool).reshape(1, -1),
        categories=categories.names,
        original_size=size,
        boxes=corners.reshape(1, -1, 4),
    )


def whole_number(entry: Mapping, name: str, where: str) -> int:
    """A field that is to be a whole number; ValueError where it is missing or another value."""
    if name not in entry:
        raise ValueError(f"{where}: {name} is missing")
    found = entry[name]
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(f"{where}: expected {name} to be a whole number, found {found!r}")
    return found


def is_crowd(entry: Mapping, where: str) -> bool:
    """Whether an annotation is of a crowd; ValueError for a mark that says neither."""
    found = entry.get("iscrowd") or 0
    if not isinstance(found, int) or found not in (0, 1):
        raise ValueError(f"{where}: expected iscrowd to be 0 or 1, found {found!r}")
    return bool(found)


def _area(annotation: Mapping, where: str) -> float:
    found = annotation.get("area", 1)
    if not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ValueError(f"{where}: expected area to be a number, found {found!r}")
    return found


def box_corners(bbox: Any, where: str) -> tuple[float, float, float, float]:
    """x y w h as corners x1 y1 x2 y2; ValueError where it is not four numbers."""
    try:
        left, top, width, height = (float(side) for side in bbox if math.isfinite(side))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: expected bbox [x, y, width, height], found {bbox!r}") from None
    return left, top, left + width, top + height


# Functions, not closures: worker processes are handed the videos.
def _itself(instances: Instances) -> Instances:
    return instances


def _rles(segmentations: list, size: tuple[int, int], where: str, t: int) -> list[RLE | None]:
    return [
        from_segmentation(segmentation, size, f"{where}, segmentation {n}")
        for n, segmentation in enumerate(segmentations)
    ]
