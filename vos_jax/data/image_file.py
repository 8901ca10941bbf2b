"""Encoded images as they come from users: read safely, checked to be whole, turned as they say.

Decoders are lenient: OpenCV fills what is missing with grey, Pillow ignores checksums, both turn
images, or not, by habits of their own. Everything that reads an image goes through `open_image`,
so that damage is refused everywhere, with the same words, and no file makes us ask for memory that
it only claims to need.
"""

import io
import re
import zlib

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**26  # 8192 x 8192: beyond any frame, and 200 MB in RGB
ORIENTATION_TAG = 0x0112  # of EXIF
QUARTER_TURNS = (5, 6, 7, 8)  # the orientations that exchange height and width
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF = (b"II*\0", b"MM\0*")


def read_bytes(path: epath.PathLike, what: str = "image file") -> bytes:
    """The content of a file, `what` in messages; FileNotFoundError or ValueError name it."""
    try:
        return epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such {what}") from None
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder, expected a file") from None


def open_image(data: bytes, where: str) -> Image.Image:
    """The image of an encoded file, its pixels not decoded yet; `where` names it in messages.

    Raises ValueError for what is no image, is cut off or damaged (PNG: checksums; JPEG: no end),
    has more than MAX_PIXELS, or lies in a way that decoders do not agree on.
    """
    if not data:
        raise ValueError(f"{where}: the file is empty")
    if data.startswith(_PNG):
        _check_png(data, where)
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise ValueError(_too_large(where, "")) from None
    except UnidentifiedImageError:
        reason = "is it another kind of file?"
        if data.startswith(_TIFF):
            reason = "this kind of TIFF is not read: save it with 8 bits (mogrify -depth 8)"
        raise ValueError(f"{where}: cannot be read as an image; {reason}") from None
    except Exception as error:  # decoders raise nearly anything on hostile headers
        raise ValueError(f"{where}: cannot be read as an image ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(_too_large(where, f" {image.height}x{image.width} (height x width)"))
    if image.format == "TIFF" and image.getexif().get(ORIENTATION_TAG, 1) != 1:
        raise ValueError(
            f"{where}: a TIFF with an orientation, which decoders turn or not by their version;"
            " turn it for good (mogrify -auto-orient)"
        )
    if data.startswith(_JPEG) and not _jpeg_ends(data):
        load(image, where)  # Pillow knows whether rows are missing
    return image


def load(image: Image.Image, where: str) -> Image.Image:
    """The image with its pixels decoded; ValueError where they cannot be."""
    try:
        image.load()
    except Exception as error:  # as above
        raise ValueError(f"{where}: cut off or damaged ({error})") from error
    return image


def orientation(image: Image.Image, data: bytes) -> int:
    """How the image is to be turned to be upright, 1 (not at all) to 8, as EXIF counts."""
    if data.startswith(_PNG):  # Pillow would decode all of it to find out
        exif = Image.Exif()
        stored = next((data[a:b] for kind, a, b in _png_chunks(data) if kind == b"eXIf"), None)
        if stored is None:
            return 1
        exif.load(stored)
    else:
        exif = image.getexif()
    found = exif.get(ORIENTATION_TAG, 1)
    return found if found in range(1, 9) else 1


def upright_size(image: Image.Image, turn: int) -> tuple[int, int]:
    """(H, W) of the image once it is turned."""
    size = (image.height, image.width)
    return size[::-1] if turn in QUARTER_TURNS else size


def upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Pixels [H, W, ...] turned by an orientation of EXIF."""
    if turn in QUARTER_TURNS:
        pixels = pixels.swapaxes(0, 1)
    down, across = turn in (3, 4, 7, 8), turn in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])


def bits_per_sample(image: Image.Image) -> int:
    """Of an image that is not decoded yet: 1, 2, 4 (both grey alone), 8 or 16.

    Pillow spreads 2 and 4 bits to 0..255, and keeps the upper 8 of 16 where there are colours.
    """
    if image.mode == "1":
        return 1
    if image.mode.startswith("I"):
        return 16
    raw = image.tile[0][3] if image.tile else ""
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    packed = re.search(r"^L;([24])|;(16)", raw) if isinstance(raw, str) else None
    return int(packed[1] or packed[2]) if packed else 8


def _too_large(where: str, size: str) -> str:
    return f"{where}: claims to be larger{size} than the {MAX_PIXELS:,} pixels read; shrink it"


def _png_chunks(data: bytes):
    """(kind, start, end of its content) of every chunk that is there as a whole."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4


def _check_png(data: bytes, where: str) -> None:
    for kind, start, end in _png_chunks(data):
        if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            name = kind.decode("ascii", "replace")
            raise ValueError(
                f"{where}: damaged: the checksum of its part {name} is wrong; fetch or write the"
                " file again"
            )
        if kind == b"IEND":
            return
    raise ValueError(f"{where}: cut off: the end of the PNG is missing; fetch or write it again")


def _jpeg_ends(data: bytes) -> bool:
    """Whether the pixels of a JPEG (not of a thumbnail inside) are followed by its end."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 1 if marker == 0xFF else 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:  # the pixels; bytes FF inside them are marked as such
            return data.find(b"\xff\xd9", at) >= 0
    return False
