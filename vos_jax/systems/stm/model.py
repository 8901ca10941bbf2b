"""STM: every frame reads what it needs from a memory of past frames and their masks.

Oh, Lee, Xu, Kim: "Video Object Segmentation using Space-Time Memory Networks", ICCV 2019, arXiv
1904.00607; released code (inference alone): seoungwugoh/STM.

A past frame and an object's mask become a map of keys and a map of values at stride 16, and so does
the current frame. Every pixel of the current frame reads a mean of the memory's values, weighted by
a softmax over all pixels of all memory frames (ops.memory_read); a decoder turns it into the
object's probability. Soft aggregation makes one distribution of the objects' probabilities, and the
frame with these soft masks is written into the memory (memory_bank.py).

Where the released code and the paper differ the code is followed: keys are compared with a factor 1
/ sqrt(128) (`scaled_scores=False` is the paper's equation), the memory encoder also sees the sum of
the other objects' masks, frames are padded to multiples of 16 with black before they are
normalised, and the softmax of the aggregation spans 11 channels whatever the number of objects is.
Extensions: the memory is bounded; an object given later is written over the prediction of its
frame, which stays in memory as the first frame does, and reads only frames from that one on.

Glossary: B videos, N objects, H W frame size, h w the stride-16 grid of the padded frame.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import AxisType, Mesh

from vos_jax.nn.images import imagenet_normalise
from vos_jax.ops.memory_read import memory_read, read_products
from vos_jax.systems import memory_bank
from vos_jax.systems.base import Traits, VOSModel, of_predicted
from vos_jax.systems.frame_size import PaddedSize
from vos_jax.systems.memory_bank import MemoryBank, Rule
from vos_jax.systems.stm.network import BACKBONES, Decoder, MemoryEncoder, QueryEncoder

STRIDE = 16  # frames are padded to multiples of it
CLAMP = 1e-7  # probabilities stay this far from 0 and 1 where they are aggregated


@struct.dataclass
class Features:
    """One frame. The memory encoder starts again from its pixels."""

    frame: jax.Array  # [B, H, W, 3] as `encode` got it
    key: jax.Array  # [B, h, w, key_dim]
    value: jax.Array  # [B, h, w, value_dim]
    r3: jax.Array  # stride 8
    r2: jax.Array  # stride 4


@struct.dataclass
class Memory:
    """What the next frame may look at."""

    bank: MemoryBank
    present: jax.Array  # bool [B, N], objects that were given


@struct.dataclass
class Prediction:
    """Two logits per object (background, object) at stride 4, and which objects take part."""

    logits: jax.Array  # float32 [B, N, 4h, 4w, 2]
    present: jax.Array  # bool [B, N]


class STM(VOSModel):
    """The network. Fields are the released configuration.

    capacity bounds the memory; 0 gives it the room that a video of `length` frames needs, so
    that such a video runs with the released code's growing memory. Whatever is longer makes room
    by `eviction` ("thin" or "oldest", see memory_bank.Rule). Room that is not used costs memory
    (4 MB per object and frame at 480p) and no time.

    memory_devices spreads the memory, in inference: each of so many devices holds its part of the
    frames and reads it, and the room is rounded up to a multiple of their number.
    """

    backbone: str = "resnet50"  # or "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    # paper: BatchNorm is disabled; False, for training from scratch, belongs in config.train.model
    norm_eval: bool = True
    key_dim: int = 128
    value_dim: int = 512
    features: int = 256
    scaled_scores: bool = True  # divided by sqrt(key_dim) (code) or not (paper)
    top_k: int = 0  # memory pixels that count for a query pixel; 0: all
    memory_first: bool = True
    memory_previous: bool = True
    memory_every: int = 5  # every n-th frame stays in memory; 0: none
    capacity: int = 0
    length: int = 105  # frames; the longest clip of DAVIS has 104
    eviction: str = "thin"
    memory_devices: int = 1
    aggregation_channels: int = 11  # background and 10 objects, as many as the softmax spans
    detach: bool = False  # stop gradients at the masks that are memorised
    short_side: int = 0  # frames are shrunk until their shorter side is this long; 0: as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features and memory; "bfloat16" halves them
    precision: str = "highest"  # of the read; or "x3" or "default", see ops.platforms
    kernel_bytes: int = 0  # of scores at a time in the read, for each video; 0: the platform's own

    def setup(self):
        for field, known in {"backbone": BACKBONES, "eviction": memory_bank.EVICTION}.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.model.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        if self.capacity == 1 or self.capacity < 0:
            raise ValueError(
                "config.model.capacity: expected 2 or more (the first and the previous "
                f"frame), or 0 to take config.model.length, found {self.capacity}"
            )
        dtype = jnp.dtype(self.dtype)
        encoder = (self.backbone, self.width, self.norm_eval, self.key_dim, self.value_dim, dtype)
        self.memory_encoder = MemoryEncoder(*encoder)
        self.query_encoder = QueryEncoder(*encoder)
        self.decoder = Decoder(self.features, dtype)

    @property
    def traits(self) -> Traits:
        """Masks are remembered as soft as they are; both encoders start from one backbone."""
        return Traits(
            soft_feedback=True,
            backbone_scopes=(("query_encoder", "backbone"), ("memory_encoder", "backbone")),
            # ours: with keys alike from the start, what looks alike is read
            copied_scopes=(("query_encoder", "memory_encoder"),),
        )

    @property
    def rule(self) -> Rule:
        """Which frames the memory keeps."""
        return Rule(self.memory_first, self.memory_previous, self.memory_every, self.eviction)

    @property
    def mesh(self) -> Mesh | None:
        """The devices that the memory is spread over; one axis.

        Raises ValueError where this process has fewer.
        """
        count, devices = self.memory_devices, jax.local_devices()
        if count > len(devices):
            raise ValueError(
                f"config.inference.memory_devices: expected at most {len(devices)}, the "
                f"{devices[0].platform} devices of this process, found {count}; 1 keeps the memory "
                "on one"
            )
        if count <= 1:
            return None
        return jax.make_mesh(
            (count,), (memory_bank.AXIS,), (AxisType.Auto,), devices=devices[:count]
        )

    @property
    def frame_size(self) -> PaddedSize:
        """How frames are resized and padded."""
        return PaddedSize(STRIDE, self.short_side, self.scale)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame, shrunk and scaled, in the middle of black up to multiples of 16."""
        return self.frame_size.pad(frame)

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, H, W, 3] in 0..255 whose sides are multiples of 16."""
        self.frame_size.check(inputs.shape[1:3], "STM")
        return Features(inputs, *self.query_encoder(imagenet_normalise(inputs)))

    def start(
        self,
        features: Features,
        masks: jax.Array,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory of the first frame; every valid object counts as given, also without a pixel."""
        masks = masks * jnp.pad(valid, ((0, 0), (1, 0)))[:, :, None, None]
        keys, values = self._encode_masks(features, masks)
        slots = self.capacity or memory_bank.slots_needed(self.length, self.memory_every)
        parts = max(self.memory_devices, 1)
        bank = memory_bank.empty(keys, values, slots + num_references - 1, parts)
        bank = memory_bank.write(bank, keys, values, valid, self.rule)
        return self._memory(memory_bank.give(bank, valid, self.rule), valid)

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """Logits of the current frame."""
        read = self.read(memory, features)
        logits = self.decoder(read, features.value, features.r3, features.r2)
        return Prediction(logits, memory.present)

    def read(self, memory: Memory, features: Features) -> jax.Array:
        """What each pixel of the frame finds in memory for each object, [B, N, h, w, value_dim]."""
        return self._read(memory, features, memory.bank.values)

    def evidence(self, memory: Memory, features: Features) -> dict[str, jax.Array]:
        """How much of each pixel's attention goes to the first frame."""
        first = (memory.bank.number == 1)[:, None, :, None, None]
        ones = jnp.ones((*memory.bank.keys.shape[:-1], 1), memory.bank.keys.dtype)
        return {"first_frame_attention": self._read(memory, features, ones * first)[..., 0]}

    def _read(self, memory: Memory, features: Features, values: jax.Array) -> jax.Array:
        batch, height, width, _ = features.key.shape
        found = memory_read(
            features.key.reshape(batch, height * width, -1),
            memory.bank.keys,
            values,
            memory_bank.readable(memory.bank, self.rule),
            scale=None if self.scaled_scores else 1.0,
            top_k=self.top_k,
            precision=self.precision,
            kernel_bytes=self.kernel_bytes,
            mesh=self.mesh,
            axis=memory_bank.AXIS,
        )
        return found.reshape(*found.shape[:2], height, width, -1)

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction | None, masks: jax.Array
    ) -> Memory:
        """The frame is written into the bank, with its masks as soft as they are."""
        if self.detach:
            masks = jax.lax.stop_gradient(masks)
        keys, values = self._encode_masks(features, masks)
        bank = memory_bank.write(memory.bank, keys, values, memory.present, self.rule)
        return self._memory(bank, memory.present)

    def introduce(
        self, memory: Memory, features: Features, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """The frame written last, with the masks of the objects in `new` pasted, stays for good."""
        bank = memory_bank.give(memory.bank, new, self.rule)
        return self._memory(bank, memory.present | new)

    def _memory(self, bank: MemoryBank, present: jax.Array) -> Memory:
        mesh = self.mesh
        return Memory(bank if mesh is None else memory_bank.spread(bank, mesh), present)

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Softmax of the aggregated logits, [B, N+1, H, W]; 0 for objects that do not take part."""
        probabilities = jnp.exp(self._log_probabilities(prediction, size))
        if probabilities.shape[2:] == tuple(size):
            return probabilities
        return jax.image.resize(probabilities, (*probabilities.shape[:2], *size), "bilinear")

    def losses(
        self, predictions: Prediction, batch: Mapping[str, jax.Array], step: jax.Array
    ) -> jax.Array:
        """Cross-entropy of each video [B], mean over pixels, summed over the frames.

        Pixels that are void or of an object that takes no part are left out.
        """

        def frame_losses(prediction, labels):
            log = self._log_probabilities(prediction, labels.shape[1:])
            channels = jnp.arange(log.shape[1])[:, None, None]
            takes_part = jnp.pad(prediction.present, ((0, 0), (1, 0)), constant_values=True)
            target = (labels[:, None] == channels) & takes_part[:, :, None, None]
            known = target.any(axis=1)
            loss = -jnp.where(target, log, 0.0).sum(axis=1)
            return loss.sum(axis=(1, 2)) / jnp.maximum(known.sum(axis=(1, 2)), 1)

        labels = of_predicted(batch["labels"], predictions)
        return jax.vmap(frame_losses)(predictions, labels).sum(axis=0)

    def _encode_masks(self, features: Features, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, N, h * w, C] of a frame with masks [B, N+1, H, W]."""
        padded = features.frame.shape[1:3]
        size = self.frame_size.inside(masks.shape[2:], padded)
        objects = masks[:, 1:]
        if size != masks.shape[2:]:
            objects = jax.image.resize(objects, (*objects.shape[:2], *size), "bilinear")
        objects = jnp.pad(objects, ((0, 0), (0, 0), *self.frame_size.margins(size, padded)))
        maps = self.memory_encoder(imagenet_normalise(features.frame), objects)
        return tuple(x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in maps)

    def _log_probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Logarithms [B, N+1, H, W] for frames of `size`, at the size they had before padding."""
        batch, objects, height, width, _ = prediction.logits.shape
        margin = prediction.logits[..., 1] - prediction.logits[..., 0]
        margin = jax.image.resize(margin, (batch, objects, 4 * height, 4 * width), "bilinear")
        margin = self.frame_size.crop(margin, size)
        logits = soft_aggregation(jax.nn.sigmoid(margin), prediction.present)
        others = self.aggregation_channels - 1 - prediction.present.sum(axis=1)
        return jax.nn.log_softmax(_with_absent(logits, jnp.maximum(others, 0)), axis=1)[:, :-1]


def bare_read(memory: Memory, features: Features) -> jax.Array:
    """The two matrix products of `STM.read` alone: what no read can cost less than."""
    key = features.key.reshape(features.key.shape[0], -1, features.key.shape[-1])
    return read_products(key, memory.bank.keys, memory.bank.values)


def soft_aggregation(probabilities: jax.Array, present: jax.Array) -> jax.Array:
    """Logits of background and objects that compete, from each object's own probability.

    The background is what no object claims, prod (1 - p); the logit is the logarithm of the odds,
    so a softmax over the channels normalises the odds (supplementary material of the paper).

    Args:
        probabilities: [B, N, H, W].
        present: bool [B, N].

    Returns:
        [B, N+1, H, W]; -inf for objects that are not present.
    """
    present = present[:, :, None, None]
    own = jnp.where(present, probabilities, 0.0)
    background = jnp.prod(1 - own, axis=1, keepdims=True)
    p = jnp.clip(jnp.concatenate([background, own], axis=1), CLAMP, 1 - CLAMP)
    return jnp.where(
        jnp.pad(present, ((0, 0), (1, 0), (0, 0), (0, 0)), constant_values=True),
        jnp.log(p / (1 - p)),
        -jnp.inf,
    )


def _with_absent(logits: jax.Array, count: jax.Array) -> jax.Array:
    """Logits with one more channel that stands for `count` [B] objects of probability 0."""
    absent = jnp.log(jnp.float32(CLAMP) / (1 - jnp.float32(CLAMP))) + jnp.log(count)
    shape = (logits.shape[0], 1, *logits.shape[2:])
    absent = jnp.broadcast_to(absent[:, None, None, None], shape)
    return jnp.concatenate([logits, absent], axis=1)
