"""Label maps in image files: read whatever PNG type they have, write palette PNGs.

A mask is uint8 [H, W]: 0 background, 1..254 object ids, 255 void. DAVIS and YouTube-VOS store ids
as palette indices, which only Pillow hands out; OpenCV and TensorFlow return colours instead. What
each kind of file means is said in docs/files.md.
"""

import io
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from vos_jax.data.clip import VOID, pixel_counts
from vos_jax.data.image_file import (
    QUARTER_TURNS,
    bits_per_sample,
    load,
    open_image,
    orientation,
    read_bytes,
    upright,
)
from vos_jax.files import write_whole

INDEXED_MODES = ("P", "L", "1")
MANY_IDS = 8  # from here on, ids without a shape of their own are a sign of smoothing
SMOOTH_SHARE = 0.25  # of the ids; a JPEG of quality 95 has 0.3, 250 discs on each other 0.07
PICTURE_IDS = 64  # from here on, ids that mostly step by one or two are brightness
STEPS_SHARE = 0.9


@lru_cache(maxsize=1)
def davis_palette() -> np.ndarray:
    """The 256 colours of DAVIS and PASCAL VOC masks, uint8 [256, 3].

    Bits 0, 1, 2 of the id are the highest bits of red, green, blue; bits 3, 4, 5 the next ones...
    """
    ids = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (ids >> (3 * bit + channel)) & 1
            palette[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    palette.flags.writeable = False
    return palette


def read_mask(
    path,
    size: tuple[int, int] | None = None,
    binary: bool | None = None,
    indexed: bool = False,
    turn: int = 1,
) -> np.ndarray:
    """Read an image file as a label map, uint8 [H, W].

    Palette images give their indices, grey images of 1 to 16 bits their values, RGB(A) images
    the ids whose DAVIS colours they hold. size: the (H, W) the mask must have. binary decides
    about images that hold nothing but 0 and 255 (or 0 and 65535), and about merging:
    None refuses them, True makes every object pixel id 1, False reads 255 as void. indexed: refuse
    RGB(A) images, as benchmarks do. turn: the orientation of EXIF by which its frame, of `size`,
    was turned; the mask may lie like the frame or like the frame's file.

    Raises FileNotFoundError; ValueError for anything that is not a clean label map.
    """
    return decode_mask(read_bytes(path, "mask file"), str(path), size, binary, indexed, turn)


def decode_mask(
    data: bytes,
    where: str,
    size: tuple[int, int] | None = None,
    binary: bool | None = None,
    indexed: bool = False,
    turn: int = 1,
) -> np.ndarray:
    """`read_mask` for the bytes of an encoded image; `where` names them in messages."""
    image = open_image(data, where)
    if image.format == "JPEG":
        raise ValueError(
            f"{where}: expected a lossless mask, found a JPEG, whose compression blurs ids;"
            " save the mask as PNG"
        )
    if indexed and image.mode not in INDEXED_MODES:
        raise ValueError(
            f"{where}: expected a palette or grey PNG whose values are the object ids, found a"
            f" colour image ({image.mode}); official tools read ids, not colours: save the mask"
            " with vos_jax.data.masks.write_mask or as a PNG of mode P"
        )
    turn = mask_turn((image.height, image.width), orientation(image, data), size, turn, where)
    values, palette = pixel_values(image, where)
    return _labels(upright(values, turn), palette, where, binary)


def mask_turn(
    stored: tuple[int, int],
    own: int,
    size: tuple[int, int] | None,
    turn: int,
    where: str,
) -> int:
    """The orientation by which a mask is to be turned so that it lies on its frame.

    stored: (H, W) of the mask's file. own: its own orientation, which counts if it has one. size,
    turn: (H, W) of the upright frame, and the orientation that made it upright. Raises ValueError
    where the sizes do not agree, or cannot tell how the mask lies.
    """
    lying = stored[::-1] if own in QUARTER_TURNS else stored
    if size is None:
        return own
    size = tuple(size)
    exchanged = turn in QUARTER_TURNS and size[0] != size[1]
    if own == 1 and turn != 1 and not exchanged and lying == size:
        raise ValueError(
            f"{where}: its frame is turned (EXIF orientation {turn}) and the mask does not tell"
            " whether it lies like the turned frame or like the file. Turn the frames for good"
            " (mogrify -auto-orient) if it was drawn on the frames as viewers show them; take the"
            " orientation from them (exiftool -Orientation=) if not"
        )
    if lying == size:
        return own
    if own == 1 and exchanged and lying == size[::-1]:
        return turn
    hint = "resize the mask with nearest neighbour"
    if lying == size[::-1]:
        hint = "it lies on its side: rotate the mask by a quarter turn"
    raise ValueError(
        f"{where}: the mask is {lying[0]}x{lying[1]} (height x width) but its frame is"
        f" {size[0]}x{size[1]}; {hint}"
        + (f" (the frame was turned as its EXIF orientation, {turn}, says)" if turn != 1 else "")
    )


def write_mask(path, labels: np.ndarray) -> None:
    """Write [H, W] labels in 0..255 as a palette PNG with the DAVIS colours, whole or not at all.

    Raises ValueError for other labels.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0 or labels.min() < 0 or labels.max() > 255:
        raise ValueError(
            f"{path}: expected labels [H, W] in 0..255 to write, found shape {labels.shape}"
            + (f" with values {labels.min()}..{labels.max()}" if labels.size else "")
        )
    write_whole(path, encode_mask(labels))


def encode_mask(labels: np.ndarray) -> bytes:
    """The file that `write_mask` writes."""
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pixel_values(image: Image.Image, where: str) -> tuple[np.ndarray, bool]:
    """Pixels [H, W] of an image from `open_image` as label values, and whether they may be ids
    only: not where a grey image could be a drawing in black and white.

    Raises ValueError for colours that are no ids, and for a palette that contradicts itself.
    """
    bits = bits_per_sample(image)
    load(image, where)
    if image.mode != "P":
        return _values(image, bits, where)
    values = np.asarray(image)
    _check_palette(image, values, where)
    return values, True


def _values(image: Image.Image, bits: int, where: str) -> tuple[np.ndarray, bool]:
    """Integer label values of an image without palette, and whether they came from colours."""
    if image.mode in ("1", "L"):
        values = np.asarray(image).astype(np.uint8)
        if bits in (2, 4) and not _only_black_and_white(values):
            values = values // (255 // (2**bits - 1))  # Pillow has multiplied them
        return values, False
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _narrow(np.asarray(image), where), False
    colours = np.asarray(image.convert("RGBA"))
    alpha = colours[..., 3]
    if ((alpha != 0) & (alpha != 255)).any():
        raise ValueError(
            f"{where}: expected hard object borders, found partly transparent pixels; save the"
            " mask without anti-aliasing, best as a palette PNG"
        )
    rgb = colours[..., :3] * (alpha == 255)[..., None]
    grey = rgb[..., 0]
    same = (rgb == grey[..., None]).all()
    if image.mode == "LA" or (same and _only_black_and_white(grey)):
        return grey, False
    return _from_colours(rgb, where), True


@lru_cache(maxsize=1)
def known_palettes() -> tuple[np.ndarray, np.ndarray]:
    """Our DAVIS palette and the one in the data set's own files (seen in DAVIS 2017 480p).

    That has 191 for 192, and from id 22 on the grey of the id.
    """
    own = np.where(davis_palette() == 192, 191, davis_palette())
    own[22:] = np.arange(22, 256)[:, None]
    return davis_palette(), own


def _check_palette(image: Image.Image, values: np.ndarray, where: str) -> None:
    """Refuses indices whose colours are all of the DAVIS palette, but those of other ids.

    Tools that sort or compact a palette, in every frame another way, leave such files.
    """
    colours = np.reshape(image.getpalette() or [], (-1, 3))
    used = np.flatnonzero(pixel_counts(values))
    used = used[used < len(colours)]
    shown = colours[used]
    if (shown == shown[:, :1]).all():  # greys, as of an image that was grey before
        return
    right = np.any([(palette[used] == shown).all(axis=1) for palette in known_palettes()], axis=0)
    ids = _ids_of_colours(np.where(shown == 191, 192, shown))
    if right.all() or (ids < 0).any():
        return
    wrong = int(np.flatnonzero(~right)[0])
    raise ValueError(
        f"{where}: the palette contradicts the indices: index {used[wrong]} has the DAVIS colour of"
        f" id {ids[wrong]}, as where an image tool has sorted the palette. If the colours are"
        " right, save the mask in colours (mogrify -define png:color-type=2 FILE); if the indices"
        " are, save it with write_mask of vos_jax.data.masks"
    )


def _narrow(values: np.ndarray, where: str) -> np.ndarray:
    if _only_black_and_white(values, white=65535):
        return np.where(values == 65535, VOID, 0).astype(np.uint8)
    if values.min() < 0 or values.max() > 254 or (values != np.rint(values)).any():
        raise ValueError(
            f"{where}: expected object ids 0..254, found values"
            f" {values.min()}..{values.max()} in a mask of more than 8 bits; renumber the objects"
        )
    return values.astype(np.uint8)


def _only_black_and_white(values: np.ndarray, white: int = 255) -> bool:
    return bool(((values == 0) | (values == white)).all() and (values == white).any())


@lru_cache(maxsize=1)
def _sorted_palette() -> tuple[np.ndarray, np.ndarray]:
    codes = davis_palette().astype(np.int64) @ [65536, 256, 1]
    order = np.argsort(codes)
    return codes[order], order


def _ids_of_colours(rgb: np.ndarray) -> np.ndarray:
    """Ids of DAVIS colours [..., 3], -1 where a colour is none."""
    codes, ids = _sorted_palette()
    found = rgb.astype(np.int64) @ [65536, 256, 1]
    place = np.minimum(np.searchsorted(codes, found), len(codes) - 1)
    return np.where(codes[place] == found, ids[place], -1)


def _from_colours(rgb: np.ndarray, where: str) -> np.ndarray:
    ids = _ids_of_colours(rgb)
    foreign = ids < 0
    if foreign.any():
        y, x = np.argwhere(foreign)[0]
        count = len(np.unique(rgb[foreign], axis=0))
        raise ValueError(
            f"{where}: expected the colours of the DAVIS palette, found {count} others in an RGB"
            f" mask, the first {tuple(int(c) for c in rgb[y, x])} at row {y}, column {x}; save"
            " the mask as a palette or grey PNG whose values are the object ids, without"
            " anti-aliasing"
        )
    return ids.astype(np.uint8)


def _labels(values: np.ndarray, palette: bool, where: str, binary: bool | None) -> np.ndarray:
    """Check that the values are clean ids, and settle what 255 means."""
    counts = pixel_counts(values)
    present = np.flatnonzero(counts)
    ids = present[(present != 0) & (present != VOID)]
    if len(ids) > MANY_IDS and (why := _no_drawing(values, counts, ids)):
        raise ValueError(
            f"{where}: expected clean object ids, found {len(ids)} values {why}; redraw the mask"
            " with hard borders, resize masks with nearest neighbour and store them without loss"
        )
    white = not palette and len(ids) == 0 and counts[VOID] > 0
    if white and binary is None:
        raise ValueError(
            f"{where}: the mask holds only 0 and 255, and 255 means void (ignored), so it has no"
            " object; save the object with value 1, or read it with binary=True (for a DAVIS"
            " source: year=2016)"
        )
    if binary and not palette and len(ids) and counts[VOID]:
        raise ValueError(
            f"{where}: a grey mask of one object holds 255 and {len(ids)} other values, the first"
            f" {ids[0]}: a soft map, or ids with void? Save 0 and 255, or 0 and 1, alone"
        )
    if binary:
        inside = (values != 0) if white else (values != 0) & (values != VOID)
        return np.where(inside, 1, np.where(values == VOID, VOID, 0)).astype(np.uint8)
    return np.array(values, np.uint8)


def _no_drawing(values: np.ndarray, counts: np.ndarray, ids: np.ndarray) -> str:
    """What betrays that values are no drawn ids, "" where nothing does: judged by shape alone.

    What smoothing and compression add lies between two other values at a border, nowhere 3x3
    pixels large, or is crumbs of next to nothing that differ by one or two from what is around.
    """
    window = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(values, window), cv2.dilate(values, window)
    inside = cv2.dilate((low == high).astype(np.uint8), window).astype(bool)
    between = (low < values) & (values < high) & ~inside
    ringed = np.pad(values.astype(np.int16), 1, constant_values=-9)  # -9: next to no value
    own, above, left = ringed[1:-1, 1:-1], ringed[:-2, 1:-1], ringed[1:-1, :-2]
    around = np.stack([above, left, ringed[2:, 1:-1], ringed[1:-1, 2:]])
    steps = np.abs(around - own)
    near = ((steps == 1) | (steps == 2)).any(axis=0)
    pieces = (above != own) & (left != own)  # upper left corners: one or more in each piece

    def of_ids(pixels):
        return np.bincount(values[pixels], minlength=256)[ids]

    area, corners = counts[ids], np.maximum(of_ids(pieces), 1)
    crumbs = (corners >= 3) & (area < 3 * corners) & (2 * of_ids(near) > area)
    smooth = (2 * of_ids(between) > area) | crumbs
    if smooth.mean() > SMOOTH_SHARE:
        return (
            f"of which {int(smooth.sum())} have no shape of their own: an anti-aliased, smoothly"
            " resized or compressed mask, or a photo"
        )
    borders = (steps > 0) & (own > 0) & (around > 0)
    small = np.count_nonzero(borders & (steps <= 2))
    if len(ids) > PICTURE_IDS and small > STEPS_SHARE * np.count_nonzero(borders):
        return "that mostly differ by one or two from what is beside them: a picture or depth map"
    return ""
