"""The matching of CFBI and CFBI+: anywhere in a reference frame and in windows of several sizes.

The bounds that the table shows ("at most") hold on two CPU cores at 480p, which is the default
grid. The dense search of CFBI with as many objects is the measure of all windows.
"""

import argparse
from functools import partial

import jax.numpy as jnp
import numpy as np

from vos_jax.benchmarks.kernels import bare_product, images
from vos_jax.benchmarks.measuring import Case
from vos_jax.ops.matching import global_matching
from vos_jax.ops.multi_local import multi_local_matching
from vos_jax.systems.cfbi.model import CFBI
from vos_jax.systems.cfbi.plus import CFBIPlus

OBJECTS = (1, 2, 10)


def matching_cases(options: argparse.Namespace) -> list[Case]:
    """Both systems with several numbers of objects, next to the background."""
    grid = tuple(options.grid)
    return [*_cfbi_cases(grid), *_cfbi_plus_cases(grid)]


def _cfbi_cases(grid):
    """Stride 4, all reference pixels or (l=2) a quarter of them; windows at half of that."""
    (channels,), (windows,) = CFBI.matching_dims, CFBI.named_windows["code"]
    product = f"matrix product, {channels} channels"
    cases = [Case(product, bare_product, partial(images, *grid, channels, channels))]
    for n in OBJECTS:
        baseline = product if n < 10 else _dense(1)
        cases.append(_global(_dense(n), grid, channels, n, 1, baseline, 1.6))
    cases.append(_global("CFBI global l=2, 2 objects", grid, channels, 2, 2, _dense(2), 0.35))
    half = tuple(n // 2 + 1 for n in grid)
    for n in OBJECTS:
        name = f"CFBI local, {_objects(n)}"
        cases.append(_local(name, half, channels, n, windows, 1, _dense(n), 0.1))
    return cases


def _cfbi_plus_cases(grid):
    """Strides 4, 8 and 16 with their own channels, windows and gaps."""
    scales = zip(
        CFBIPlus.matching_dims,
        CFBIPlus.named_windows["code"],
        CFBIPlus.global_rates,
        CFBIPlus.local_rates,
        strict=True,
    )
    cases = []
    for scale, (channels, windows, global_rate, local_rate) in enumerate(scales):
        size = tuple(-(-n // 2**scale) for n in grid)
        title = f"CFBI+ stride {4 * 2**scale}"
        name = f"{title} global" + (f" l={global_rate}" if global_rate > 1 else "")
        cases.append(_global(f"{name}, 2 objects", size, channels, 2, global_rate, _dense(2)))
        for n in OBJECTS if scale == 0 else (2,):
            bound = 0.2 if scale == 0 else None
            name = f"{title} local, {_objects(n)}"
            cases.append(_local(name, size, channels, n, windows, local_rate, _dense(n), bound))
    return cases


def _dense(objects):
    return f"CFBI global, {_objects(objects)}"


def _objects(n):
    return f"{n} object{'s' * (n > 1)}"


def _embeddings(size, channels, num_labels):
    labels = np.random.default_rng(1).integers(0, num_labels, (1, *size))
    return (*images(*size, channels, channels), jnp.asarray(labels, jnp.int32))


def _global(name, size, channels, objects, rate, baseline, bound=None):
    def search(query, reference, labels):
        reference, labels = reference[:, ::rate, ::rate], labels[:, ::rate, ::rate]
        flat = reference.reshape(1, -1, channels)
        return global_matching(query, flat, labels.reshape(1, -1), objects + 1)

    arguments = partial(_embeddings, size, channels, objects + 1)
    return Case(name, search, arguments, baseline, bound)


def _local(name, size, channels, objects, windows, rate, baseline, bound=None):
    search = partial(multi_local_matching, num_labels=objects + 1, windows=windows, rate=rate)
    arguments = partial(_embeddings, size, channels, objects + 1)
    return Case(name, search, arguments, baseline, bound)
