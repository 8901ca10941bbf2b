"""CFBI: the background is matched, attended to and segmented as thoroughly as the objects.

Yang, Wei, Yang: "Collaborative Video Object Segmentation by Foreground-Background Integration",
ECCV 2020, arXiv 2003.08333 (CFBI), and "... by Multi-Scale Foreground-Background Integration",
TPAMI 2021, arXiv 2010.06349 (CFBI+); released code: z-x-yang/CFBI (network and inference).

Every frame passes once through DeepLabv3+ and becomes an embedding at stride 4 (CFBI) or at strides
4, 8 and 16 (CFBI+). For each label, background included, it is compared with the label's pixels
in the reference frames, anywhere, and in the previous frame, within windows of several sizes; the
distances to the label and to everything else, the previous mask and the embeddings themselves go
through one head, gated by the mean embeddings inside and outside of the label's masks.

Where the released code and the papers differ the code is followed:
- frames are enlarged or shrunk to sides 16 n + 1 by cubic interpolation that is not clipped, and go
  in as BGR although ImageNet's mean and deviation are taken off in the order R, G, B;
- at half resolution (CFBI's local matching) labels are sampled one pixel up and left of embeddings;
- maps of the largest window come first;
- CFBI+ gates all scales by the means at stride 4;
- where atrous matching thins the reference labels in training, and in inference with `min_pixels`,
  the means of the reference frames count the pixels left out as not belonging to the label;
- the windows of CFBI+ at stride 16 are 2, 4, ..., 10 (the paper's table: 4, 6, 8, 10).
Deviation: the release counts every id up to the largest one as an object, here only ids that were
given take part.

Glossary: B videos, N objects, L = N + 1 labels, hs ws the grid at stride s, C embedding channels,
P reference pixels, n windows.
"""

from collections.abc import Mapping

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.nn.deeplab_dense import DenseDeepLabV3Plus, Maps
from vos_jax.nn.group_norm import ConvGroupNorm
from vos_jax.nn.images import imagenet_normalise
from vos_jax.nn.remat import block
from vos_jax.ops.collaborative import (
    LabelSums,
    atrous_labels,
    background_distances,
    calibrate_background,
)
from vos_jax.ops.losses import EXCLUDED, bootstrapped_cross_entropy
from vos_jax.ops.matching import global_matching, normalise_distance
from vos_jax.ops.multi_local import multi_local_matching
from vos_jax.ops.resize import resize_bilinear, resize_nearest
from vos_jax.systems.base import Traits, of_predicted
from vos_jax.systems.cfbi.ensembler import Ensembler
from vos_jax.systems.cfbi.frames import (
    Features,
    Memory,
    labels_at_scales,
    merge_labels,
    network_size,
)
from vos_jax.systems.label_logits import LabelLogitsModel, Prediction


class CFBI(LabelLogitsModel):
    """The network. Fields are CFBI's released configuration; tuples have an entry per scale."""

    named_windows = {name: ((2, 4, 6, 8, 10, 12),) for name in ("code", "paper")}

    backbone: str = "resnet101"  # or "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    backbone_norm_eval: bool = True  # batch normalisation keeps its running statistics in training
    norm_eval: bool = True  # ... in ASPP and decoder
    momentum: float = 0.9  # of live statistics
    dropout: float = 0.1  # after the ASPP, in training
    features: int = 256  # of ASPP and decoder
    embedding_dim: int = 100
    head_width: int = 256  # channels of the head's first stage
    groups: int = 32  # of most group normalisations
    matching_dims: tuple[int, ...] = (100,)  # leading channels of the embedding that are matched
    windows: tuple[tuple[int, ...], ...] | str = "code"  # or "paper", or half sizes per scale
    global_rates: tuple[int, ...] = (1,)  # of atrous matching
    local_rates: tuple[int, ...] = (1,)
    min_pixels: int = 0  # labels of no more than this times rate^2 pixels are matched whole
    local_halved: bool = True  # local matching at half the resolution
    matching_bias: bool = True  # of the distances, one for the background and one for the objects
    background_matching: bool = True  # distances to everything but the label
    background_attention: bool = True  # means outside of the label
    matching_dtype: str = "float32"  # of what is compared; "float16" is the release's option
    max_long_edge: int = 1040  # longer frames are shrunk (800 with several views)
    short_side: int = 0  # frames are shrunk until their shorter side is this long; 0: as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features and head; "bfloat16" halves their memory
    precision: str = "highest"  # of distances; or "x3" or "default", see ops.platforms
    kernel_bytes: int = 0  # of a product in matching, for each video; 0: the platform's own

    @property
    def traits(self) -> Traits:
        """ResNet-101 comes with ASPP and decoder (trained on COCO), MobileNetV2 alone."""
        scope = ("deeplab",) if self.backbone == "resnet101" else ("deeplab", "backbone")
        return Traits(backbone_scopes=(scope,))

    def setup(self):
        scales = len(self.scale_windows)
        for field in ("matching_dims", "global_rates", "local_rates"):
            if len(getattr(self, field)) != scales:
                raise ValueError(
                    f"config.model.{field}: expected {scales} entries as in config.model.windows, "
                    f"found {getattr(self, field)}"
                )
        dtype = jnp.dtype(self.dtype)
        self.deeplab = DenseDeepLabV3Plus(
            backbone=self.backbone,
            features=self.features,
            width=self.width,
            backbone_norm_eval=self.backbone_norm_eval,
            norm_eval=self.norm_eval,
            momentum=self.momentum,
            dropout=self.dropout,
            dtype=dtype,
        )
        if self.matching_bias:
            self.background_bias = self.param("background_bias", nn.initializers.zeros, (scales,))
            self.foreground_bias = self.param("foreground_bias", nn.initializers.zeros, (scales,))
        self.ensembler = Ensembler(self.head_width, self.groups, dtype)
        self._setup_scales(dtype)

    @property
    def scale_windows(self) -> tuple[tuple[int, ...], ...]:
        """The windows of each scale, half sizes; ValueError for an unknown name."""
        if not isinstance(self.windows, str):
            return self.windows
        if self.windows not in self.named_windows:
            raise ValueError(
                f"config.model.windows: expected {' or '.join(self.named_windows)}, or half sizes "
                f"per scale, found {self.windows!r}"
            )
        return self.named_windows[self.windows]

    def _setup_scales(self, dtype):
        shared = dict(use_bias=True, activation=nn.relu, dtype=dtype)
        layer = block(ConvGroupNorm)
        self.embedding_depthwise = layer(
            self.features, kernel=3, depthwise=True, groups=self.groups, **shared
        )
        self.embedding = layer(self.embedding_dim, groups=self.embedding_dim // 4, **shared)
        self.prehead = layer(self.head_width // 4, groups=self.head_width // 16, **shared)

    def _embed(self, maps: Maps) -> tuple[jax.Array, ...]:
        """The embedding of each scale, after ReLU."""
        return (self.embedding(self.embedding_depthwise(maps.decoded)),)

    def _head_input(self, cues: jax.Array, frames: list[jax.Array]) -> jax.Array:
        """What the head sees at one scale: cues [M, h, w, n] and maps of embeddings."""
        return jnp.concatenate([*frames, self.prehead(cues)], axis=-1)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame at the network's size, float32 [h, w, 3]; masks keep the original size."""
        bounds = (self.max_long_edge, self.short_side, self.scale)
        height, width = network_size(frame.shape[:2], *bounds)
        frame = frame.astype(np.float32)
        if (height, width) == frame.shape[:2]:
            return frame
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC)

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, H, W, 3] in 0..255, uint8 or float32."""
        maps = self.deeplab(imagenet_normalise(inputs[..., ::-1]), train=train)
        return Features(self._embed(maps), maps.low_level)

    def start(
        self,
        features: Features,
        masks: jax.Array,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory of the first frame; every valid object takes part, also without a pixel."""
        present = jnp.pad(valid, ((0, 0), (1, 0)), constant_values=True)
        masks = masks * present[:, :, None, None]
        labels = labels_at_scales(masks, features)
        pixels, pixel_labels, sums = self._reference(
            features.embeddings, labels, masks.shape[1], train
        )
        room = [(num_references - 1) * x.shape[1] for x in pixels]
        return Memory(
            reference=tuple(
                jnp.pad(x, ((0, 0), (0, n), (0, 0))) for x, n in zip(pixels, room, strict=True)
            ),
            reference_labels=tuple(
                jnp.pad(x, ((0, 0), (0, n))) for x, n in zip(pixel_labels, room, strict=True)
            ),
            frames=jnp.int32(1),
            reference_sums=sums,
            present=present,
            previous=features.embeddings,
            previous_labels=labels,
        )

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """Logits of the current frame."""
        inputs = []
        for scale, current in enumerate(features.embeddings):
            cues = merge_labels(self._cues(memory, current, scale))
            num_labels = memory.present.shape[1]
            mask = jax.nn.one_hot(memory.previous_labels[scale], num_labels, axis=1)
            mask = mask[..., None].astype(current.dtype)
            previous = memory.previous[scale][:, None]
            frames = [jnp.broadcast_to(current[:, None], mask.shape[:-1] + current.shape[-1:])]
            frames += [previous * mask, previous * (1 - mask)]
            inputs.append(
                self._head_input(cues.astype(current.dtype), [merge_labels(x) for x in frames])
            )
        guidance = merge_labels(self._guidance(memory))
        logits = self.ensembler(tuple(inputs), guidance, features.low_level)
        logits = [x.reshape(*memory.present.shape, *x.shape[1:]) for x in logits]
        return Prediction(calibrate_background(*logits, memory.present), memory.present)

    def _cues(self, memory: Memory, current: jax.Array, scale: int) -> jax.Array:
        """Distances and previous mask of each label at one scale, [B, L, hs, ws, 2 n + 3].

        In order: to the label anywhere and in each window, the mask, to all other labels in each
        window and anywhere.
        """
        num_labels = memory.present.shape[1]
        mask = jax.nn.one_hot(memory.previous_labels[scale], num_labels, axis=1)[..., None]
        distances = self._distances(memory, current, scale)
        if not self.background_matching:
            return jnp.concatenate([distances, mask], axis=-1)
        others = background_distances(distances, memory.present)
        others = [others[..., 1:], others[..., :1]]
        return jnp.concatenate([distances, mask, *others], axis=-1)

    def _distances(self, memory: Memory, current: jax.Array, scale: int) -> jax.Array:
        """Normalised distances to each label, anywhere and in windows, [B, L, hs, ws, 1 + n]."""
        bias = self._biases(memory.present.shape[1], scale)
        anywhere = normalise_distance(self.match_anywhere(memory, current, scale), bias)[..., None]
        within = normalise_distance(self.match_within(memory, current, scale), bias[:, None])
        within = jnp.concatenate([within[..., -1:], within[..., :-1]], axis=-1)
        if self.local_halved:
            flat = resize_bilinear(within.reshape(*within.shape[:3], -1), current.shape[1:3])
            within = flat.reshape(*flat.shape[:3], *within.shape[3:])
        return jnp.moveaxis(jnp.concatenate([anywhere, within], axis=-1), 3, 1)

    def evidence(self, memory: Memory, features: Features) -> dict[str, jax.Array]:
        """Normalised distances at the finest scale, the previous frame's in its largest window."""
        distances = self._distances(memory, features.embeddings[0], 0)[:, 1:]
        return {
            "reference_distance": distances[..., 0],
            "previous_frame_distance": distances[..., 1],
        }

    def match_anywhere(self, memory: Memory, current: jax.Array, scale: int) -> jax.Array:
        """Squared distances [B, hs, ws, L] to each label's nearest reference pixel."""
        pixels, labels = memory.reference[scale], memory.reference_labels[scale]
        count = memory.frames * self._reference_pixels(current.shape[1:3], scale)
        count = jnp.minimum(count, labels.shape[1])
        query, num_labels = self._matched(current, scale), memory.present.shape[1]
        return global_matching(query, pixels, labels, num_labels, count, **self._computed)

    def match_within(self, memory: Memory, current: jax.Array, scale: int) -> jax.Array:
        """Squared distances [B, h', w', L, n] to the nearest previous pixel in each window.

        h' and w' are hs and ws, or half of them where matching is halved.
        """
        query = self._matched(current, scale)
        previous = self._matched(memory.previous[scale], scale)
        labels = memory.previous_labels[scale]
        if self.local_halved:
            half = tuple(n // 2 + 1 for n in current.shape[1:3])
            query, previous = resize_bilinear(query, half), resize_bilinear(previous, half)
            labels = resize_nearest(labels, half, align_corners=False)
        windows, rate = self.scale_windows[scale], self.local_rates[scale]
        pixels, num_labels = (query, previous, labels), memory.present.shape[1]
        return multi_local_matching(*pixels, num_labels, windows, rate, **self._computed)

    @property
    def _computed(self) -> dict[str, str | int]:
        return {"precision": self.precision, "kernel_bytes": self.kernel_bytes}

    def _biases(self, num_labels: int, scale: int) -> jax.Array:
        """What is added to the distances to each label, [L]."""
        if not self.matching_bias:
            return jnp.zeros(num_labels)
        background = jnp.arange(num_labels) == 0
        return jnp.where(background, self.background_bias[scale], self.foreground_bias[scale])

    def _guidance(self, memory: Memory) -> jax.Array:
        """Mean embeddings of reference and previous frame, in and out of each label [B, L, 4 C]."""
        num_labels = memory.present.shape[1]
        previous = LabelSums.of(memory.previous[0], memory.previous_labels[0], num_labels)
        means = [*memory.reference_sums.means(), *previous.means()]
        return jnp.concatenate(means if self.background_attention else means[::2], axis=-1)

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction | None, masks: jax.Array
    ) -> Memory:
        """The frame becomes the previous frame, with its masks [B, N+1, H, W]."""
        labels = labels_at_scales(masks, features)
        return memory.replace(previous=features.embeddings, previous_labels=labels)

    def introduce(
        self, memory: Memory, features: Features, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """The frame memorised last, with its labels of all objects, is one more reference frame.

        A video without an object in `new` bool [B, N] gets none.
        """
        added = new.any(axis=1)
        labels = [jnp.where(added[:, None, None], x, -1) for x in memory.previous_labels]
        pixels, pixel_labels, sums = self._reference(
            memory.previous, labels, memory.present.shape[1], train=False
        )

        def append(whole, part):
            start = (0, memory.frames * part.shape[1]) + (0,) * (part.ndim - 2)
            return jax.lax.dynamic_update_slice(whole, part.astype(whole.dtype), start)

        sums = jax.tree.map(lambda x: x * added.reshape((-1,) + (1,) * (x.ndim - 1)), sums)
        return memory.replace(
            reference=tuple(map(append, memory.reference, pixels)),
            reference_labels=tuple(map(append, memory.reference_labels, pixel_labels)),
            frames=memory.frames + 1,
            reference_sums=jax.tree.map(jnp.add, memory.reference_sums, sums),
            present=memory.present | jnp.pad(new, ((0, 0), (1, 0))),
        )

    def _reference(self, embeddings, labels, num_labels: int, train: bool):
        """Pixels [B, P, C] and their labels [B, P] per scale, and the sums of the finest one."""
        pixels, pixel_labels, counted = [], [], labels[0]
        for scale, (embedding, frame_labels) in enumerate(zip(embeddings, labels, strict=True)):
            rate = self.global_rates[scale]
            left = atrous_labels(frame_labels, num_labels, rate, self.min_pixels)
            if scale == 0 and (train or self.min_pixels):
                counted = left
            if not self.min_pixels:
                embedding, left = embedding[:, ::rate, ::rate], left[:, ::rate, ::rate]
            embedding = self._matched(embedding, scale)
            pixels.append(embedding.reshape(embedding.shape[0], -1, embedding.shape[-1]))
            pixel_labels.append(left.reshape(left.shape[0], -1))
        return pixels, pixel_labels, LabelSums.of(embeddings[0], counted, num_labels)

    def _reference_pixels(self, size: tuple[int, int], scale: int) -> int:
        """Of one reference frame whose embedding has this size."""
        rate = 1 if self.min_pixels else self.global_rates[scale]
        return -(-size[0] // rate) * -(-size[1] // rate)

    def _matched(self, embedding: jax.Array, scale: int) -> jax.Array:
        return embedding[..., : self.matching_dims[scale]].astype(self.matching_dtype)

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        fraction: float = 0.15,
        mining_steps: int = 50_000,
    ) -> jax.Array:
        """Bootstrapped cross-entropy of each video, mean over the predicted frames, [B].

        A pixel that is void, or of an object that takes no part, has loss 0 and counts (release).
        """

        def frame_losses(prediction, labels):
            logits = resize_bilinear(prediction.logits, labels.shape[-2:], axes=(2, 3))
            channels = jnp.arange(logits.shape[1])[:, None, None]
            target = (labels[:, None] == channels) & prediction.present[:, :, None, None]
            known = target.any(axis=1)
            certain = jnp.where(channels == 0, 0.0, EXCLUDED)
            return bootstrapped_cross_entropy(
                jnp.where(known[:, None], logits, certain),
                jnp.where(known, labels, 0),
                step,
                fraction,
                mining_steps,
                valid=prediction.present,
            )

        labels = of_predicted(batch["labels"], predictions)
        return jax.vmap(frame_losses)(predictions, labels).mean(axis=0)
