"""Folders of images with masks, each pair a video of one frame, for training on static images.

    <dir>/{images,image,imgs,img,...}/<name>.jpg    <dir>/{masks,mask,gt,...}/<name>.png
    <dir>/DUTS-TR-Image/<name>.jpg                  <dir>/DUTS-TR-Mask/<name>.png        DUTS
    <dir>/Imgs/<name>.jpg                           <dir>/Imgs/<name>.png                MSRA10K

What a mask means is told by its type:
- grey (or colour with equal channels), the saliency maps of MSRA10K, DUTS, ECSSD, PASCAL-S, HKU-IS:
  one object of id 1 where the value is at least 128. Soft maps lose their grades; JPEG is fine.
- palette image with colours: a label map with the ids of its objects, 255 is void, as in
  COCO-like sets; one with a grey palette counts as grey.
- other colours: a label map in the colours of the DAVIS palette.

The names of the folders are those that public loaders of these sets were found to use (the pairs
named above, imgs and gt of HKU-IS, images and ground_truth_mask of ECSSD); others can be given.
"""

from functools import partial

import numpy as np
from etils import epath
from PIL import Image

from vos_jax.data.clip import Objects, Video, first_frame_objects
from vos_jax.data.folders import (
    PairedFiles,
    frames_of,
    read_lines,
    require_folders,
    some,
    subfolders,
)
from vos_jax.data.frames import list_images, list_masks
from vos_jax.data.image_file import load, open_image, orientation, read_bytes, upright
from vos_jax.data.masks import decode_mask, mask_turn
from vos_jax.data.packed import data_folder

ALL = "all"
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe")
THRESHOLD = 128  # of soft saliency maps
# lower case; a folder also counts where its name ends in - or _ and one of these (DUTS-TR-Mask)
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
MASK_FOLDERS = (
    "masks",
    "mask",
    "gt",
    "gts",
    "groundtruth",
    "ground_truth",
    "ground_truth_mask",
    "annotations",
)


def open_images(dir: str, split: str = ALL, images: str = "", masks: str = "") -> list[Video]:
    """One video per pair of image and mask of the same stem, in natural order; no pixel is read.

    split: "all", or <split> of a list <dir>/<split>.txt with one stem a line. images, masks: their
    folders, absolute or relative to dir; the same for both where a JPEG and a PNG of one stem lie
    side by side; empty: found by their names.
    Raises FileNotFoundError for a missing folder, list, image or mask; ValueError where the
    folders cannot be told by their names, or hold two files of one stem.
    """
    root = data_folder(dir)
    require_folders((root,), "it is to hold a folder of images and one of masks")
    image_folder, mask_folder = pair_folders(root, images, masks)
    image_files, mask_files = _pairs(image_folder, mask_folder)
    stems = list(image_files)
    if split != ALL:
        stems = _listed(root / f"{split}.txt", image_files, image_folder)
    return [_video(stem, image_files[stem], mask_files[stem]) for stem in stems]


def read_pair_mask(
    path: epath.PathLike, size: tuple[int, int] | None = None, turn: int = 1
) -> np.ndarray:
    """Read a mask as uint8 [H, W]; its type tells saliency map and label map apart (see above).

    size, turn: of its image, as in `read_mask`. Raises FileNotFoundError; ValueError for a file
    that cannot be read, that does not lie like its image, or for a grey map without an object whose
    values are too low for one, as 0 and 1 instead of 0 and 255.
    """
    data = read_bytes(path, "mask file")
    image = open_image(data, str(path))
    grey = _grey(image, str(path))
    if grey is None:
        return decode_mask(data, str(path), size, turn=turn)
    inside = grey >= THRESHOLD
    if grey.any() and not inside.any():
        raise ValueError(
            f"{path}: expected a saliency map of 0..255, found nothing above {grey.max()} in a grey"
            f" mask ({THRESHOLD} and more is object); multiply its values up to 255, or save a"
            " label map as a palette PNG"
        )
    turn = mask_turn(grey.shape, orientation(image, data), size, turn, str(path))
    return upright(inside.astype(np.uint8), turn)


def _grey(image: Image.Image, where: str) -> np.ndarray | None:
    """Grey values 0..255 of an image (of 0..65535 where it has 16 bits), None if it has colours."""
    load(image, where)
    ramp = np.array(image.getpalette() or [0] * 3).reshape(-1, 3)
    if image.mode in ("1", "L", "LA") or (image.mode == "P" and not np.ptp(ramp, axis=1).any()):
        return np.asarray(image.convert("L"))
    if image.mode.startswith("I"):
        return np.clip(np.asarray(image) / 257, 0, 255).astype(np.uint8)
    if image.mode not in ("RGB", "RGBA", "CMYK", "YCbCr"):
        return None
    rgb = np.asarray(image.convert("RGB"))
    spread = rgb.max(-1).astype(np.int16) - rgb.min(-1)
    # the conversion of a JPEG's colours rounds
    return rgb[..., 1] if spread.max() <= (4 if image.format == "JPEG" else 0) else None


def pair_folders(
    root: epath.Path, images: str = "", masks: str = ""
) -> tuple[epath.Path, epath.Path]:
    """The folders of images and of masks; ValueError where their names do not tell them."""
    folders = subfolders(root)
    found = []
    for option, name, known in (("images", images, IMAGE_FOLDERS), ("masks", masks, MASK_FOLDERS)):
        if name:
            require_folders((root / name,), f"it is named by the option {option}")
            found.append([root / name])
        else:
            found.append([folder for folder in folders if _is_called(folder.name, known)])
    of_images, of_masks = found
    if not of_images and not of_masks and list_images(root):
        of_images = [root]
    if len(of_images) == 1 and not of_masks:
        of_masks = of_images  # side by side
    if len(of_images) != 1 or len(of_masks) != 1:
        raise ValueError(
            f"{root}: expected one folder of images and one of masks, found for images"
            f" {some([f.name for f in of_images])}, for masks {some([f.name for f in of_masks])}"
            f" among {some([f.name for f in folders])}; name them with the options images and masks"
        )
    return of_images[0], of_masks[0]


def _is_called(name: str, known: tuple[str, ...]) -> bool:
    name = name.lower()
    return any(name == word or name.endswith(("-" + word, "_" + word)) for word in known)


def _pairs(
    images: epath.Path, masks: epath.Path
) -> tuple[dict[str, epath.Path], dict[str, epath.Path]]:
    """Image and mask files by stem, in the order of the images."""
    if images == masks:
        files = list_images(images)
        mask_files = {file.stem: file for file in list_masks(images)}
        image_files = {file.stem: file for file in files if file.suffix.lower() in JPEG_SUFFIXES}
    else:
        image_files = {file.stem: file for file in frames_of(images)}
        mask_files = {file.stem: file for file in frames_of(masks)}
    unmasked = [stem for stem in image_files if stem not in mask_files]
    lost = [stem for stem in mask_files if stem not in image_files]
    if unmasked or lost or not image_files:
        raise FileNotFoundError(
            f"{masks}: expected a mask for each of the {len(image_files)} images in {images}, found"
            f" {len(mask_files)} masks; images without mask: {some(unmasked)}; masks without image:"
            f" {some(lost)}"
        )
    return image_files, mask_files


def _listed(path: epath.Path, image_files: dict, folder: epath.Path) -> list[str]:
    if not path.is_file():
        known = sorted(f.stem for f in path.parent.iterdir() if f.suffix == ".txt")
        raise FileNotFoundError(
            f"{path}: no such list of images; splits: {', '.join([ALL, *known])}"
        )
    stems = read_lines(path)
    missing = [stem for stem in stems if stem not in image_files]
    if missing or not stems:
        raise FileNotFoundError(
            f"{path}: expected the stems of images in {folder}, one a line; not there:"
            f" {some(missing)} of {len(stems)}"
        )
    return stems


def _video(stem: str, image: epath.Path, mask: epath.Path) -> Video:
    pair = PairedFiles([image], [mask], read_pair_mask)
    return Video(
        name=stem,
        dataset="images",
        frame_names=[stem],
        mask_files=[str(mask)],
        load_frame=pair.frame,
        load_mask=pair.mask,
        describe=partial(_objects, pair.mask),
    )


def _objects(load_mask) -> Objects:
    """The ids in the mask, given in the only frame and nowhere scored."""
    return first_frame_objects(load_mask(0), 1)
