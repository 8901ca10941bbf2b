"""Label maps in image files: read whatever PNG type they have, write palette PNGs.

A mask is uint8 [H, W]: 0 background, 1..254 object ids, 255 void. DAVIS and YouTube-VOS store ids
as palette indices, which only Pillow hands out; OpenCV and TensorFlow return colours instead.
"""

import io
from functools import lru_cache

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from vos_jax.data.clip import VOID

INDEXED_MODES = ("P", "L", "1")
MAX_IDS = 64  # more distinct ids than this is a picture, not a label map
MANY_IDS = 8  # from here on, ids that cover next to nothing are a sign of smoothing
TINY = 1e-4  # of the image (at least TINY_PIXELS): fewer pixels cover next to nothing
TINY_PIXELS = 16


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
) -> np.ndarray:
    """Read an image file as a label map, uint8 [H, W].

    Palette images give their indices, grey images of 1, 8 or 16 bits their values, RGB(A) images
    the ids whose DAVIS colours they hold. size: the (H, W) the mask must have. binary decides
    about images that hold nothing but 0 and 255 (or 0 and 65535), and about merging:
    None refuses them, True makes every object pixel id 1, False reads 255 as void. indexed: refuse
    RGB(A) images, as benchmarks do.

    Raises FileNotFoundError; ValueError for anything that is not a clean label map.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such mask file")
    return decode_mask(path.read_bytes(), str(path), size, binary, indexed)


def decode_mask(
    data: bytes,
    where: str,
    size: tuple[int, int] | None = None,
    binary: bool | None = None,
    indexed: bool = False,
) -> np.ndarray:
    """`read_mask` for the bytes of an encoded image; `where` names them in messages."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error
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
    found = (image.height, image.width)
    if size is not None and found != tuple(size):
        raise ValueError(
            f"{where}: the mask is {found[0]}x{found[1]} (height x width) but its frame is"
            f" {size[0]}x{size[1]}; resize the mask with nearest neighbour"
        )
    if image.mode == "P":
        values, palette = np.asarray(image), True
    else:
        values, palette = _values(image, where)
    return _labels(values, palette, where, binary)


def write_mask(path, labels: np.ndarray) -> None:
    """Write uint8 [H, W] labels as a palette PNG with the DAVIS colours."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.size == 0 or labels.min() < 0 or labels.max() > 255:
        raise ValueError(
            f"{path}: expected labels [H, W] in 0..255 to write, found shape {labels.shape}"
            + (f" with values {labels.min()}..{labels.max()}" if labels.size else "")
        )
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
    image.putpalette(davis_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    epath.Path(path).write_bytes(buffer.getvalue())


def _values(image: Image.Image, where: str) -> tuple[np.ndarray, bool]:
    """Integer label values of an image without palette, and whether they came from colours."""
    if image.mode in ("1", "L"):
        return np.asarray(image).astype(np.uint8), False
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


def _from_colours(rgb: np.ndarray, where: str) -> np.ndarray:
    codes, ids = _sorted_palette()
    found = rgb.astype(np.int64) @ [65536, 256, 1]
    place = np.minimum(np.searchsorted(codes, found), len(codes) - 1)
    foreign = codes[place] != found
    if foreign.any():
        y, x = np.argwhere(foreign)[0]
        count = len(np.unique(found[foreign]))
        raise ValueError(
            f"{where}: expected the colours of the DAVIS palette, found {count} others in an RGB"
            f" mask, the first {tuple(int(c) for c in rgb[y, x])} at row {y}, column {x}; save"
            " the mask as a palette or grey PNG whose values are the object ids, without"
            " anti-aliasing"
        )
    return ids[place].astype(np.uint8)


def _labels(values: np.ndarray, palette: bool, where: str, binary: bool | None) -> np.ndarray:
    """Check that the values are clean ids, and settle what 255 means."""
    counts = np.bincount(values.ravel(), minlength=256)
    present = np.flatnonzero(counts)
    ids = present[(present != 0) & (present != VOID)]
    tiny = counts[ids] < max(TINY * values.size, TINY_PIXELS)
    if len(ids) > MAX_IDS or (len(ids) > MANY_IDS and 2 * tiny.sum() > len(ids)):
        raise ValueError(
            f"{where}: expected at most {MAX_IDS} clean object ids, found {len(ids)} of which"
            f" {int(tiny.sum())} cover next to nothing: an anti-aliased or smoothly resized mask,"
            " or a photo; redraw it with hard borders, resize masks with nearest neighbour"
        )
    white = not palette and len(ids) == 0 and counts[VOID] > 0
    if white and binary is None:
        raise ValueError(
            f"{where}: the mask holds only 0 and 255, and 255 means void (ignored), so it has no"
            " object; save the object with value 1, or read it with binary=True (for a DAVIS"
            " source: year=2016)"
        )
    if binary:
        inside = (values != 0) if white else (values != 0) & (values != VOID)
        return np.where(inside, 1, np.where(values == VOID, VOID, 0)).astype(np.uint8)
    return np.array(values, np.uint8)
