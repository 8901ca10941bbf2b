"""RSIS: the objects of an image are decoded one after the other, each with mask, class and score.

Salvador, Bellver, Campos, Baradad, Marques, Torres, Giro-i-Nieto: "Recurrent Neural Networks for
Semantic Instance Segmentation", arXiv 1712.00617; released code: imatge-upc/rsis. RVOS is made of
it, and shares encoder and decoder (nn/skip_encoder.py, nn/object_decoder.py): here there are five
levels, and objects are all that the decoder is recurrent over. The largest values of the states of
all levels, laid side by side, tell the class of an object and whether there is one at all.

Where code and paper differ the code is followed: the two deepest levels do not have equally many
channels, and the mask is a 3x3 convolution of the enlarged last state, in the paper a 1x1 one. The
release decodes all slots and leaves those out whose score is too low, whatever comes after them.
The paper's box, a third head, is not in the release; `boxes` adds it (ours: x1 y1 x2 y2 as shares
of the frame, trained with their mean distance).

Loss: L = L_mask + alpha L_box + beta L_class + gamma L_stop, each from a step of its own. Objects
are given to slots by their soft IoU; as in the release a class is learnt for each object and a stop
for one slot more, where a frame has fewer objects than there are slots.

Deviations: stages and the curriculum of the release (two objects at first, one more whenever the
validation loss stalls) go by steps here, for a run that was interrupted is to go on as if it had
not been. Masks that overlap are learnt as label maps show them, the smaller one on top
(data/painted.py); they are scored as they are. The release's other ways to join a skip connection
than side by side are not here. What else is particular to single frames is said in images.py.

Glossary: as in images.py.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vos_jax.nn.images import imagenet_normalise
from vos_jax.nn.object_decoder import Decoder
from vos_jax.nn.skip_encoder import BACKBONES, Features, SkipEncoder
from vos_jax.ops.losses import box_costs, class_costs, soft_iou_costs, stop_costs
from vos_jax.ops.mask_boxes import boxes_around
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

LEVELS = 5


class RSIS(ObjectsOfImages):
    """The network. Fields are the released configuration for Pascal VOC."""

    classes: int = 21  # with class 0, which is no object
    boxes: bool = False  # a head for boxes
    backbone: str = "resnet101"  # or "resnet50", "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    norm_eval: bool = False  # norms keep their running statistics in training, too
    # of the two deepest projections and the deepest state; each finer one has a half of the next
    features: int = 128
    min_share: float = 0.001
    dtype: str = "float32"  # of features, hidden states and convolutions

    def setup(self):
        if self.backbone not in BACKBONES:
            raise ValueError(
                f"config.model.backbone: expected one of {BACKBONES}, found {self.backbone!r}"
            )
        if self.features < 16 or self.features % 16:
            raise ValueError(
                f"config.model.features: expected a multiple of 16, found {self.features}"
            )
        if self.classes < 2:
            raise ValueError(
                f"config.model.classes: expected 2 or more, class 0 for no object and those of "
                f"objects, found {self.classes}"
            )
        dtype = jnp.dtype(self.dtype)
        states = tuple(self.features // 2**level for level in range(LEVELS))
        projections = (self.features, *states[:-1])
        self.encoder = SkipEncoder(projections, self.backbone, self.width, self.norm_eval, dtype)
        self.decoder = Decoder(states, masked=False, temporal=False, dtype=dtype)
        self.heads = Heads(self.classes, self.boxes)

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, h, w, 3] in 0..255."""
        return Features(self.encoder(imagenet_normalise(inputs), train), inputs.shape[1:3])

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """All slots of a frame."""
        linked = jnp.ones(len(memory.decoded), bool)
        logits, states = self.decoder(features.skips, None, None, memory.decoded, linked)
        found = self.heads(states.hidden)
        return Prediction(logits=logits, **found, decoded=memory.decoded, size=features.size)

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        box_weight: float = 1.0,
        class_weight: float = 0.1,
        stop_weight: float = 0.5,
        box_from: int = 0,
        class_from: int = 0,
        stop_from: int = 0,
        curriculum_start: int = 0,
        curriculum_step: int = 1,
        curriculum_every: int = 1,
    ) -> jax.Array:
        """Loss of each video [B]: means over all objects of the batch, of which there may be few.

        box_weight, class_weight, stop_weight: alpha, beta and gamma; (_from) the steps from which
        these parts are in the loss. curriculum_start: at first the loss is that of so many slots,
        and of curriculum_step more every curriculum_every steps; 0: of all slots. Examples without
        classes train none, nor do objects of class 0.
        """
        masks, shown = truths(predictions, batch)
        there = shown.sum(axis=-1, keepdims=True)  # n
        slots = jnp.arange(predictions.decoded.shape[-1])
        grown = curriculum_start + curriculum_step * (step // curriculum_every)
        used = slots < (grown if curriculum_start else len(slots))
        counted = used & (slots < there)
        maps = jax.vmap(lambda prediction: self.maps(prediction, masks.shape[3:]))(predictions)
        costs = soft_iou_costs(maps, masks)  # [T, B, S, N]
        objects = paired(costs, counted, shown)
        loss = mean_over(of_pairs(costs, objects), counted)

        ends = stop_costs(predictions.there, slots < there)
        loss += stop_weight * (step >= stop_from) * mean_over(ends, used & (slots <= there))
        if "classes" in batch:
            classes = of_pairs(jnp.broadcast_to(batch["classes"][:, None], costs.shape), objects)
            wrong = class_costs(jax.nn.log_softmax(predictions.classes), classes)
            loss += class_weight * (step >= class_from) * mean_over(wrong, counted & (classes > 0))
        if self.boxes:
            height, width = masks.shape[3:]
            sides = jnp.float32([width, height, width, height])
            apart = box_costs(predictions.boxes, boxes_around(masks > 0) / sides)
            loss += box_weight * (step >= box_from) * mean_over(of_pairs(apart, objects), counted)
        return loss
