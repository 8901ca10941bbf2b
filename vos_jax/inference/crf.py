"""A dense conditional random field that draws masks to the edges of the picture.

Krähenbühl and Koltun, NeurIPS 2011 (arXiv 1210.5644): mean-field steps with Potts potentials whose
two kernels are Gaussians of place, and of place and colour, each normalised symmetrically. Their
code and its users' recipes (pydensecrf; densecrf_apply_cvpr2019.py of carrierlxk/COSNet, whose
values are the defaults) give the rest. The second kernel has five dimensions and is applied on a
permutohedral lattice (Adams, Baek, Davis, Eurographics 2010); numpy and scipy on the host, a few
seconds for a frame of 480p.

Glossary: H W the frame, P = H * W pixels, L labels with the background first, D dimensions of
features, M points of a lattice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse
from scipy.ndimage import correlate1d

from vos_jax.inference.streaming import VideoSegmenter

SMALLEST = 1e-5  # probability of a label before the first step
RADIUS = 5  # standard deviations after which a kernel of place alone ends
BITS = 12  # of each coordinate of a lattice point
Kernel = Callable[[np.ndarray], np.ndarray]  # [P, L] -> [P, L]


@dataclass(frozen=True)
class CRF:
    """What the field says of pixels.

    Attributes:
        steps: of mean field.
        near_weight, near_pixels: of the kernel of place alone, and its standard deviation.
        alike_weight, alike_pixels, alike_colour: of the kernel of place and colour, and its
            standard deviations in pixels and in grey levels of 0..255.
        stretched: the map of a single object is stretched to 0..1 in every frame before, as the
            release of COSNet does it.
    """

    steps: int = 5
    near_weight: float = 5.0
    near_pixels: float = 1.0
    alike_weight: float = 9.0  # the release writes results for 8 to 10, ...
    alike_pixels: float = 15.0  # ... and for 10 to 20, and does not say which are the paper's
    alike_colour: float = 7.0
    stretched: bool = True

    def refine(self, frame: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities float32 [L, H, W] of a frame uint8 [H, W, 3] after the steps.

        probabilities: [L, H, W], which sum to 1.
        """
        labels, size = len(probabilities), frame.shape[:2]
        if self.stretched and labels == 2:
            probabilities = _stretched(probabilities)
        p = probabilities.reshape(labels, -1).T.astype(np.float64)
        unary = np.log(np.clip(p, SMALLEST, 1.0))
        weighted = (
            (self.near_weight, normalised(place_kernel(size, self.near_pixels), len(p))),
            (self.alike_weight, normalised(Lattice(self.features(frame)), len(p))),
        )
        found = _softmax(unary)
        for _ in range(self.steps):
            found = _softmax(unary + sum(weight * kernel(found) for weight, kernel in weighted))
        return found.T.reshape(labels, *size).astype(np.float32)

    def features(self, frame: np.ndarray) -> np.ndarray:
        """Place and colour of each pixel in standard deviations, float64 [P, 5]."""
        rows, columns = np.indices(frame.shape[:2])
        place = np.stack([columns, rows], axis=-1) / self.alike_pixels
        return np.concatenate([place, frame / self.alike_colour], axis=-1).reshape(-1, 5)


class CRFSegmenter(VideoSegmenter):
    """A segmenter whose results go through a field; what it feeds back to itself does not."""

    def __init__(self, crf: CRF, *arguments: Any, **options: Any):
        self._crf = crf
        super().__init__(*arguments, **options)

    def reset(self) -> None:
        """Forget the video; the next step starts another."""
        super().reset()
        self._refined: Callable[[], np.ndarray] | None = None

    def dispatch(
        self, frame: np.ndarray, labels: np.ndarray | None = None
    ) -> Callable[[], np.ndarray]:
        """`step` without waiting; the field is applied when its result is asked for."""
        answer = super().dispatch(frame, labels)
        self._refined = None
        if isinstance(self._last, np.ndarray):  # a first frame whose mask was given
            return answer
        ids = np.array([0, *self.ids], np.uint8)
        found = self._probabilities(self._variables, *self._last, size=self._size)
        found.copy_to_host_async()
        refined = cache(lambda: self._crf.refine(frame, np.asarray(found)[0, : len(ids)]))
        self._refined = refined
        return lambda: ids[refined().argmax(axis=0)]

    def probabilities(self) -> np.ndarray:
        """Of the last frame after the field, float32 [K+1, H, W]: background, then `ids`."""
        return super().probabilities() if self._refined is None else self._refined()


def crf_of(settings: Mapping[str, Any]) -> CRF:
    """The field of config.inference.crf_settings; ValueError names a field that it lacks."""
    known = CRF.__dataclass_fields__
    for name in settings:
        if name not in known:
            raise ValueError(
                f"config.inference.crf_settings.{name}: there is no such field; expected some of "
                f"{list(known)}"
            )
    return CRF(**settings)


def normalised(kernel: Kernel, pixels: int) -> Kernel:
    """The kernel K of so many pixels as n K n, where n K n 1 is near 1: n = 1 / sqrt(K 1)."""
    n = 1 / np.sqrt(kernel(np.ones((pixels, 1))) + 1e-20)
    return lambda x: n * kernel(n * x)


def place_kernel(size: tuple[int, int], pixels: float) -> Kernel:
    """exp(-|x - y|^2 / 2 s^2) between the pixels of a frame, s in pixels."""
    reach = int(np.ceil(RADIUS * pixels))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / pixels) ** 2)

    def kernel(x):
        maps = x.reshape(*size, -1)
        for axis in (0, 1):
            maps = correlate1d(maps, weights, axis=axis, mode="constant")
        return maps.reshape(x.shape)

    return kernel


class Lattice:
    """exp(-|f - g|^2 / 2) between features [P, D], nearly: splat, blur along each axis, slice.

    A pixel lies in a simplex of the lattice A*_D and has a share of each of its D + 1 corners, by
    its barycentric coordinates. Steps of the lattice are so long that a blur of 1/2, 1, 1/2 along
    all D + 1 axes, with what the shares do, has the deviation 1.
    """

    def __init__(self, features: np.ndarray):
        pixels, dims = features.shape
        corners, shares = _corners_and_shares(_elevated(features))
        codes, points = np.unique(_codes(corners).ravel(), return_inverse=True)
        where = np.repeat(np.arange(pixels), dims + 1)
        shape = (len(codes), pixels)
        self._splat = scipy.sparse.csr_matrix((shares.ravel(), (points.ravel(), where)), shape)
        self._slice = self._splat.T.tocsr()
        self._neighbours = [_neighbours(codes, axis, dims) for axis in range(dims + 1)]
        self._gain = 1 / (1 + 2.0**-dims)  # what is splat, blurred and sliced grows by it

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[P, L] -> [P, L]."""
        values = self._splat @ x
        nothing = np.zeros((1, x.shape[1]))
        for before, after in self._neighbours:
            padded = np.concatenate([values, nothing])
            values = values + 0.5 * (padded[before] + padded[after])
        return self._gain * (self._slice @ values)


def _elevated(features: np.ndarray) -> np.ndarray:
    """Features [P, D] in the hyperplane of D + 1 coordinates whose sum is 0, in lattice steps."""
    dims = features.shape[1]
    axis = np.arange(1, dims + 1)
    length = np.sqrt(2 / 3) * (dims + 1) / np.sqrt(axis * (axis + 1.0))
    basis = np.tril(np.ones((dims, dims + 1)))
    basis[axis - 1, axis] = -axis
    return (features * length) @ basis


def _corners_and_shares(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the simplex around each point, int64 [P, D + 1, D + 1], and its shares of them.

    The corner k has coordinates that are k modulo D + 1; the first is the nearest one with 0.
    """
    steps = x.shape[1]  # D + 1
    nearest = steps * np.rint(x / steps)
    excess = np.rint(nearest.sum(axis=1, keepdims=True) / steps).astype(int)
    rank = np.argsort(np.argsort(nearest - x, axis=1, kind="stable"), axis=1, kind="stable")
    rank += excess  # back into the hyperplane: the coordinates that were rounded most are moved
    turns = (rank < 0).astype(int) - (rank >= steps)
    rank, nearest = rank + steps * turns, nearest + steps * turns
    beyond = np.take_along_axis(x - nearest, np.argsort(rank, axis=1), axis=1) / steps
    shares = np.empty_like(x)  # of the corner k: by how much one coordinate is beyond the next
    shares[:, 0] = 1 - beyond[:, 0] + beyond[:, -1]
    shares[:, 1:] = (beyond[:, :-1] - beyond[:, 1:])[:, ::-1]
    k = np.arange(steps)[:, None]
    moves = np.where(rank[:, None] < steps - k, k, k - steps)
    return nearest[:, None].astype(np.int64) + moves, shares


def _codes(corners: np.ndarray) -> np.ndarray:
    """One number for each lattice point; the last coordinate follows from the others."""
    half = 1 << (BITS - 1)
    shifted = corners[..., :-1] + half
    if shifted.min() < 2 * shifted.shape[-1] or shifted.max() >= 2 * half - 2 * shifted.shape[-1]:
        raise ValueError(
            "the field's kernel of place and colour is too narrow for the frame: expected larger "
            "config.inference.crf_settings.alike_pixels or alike_colour"
        )
    return (shifted << (BITS * np.arange(shifted.shape[-1]))).sum(axis=-1)


def _neighbours(codes: np.ndarray, axis: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Place in `codes` of the point before and after each one along an axis; M where none is.

    Along axis j a step adds D to coordinate j and takes 1 from all others.
    """
    step = -sum(1 << (BITS * i) for i in range(dims))
    if axis < dims:
        step += (dims + 1) << (BITS * axis)

    def find(wanted):
        place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[place] == wanted, place, len(codes))

    return find(codes - step), find(codes + step)


def _stretched(probabilities: np.ndarray) -> np.ndarray:
    inside = probabilities[1]
    low, high = inside.min(), inside.max()
    if low == high:
        return probabilities
    inside = (inside - low) / (high - low)
    return np.stack([1 - inside, inside])


def _softmax(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)
