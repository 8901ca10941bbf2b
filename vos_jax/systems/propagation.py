"""Nearest-neighbour label propagation with a pretrained backbone's features: nothing is trained.

Every pixel takes the label of the nearest feature vector among the pixels with given labels (those
of the first frame, and of the objects that appear later) and, within a window, among those of the
previous frame. It is what a trained system has to beat on the same backbone, so results tables show
it beside them.

Glossary: h w the grid of the backbone's last map, C its channels, L = N + 1 labels, P reference
pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.deeplab import build_backbone, normalise
from vos_jax.ops.matching import global_matching, local_matching
from vos_jax.ops.resize import resize_nearest
from vos_jax.systems.base import Traits, one_hot
from vos_jax.systems.frame_size import resize_frame, scaled_size
from vos_jax.systems.label_logits import LabelLogitsModel, Prediction


@struct.dataclass
class Memory:
    """What the next frame may look at."""

    reference: jax.Array  # [B, P, C] features of pixels with given labels
    reference_labels: jax.Array  # int32 [B, P], -1: void
    count: jax.Array  # int32 [], how many of the P are in use
    present: jax.Array  # bool [B, L], label has at least one reference pixel
    previous: jax.Array  # [B, h, w, C]
    previous_labels: jax.Array  # int32 [B, h, w], -1: void


class Propagation(LabelLogitsModel):
    """FEELVOS's matching on normalised backbone features, the smaller distance deciding.

    Its variables are the backbone's alone, such as vos_jax.convert writes. An object without a
    pixel on the grid of the features is lost.
    """

    backbone: str = "xception_65"
    output_stride: int = 8
    width: float = 1.0  # channel multiplier of the backbone
    window: int = 15  # half size of the window in the previous frame, in pixels of the features
    short_side: int = 0  # frames are shrunk until their shorter side is this long; 0: as they are
    scale: float = 1.0  # of the frame after that, see systems.views

    @property
    def traits(self) -> Traits:
        """The variables are the backbone's alone."""
        return Traits(backbone_scopes=(("trunk",),))

    def setup(self):
        self.trunk = build_backbone(self.backbone, self.output_stride, self.width)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame shrunk and scaled; masks keep the original size."""
        return resize_frame(frame, scaled_size(frame.shape[:2], self.short_side, self.scale))

    def encode(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Unit vectors [B, h, w, C] of the backbone's last map, at `output_stride`."""
        features = self.trunk(normalise(inputs, self.backbone), False)[-1]
        return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-6)

    def start(
        self,
        features: jax.Array,
        masks: jax.Array,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory of the first frame, whose background counts as well."""
        batch, height, width, channels = features.shape
        labels, pixels = _labels_at(features, masks, valid), num_references * height * width
        empty = Memory(
            reference=jnp.zeros((batch, pixels, channels), features.dtype),
            reference_labels=jnp.zeros((batch, pixels), jnp.int32),
            count=jnp.int32(0),
            present=jnp.zeros(masks.shape[:2], bool),
            previous=features,
            previous_labels=labels,
        )
        return _with_reference(empty, features, labels)

    def segment(self, memory: Memory, features: jax.Array, train: bool = False) -> Prediction:
        """Minus the squared distance to the nearest pixel of each label."""
        num_labels = memory.present.shape[1]
        pixels = (memory.reference, memory.reference_labels)
        anywhere = global_matching(features, *pixels, num_labels, count=memory.count)
        previous = (memory.previous, memory.previous_labels)
        nearby = local_matching(features, *previous, num_labels, self.window)
        nearest = jnp.moveaxis(jnp.minimum(anywhere, nearby), -1, 1)
        # unit vectors are at most 2 apart: 4 stands for "no pixel of this label"
        return Prediction(-jnp.minimum(nearest, 4.0), memory.present)

    def memorize(
        self, memory: Memory, features: jax.Array, prediction: Prediction | None, masks: jax.Array
    ) -> Memory:
        """The frame becomes the previous frame."""
        everything = jnp.ones((masks.shape[0], masks.shape[1] - 1), bool)
        labels = _labels_at(features, masks, everything)
        return memory.replace(previous=features, previous_labels=labels)

    def introduce(
        self, memory: Memory, features: jax.Array, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """Add the pixels of the objects in `new` bool [B, N] to the reference pixels."""
        labels = _labels_at(features, masks, new)
        return _with_reference(memory, features, jnp.where(labels > 0, labels, -1))


def _labels_at(features: jax.Array, masks: jax.Array, objects: jax.Array) -> jax.Array:
    """Labels int32 [B, h, w] of masks [B, L, H, W] on the grid of the features; void is -1.

    Pixels of objects that `objects` bool [B, N] leaves out are void.
    """
    masks = resize_nearest(masks, features.shape[1:3], axes=(2, 3))
    masks *= jnp.pad(objects, ((0, 0), (1, 0)), constant_values=True)[:, :, None, None]
    return jnp.where(masks.sum(axis=1) > 0, jnp.argmax(masks, axis=1).astype(jnp.int32), -1)


def _with_reference(memory: Memory, features: jax.Array, labels: jax.Array) -> Memory:
    """The memory with one more reference frame, labels int32 [B, h, w]."""
    batch, height, width, channels = features.shape
    found = one_hot(labels, memory.present.shape[1] - 1) > 0
    return memory.replace(
        reference=jax.lax.dynamic_update_slice(
            memory.reference, features.reshape(batch, -1, channels), (0, memory.count, 0)
        ),
        reference_labels=jax.lax.dynamic_update_slice(
            memory.reference_labels, labels.reshape(batch, -1), (0, memory.count)
        ),
        count=memory.count + height * width,
        present=memory.present | found.any(axis=(2, 3)),
    )
