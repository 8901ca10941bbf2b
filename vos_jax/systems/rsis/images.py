"""What RIS and RSIS share: objects of a single frame that are found one after the other.

Nothing goes from frame to frame: of a video each frame is segmented as an image, and the number of
an object is its place in the order in which it was found there. Objects are painted over each
other, the one with the highest score on top (ours; both publications score masks that may overlap,
see `instances`).

Training frames may show up to `proposals` objects, in slots of any order: objects that are not to
be seen in a frame do not count there. The slots that are decoded are compared with them by the
cheapest assignment; those from the n-th on, n the number of objects, learn that there is none.

Views are of no use here: the k-th object of a mirrored frame need not be that of the frame.

Glossary: B videos, T frames, N objects, S slots that are decoded, C classes, h w the size at which
the network works, H W that of the original frame.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.skip_encoder import Features
from vos_jax.ops.assignment import assign
from vos_jax.ops.mask_boxes import boxes_around
from vos_jax.ops.painting import THRESHOLD, painted_labels, visible_probabilities
from vos_jax.ops.resize import resize_bilinear
from vos_jax.systems.base import Instances, Traits, VOSModel, of_predicted, one_hot
from vos_jax.systems.frame_size import resize_pillow, scaled_size

OUTSIDE = 10.0  # cost of pairing with a slot or an object that takes no part


@struct.dataclass
class Memory:
    """All that is known before a frame is looked at."""

    decoded: jax.Array  # bool [B, S], slots that are decoded


@struct.dataclass
class Prediction:
    """What is said of each slot."""

    logits: jax.Array  # float32 [B, S, h', w'], of its mask
    there: jax.Array  # float32 [B, S], logit of its being an object
    classes: jax.Array | None  # float32 [B, S, C + 1], logits, 0 is no object; None: there are none
    boxes: jax.Array | None  # float32 [B, S, 4], x1 y1 x2 y2 as shares of the frame's sides
    decoded: jax.Array  # bool [B, S]
    size: tuple[int, int] = struct.field(pytree_node=False)  # h, w


class ObjectsOfImages(VOSModel):
    """A system of this kind; a subclass has `encoder`, `segment`, `losses` and these fields."""

    proposals: int = 10  # slots
    threshold: float = 0.5  # an object is what has this probability of being one
    min_share: float = 0.0  # of the frame's pixels that its mask is to have
    size: tuple[int, int] = (256, 256)  # of frames for the network; (0, 0): as they are
    scale: float = 1.0  # of the frame after that, see systems.views

    @property
    def traits(self) -> Traits:
        """It is shown no masks, and what it finds in a frame is a function of that frame."""
        return Traits(
            guidance="none",
            proposals=self.proposals,
            segments_first=True,
            pastes=False,
            remembers_given=False,
            soft_feedback=True,
            backbone_scopes=(("encoder", "backbone"),),
        )

    @property
    def steps_after(self) -> int:
        """How many slots after the last object learn in training that there is none."""
        return 1

    def slots(self, train: bool) -> int:
        """How many slots there are, S."""
        return self.proposals

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame at the size of the network, resized as Pillow does it."""
        size = self.size if any(self.size) else frame.shape[:2]
        return resize_pillow(frame, scaled_size(size, scale=self.scale))

    def start(
        self,
        features: Features,
        masks: jax.Array | None,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """All slots are decoded, in training those of the objects and the steps after them."""
        slots = self.slots(train)
        if not train:
            return Memory(jnp.ones((len(valid), slots), bool))
        wanted = valid.sum(axis=1, keepdims=True) + self.steps_after
        return Memory(jnp.arange(slots) < wanted)

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction, masks: Any
    ) -> Memory:
        """Nothing of a frame is remembered."""
        return memory

    def feedback(self, prediction: Prediction, size: tuple[int, int]) -> tuple:
        """Nothing."""
        return ()

    def fit_masks(self, masks: jax.Array, features: Features) -> tuple:
        """Nothing."""
        return ()

    def maps(self, prediction: Prediction, size: tuple[int, int] | None = None) -> jax.Array:
        """The network's probabilities of all slots [B, S, h, w], at `size` or its own."""
        logits = resize_bilinear(prediction.logits, size or prediction.size, axes=(2, 3))
        return jax.nn.sigmoid(logits) * prediction.decoded[..., None, None]

    def kept(self, prediction: Prediction) -> jax.Array:
        """Which slots hold an object, bool [B, S]."""
        return prediction.decoded & (jax.nn.sigmoid(prediction.there) >= self.threshold)

    def scores(self, prediction: Prediction) -> jax.Array:
        """How sure it is of an object of each class, float32 [B, S, C]; without classes C = 1."""
        there = jax.nn.sigmoid(prediction.there)[..., None]
        if prediction.classes is None:
            return there
        return there * jax.nn.softmax(prediction.classes)[..., 1:]

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """What is seen of each object where they cover each other, [B, S+1, H, W]."""
        found = visible_probabilities(*self._painted(prediction))
        if found.shape[2:] == tuple(size):
            return found
        return jax.image.resize(found, (*found.shape[:2], *size), "linear")

    def labels(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Painted at the network's size, then enlarged (nearest neighbour), uint8 [B, H, W]."""
        painted = painted_labels(*self._painted(prediction))
        return jax.image.resize(painted, (len(painted), *size), "nearest").astype(jnp.uint8)

    def instances(self, prediction: Prediction, size: tuple[int, int]) -> Instances:
        """The objects, whose masks may overlap, at the size of the original frame.

        As in the release of RSIS the probabilities are enlarged (bilinear, corners aligned) and
        compared with 1/2.
        """
        maps = resize_bilinear(self.maps(prediction), size, axes=(2, 3))
        masks = maps > THRESHOLD
        large = masks.sum(axis=(2, 3)) >= self.min_share * size[0] * size[1]
        boxes = boxes_around(masks)
        if prediction.boxes is not None:
            boxes = prediction.boxes * jnp.float32([*size[::-1], *size[::-1]])
        kept = self.kept(prediction) & large & masks.any(axis=(2, 3))
        return Instances(masks, self.scores(prediction), boxes, kept)

    def _painted(self, prediction: Prediction) -> tuple[jax.Array, jax.Array]:
        """Maps of the objects [B, S, h, w], 0 where there is none, and costs, the best least."""
        maps = self.maps(prediction) * self.kept(prediction)[..., None, None]
        return maps, 1 - self.scores(prediction).max(axis=-1)


def truths(predictions: Prediction, batch: Mapping[str, jax.Array]) -> tuple:
    """Masks float32 [T, B, N, h, w] of the frames that were predicted, and which are to be seen."""
    labels, valid = of_predicted(batch["labels"], predictions), batch["valid"]
    masks = one_hot(labels, valid.shape[1])[:, :, 1:]
    return masks, valid & masks.any(axis=(3, 4))


def paired(costs: jax.Array, counted: jax.Array, shown: jax.Array) -> jax.Array:
    """The object of each slot, int32 [..., S], at the least total cost.

    costs: [..., S, N]. counted: bool [..., S], slots that stand for an object; of others the answer
    means nothing. shown: bool [..., N].
    """
    pairs = counted[..., :, None] & shown[..., None, :]
    found = assign(jnp.where(pairs, costs, OUTSIDE))
    return jnp.minimum(found, costs.shape[-1] - 1)


def of_pairs(costs: jax.Array, objects: jax.Array) -> jax.Array:
    """The costs [..., S] of the slots with their objects."""
    return jnp.take_along_axis(costs, objects[..., None], axis=-1)[..., 0]


def mean_over(costs: jax.Array, counted: jax.Array) -> jax.Array:
    """A loss for each video [B] whose mean is that of all costs [T, B, S] that are counted."""
    total = jnp.maximum(counted.sum(), 1)
    return jnp.where(counted, costs, 0).sum(axis=(0, 2)) * costs.shape[1] / total
