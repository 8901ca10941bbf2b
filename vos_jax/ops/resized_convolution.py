"""Convolution of an enlarged map that never makes the enlarged map.

Decoders enlarge a coarse map, lay it beside a fine one and convolve both. Resizing R and shifting
by a tap are linear along rows and columns: sum_t shift_t(R x) K_t = sum_t (shift_t R) (x K_t). So
the products with the kernel, most of the work, can run on the coarse grid. Where 256 channels grow
four times along both axes, as in DeepLabv3+, a sixth of the multiplications are left.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.ops.resize import interpolation_matrix


def convolve_resized(
    x: jax.Array, kernel: jax.Array, size: tuple[int, int], method: str = "bilinear"
) -> jax.Array:
    """x resized to `size`, then convolved with padding that keeps the size.

    Args:
        x: float [B, h, w, C].
        kernel: [kh, kw, C, D], odd sides, cast to the dtype of x.
        size: H, W.
        method: "bilinear" or "bicubic", as in ops.resize.

    Returns:
        float32 [B, H, W, D]; equals conv(resize(x), kernel) with zeros around the resized map, up
        to rounding (x is not rounded to its dtype between the two).
    """
    rows, columns = (
        _shifted(interpolation_matrix(n, m, method), taps)
        for n, m, taps in zip(x.shape[1:3], size, kernel.shape[:2], strict=True)
    )
    products = jnp.einsum(
        "bhwc,ijcd->bhwijd", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32
    )
    exact = lax.Precision.HIGHEST
    partial = jnp.einsum("Wjw,bhwijd->bhiWd", columns, products, precision=exact)
    return jnp.einsum("Hih,bhiWd->bHWd", rows, partial, precision=exact)


def _shifted(matrix: np.ndarray, taps: int) -> np.ndarray:
    """What each tap reads: [m, n] -> [m, taps, n], row i + t - taps // 2 or, outside, zeros."""
    margin = taps // 2
    padded = np.pad(matrix, ((margin, margin), (0, 0)))
    return np.stack([padded[t : t + len(matrix)] for t in range(taps)], axis=1)
