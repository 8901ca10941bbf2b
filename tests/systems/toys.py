"""Two toys that are run as the systems to come are, and a table entry for each.

`Recurrent` takes objects one after the other, like RVOS: one-shot or with proposals, with a first
frame that is segmented, its own form of feedback and live normalisation in its head. `Looking`
takes no masks and looks at reference frames beforehand, like COSNet.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from vos_jax.nn.norm import BatchNorm
from vos_jax.systems.base import System, Traits, VOSModel, of_predicted, one_hot
from vos_jax.systems.frame_size import resize_frame, scaled_size

PROPOSALS = 3


@struct.dataclass
class Memory:
    previous: jax.Array  # [B, N, h, w], soft maps at the network's size
    hidden: jax.Array  # [B, N, h, w, C]
    cost: jax.Array  # [B, N], of what was found for a slot when it was new
    present: jax.Array  # bool [B, N]
    new: jax.Array  # bool [B, N]


@struct.dataclass
class Prediction:
    logits: jax.Array  # [B, N, h, w]
    hidden: jax.Array  # [B, N, h, w, C]
    cost: jax.Array  # [B, N]
    present: jax.Array  # bool [B, N]


class Recurrent(VOSModel):
    """A state goes from slot to slot, another one from frame to frame."""

    one_shot: bool = True
    channels: int = 4
    size: tuple[int, int] = (0, 0)
    scale: float = 1.0
    dtype: str = "float32"

    @property
    def traits(self):
        return Traits(
            guidance="masks" if self.one_shot else "either",
            proposals=0 if self.one_shot else PROPOSALS,
            segments_first=True,
            introduces="before",
            remembers_given=False,
            soft_feedback=True,
            backbone_scopes=(),
        )

    def setup(self):
        def conv(channels, strides=1):
            return nn.Conv(channels, (3, 3), strides, dtype=self.dtype)

        self.stem, self.shared = conv(self.channels, 2), conv(self.channels)
        self.norm = BatchNorm(dtype=self.dtype)
        self.gates, self.out = conv(self.channels), conv(1)

    def preprocess(self, frame):
        size = self.size if any(self.size) else frame.shape[:2]
        return resize_frame(frame, scaled_size(size, scale=self.scale))

    def encode(self, inputs, train=False):
        return jnp.tanh(self.stem(inputs / 127.5 - 1))

    def fit_masks(self, masks, features):
        size = (*masks.shape[:1], masks.shape[1] - 1, *features.shape[1:3])
        return jax.image.resize(masks[:, 1:], size, "linear")

    def start(self, features, masks, valid, num_references=1, train=False):
        shape = (*valid.shape, *features.shape[1:3])
        shown = jnp.zeros(shape) if masks is None else self.fit_masks(masks, features)
        hidden = jnp.zeros((*shape, self.channels), features.dtype)
        new = valid if masks is not None else jnp.zeros_like(valid)
        return Memory(shown * valid[..., None, None], hidden, jnp.zeros(valid.shape), valid, new)

    def segment(self, memory, features, train=False):
        shared = nn.relu(self.norm(self.shared(features), train))
        state, logits, hidden = jnp.zeros_like(shared), [], []
        for k in range(memory.previous.shape[1]):
            previous = memory.previous[:, k, ..., None].astype(shared.dtype)
            seen = jnp.concatenate([shared, previous, state, memory.hidden[:, k]], axis=-1)
            state = jnp.tanh(self.gates(seen))
            logits.append(self.out(state)[..., 0].astype(jnp.float32))
            hidden.append(state)
        logits, hidden = jnp.stack(logits, axis=1), jnp.stack(hidden, axis=1)
        on, wanted = logits > 0, memory.previous > 0.5
        union = (on | wanted).sum(axis=(2, 3))
        cost = 1 - (on & wanted).sum(axis=(2, 3)) / jnp.maximum(union, 1)
        cost = jnp.where(memory.new, cost, memory.cost)
        return Prediction(logits, hidden, cost, memory.present)

    def maps(self, prediction):
        return jax.nn.sigmoid(prediction.logits) * prediction.present[..., None, None]

    def feedback(self, prediction, size):
        return self.maps(prediction)

    def memorize(self, memory, features, prediction, masks):
        never = jnp.zeros_like(memory.new)
        return Memory(masks, prediction.hidden, prediction.cost, memory.present, never)

    def introduce(self, memory, features, masks, new):
        shown = self.fit_masks(masks, features)
        previous = jnp.where(new[..., None, None], shown, memory.previous)
        return memory.replace(previous=previous, present=memory.present | new, new=new)

    def probabilities(self, prediction, size):
        maps = self.maps(prediction)
        maps = jax.image.resize(maps, (*maps.shape[:2], *size), "linear")
        return jnp.concatenate([1 - maps.max(axis=1, keepdims=True), maps], axis=1)

    def labels(self, prediction, size):
        """The cheapest of the objects that claim a pixel is painted last."""
        claimed = self.probabilities(prediction, size)[:, 1:] > 0.5
        rank = jnp.where(claimed, 2 - prediction.cost[..., None, None], 0)
        return jnp.where(claimed.any(axis=1), rank.argmax(axis=1) + 1, 0).astype(jnp.uint8)

    def losses(self, predictions, batch, step):
        """Binary cross-entropy, a mean over all valid slots of the batch."""
        valid = batch["valid"]
        labels = of_predicted(batch["labels"], predictions)
        size = (*predictions.logits.shape[:3], *labels.shape[2:])
        logits = jax.image.resize(predictions.logits, size, "linear")
        truth = one_hot(labels, valid.shape[1])[:, :, 1:]
        each = -jax.nn.log_sigmoid(jnp.where(truth > 0, logits, -logits)).mean(axis=(0, 3, 4))
        return (each * valid).sum(axis=1) * len(valid) / jnp.maximum(valid.sum(), 1)


@struct.dataclass
class References:
    means: jax.Array  # [B, R, C]
    seen: jax.Array  # []


class Looking(VOSModel):
    """Its object is what looks unlike the mean of the frames that it was shown."""

    references: int = 2
    channels: int = 4
    scale: float = 1.0

    @property
    def traits(self):
        return Traits(guidance="none", proposals=1, segments_first=True, backbone_scopes=())

    def setup(self):
        self.stem = nn.Conv(self.channels, (3, 3), 2)

    def reference_frames(self, length, seed):
        count = min(self.references, length)
        return tuple(round((t + 0.5) * length / count - 0.5) for t in range(count))

    def preprocess(self, frame):
        return resize_frame(frame, scaled_size(frame.shape[:2], scale=self.scale))

    def encode(self, inputs, train=False):
        return self.stem(inputs / 127.5 - 1)

    def start(self, features, masks, valid, num_references=1, train=False):
        assert masks is None
        means = jnp.zeros((len(features), self.references, self.channels))
        return self._with(References(means, jnp.int32(0)), features)

    def segment(self, memory, features, train=False):
        mean = memory.means.sum(axis=1) / jnp.maximum(memory.seen, 1)
        return jnp.abs(features - mean[:, None, None]).sum(axis=-1) - 1

    def memorize(self, memory, features, prediction, masks):
        return self._with(memory, features) if prediction is None else memory

    def _with(self, memory: References, features: jax.Array) -> References:
        mean = features.mean(axis=(1, 2))[:, None]
        means = jax.lax.dynamic_update_slice(memory.means, mean, (0, memory.seen, 0))
        return References(means, memory.seen + 1)

    def probabilities(self, prediction, size):
        inside = jax.nn.sigmoid(prediction)
        inside = jax.image.resize(inside, (len(inside), *size), "linear")
        return jnp.stack([1 - inside, inside], axis=1)

    def losses(self, predictions, batch: Mapping[str, jax.Array], step):
        labels = of_predicted(batch["labels"], predictions)
        found = jax.vmap(lambda p: self.probabilities(p, labels.shape[2:])[:, 1])(predictions)
        wrong = jnp.where((labels > 0) & (labels < 255), 1 - found, found)
        return -jnp.log(1 - wrong + 1e-6).mean(axis=(0, 2, 3))


RECURRENT = System(Recurrent, tiny={}, inference=("size",))
PROPOSING = System(Recurrent, tiny={"one_shot": False}, inference=("size",))
LOOKING = System(Looking, tiny={}, inference=("references",))
