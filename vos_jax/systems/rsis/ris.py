"""RIS: one ConvLSTM looks at the features of an image and lets go of one object after the other.

Romera-Paredes and Torr: "Recurrent Instance Segmentation", ECCV 2016, arXiv 1511.08250. Features of
strides 8, 16 and 32 are added up, as a fully convolutional network does it (FCN-8s, Long et al.,
CVPR 2015); the states of a convolutional LSTM on that grid go from object to object. Spatial
inhibition: of each state a 1x1 convolution makes a map, its log-softmax over all places a choice
among them, and a learnt number plus a sigmoid the object's mask. The largest values of the state
tell how sure it is that there was an object. The first score below 1/2 ends the sequence.

Loss: n + 2 steps are trained where there are n objects. The first n are matched with them by a
relaxed IoU, and the confidence of step t is to be 1 as long as t <= n.

Ours, where nothing is published in a form that one could import: the backbone is that of RSIS, in
place of a VGG-16; the log-softmax is counted from that of an even map, so that the learnt number
does not depend on the size of the grid; losses are means over steps, where the paper adds them up.

Glossary: as in images.py; D channels of the state.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vos_jax.nn.images import imagenet_normalise
from vos_jax.nn.object_decoder import ObjectDecoder, State
from vos_jax.nn.skip_encoder import BACKBONES, Features, SkipEncoder
from vos_jax.ops.losses import relaxed_iou_costs, soft_iou_costs, stop_costs
from vos_jax.ops.resize import resize_bilinear
from vos_jax.systems.rsis.heads import Heads
from vos_jax.systems.rsis.images import (
    Memory,
    ObjectsOfImages,
    Prediction,
    mean_over,
    of_pairs,
    paired,
    truths,
)

IOU = {"relaxed": relaxed_iou_costs, "soft": soft_iou_costs}


class RIS(ObjectsOfImages):
    """The network."""

    backbone: str = "resnet101"  # or "resnet50", "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    norm_eval: bool = False  # norms keep their running statistics in training, too
    features: int = 64  # D, and channels of the features (ours)
    dtype: str = "float32"  # of features, hidden states and convolutions

    def setup(self):
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"config.model.backbone: expected one of {BACKBONES}, found {self.backbone!r}"
            )
        dtype = jnp.dtype(self.dtype)
        channels = (self.features,) * 3
        self.encoder = SkipEncoder(channels, self.backbone, self.width, self.norm_eval, dtype)
        self.decoder = Inhibition((self.features,), masked=False, temporal=False, dtype=dtype)
        self.heads = Heads(classes=0)

    @property
    def steps_after(self) -> int:
        """Two slots learn that no object is left."""
        return 2

    def slots(self, train: bool) -> int:
        """Training decodes up to n + 2 slots."""
        return self.proposals + (self.steps_after if train else 0)

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """The sum of the maps of RGB frames [B, h, w, 3] in 0..255, at stride 8."""
        *coarse, finest = self.encoder(imagenet_normalise(inputs), train)
        total = finest
        for x in coarse:
            total += resize_bilinear(x, finest.shape[1:3])
        return Features((total,), inputs.shape[1:3])

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """All slots of a frame."""
        logits, states = self.decoder(features.skips, memory.decoded)
        found = self.heads(states.hidden)
        return Prediction(logits=logits, **found, decoded=memory.decoded, size=features.size)

    def kept(self, prediction: Prediction) -> jax.Array:
        """Slots up to the first one that is no object."""
        kept = super().kept(prediction)
        return jnp.cumprod(kept, axis=1).astype(bool)

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        confidence_weight: float = 1.0,
        iou: str = "relaxed",
    ) -> jax.Array:
        """Loss of each video [B]: means over the objects and over the steps of the batch.

        confidence_weight: of its part. iou: "relaxed" has the product of the masks as a summand
        below the line, "soft" subtracts it there, as an intersection over union does.
        """
        if iou not in IOU:
            raise ValueError(f"config.loss.iou: expected one of {tuple(IOU)}, found {iou!r}")
        masks, shown = truths(predictions, batch)
        there = shown.sum(axis=-1, keepdims=True)  # n
        slots = jnp.arange(predictions.decoded.shape[-1])
        counted = slots < there
        maps = jax.vmap(lambda prediction: self.maps(prediction, masks.shape[3:]))(predictions)
        costs = IOU[iou](maps, masks)
        loss = mean_over(of_pairs(costs, paired(costs, counted, shown)), counted)
        wrong = 2 * stop_costs(predictions.there, counted)  # cross-entropy as it is
        return loss + confidence_weight * mean_over(wrong, slots < there + self.steps_after)


class Inhibition(ObjectDecoder):
    """The decoder of RIS: places compete for the mask of an object."""

    @nn.compact
    def __call__(self, skips: Sequence[jax.Array], decoded: jax.Array) -> tuple[jax.Array, State]:
        """Logits float32 [B, S, h, w] at the grid of the features, and the states."""
        linked = jnp.ones(len(decoded), bool)
        states = self.states(skips, None, None, decoded, linked)
        map_of = nn.Dense(1, dtype=self.dtype, name="map_logits")
        found = map_of(states.hidden[-1])[..., 0].astype(jnp.float32)
        even = -jnp.log(jnp.float32(found.shape[2] * found.shape[3]))
        chosen = jax.nn.log_softmax(found, axis=(2, 3)) - even
        return chosen + self.param("bias", nn.initializers.zeros, ()), states
