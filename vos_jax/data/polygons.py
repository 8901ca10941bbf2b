"""Images with one polygon a line in a text file, as YOLO's segmentation sets: videos of one frame.

    <dir>/images/[<split>/]<name>.jpg
    <dir>/labels/[<split>/]<name>.txt     class x1 y1 x2 y2 ...    one instance a line
    <dir>/classes.txt                     the names of classes 0, 1, ..., one a line

Coordinates are parts of the width and height, classes count from 0 in the file and from 1 here.
Without classes.txt the classes are the 80 of COCO, in COCO's order. An image without a text file
holds no instance. An instance of several pieces has them joined in one polygon, as converters from
COCO do: the narrow bridges between them are filled where they are wide enough for a pixel.
Format: docs.ultralytics.com/datasets/segment.
"""

from functools import lru_cache, partial

import numpy as np
from etils import epath

from vos_jax.data.folders import frames_of, read_at, read_lines, require_folders, some
from vos_jax.data.frames import image_facts, read_image
from vos_jax.data.instances import Instances, InstanceVideo
from vos_jax.data.packed import data_folder
from vos_jax.data.rle import RLE, areas, from_polygons

COCO_CLASSES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,
stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,
umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,
skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,
sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,
toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,
clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)


def open_polygons(dir: str, split: str = "") -> list[InstanceVideo]:
    """One video per image, in natural order; no pixel and no label is read here.

    split: a folder in images and in labels; empty where the files lie in these themselves.
    Raises FileNotFoundError for a missing folder, or where no image has labels; ValueError for
    labels without image; on use, for a line of another form.
    """
    root = data_folder(dir)
    images, labels = root / "images" / split, root / "labels" / split
    require_folders((root, images, labels), "it is to hold the folders images and labels")
    names = root / "classes.txt"
    categories = read_lines(names) if names.is_file() else list(COCO_CLASSES)
    frames = {file.stem: file for file in frames_of(images)}
    texts = {file.stem: file for file in labels.iterdir() if file.suffix == ".txt"}
    lost = sorted(set(texts) - set(frames))
    if lost:
        raise ValueError(f"{labels}: labels without an image in {images}: {some(lost)}")
    if not texts:
        raise FileNotFoundError(f"{labels}: expected <name>.txt for images such as {min(frames)}")
    return [
        InstanceVideo(
            name=stem,
            dataset="polygons",
            frame_names=[stem],
            load_frame=partial(read_at, read_image, [file]),
            load_rles=partial(_rles, texts.get(stem), file, categories),
            describe=partial(_describe, texts.get(stem), file, categories),
            video_id=number,
        )
        for number, (stem, file) in enumerate(frames.items(), 1)
    ]


@lru_cache(maxsize=64)  # an image's labels are asked for several times in a row
def _read(labels: epath.Path | None, image: epath.Path, classes: int):
    """Classes from 1 [N], boxes [N, 4], RLEs [N] and (H, W) of one image."""
    size = image_facts(image)[0]
    found, corners, rles = [], [], []
    for number, line in enumerate(read_lines(labels) if labels else (), 1):
        where = f"{labels}, line {number}"
        k, points = _parse(line, where, classes)
        points = points * [size[1], size[0]]
        found.append(k + 1)
        corners.append([*points.min(0), *points.max(0)])
        rles.append(from_polygons([points.ravel().tolist()], size, where))
    boxes = np.array(corners, np.float32).reshape(1, -1, 4)
    return np.array(found, np.int32), boxes, rles, size


def _parse(line: str, where: str, classes: int) -> tuple[int, np.ndarray]:
    """Class from 0 and points [P, 2] of one line."""
    words = line.split()
    try:
        k, values = int(words[0]), np.array(words[1:], np.float64)
    except ValueError:
        raise ValueError(
            f"{where}: expected numbers, class x1 y1 x2 y2 ..., found {line[:60]!r}"
        ) from None
    if len(values) == 4:
        raise ValueError(
            f"{where}: a class and four numbers are a box, expected a polygon of at least three"
            " corners; labels for detection alone have no masks"
        )
    if len(values) < 6 or len(values) % 2:
        raise ValueError(
            f"{where}: expected class x1 y1 x2 y2 x3 y3 ..., found {len(values)} coordinates"
        )
    if not 0 <= k < classes:
        raise ValueError(
            f"{where}: class {k} is outside 0..{classes - 1}; classes.txt beside images names them"
        )
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"{where}: expected coordinates as parts of width and height in 0..1, found"
            f" {values.min():g}..{values.max():g}"
        )
    return k, values.reshape(-1, 2)


def _describe(labels: epath.Path | None, image: epath.Path, categories: list[str]) -> Instances:
    classes, boxes, rles, size = _read(labels, image, len(categories))
    return Instances(
        ids=np.arange(1, len(classes) + 1, dtype=np.int32),
        classes=classes,
        crowd=np.zeros(len(classes), bool),
        valid=areas(rles)[None] > 0,
        categories=categories,
        original_size=size,
        boxes=boxes,
    )


def _rles(
    labels: epath.Path | None, image: epath.Path, categories: list[str], t: int
) -> list[RLE | None]:
    return _read(labels, image, len(categories))[2]
