"""A-GAME: a generative model of each object's appearance, fitted and updated inside the network.

Johnander, Danelljan, Brissman, Khan, Felsberg: "A Generative Appearance Model for End-to-end Video
Object Segmentation", CVPR 2019, arXiv 1811.11611; released code: joakimjohnander/agame-vos.

Four Gaussians of features describe each object and what is not it (ops/gaussian.py). In every frame
their log-scores, and features that propagate the mask of the previous frame, are fused to a coarse
mask at stride 16, and this is refined to the final one. The mask of the frame updates the Gaussians
and is the previous mask of the next frame.

Where the released code and the paper differ the code is followed: means are drawn to 0 by one pixel
(`fit="paper"` divides by the sum of the weights alone, and the regulariser enters with them), the
background of several objects is the least of their backgrounds (STM has their product), and a mask
that is given later is not pasted into the result: the object is fitted to it, then predicted in the
same frame. Frames are padded to multiples of 16 by reflection, and everything, the Gaussians too,
lives on the padded frame.

What is fed back is `fed_back`: in training the coarse mask (config.train.model), otherwise the
final one averaged over 16x16 pixels, with `aggregate` after objects have competed (several objects)
or before (the release's setting for DAVIS-2016). The rows of the paper's ablation are
`components=2` (unimodal), `update_rate=0`, `scores="posterior"`, `end_to_end=False`,
`appearance=False` and `mask_propagation=False`.

Glossary: B videos, N objects, H W frame size, h w the stride-16 grid of the padded frame.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.images import imagenet_normalise
from vos_jax.nn.remat import block
from vos_jax.ops import gaussian
from vos_jax.ops.gaussian import Mixture
from vos_jax.systems.agame.network import (
    BACKBONES,
    Backbone,
    Fusion,
    MaskPropagation,
    Upsampling,
)
from vos_jax.systems.base import Traits, VOSModel, of_predicted
from vos_jax.systems.frame_size import PaddedSize

STRIDE = 16  # frames are padded to multiples of it
CLAMP = 1e-7  # probabilities stay this far from 0 and 1 where they are aggregated
# in pictures, in their order; the third and fourth are what the first two get wrong
COMPONENTS = ("background", "target", "target_like_background", "distractors")
CHOICES = {
    "backbone": BACKBONES,
    "fit": tuple(gaussian.SHRINKAGE),
    "scores": ("log", "posterior"),
    "fed_back": ("fine", "coarse"),
    "components": (2, 4),
}


@struct.dataclass
class Features:
    """One frame."""

    appearance: jax.Array  # float32 [B, h, w, channels], what the Gaussians are of
    now: jax.Array  # [B, h, w, channels], its share in the mask propagation
    s16: jax.Array
    s8: jax.Array
    s4: jax.Array


@struct.dataclass
class Memory:
    """What the next frame may look at."""

    mixture: Mixture
    then: jax.Array  # [B, N, h, w, channels], share of the frame in which each object was given
    previous: jax.Array  # float32 [B, N, h, w], masks of the previous frame
    present: jax.Array  # bool [B, N], objects that were given


@struct.dataclass
class Prediction:
    """Two scores per object (background, object), and which objects take part."""

    fine: jax.Array  # float32 [B, N, 4h, 4w, 2]
    coarse: jax.Array  # float32 [B, N, h, w, 2]
    present: jax.Array  # bool [B, N]


class AGAME(VOSModel):
    """The network. Fields are the released configuration."""

    backbone: str = "resnet101"  # or "resnet50", "resnet18", "mobilenet_v2"
    width: float = 1.0  # channel multiplier of the backbone
    # released: BatchNorm of the backbone's last layer, 4, is live in training; 5: none, 0: all
    live_from: int = 4
    channels: int = 512  # of the Gaussians, of mask propagation and of fusion
    fine_channels: int = 128  # from the coarse mask on
    components: int = 4  # with distractors, or 2
    fit: str = "code"  # or "paper", see ops/gaussian.py
    update_rate: float = 0.1  # the paper's lambda; 0: the model of the given frame stays
    scores: str = "log"  # of the components; or "posterior", their softmax
    end_to_end: bool = True  # gradients pass through the fitting of the Gaussians
    appearance: bool = True  # False: mask propagation alone
    mask_propagation: bool = True  # False: the appearance model alone
    fed_back: str = "fine"  # or "coarse"
    aggregate: bool = True
    short_side: int = 0  # frames are shrunk until their shorter side is this long; 0: as they are
    scale: float = 1.0  # of the frame after that, see systems.views
    dtype: str = "float32"  # of features; "bfloat16" halves them

    def setup(self):
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f"config.model.{field}: expected one of {known}, found {getattr(self, field)!r}"
                )
        if not (self.appearance or self.mask_propagation):
            raise ValueError(
                "config.model: appearance and mask_propagation are both False; nothing would say "
                "where an object is"
            )
        dtype = jnp.dtype(self.dtype)
        self.backbone_network = Backbone(self.backbone, self.width, self.live_from, dtype)
        if self.appearance:
            self.conv_in = nn.Conv(self.channels, (1, 1), dtype=dtype)
            self.regulariser = self.param(
                "regulariser", nn.initializers.constant(-2.0), (self.components, self.channels)
            )
        if self.mask_propagation:
            self.propagation = block(MaskPropagation)(self.channels, dtype)
        self.fusion = block(Fusion)(self.channels, self.fine_channels, dtype)
        self.upsampling = block(Upsampling)(self.fine_channels, dtype)

    @property
    def traits(self) -> Traits:
        """A later object is fitted first, then segmented, and its mask is pasted nowhere."""
        return Traits(
            introduces="before",
            pastes=False,
            remembers_given=False,
            soft_feedback=True,
            backbone_scopes=(("backbone_network", "network"),),
        )

    @property
    def frame_size(self) -> PaddedSize:
        """How frames are resized and padded; an odd pixel comes before them."""
        return PaddedSize(STRIDE, self.short_side, self.scale, odd_before=True)

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The frame, shrunk and scaled, continued by reflection up to multiples of 16."""
        return self.frame_size.pad(frame, mode="reflect")

    def encode(self, inputs: jax.Array, train: bool = False) -> Features:
        """Features of RGB frames [B, H, W, 3] in 0..255 whose sides are multiples of 16."""
        self.frame_size.check(inputs.shape[1:3], "A-GAME")
        s4, s8, s16 = self.backbone_network(imagenet_normalise(inputs), train)
        # what is switched off stays as narrow as it can be
        appearance = self.conv_in(s16) if self.appearance else s16[..., :0]
        now = self.propagation.of_frame(s16) if self.mask_propagation else s16[..., :0]
        return Features(appearance.astype(jnp.float32), now, s16, s8, s4)

    def start(
        self,
        features: Features,
        masks: jax.Array,
        valid: jax.Array,
        num_references: int = 1,
        train: bool = False,
    ) -> Memory:
        """Memory of the first frame; every valid object counts as given, also without a pixel."""
        objects = self.fit_masks(masks, features)
        return self._given(features, objects, valid)

    def segment(self, memory: Memory, features: Features, train: bool = False) -> Prediction:
        """Coarse and final scores of the current frame."""
        clues = []
        if self.appearance:
            clues.append(self.appearance_scores(memory, features).astype(self.dtype))
        if self.mask_propagation:
            clues.append(self.propagation(features.now, memory.then, memory.previous))
        x, coarse = self.fusion(jnp.concatenate(clues, axis=-1))
        fine = self.upsampling(x, features.s8, features.s4)
        slots = memory.previous.shape[:2]
        fine, coarse = (scores.reshape(*slots, *scores.shape[1:]) for scores in (fine, coarse))
        return Prediction(fine, coarse, memory.present)

    def appearance_scores(self, memory: Memory, features: Features) -> jax.Array:
        """What the components say of each pixel, float32 [B * N, h, w, components]."""
        scores = gaussian.log_scores(memory.mixture, _pixels(features.appearance))
        if self.scores == "posterior":
            scores = jax.nn.softmax(scores, axis=2)
        grid = features.appearance.shape[1:3]
        return jnp.moveaxis(scores, 2, -1).reshape(-1, *grid, self.components)

    def evidence(self, memory: Memory, features: Features) -> dict[str, jax.Array]:
        """Posteriors of the components (the paper's figure of target and distractors)."""
        if not self.appearance:
            return {}
        scores = gaussian.log_scores(memory.mixture, _pixels(features.appearance))
        posteriors = jax.nn.softmax(scores, axis=2)
        posteriors = posteriors.reshape(*posteriors.shape[:3], *features.appearance.shape[1:3])
        return {name: posteriors[:, :, k] for k, name in enumerate(COMPONENTS[: self.components])}

    def memorize(
        self, memory: Memory, features: Features, prediction: Prediction | None, masks: jax.Array
    ) -> Memory:
        """The frame's masks update the Gaussians and are the previous ones of the next frame."""
        fitted = self.fitted(features, masks)
        mixture = gaussian.update(memory.mixture, fitted, self.update_rate)
        return memory.replace(mixture=mixture, previous=masks)

    def introduce(
        self, memory: Memory, features: Features, masks: jax.Array, new: jax.Array
    ) -> Memory:
        """The `new` objects begin again with this frame."""
        given = self._given(features, self.fit_masks(masks, features), memory.present | new)

        def choose(old, fresh):
            return jnp.where(new.reshape(*new.shape, *[1] * (old.ndim - 2)), fresh, old)

        return jax.tree.map(choose, memory, given).replace(present=memory.present | new)

    def fitted(self, features: Features, masks: jax.Array) -> Mixture:
        """The Gaussians of one frame with masks [B, N, h, w]."""
        if not self.appearance:
            empty = jnp.zeros((*masks.shape[:2], self.components, 0))
            return Mixture(empty, empty)
        flat = masks.reshape(*masks.shape[:2], -1)
        floors = jax.nn.softplus(self.regulariser)
        mixture = gaussian.fit(_pixels(features.appearance), flat, floors, self.fit)
        return mixture if self.end_to_end else jax.lax.stop_gradient(mixture)

    def _given(self, features: Features, objects: jax.Array, present: jax.Array) -> Memory:
        """Memory of objects [B, N, h, w] that this frame shows for the first time."""
        if self.mask_propagation:
            then = self.propagation.of_given(features.s16, objects)
        else:
            then = jnp.zeros((*objects.shape, 0))
        return Memory(self.fitted(features, objects), then, objects, present)

    def fit_masks(self, masks: jax.Array, features: Features) -> jax.Array:
        """Objects' shares of the cells [B, N, h, w] of masks [B, N+1, H, W]; the rest is 0."""
        padded = tuple(STRIDE * n for n in features.s16.shape[1:3])
        inside = self.frame_size.inside(masks.shape[2:], padded)
        objects = masks[:, 1:]
        if inside != masks.shape[2:]:
            objects = jax.image.resize(objects, (*objects.shape[:2], *inside), "bilinear")
        margins = self.frame_size.margins(inside, padded)
        return _pool(jnp.pad(objects, ((0, 0), (0, 0), *margins), mode="reflect"))

    def feedback(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """What is fed back, [B, N, h, w], see `fed_back`."""
        if self.fed_back == "coarse":
            return jax.nn.sigmoid(_margin(prediction.coarse))
        margin = _enlarged(_margin(prediction.fine), 4)
        if self.aggregate:
            return _pool(aggregation(margin, prediction.present)[:, 1:])
        return _pool(jax.nn.sigmoid(margin))

    def probabilities(self, prediction: Prediction, size: tuple[int, int]) -> jax.Array:
        """Probabilities after objects have competed, [B, N+1, H, W]; 0 for those not given."""
        margin = _enlarged(_margin(prediction.fine), 4)
        found = aggregation(margin, prediction.present)
        found = self.frame_size.crop(found, size)
        if found.shape[2:] == tuple(size):
            return found
        return jax.image.resize(found, (*found.shape[:2], *size), "bilinear")

    def losses(
        self,
        predictions: Prediction,
        batch: Mapping[str, jax.Array],
        step: jax.Array,
        coarse_weight: float = 1.0,
    ) -> jax.Array:
        """Cross-entropy of final and coarse masks of each video [B].

        Mean over pixels, objects and frames; each object is told from all else, and void is
        background, as in the release. coarse_weight: of the coarse masks' part (the release trains
        its second stage without).
        """
        valid = batch["valid"]

        def frame_losses(prediction, labels):
            slots = 1 + jnp.arange(valid.shape[1])[:, None, None]
            of_object = labels[:, None] == slots

            def mean_loss(scores, factor):
                found = [_enlarged(nn.log_sigmoid(x), factor) for x in (-scores, scores)]
                background, own = (self.frame_size.crop(x, labels.shape[1:]) for x in found)
                return -jnp.where(of_object, own, background).mean(axis=(2, 3))

            # the release enlarges the final scores, but the logarithms of the coarse masks
            final = mean_loss(_enlarged(_margin(prediction.fine), 4), 1)
            total = final + coarse_weight * mean_loss(_margin(prediction.coarse), STRIDE)
            return (total * valid).sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)

        labels = of_predicted(batch["labels"], predictions)
        return jax.vmap(frame_losses)(predictions, labels).mean(axis=0)


def aggregation(margin: jax.Array, present: jax.Array) -> jax.Array:
    """Probabilities of background and objects that compete, from each object's own score.

    The odds p / (1 - p), normalised; the background's probability is the least of those that the
    objects leave it (softmax_aggregate of the release; the product in STM).

    Args:
        margin: object's minus background's score [B, N, H, W].
        present: bool [B, N].

    Returns:
        [B, N+1, H, W]; 0 for objects that are not present.
    """
    present = present[:, :, None, None]
    claimed = jnp.where(present, jax.nn.sigmoid(margin), 0.0)
    left = jnp.where(present, jax.nn.sigmoid(-margin), 1.0)
    background = left.min(axis=1, keepdims=True)
    odds = _clamp(claimed) / _clamp(left)
    odds = jnp.where(present, odds, 0.0)
    all_odds = jnp.concatenate([_clamp(background) / _clamp(1 - background), odds], axis=1)
    return all_odds / all_odds.sum(axis=1, keepdims=True)


def _clamp(p: jax.Array) -> jax.Array:
    return jnp.clip(p, CLAMP, 1 - CLAMP)


def _margin(scores: jax.Array) -> jax.Array:
    """Object's minus background's score: what their softmax depends on."""
    return scores[..., 1] - scores[..., 0]


def _enlarged(margin: jax.Array, factor: int) -> jax.Array:
    """[B, N, h, w] -> [B, N, factor * h, factor * w], bilinear, align_corners=False."""
    height, width = margin.shape[2:]
    size = (*margin.shape[:2], factor * height, factor * width)
    return jax.image.resize(margin, size, "bilinear")


def _pool(masks: jax.Array) -> jax.Array:
    """Means over 16x16 pixels, [B, N, h, w]."""
    batch, objects, height, width = masks.shape
    cells = (batch, objects, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return masks.reshape(cells).mean(axis=(3, 5))


def _pixels(x: jax.Array) -> jax.Array:
    """[B, h, w, C] -> [B, h * w, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
