"""RVOS: objects are decoded one after the other, with what was known of them in the frame before.

Ventura, Bellver, Girbau, Salvador, Marques, Giro-i-Nieto: "RVOS: End-to-End Recurrent Network for
Video Object Segmentation", CVPR 2019, arXiv 1903.05612; released code: imatge-upc/rvos.

A frame is encoded once (nn/skip_encoder.py). A decoder of ConvLSTMs (nn/object_decoder.py) then
gives one soft map for each slot, recurrent over slots (spatial) and frames (temporal). One-shot, it
sees what was segmented of the object in the frame before, in the first two frames the given mask
itself. Zero-shot, it finds a number of objects by itself; given masks, where there are any, only
say which of them are meant. Either way objects and predictions are paired by the Hungarian
algorithm in the frame in which an object is given, and painted over each other, the one that was
found best on top (ops/painting.py).

Where code and paper differ the code is followed: hidden states alone go from frame to frame, and
without spatial recurrence (mode "t") the first frame has it all the same. The release's scripts
leave out a recurrence in one task or the other; here `mode` holds for both. The release decodes ten
slots in every frame, here those without an object are skipped unless `decode_absent` says so.

Deviations: masks are compared at the size at which the network works, the release's are first
brought to that of the annotation, so a near tie may fall otherwise. Proposals without given masks
are painted in their order, the first on top; the release has no rule for them. With views the mean
of probabilities, which compete, stands for the maps of objects.

Glossary: B videos, N objects, S slots that are decoded (one-shot: the N objects), h w the size at
which the network works, H W that of the original frame.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.images import imagenet_normalise
from vos_jax.nn.object_decoder import Decoder
from vos_jax.nn.skip_encoder import BACKBONES, Features, SkipEncoder
from vos_jax.ops.assignment import assign, jaccard_distances
from vos_jax.ops.losses import soft_iou_costs
from vos_jax.ops.painting import THRESHOLD, painted_labels, visible_probabilities
from vos_jax.ops.resize import resize_bilinear
from vos_jax.systems.base import Traits, VOSModel, of_predicted, one_hot
from vos_jax.systems.frame_size import resize_pillow, scaled_size

MODES = ("st", "s", "t")
OUTSIDE = 10.0  # cost of pairing with a slot that takes no part


@struct.dataclass
class Memory:
    """What the next frame is told."""

    previous: jax.Array  # float32 [B, N, h, w], masks or soft maps; zero-shot: given masks
    hidden: tuple[jax.Array, ...]  # [B, S, h / s, w / s, D]
    decoded: jax.Array  # bool [B, S], slots that are decoded
    present: jax.Array  # bool [B, N], objects that were given, or are proposed
    new: jax.Array  # bool [B, N], objects whose masks are compared with the next prediction
    slot: jax.Array  # int32 [B, N], where a present object is found; S or more: nowhere
    cost: jax.Array  # float32 [B, N], how ill it was found when it was new: 1 - J
    started: jax.Array  # bool [B], whether a frame was segmented


@struct.dataclass
class Prediction:
    """One map for each slot, and which object it is of."""

    logits: jax.Array  # float32 [B, S, ~h / 2, ~w / 2]
    hidden: tuple[jax.Array, ...]
    decoded: jax.Array
    present: jax.Array
    slot: jax.Array
    cost: jax.Array
    size: tuple[int, int] = struct.field(pytree_node=False)


class RVOS(VOSModel):
    """The network. Fields are the released configuration, RVOS-Mask-ST+."""

    one_shot: bool = True  # the decoder sees previous masks; False: it finds objects by itself
    mode: str = "st"  # recurrent over slots and frames, or only over slots ("s") or frames ("t")
    backbone: str = "resnet101"  # or "resnet50", "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    norm_eval: bool = False  # norms keep their running statistics in training, too
    features: int = 128  # of the two deepest levels; the others have a half and a quarter
    detach: bool = True  # no gradient through the masks that the decoder sees
    proposals: int = 10  # slots of zero-shot
    # slots without an object are decoded as well, as in the release: one that is known to come then
    # has a past
    decode_absent: bool = False
    size: tuple[int, int] = (256, 448)  # of frames for the network; (0, 0): as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features, hidden states and convolutions

    def setup(self):
        for field, known in {"backbone": BACKBONES, "mode": MODES}.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.model.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        if self.features < 8 or self.features % 8:
            raise ValueError(
                f"config.model.features: expected a multiple of 8, found {self.features}"
            )
        dtype, deep = jnp.dtype(self.dtype), self.features
        self.encoder = SkipEncoder(
            (deep, deep, deep // 2, deep // 4), self.backbone, self.width, self.norm_eval, dtype
        )
        self.decoder = Decoder(self.states, masked=self.one_shot, dtype=dtype)

    @property
    def states(self) -> tuple[int, ...]:
        """Channels of the states of each level."""
        return tuple(self.features // 2**level for level in range(4))

    @property
    def traits(self) -> Traits:
        """A given mask goes into the result; the network is told its own map all the same."""
        return Traits(
            guidance="masks" if self.one_shot else "either",
            proposals=0 if self.one_shot else self.proposals,
            segments_first=True,
            introduces="before",
            remembers_given=False,
            soft_feedback=True,
            backbone_scopes=(("encoder", "backbone"),),
        )

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame at the size of the network, resized as Pillow does it."""
        size = self.size if any(self.size) else frame.shape[:2]
        return resize_pillow(frame, scaled_size(size, scale=self.scale))

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, h, w, 3] in 0..255."""
        return Features(self.encoder(imagenet_normalise(inputs), train), inputs.shape[1:3])

    def start(
        self,
        features: Features,
        masks: jax.Array | None,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory before the first frame is segmented; the room is the same for any length.

        Zero-shot training decodes as many slots as there are objects: no other is paired.
        """
        batch, objects = valid.shape
        decoded = jnp.ones_like(valid) if self.decode_absent else valid
        if not self.one_shot and not train:
            decoded = jnp.ones((batch, self.proposals), bool)
        previous = jnp.zeros((batch, objects, *features.size), jnp.float32)
        if masks is not None:
            previous = jnp.where(valid[..., None, None], self.fit_masks(masks, features), 0.0)
        hidden = tuple(
            jnp.zeros((*decoded.shape, *skip.shape[1:3], channels), skip.dtype)
            for skip, channels in zip(features.skips, self.states, strict=True)
        )
        return Memory(
            previous=previous,
            hidden=hidden,
            decoded=decoded,
            present=valid,
            new=valid if masks is not None else jnp.zeros_like(valid),
            slot=jnp.broadcast_to(jnp.arange(objects, dtype=jnp.int32), valid.shape),
            cost=jnp.zeros(valid.shape, jnp.float32),
            started=jnp.zeros(batch, bool),
        )

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """All slots of a frame; where objects are new, which slots they are found in."""
        linked = ~memory.started if self.mode == "t" else jnp.ones_like(memory.started)
        logits, state = self.decoder(
            features.skips,
            memory.previous if self.one_shot else None,
            memory.hidden if "t" in self.mode else None,
            memory.decoded,
            linked,
        )
        prediction = Prediction(
            logits=logits,
            hidden=state.hidden,
            decoded=memory.decoded,
            present=memory.present,
            slot=memory.slot,
            cost=memory.cost,
            size=features.size,
        )
        if train and self.one_shot:  # every object is that of its slot
            return prediction
        slot, cost = jax.lax.cond(
            memory.new.any(),
            lambda: self._paired(memory, self.maps(prediction)),
            lambda: (memory.slot, memory.cost),
        )
        return prediction.replace(slot=slot, cost=cost)

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction, masks: jax.Array
    ) -> Memory:
        """The states, and one-shot the masks [B, N, h, w], of this frame."""
        return memory.replace(
            previous=masks if self.one_shot else memory.previous,
            hidden=prediction.hidden,
            new=jnp.zeros_like(memory.new),
            slot=prediction.slot,
            cost=prediction.cost,
            started=jnp.ones_like(memory.started),
        )

    def introduce(
        self, memory: Memory, features: Features, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """In this frame the network sees the given masks of the objects in `new` instead."""
        shown = jnp.where(new[..., None, None], self.fit_masks(masks, features), memory.previous)
        decoded = memory.decoded | new if self.one_shot else memory.decoded
        present = memory.present | new
        return memory.replace(previous=shown, decoded=decoded, present=present, new=new)

    def fit_masks(self, masks: jax.Array, features: Features) -> jax.Array:
        """Masks of the objects at the network's size, [B, N, h, w], nearest neighbour."""
        objects = masks[:, 1:]
        return jax.image.resize(objects, (*objects.shape[:2], *features.size), "nearest")

    def feedback(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """The soft map of each slot, [B, S, h, w]."""
        maps = self.maps(prediction)
        return jax.lax.stop_gradient(maps) if self.detach else maps

    def maps(self, prediction: Prediction, size: tuple[int, int] | None = None) -> jax.Array:
        """The network's probabilities of all slots [B, S, h, w], at `size` or its own."""
        logits = resize_bilinear(prediction.logits, size or prediction.size, axes=(2, 3))
        return jax.nn.sigmoid(logits) * prediction.decoded[..., None, None]

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """What is seen of each object where they cover each other, [B, N+1, H, W]."""
        found = visible_probabilities(self._of_objects(prediction), prediction.cost)
        if found.shape[2:] == tuple(size):
            return found
        return jax.image.resize(found, (*found.shape[:2], *size), "linear")

    def labels(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Painted at the network's size, then enlarged (nearest neighbour), uint8 [B, H, W]."""
        painted = painted_labels(self._of_objects(prediction), prediction.cost)
        return jax.image.resize(painted, (len(painted), *size), "nearest").astype(jnp.uint8)

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        visible_only: bool = False,
    ) -> jax.Array:
        """Soft IoU of each video [B], a mean over all objects of the batch, summed over frames.

        One-shot, slot k is object k. Zero-shot, the objects are paired with slots once, by their
        costs in the first frame. visible_only: an object counts in the frames that show it (the
        release on DAVIS); otherwise in all of them, where it costs 1 when it is not seen and adds
        no gradient (on YouTube-VOS).
        """
        labels, valid = of_predicted(batch["labels"], predictions), batch["valid"]
        truth = one_hot(labels, valid.shape[1])[:, :, 1:]
        maps = jax.vmap(lambda prediction: self.maps(prediction, labels.shape[2:]))(predictions)
        costs = soft_iou_costs(maps, truth)  # [T, B, slots, objects]
        objects = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)  # of each slot
        if not self.one_shot:
            pairs = valid[:, :, None] & valid[:, None]
            objects = assign(jnp.where(pairs, costs[0], OUTSIDE))
        paired = jnp.take_along_axis(costs, objects[None, ..., None], axis=3)[..., 0]
        # as in the release, a slot counts where the object of its number does
        shown = truth.any(axis=(3, 4)) if visible_only else jnp.ones(paired.shape, bool)
        counted = valid & shown
        total = jnp.maximum(counted.sum(axis=(1, 2), keepdims=True), 1)
        return (paired * counted * len(valid) / total).sum(axis=(0, 2))

    def _paired(self, memory: Memory, maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Slot and cost of every object once those in `memory.new` are found.

        The others keep what they have: their costs are 0 there and 1 elsewhere.
        """
        objects, slots = memory.present.shape[1], maps.shape[1]
        wanted, found = memory.previous > THRESHOLD, maps > THRESHOLD
        costs = jnp.where(memory.decoded[:, None], jaccard_distances(wanted, found), OUTSIDE)
        known = memory.present & ~memory.new
        own = jnp.where(known, memory.slot, jnp.arange(objects))
        keeps = known | (~memory.present if self.one_shot else False)
        kept = jax.nn.one_hot(own, slots) * keeps[..., None]
        costs = jnp.where(memory.new[..., None], costs, 1 - kept)
        # with fewer slots than objects, some are found nowhere
        costs = jnp.pad(costs, ((0, 0), (0, 0), (0, max(objects - slots, 0))), constant_values=1.0)
        slot = assign(costs)
        cost = jnp.take_along_axis(costs, slot[..., None], axis=2)[..., 0]
        return slot, jnp.where(memory.new, cost, memory.cost)

    def _of_objects(self, prediction: Prediction) -> jax.Array:
        """The map of each object, [B, N, h, w]; 0 where there is none."""
        maps, objects = self.maps(prediction), prediction.slot.shape[1]
        lacking = max(objects - maps.shape[1], 0)
        maps = jnp.pad(maps, ((0, 0), (0, lacking), (0, 0), (0, 0)))
        found = jnp.take_along_axis(maps, prediction.slot[..., None, None], axis=1)
        return found * prediction.present[..., None, None]
