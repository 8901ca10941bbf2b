"""COSNet: the object that a video shows again and again, found by co-attention between its frames.

Lu, Wang, Ma, Shen, Shao, Porikli: "See More, Know More: Unsupervised Video Object Segmentation with
Co-Attention Siamese Networks", CVPR 2019, arXiv 2001.06810; released code: carrierlxk/COSNet.

Every frame is encoded once (nn/deeplab_v3.py). The features of a few reference frames are the
memory; a frame gets a summary of what it has in common with each of them (ops/coattention.py), and
summary and features give one soft map of the foreground. No mask is looked at. Without references
(`num_references=0`, or `attention="none"`) the encoder's own map, which is trained on still images,
is the answer.

Where code and paper differ the code is followed: features have 256 channels (the paper has 512),
the gate has no bias (`gate_bias=True`), and inference averages the maps of the references
(`fusion="prediction"`) where the paper averages their gated summaries and segments once
(`fusion="attention"`, equation 13); `fusion="joint"` is the release's later group co-attention, one
softmax over all references. The public weights come from a version of the code that had a softmax
too much: `legacy_double_softmax`. The paper's other mechanisms are `attention="symmetric"` and
`"channelwise"`; the release has neither.

References are chosen once for a video (`selection` "uniform", the paper's, or "random"; they may
contain the frame itself), the release draws others for every frame. For video without an end there
is "past", frames spread over all that was seen, and "consecutive", the last ones (the paper's local
sampling, for which its release has no code); of these the first frame of a video has itself alone.

In training a clip is a pair: the second frame is segmented with the first as its reference and, by
a head of its own, the other way round (`pairs`, config.train.model).

Glossary: B videos, R reference frames, M maps of a frame, h w the grid at stride 8, C channels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.deeplab_v3 import BACKBONES, RESNETS, DeepLabV3
from vos_jax.nn.images import caffe_normalise, imagenet_normalise
from vos_jax.ops.coattention import summaries
from vos_jax.ops.losses import balanced_binary_losses
from vos_jax.ops.memory_read import read_products
from vos_jax.systems import memory_bank
from vos_jax.systems.base import Traits, VOSModel, of_predicted
from vos_jax.systems.cosnet.network import MECHANISMS, Affinity, Gate, Head, logits
from vos_jax.systems.frame_size import resize_pillow, scaled_size
from vos_jax.systems.memory_bank import MemoryBank, Rule

CHOICES = {
    "backbone": BACKBONES,
    "attention": (*MECHANISMS, "none"),
    "fusion": ("prediction", "attention", "joint"),
    "selection": ("uniform", "random", "past", "consecutive"),
}
PASSING = ("past", "consecutive")  # selections that know no frame to come


@struct.dataclass
class Features:
    """One frame."""

    embedding: jax.Array  # [B, h, w, C]
    logits: jax.Array  # float32 [B, h, w], the encoder's own map
    size: tuple[int, int] = struct.field(pytree_node=False)  # of the network's input


@struct.dataclass
class Memory:
    """The references."""

    bank: MemoryBank | None  # embeddings, as keys [B, 1, R, h * w, C]; values are empty
    segmented: jax.Array  # bool [B], whether any frame was


@struct.dataclass
class Pair:
    """What training needs besides of a frame and its reference, float32."""

    reference: jax.Array  # [B, h, w], logits of the reference
    encoder: jax.Array  # [B, h, w], those of the encoder alone, of the reference as well
    penalty: jax.Array  # [B], of projections that are not orthogonal


@struct.dataclass
class Prediction:
    """Maps of the foreground, one for each reference or one for all."""

    logits: jax.Array  # float32 [B, M, h, w]
    counts: jax.Array  # bool [B, M], maps that take part
    pair: Pair | None
    size: tuple[int, int] = struct.field(pytree_node=False)  # of the network's input


class COSNet(VOSModel):
    """The network. Fields are the released configuration."""

    backbone: str = "resnet101"  # or "resnet50", "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    norm_eval: bool = False  # norms keep their running statistics in training, too
    features: int = 256
    pyramid: int = 512  # channels of each branch of the encoder's pyramid
    attention: str = "vanilla"  # or "symmetric", "channelwise"; "none": the encoder alone
    gate_bias: bool = False
    pairs: bool = False  # a clip is a pair, for training
    num_references: int = 5  # 0: the encoder alone
    selection: str = "random"  # or "uniform", "past", "consecutive"
    fusion: str = "prediction"  # or "attention", "joint"
    legacy_double_softmax: bool = False
    size: tuple[int, int] = (473, 473)  # of frames for the network; (0, 0): as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features and convolutions
    precision: str = "highest"  # of affinities and reads, see ops.platforms
    kernel_bytes: int = 0

    def setup(self):
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.model.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        dtype = jnp.dtype(self.dtype)
        shared = dict(norm_eval=self.norm_eval, dtype=dtype)
        self.encoder = DeepLabV3(self.backbone, self.features, self.pyramid, self.width, **shared)
        self.encoder_logits = logits()
        if self.attention != "none":
            self.affinity = Affinity(self.attention, self.features, dtype)
            self.gate = Gate(self.gate_bias)
            self.head = Head(self.features, **shared)
            self.reference_head = Head(self.features, **shared)

    @property
    def traits(self) -> Traits:
        """One object, found without masks."""
        return Traits(
            guidance="none",
            proposals=1,
            segments_first=not self.pairs,
            backbone_scopes=(("encoder", "backbone"),),
        )

    @property
    def alone(self) -> bool:
        """Whether frames are segmented without references."""
        return self.attention == "none" or self.num_references == 0

    @property
    def rule(self) -> Rule:
        """Every frame that is written stays, until another one needs its place."""
        eviction = "oldest" if self.selection == "consecutive" else "thin"
        return Rule(first=False, previous=False, every=1, eviction=eviction)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame at the size of the network, resized as Pillow does it."""
        size = self.size if any(self.size) else frame.shape[:2]
        return resize_pillow(frame, scaled_size(size, scale=self.scale))

    def reference_frames(self, length: int, seed: int) -> tuple[int, ...]:
        """`num_references` frames all over the video, or all of a shorter one."""
        count = 0 if self.alone or self.selection in PASSING else min(self.num_references, length)
        if self.selection == "random":
            drawn = np.random.default_rng([seed, length]).choice(length, count, replace=False)
            return tuple(int(t) for t in np.sort(drawn))
        return tuple(round((i + 0.5) * length / count - 0.5) for i in range(count))

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, h, w, 3] in 0..255."""
        of_caffe = self.backbone in RESNETS
        normalised = caffe_normalise(inputs) if of_caffe else imagenet_normalise(inputs)
        x = self.encoder(normalised, train=train)
        return Features(x, self.encoder_logits(x.astype(jnp.float32))[..., 0], inputs.shape[1:3])

    def start(
        self,
        features: Features,
        masks: None,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory with the frame as its first reference."""
        batch = len(features.embedding)
        never = jnp.zeros(batch, bool)
        if self.alone and not (train or self.pairs):
            return Memory(None, never)
        passing = self.selection in PASSING and not train
        slots = self.num_references if passing else num_references
        bank = memory_bank.empty(*_entry(features), slots)
        return Memory(self._written(bank, features), never)

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction | None, masks: None
    ) -> Memory:
        """Observed frames are references; segmented ones where references pass.

        The first segmented frame is in the memory since `start`.
        """
        if memory.bank is None:
            return memory
        if prediction is None:
            return memory.replace(bank=self._written(memory.bank, features))
        if self.selection in PASSING:
            written = self._written(memory.bank, features)
            memory = memory.replace(bank=_where(memory.segmented, written, memory.bank))
        return memory.replace(segmented=jnp.ones_like(memory.segmented))

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """Maps of the foreground."""
        if train or self.pairs:
            return self._pair(_references(memory, features)[:, 0], features, train)
        if memory.bank is None:
            counts = jnp.ones((len(features.logits), 1), bool)
            return Prediction(features.logits[:, None], counts, None, features.size)
        counts = memory_bank.readable(memory.bank, self.rule)[:, 0]
        references = _references(memory, features)
        query, keys = self.affinity.query(features.embedding), self.affinity.keys(references)
        found = self.read(query, keys, references, counts, legacy=self.legacy_double_softmax)
        if self.fusion == "attention":
            share = counts / jnp.maximum(counts.sum(axis=1, keepdims=True), 1)
            found = (found * share[..., None, None, None]).sum(axis=1, keepdims=True)
        if self.fusion != "prediction":
            counts = counts.any(axis=1, keepdims=True)
        maps = self.head(found, features.embedding)
        return Prediction(maps, counts, None, features.size)

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Background and foreground [B, 2, H, W]: the mean of the maps, enlarged."""
        counts = prediction.counts
        maps = _resized(prediction.logits, prediction.size)
        total = jnp.maximum(counts.sum(axis=1), 1)[:, None, None]
        inside = (jax.nn.sigmoid(maps) * counts[..., None, None]).sum(axis=1) / total
        inside = _resized(inside, size)
        return jnp.stack([1 - inside, inside], axis=1)

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        l1: float = 0.8,
        image_every: int = 0,
        image_weight: float = 0.1,
        orthogonal: float = 0.1,
    ) -> jax.Array:
        """Loss of each video [B]: both maps of a pair or, in image steps, that of the encoder.

        See ops.losses; l1: weight of the absolute difference (0: the paper's cross-entropy alone).
        image_every: the first of so many steps is one with images, 0: none is; image_weight: of
        their loss. orthogonal: weight of the penalty of symmetric co-attention (ours: the paper
        gives none).
        """
        labels = of_predicted(batch["labels"], predictions)
        pair, size = predictions.pair, labels.shape[2:]

        def loss(logits, labels):
            maps = _resized(logits, size)
            return balanced_binary_losses(maps, (labels > 0) & (labels < 255), labels < 255, l1)

        # of the clips' first frame in all predictions
        reference = jnp.broadcast_to(batch["labels"][:, 0], labels.shape)
        target = jax.vmap(loss)(predictions.logits[:, :, 0], labels)
        total = target + jax.vmap(loss)(pair.reference, reference)
        total += orthogonal * pair.penalty
        if image_every:
            image = image_weight * jax.vmap(loss)(pair.encoder, reference)
            total = jnp.where(step % image_every == 0, image, total)
        return total.mean(axis=0)

    def __call__(self, inputs: jax.Array, masks: jax.Array, valid: jax.Array) -> Prediction:
        """Both frames of a pair [2, B, h, w, 3]; meets every parameter, for `init`."""
        return self._pair(self.encode(inputs[0]).embedding, self.encode(inputs[1]))

    def _pair(self, reference: jax.Array, features: Features, train: bool = False) -> Prediction:
        """The frame with one reference, an embedding [B, h, w, C], and the other way round."""
        embedding, counts = features.embedding, jnp.ones((len(reference), 1), bool)
        encoder = self.encoder_logits(reference.astype(jnp.float32))[..., 0]
        if self.attention == "none":
            pair = Pair(encoder, encoder, jnp.zeros(len(reference)))
            return Prediction(features.logits[:, None], counts, pair, features.size)
        references = reference[:, None]
        query, keys = self.affinity.query(embedding), self.affinity.keys(references)
        found = self.read(query, keys, references, counts, legacy=self.legacy_double_softmax)
        maps = self.head(found, embedding, train)
        # this direction never had the double softmax
        query, keys = self.affinity.turned(reference, embedding)
        turned = self.read(query, keys, embedding[:, None], counts)
        of_reference = self.reference_head(turned, reference, train)[:, 0]
        penalty = jnp.broadcast_to(self.affinity.penalty(), len(reference))
        return Prediction(maps, counts, Pair(of_reference, encoder, penalty), features.size)

    def read(
        self,
        query: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        counts: jax.Array,
        legacy: bool = False,
    ) -> jax.Array:
        """Gated summaries float32 [B, M, h, w, C] of references [B, R, h, w, C]."""
        found = summaries(
            query,
            keys,
            values,
            counts,
            joint=self.fusion == "joint",
            legacy=legacy,
            precision=self.precision,
            kernel_bytes=self.kernel_bytes,
        )
        return self.gate(found).reshape(*found.shape[:2], *values.shape[2:])

    def _written(self, bank: MemoryBank, features: Features) -> MemoryBank:
        """The bank with one more frame."""
        known = jnp.ones((len(features.embedding), 1), bool)
        return memory_bank.write(bank, *_entry(features), known, self.rule)


def _entry(features: Features) -> tuple[jax.Array, jax.Array]:
    """Keys [B, 1, h * w, C] and values of a frame in a bank: what is read are the keys."""
    x = features.embedding.reshape(len(features.embedding), 1, -1, features.embedding.shape[-1])
    return x, x[..., :0]


def _references(memory: Memory, features: Features) -> jax.Array:
    """Embeddings [B, R, h, w, C]."""
    batch, height, width, channels = features.embedding.shape
    return memory.bank.keys.reshape(batch, -1, height, width, channels)


def products(memory: Memory, features: Features) -> jax.Array:
    """The matrix products of reading all references alone: what `read` cannot cost less than."""
    query, _ = _entry(features)
    return read_products(query[:, 0], memory.bank.keys, memory.bank.keys)


def _resized(maps: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Maps [..., h, w] at `size`: bilinear, pixels are areas, without antialiasing."""
    return jax.image.resize(maps, (*maps.shape[:-2], *size), "linear", antialias=False)


def _where(chosen: jax.Array, new: MemoryBank, old: MemoryBank) -> MemoryBank:
    """Leaf by leaf: `new` where chosen bool [B], else `old`."""

    def choose(new, old):
        return jnp.where(chosen.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, new, old)
