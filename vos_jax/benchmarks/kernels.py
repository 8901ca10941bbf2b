"""Matching as in FEELVOS, memory read, convolution and resizing, next to what they must cost."""

import argparse
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vos_jax.benchmarks.measuring import Case
from vos_jax.ops.convolution import conv_general_dilated
from vos_jax.ops.matching import global_matching, local_matching
from vos_jax.ops.memory_read import memory_read, read_products
from vos_jax.ops.resize import resize_bilinear
from vos_jax.ops.resized_convolution import convolve_resized

LAYOUT = ("NHWC", "HWIO", "NHWC")


def kernel_cases(options: argparse.Namespace) -> list[Case]:
    """Matching, convolution and resizing at the stride-4 grid of a frame; reads of its memory."""
    h, w = options.grid
    channels, features = 100, 256

    def embeddings(num_labels):
        labels = np.random.default_rng(1).integers(0, num_labels, (1, h, w))
        return (*images(h, w, channels, channels), jnp.asarray(labels, jnp.int32))

    def match_all(query, reference, labels, num_labels):
        flat = reference.reshape(1, h * w, channels)
        return global_matching(query, flat, labels.reshape(1, h * w), num_labels)

    product = "matrix product"
    cases = [Case(product, bare_product, partial(images, h, w, channels, channels))]
    for n in (1, 3, 10):
        cases.append(
            Case(
                f"global, {n} label{'s' * (n > 1)}",
                partial(match_all, num_labels=n),
                partial(embeddings, n),
                product,
            )
        )
    for n in (3, 10):
        cases.append(
            Case(
                f"local K=15, {n} labels",
                partial(local_matching, num_labels=n, window=15),
                partial(embeddings, n),
                product,
            )
        )
    for frames in (5, 10, 20):
        cases += read_cases(frames, options)
    return cases + _convolution_cases(h, w, features) + _resize_cases(h, w, features)


def images(height: int, width: int, *depths: int) -> tuple[jax.Array, ...]:
    """Random maps [1, height, width, depth], one for each depth."""
    rng = np.random.default_rng(0)
    shape = (1, height, width)
    return tuple(jnp.asarray(rng.uniform(0, 0.5, (*shape, d)), jnp.float32) for d in depths)


def read_cases(frames: int, options: argparse.Namespace) -> list[Case]:
    """A read from `frames` memory frames, next to its two matrix products alone."""
    pixels = math.prod(math.ceil(n / 16) for n in options.frame)

    def arguments():
        rng = np.random.default_rng(0)
        shapes = [(1, pixels, 128)] + [(1, options.objects, frames, pixels, c) for c in (128, 512)]
        return tuple(jnp.asarray(rng.normal(size=s) / 8, jnp.float32) for s in shapes)

    products = f"two matrix products, T={frames}"
    return [
        Case(products, read_products, arguments),
        Case(f"memory read, T={frames}", memory_read, arguments, products),
    ]


def _convolution_cases(h, w, features):
    """Depthwise and 1x1 at stride 4, the widest branch of ResNet's ASPP at stride 16."""
    cases = []
    for title, shape, side, rate, groups in (
        (f"depthwise 7x7, {features} channels", (h, w, features), 7, 1, features),
        (f"1x1, {features} channels", (h, w, features), 1, 1, 1),
        ("3x3, 2048 channels, rate 18", (-(-h // 4), -(-w // 4), 2048), 3, 18, 1),
    ):
        options = dict(
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=LAYOUT,
            rhs_dilation=(rate, rate),
            feature_group_count=groups,
        )
        arguments = partial(_map_and_kernel, shape, side, shape[-1] // groups, features)
        library = f"{title}, library"
        cases += [
            Case(library, partial(lax.conv_general_dilated, **options), arguments),
            Case(title, partial(conv_general_dilated, **options), arguments, library),
        ]
    return cases


def _map_and_kernel(shape, side, inputs, features):
    kernel = np.random.default_rng(2).normal(size=(side, side, inputs, features))
    return (*images(*shape), jnp.asarray(kernel, jnp.float32))


def _resize_cases(h, w, features):
    """Enlarging of logits and features, and of a decoder's map that is convolved next."""

    def logits():
        return (jnp.moveaxis(images(h, w, 4)[0], -1, 1),)

    def enlarge_and_convolve(x, kernel):
        return conv_general_dilated(
            resize_bilinear(x, (h, w)), kernel, (1, 1), "SAME", dimension_numbers=LAYOUT
        )

    half = partial(images, (h + 1) // 2, (w + 1) // 2, features)
    quarter = partial(_map_and_kernel, (-(-h // 4), -(-w // 4), features), 3, features, features)
    quadruple = partial(resize_bilinear, size=(4 * h, 4 * w), axes=(2, 3))
    plain = f"upsample {features} channels x4, then 3x3"
    return [
        Case("upsample logits x4", quadruple, logits),
        Case(f"upsample {features} channels x2", partial(resize_bilinear, size=(h, w)), half),
        Case(plain, enlarge_and_convolve, quarter),
        Case(f"{plain}, in one", partial(convolve_resized, size=(h, w)), quarter, plain),
    ]


def bare_product(query: jax.Array, reference: jax.Array) -> jax.Array:
    """All inner products of [1, h, w, C] and [1, h, w, C], 1024 references at a time, dropped."""
    channels = query.shape[-1]
    x, y = query.reshape(-1, channels), reference.reshape(-1, channels)
    block = min(1024, y.shape[0])

    def multiply(start):
        rows = lax.dynamic_slice_in_dim(y, start, block)
        d = lax.dot_general(rows, x, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
        return lax.optimization_barrier(d)[0, 0]  # else only this element would be computed

    return jnp.sum(lax.map(multiply, jnp.arange(0, y.shape[0], block)))
