"""Encoded images that tools write and Pillow does not: packed greys, turned and damaged files."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG with 1, 2, 4, 8 or 16 bits for each of the values [H, W]."""
    height, width = values.shape
    places = np.arange(bits)[::-1]
    packed = np.packbits(
        (values.astype(int)[..., None] >> places & 1).astype(np.uint8).reshape(height, -1), 1
    )
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    return png(struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0), zlib.compress(rows))


def png(header: bytes, pixels: bytes) -> bytes:
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def encoded(pixels: np.ndarray, kind: str, turn: int = 1, **options) -> bytes:
    """The pixels as a file of `kind`, with an orientation of EXIF where `turn` is not 1."""
    if turn != 1:
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
