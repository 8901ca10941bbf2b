"""From RGB in 0..255 to what pretrained backbones expect."""

import jax
import jax.numpy as jnp

# torchvision's ImageNet statistics, of RGB in 0..1
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

# mean of ImageNet's training images in 0..255, blue first
_CAFFE_MEAN = (104.00699, 116.66877, 122.67892)


def imagenet_normalise(frames: jax.Array) -> jax.Array:
    """uint8 or float [..., 3] in 0..255 -> float32 without ImageNet's mean and deviation.

    The input of torchvision's networks (ResNet, MobileNetV2).
    """
    frames = jnp.asarray(frames, jnp.float32)
    return (frames / 255 - jnp.asarray(_IMAGENET_MEAN)) / jnp.asarray(_IMAGENET_STD)


def inception_normalise(frames: jax.Array) -> jax.Array:
    """uint8 or float [..., 3] in 0..255 -> float32 in [-1, 1], the input of DeepLab's Xception."""
    return jnp.asarray(frames, jnp.float32) * (2 / 255) - 1


def caffe_normalise(frames: jax.Array) -> jax.Array:
    """uint8 or float RGB [..., 3] in 0..255 -> float32 BGR without ImageNet's mean, not divided.

    The input of networks that come from Caffe, such as DeepLab's first ResNet-101.
    """
    return jnp.asarray(frames, jnp.float32)[..., ::-1] - jnp.asarray(_CAFFE_MEAN)
