"""FEELVOS: an embedding matched to the first and the previous frame guides a per-object head.

Voigtlaender, Chai, Schroff, Adam, Leibe, Chen: "FEELVOS: Fast End-to-End Embedding Learning for
Video Object Segmentation", CVPR 2019, arXiv 1902.09513; released code: tensorflow/models,
research/feelvos.

Every frame passes once through DeepLabv3+ (stride 4) and an embedding head. For each object (the
background is one of them) the embedding is compared with the object's pixels in the first frame,
anywhere, and in the previous frame, within a window; the two distance maps, the previous mask and
the shared features go through a small convolutional head that gives one logit per object, and a
softmax runs over the objects.

Where the released code and the paper differ the code is followed: embeddings pass a ReLU, and the
previous mask is the hard label map (`previous_mask="soft"` is the paper's form). Extension: the
released script knows only objects of the first frame; here an object given later adds its pixels of
that frame to the reference pixels, which is the paper's P_{1,o} read as "the frame in which o is
given".

Glossary: h w the stride-4 grid, C embedding channels, L = N + 1 labels, P reference pixels.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.deeplab import DeepLabV3Plus, normalise
from vos_jax.nn.remat import block
from vos_jax.ops.losses import bootstrapped_cross_entropy
from vos_jax.ops.matching import (
    global_matching,
    local_matching,
    normalise_distance,
    sample_references,
)
from vos_jax.ops.resize import resize_bilinear, resize_nearest
from vos_jax.systems.base import Traits, of_predicted
from vos_jax.systems.feelvos.head import EMBEDDING_INIT, Head, SeparableConv
from vos_jax.systems.frame_size import resize_frame, scaled_size
from vos_jax.systems.label_logits import LabelLogitsModel, Prediction


@struct.dataclass
class Features:
    """One frame at stride 4."""

    shared: jax.Array  # [B, h, w, features]
    embedding: jax.Array  # [B, h, w, C], non-negative


@struct.dataclass
class Memory:
    """What the next frame may look at."""

    reference: jax.Array  # [B, P, C] embeddings of pixels with given labels
    reference_labels: jax.Array  # int32 [B, P], outside 0..N: not used
    count: jax.Array  # int32 [], how many of the P are in use
    present: jax.Array  # bool [B, N+1], label has at least one reference pixel
    previous: jax.Array  # [B, h, w, C]
    previous_masks: jax.Array  # [B, N+1, h, w]


class FEELVOS(LabelLogitsModel):
    """The network. Fields are the released configuration; the cues are the ablation's switches.

    output_stride 8 doubles the atrous rates and shares its weights with 16: the release trains
    at 16 and tests at 8.
    """

    backbone: str = "xception_65"
    output_stride: int = 8
    width: float = 1.0  # channel multiplier of the backbone
    backbone_norm_eval: bool = True  # BatchNorm of the backbone always uses its running statistics
    norm_eval: bool = True  # BatchNorm of ASPP and decoder always uses its running statistics
    momentum: float = 0.9997  # of live running statistics
    dropout: float = 0.1  # after the ASPP, in training
    short_side: int = 0  # frames are shrunk until their shorter side is this long; 0: as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features and head; "bfloat16" halves their memory
    precision: str = "highest"  # of distances; or "x3" or "default", see ops.platforms
    kernel_bytes: int = 0  # of a product in matching, for each video; 0: the platform's own
    features: int = 256  # of decoder and head
    embedding_dim: int = 100
    embedding_init: str = "release"  # or "identity", see identity_embedding
    window: int = 15  # half size of the local search window, in stride-4 pixels
    k_nearest: int = 1
    samples: int = 1024  # reference pixels per label in training
    first_frame_global: bool = True
    previous_frame_local: bool = True
    previous_frame_global: bool = False
    previous_prediction: bool = True
    previous_mask: str = "hard"  # "hard" (released code) or "soft" (paper)

    def setup(self):
        choices = {"previous_mask": ("hard", "soft"), "embedding_init": tuple(EMBEDDING_INIT)}
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.model.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        self.deeplab = DeepLabV3Plus(
            backbone=self.backbone,
            output_stride=self.output_stride,
            features=self.features,
            width=self.width,
            backbone_norm_eval=self.backbone_norm_eval,
            norm_eval=self.norm_eval,
            momentum=self.momentum,
            dropout=self.dropout,
            dtype=jnp.dtype(self.dtype),
        )
        self.embedding = block(SeparableConv)(
            self.features,
            self.embedding_dim,
            3,
            depthwise_init=EMBEDDING_INIT[self.embedding_init],
            pointwise_init=EMBEDDING_INIT[self.embedding_init],
        )
        self.head = Head(self.features, self.cues)

    @property
    def traits(self) -> Traits:
        """The previous masks are probabilities (paper) or hard (released code)."""
        return Traits(
            soft_feedback=self.previous_mask == "soft",
            backbone_scopes=(("deeplab", "backbone"),),
        )

    @property
    def cues(self) -> int:
        """How many cue channels the head sees."""
        return sum(
            (
                self.first_frame_global,
                self.previous_prediction,
                self.previous_frame_local,
                self.previous_frame_global,
            )
        )

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame as it is (release), or shrunk and scaled; masks keep the original size."""
        return resize_frame(frame, scaled_size(frame.shape[:2], self.short_side, self.scale))

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, H, W, 3] in 0..255, uint8 or float32."""
        shared = self.deeplab(normalise(inputs, self.backbone), train=train)
        return Features(shared, self.embedding(shared))

    def start(
        self,
        features: Features,
        masks: jax.Array,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory of the first frame; an object without a pixel at stride 4 is lost (release)."""
        labels, masks = self._at_stride_4(features, masks, valid)
        if train:
            rng = self.make_rng("sample")
            pixels, pixel_labels = sample_references(
                rng, features.embedding, labels, masks.shape[1], self.samples
            )
            count = jnp.int32(pixels.shape[1])
        else:
            pixels, pixel_labels = _flatten(features.embedding), labels.reshape(labels.shape[0], -1)
            count = jnp.int32(pixels.shape[1])
            room = (num_references - 1) * pixels.shape[1]
            pixels = jnp.pad(pixels, ((0, 0), (0, room), (0, 0)))
            pixel_labels = jnp.pad(pixel_labels, ((0, 0), (0, room)))
        return Memory(
            reference=pixels,
            reference_labels=pixel_labels,
            count=count,
            present=_present(labels, masks.shape[1]),
            previous=features.embedding,
            previous_masks=masks,
        )

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """Logits of the current frame; the cues come in the order of the released weights."""
        return Prediction(
            self.head(features.shared, self._cue_maps(memory, features)), memory.present
        )

    def _cue_maps(self, memory: Memory, features: Features) -> jax.Array:
        """The per-label maps that guide the head, [B, N+1, h, w, cues], in the release's order."""
        distances = self.distances(memory, features)
        cues = [jnp.moveaxis(normalise_distance(d), -1, 1) for d in distances]
        if self.previous_prediction:
            cues.insert(int(self.first_frame_global), memory.previous_masks)
        return jnp.stack(cues, axis=-1)

    def distances(self, memory: Memory, features: Features) -> list[jax.Array]:
        """Squared distances [B, h, w, N+1] to the nearest pixel of each label, per enabled cue."""
        num_labels = memory.present.shape[1]
        query, labels = features.embedding, _labels(memory.previous_masks)
        distances = []
        computed = {"precision": self.precision, "kernel_bytes": self.kernel_bytes}
        anywhere = partial(global_matching, k=self.k_nearest, **computed)
        if self.first_frame_global:
            pixels = (memory.reference, memory.reference_labels)
            distances.append(anywhere(query, *pixels, num_labels, count=memory.count))
        if self.previous_frame_local:
            previous = (memory.previous, labels)
            distances.append(local_matching(query, *previous, num_labels, self.window, **computed))
        if self.previous_frame_global:
            pixels = (_flatten(memory.previous), labels.reshape(labels.shape[0], -1))
            distances.append(anywhere(query, *pixels, num_labels))
        return distances

    def evidence(self, memory: Memory, features: Features) -> dict[str, jax.Array]:
        """Normalised distances of the enabled cues: 0 near, 1 far."""
        enabled = {
            "first_frame_distance": self.first_frame_global,
            "previous_frame_distance": self.previous_frame_local,
            "previous_frame_distance_anywhere": self.previous_frame_global,
        }
        names = [name for name, on in enabled.items() if on]
        maps = [
            jnp.moveaxis(normalise_distance(d), -1, 1) for d in self.distances(memory, features)
        ]
        return {name: found[:, 1:] for name, found in zip(names, maps, strict=True)}

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction | None, masks: jax.Array
    ) -> Memory:
        """The frame becomes the previous frame, its masks [B, N+1, H, W] brought to stride 4."""
        everything = jnp.ones((masks.shape[0], masks.shape[1] - 1), bool)
        _, masks = self._at_stride_4(features, masks, everything)
        return memory.replace(previous=features.embedding, previous_masks=masks)

    def introduce(
        self, memory: Memory, features: Features, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """Add the pixels of the objects in `new` bool [B, N] to the reference pixels."""
        labels, _ = self._at_stride_4(features, masks, new)
        labels = jnp.where(labels > 0, labels, -1)
        at = (jnp.int32(0), memory.count)
        size = labels.shape[1] * labels.shape[2]
        return memory.replace(
            reference=jax.lax.dynamic_update_slice(
                memory.reference, _flatten(features.embedding), (*at, jnp.int32(0))
            ),
            reference_labels=jax.lax.dynamic_update_slice(
                memory.reference_labels, labels.reshape(labels.shape[0], -1), at
            ),
            count=memory.count + size,
            present=memory.present | _present(labels, memory.present.shape[1]),
        )

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        fraction: float = 0.15,
        mining_steps: int = 100_000,
    ) -> jax.Array:
        """Bootstrapped cross-entropy of each video, mean over the predicted frames, [B]."""

        def frame_losses(prediction, labels):
            logits = resize_bilinear(prediction.logits, labels.shape[-2:], axes=(2, 3))
            return bootstrapped_cross_entropy(
                logits, labels, step, fraction, mining_steps, valid=prediction.present
            )

        labels = of_predicted(batch["labels"], predictions)
        return jax.vmap(frame_losses)(predictions, labels).mean(axis=0)

    def _at_stride_4(
        self, features: Features, masks: jax.Array, objects: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Labels int32 [B, h, w] and masks [B, N+1, h, w] by nearest neighbour.

        Pixels of objects that `objects` bool [B, N] leaves out become void, label -1.
        """
        masks = resize_nearest(masks, features.embedding.shape[1:3], axes=(2, 3))
        labels_kept = jnp.pad(objects, ((0, 0), (1, 0)), constant_values=True)
        masks = masks * labels_kept[:, :, None, None]
        return _labels(masks), masks


def _flatten(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _labels(masks: jax.Array) -> jax.Array:
    """Label of the largest channel, int32 [B, h, w]; -1 where all channels are zero (void)."""
    return jnp.where(masks.sum(axis=1) > 0, jnp.argmax(masks, axis=1).astype(jnp.int32), -1)


def _present(labels: jax.Array, num_labels: int) -> jax.Array:
    """Which labels have a pixel, bool [B, L]."""
    return (labels[:, None] == jnp.arange(num_labels)[:, None, None]).any(axis=(2, 3))
