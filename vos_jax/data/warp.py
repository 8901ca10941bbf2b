"""Random affine maps, elastic deformation and colour changes of single frames (host side, numpy).

Applied to each frame of a clip on its own, they turn one still image into a clip with motion, the
first training stage of STM (Oh et al., ICCV 2019, sec. 3.4), and vary videos in the second. Ranges
are the config's; the paper names the operations but not their ranges.

The release of RSIS and RVOS (dataloader/transforms of imatge-upc/rvos) has an affine map of its own
form: `released_map`, nearest neighbours for pictures, too, and the border goes on outside of the
frame. Ours samples pictures bilinearly, fills with grey and void, and shears and zooms about other
axes. `Warp.released` is the release's form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vos_jax.data.clip import VOID

GRID = 4  # control points per axis of the elastic deformation


@dataclass(frozen=True)
class Warp:
    """Ranges of what happens to a frame; the default changes nothing.

    rotate, shear: degrees, drawn from +- the value. zoom: (lowest, highest) factor, drawn per
    axis. shift: fraction of the crop's height and width, drawn from +- the value. elastic: pixels
    by which points of a coarse grid move at most. colour: relative change of contrast, brightness
    and saturation at most. shared: the frames of a group are changed alike (RVOS), not each on its
    own. released: the map, and how pixels are looked up, are those of `released_map`; zoom is then
    from the result to the frame, so that more than 1 makes things smaller.
    """

    rotate: float = 0.0
    shear: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    elastic: float = 0.0
    colour: float = 0.0
    shared: bool = False
    released: bool = False

    @property
    def changes(self) -> bool:
        """Whether it does anything."""
        return replace(self, zoom=tuple(self.zoom), shared=False, released=False) != Warp()

    def matrix(self, rng: np.random.Generator, crop: tuple[int, int]) -> np.ndarray:
        """A random map [2, 3] from places (x, y) in the crop to places in the unwarped crop."""
        height, width = crop
        if self.released:
            rotate, shear = rng.uniform(-1, 1, 2) * (self.rotate, self.shear)
            shift = rng.uniform(-self.shift, self.shift, 2)
            return released_map(rotate, shift, shear, rng.uniform(*self.zoom, size=2), crop)
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
        shear = np.tan(np.deg2rad(rng.uniform(-self.shear, self.shear)))
        zoom = rng.uniform(*self.zoom, size=2)
        shift = rng.uniform(-self.shift, self.shift, size=2) * (width, height)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(1 / zoom)
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        return np.concatenate([linear, (centre + shift - linear @ centre)[:, None]], axis=1)


def released_map(
    rotate: float,
    shift: Sequence[float],
    shear: float,
    zoom: Sequence[float],
    crop: tuple[int, int],
) -> np.ndarray:
    """The map R T S Z of the release of RSIS and RVOS about the middle of a crop, as `Warp.matrix`.

    rotate, shear: degrees. shift: of the crop's height and of its width. zoom: of rows and of
    columns. On (row, column) R is [[cos, -sin], [sin, cos]], T adds the shift, S is
    [[1, -sin], [0, cos]] and Z scales.
    """
    turn, lean = np.deg2rad(rotate), np.deg2rad(shear)
    around = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    leaning = np.array([[1.0, -np.sin(lean)], [0.0, np.cos(lean)]])
    linear = (around @ leaning @ np.diag(zoom))[::-1, ::-1]  # on x, y
    centre = (np.array(crop[::-1]) - 1) / 2
    moved = (around @ (np.array(shift) * crop))[::-1]
    return np.concatenate([linear, (centre + moved - linear @ centre)[:, None]], axis=1)


def cut_warped(
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    warp: Warp,
    *,
    crop: tuple[int, int],
    scaled: tuple[int, int],
    corner: tuple[int, int],
    fill: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of the scaled image, warped about the middle of the crop.

    image: uint8 [H, W, 3]. labels: uint8 [H, W]. crop: (h, w) of the result. scaled: (H', W') of
    the image to crop from, corner: (top, left) of the crop in it. fill: grey value of what lies
    outside the image; its label is void.
    Returns float32 [h, w, 3] in 0..255 and uint8 [h, w].
    """
    shrunk = min(scaled) < 0.75 * min(labels.shape)  # average first, or detail turns to noise
    if shrunk or (warp.released and scaled != labels.shape):
        smooth = cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR
        image = cv2.resize(image, scaled[::-1], interpolation=smooth)
        labels = cv2.resize(labels, scaled[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    places = draw_places(rng, warp, crop=crop, size=labels.shape, scaled=scaled, corner=corner)
    if warp.released:
        limits = np.array(labels.shape[::-1])[:, None, None] - 1
        x, y = np.rint(np.clip(places, 0, limits)).astype(np.intp)
        return recolour(image[y, x].astype(np.float32), rng, warp.colour), labels[y, x]
    maps = places.astype(np.float32)
    border = cv2.BORDER_CONSTANT
    out = cv2.remap(image, *maps, cv2.INTER_LINEAR, borderMode=border, borderValue=(fill,) * 3)
    ids = cv2.remap(labels, *maps, cv2.INTER_NEAREST, borderMode=border, borderValue=VOID)
    return recolour(out.astype(np.float32), rng, warp.colour), ids


def draw_places(
    rng: np.random.Generator,
    warp: Warp,
    *,
    crop: tuple[int, int],
    size: tuple[int, int],
    scaled: tuple[int, int],
    corner: tuple[int, int],
) -> np.ndarray:
    """Where in an image each pixel of a warped crop lies, float64 [2, h, w] of x and y.

    size: (H, W) of the image; the others are those of `cut_warped`.
    """
    # From places in the unwarped crop to pixel centres of the image at hand.
    step = np.array([size[1] / scaled[1], size[0] / scaled[0]])
    across, down, shift = (step[:, None] * warp.matrix(rng, crop)).T
    shift += (np.array(corner[::-1]) + 0.5) * step - 0.5
    # A place is the sum of what its column and what its row add.
    columns = across[:, None] * np.arange(crop[1], dtype=float) + shift[:, None]
    rows = down[:, None] * np.arange(crop[0], dtype=float)
    places = rows[:, :, None] + columns[:, None]
    if warp.elastic:
        places += _waves(rng, warp.elastic, crop) * step[:, None, None]
    return places


def paste(
    frame: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the objects of another picture over a frame; their ids become first, first + 1, ...

    frame, other: [h, w, 3]. labels, other_labels: uint8 [h, w]; void of the other stays out.
    Returns both anew; ids above 254 do not fit and stay out.
    """
    table = np.zeros(256, np.uint8)  # new ids; 0: stays out
    table[1 : VOID - first + 1] = np.arange(first, VOID)
    ids = cv2.LUT(other_labels, table)
    inside = (ids > 0).astype(np.uint8)
    return cv2.copyTo(other, inside, frame.copy()), cv2.copyTo(ids, inside, labels.copy())


def _waves(rng: np.random.Generator, reach: float, crop: tuple[int, int]) -> np.ndarray:
    """Smooth random displacements [2, h, w] of at most about `reach` pixels."""
    coarse = rng.uniform(-reach, reach, (2, GRID, GRID))
    return np.stack([cv2.resize(c, crop[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse])


def recolour(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Random saturation, contrast and brightness of a float image in 0..255."""
    if amount == 0:
        return image
    saturation, contrast, brightness = rng.uniform(1 - amount, 1 + amount, 3)
    # Saturation moves colours from their grey, contrast from the mean of the image, which the first
    # leaves as it is; all three are one linear map of (red, green, blue, 1).
    mix = saturation * np.eye(3) + (1 - saturation) / 3
    mean = np.mean(cv2.mean(image)[:3])
    offset = np.full((3, 1), (1 - contrast) * brightness * mean)
    image = cv2.transform(image, np.hstack([contrast * brightness * mix, offset]))
    return np.clip(image, 0, 255, out=image)
