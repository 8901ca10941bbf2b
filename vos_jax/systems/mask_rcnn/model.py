"""Mask R-CNN: the instances of a frame, by themselves.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", ICCV 2017, arXiv 1703.06870, on the feature pyramid of
Lin et al., CVPR 2017; released code: torchvision, maskrcnn_resnet50_fpn (its defaults and geometry
are ours), and the detector inside of MaskTrack R-CNN (mmdet 0.x, see systems.masktrack_rcnn).

Frame by frame it has no idea of identity: `link` gives every detection an identity of its own.

Deviations: on a larger canvas (`canvas`), a frame's results differ a little from those on its own,
since convolutions see the zeros beside it; torchvision's do, too, in a batch of different sizes.

Glossary: B images, L levels of the pyramid, A anchors of all of them, P proposals, R boxes, D
detections, K classes with the background first.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vos_jax.nn.detection_heads import BoxHead, MaskHead, RPNHead
from vos_jax.nn.fpn import FPN
from vos_jax.nn.resnet import ResNet
from vos_jax.ops.boxes import GEOMETRIES, Geometry
from vos_jax.ops.mask_targets import mask_targets
from vos_jax.ops.paste import paste_masks
from vos_jax.ops.roi_align import level_of, roi_align_levels
from vos_jax.systems.mask_rcnn.detection import propose, pyramid_anchors, select
from vos_jax.systems.mask_rcnn.frames import batch_inputs, prepare
from vos_jax.systems.mask_rcnn.training import (
    Sampled,
    box_losses,
    mask_losses,
    proposal_losses,
    sample_anchors,
    sample_proposals,
)
from vos_jax.systems.vis_base import Detections, Inputs, Linked, VISModel

POOLED = 4  # levels that boxes are read from; the last one is for proposals alone
BOX_BINS, MASK_BINS, SAMPLING = 7, 14, 2


@struct.dataclass
class Features:
    """What is known of frames before any box is read."""

    maps: tuple[jax.Array, ...]  # L of [B, h, w, C]
    logits: jax.Array  # float32 [B, A], whether there is an object
    deltas: jax.Array  # float32 [B, A, 4]
    size: jax.Array  # int32 [B, 2]
    scale: jax.Array  # float32 [B, 2]


class MaskRCNN(VISModel):
    """Mask R-CNN with a ResNet and a feature pyramid.

    classes: without the background. width: of the backbone's channels. geometry: see ops.boxes.
    norm_epsilon: of the backbone's normalisations, which keep their statistics; 0 is what
    torchvision's released weights were trained with. anchor_size: in strides. finest: boxes of at
    least twice as many pixels a side are read from the second level of the pyramid, and so on.

    How it is run: image_scale (long, short) and canvas as in `frames.prepare`; pre_nms candidates
    of each level and post_nms proposals of all, suppressed at proposal_threshold; detections above
    score_threshold, suppressed at nms_threshold, at most max_detections.

    How it is trained: train_proposals are candidates of each level and proposals; of each image
    anchor_samples anchors and box_samples boxes count; box_beta is where the loss of boxes becomes
    linear.
    """

    classes: int = 90
    depth: int = 50
    width: float = 1.0
    groups: int = 1
    group_width: int = 64
    features: int = 256
    hidden: int = 1024
    mask_depth: int = 4
    geometry: str = "modern"
    norm_epsilon: float = 0.0
    norm_eval: bool = True
    anchor_size: float = 8.0
    finest: float = 56.0
    image_scale: tuple[int, int] = (1333, 800)
    canvas: tuple[int, int] = (0, 0)
    pre_nms: int = 1000
    post_nms: int = 1000
    proposal_threshold: float = 0.7
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    train_proposals: int = 2000
    anchor_samples: int = 256
    box_samples: int = 512
    box_beta: float = 1 / 9
    dtype: str = "float32"  # of features and heads; "bfloat16" halves them

    def setup(self):
        dtype = jnp.dtype(self.dtype)
        self.backbone = ResNet(
            depth=self.depth,
            width=self.width,
            groups=self.groups,
            group_width=self.group_width,
            epsilon=self.norm_epsilon,
            norm_eval=self.norm_eval,
            dtype=dtype,
        )
        self.fpn = FPN(self.features, dtype)
        self.rpn = RPNHead(self.features, dtype=dtype)
        self.box_head = BoxHead(self.hidden, self.classes + 1, dtype)
        self.mask_head = MaskHead(self.features, self.classes + 1, self.mask_depth, dtype)

    @property
    def convention(self) -> Geometry:
        """What `geometry` names; ValueError where it names nothing."""
        if self.geometry not in GEOMETRIES:
            raise ValueError(
                f"geometry: expected one of {sorted(GEOMETRIES)}, found {self.geometry!r}"
            )
        return GEOMETRIES[self.geometry]

    def preprocess(self, frame: np.ndarray) -> Inputs:
        """As `VISModel.preprocess`."""
        return prepare(frame, self.image_scale, self.canvas, self.convention)

    def encode(self, inputs: Inputs, train: bool = False) -> Features:
        """Pyramid and proposals' logits; canvases of a batch have one size."""
        maps = self.fpn(self.backbone(inputs.frame, train))
        said = [self.rpn(x) for x in maps]
        logits, deltas = (jnp.concatenate(x, axis=1) for x in zip(*said, strict=True))
        return Features(maps, logits, deltas, inputs.size, inputs.scale)

    def anchors(self, features: Features) -> list[np.ndarray]:
        """Those of each level."""
        grids = [x.shape[1:3] for x in features.maps]
        return pyramid_anchors(grids, self.anchor_size, self.convention)

    def propose(
        self, features: Features, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Boxes [B, P, 4] on the canvas, their logits [B, P], and which ones are valid."""
        anchors = self.anchors(features)
        limits = (self.train_proposals,) * 2 if train else (self.pre_nms, self.post_nms)

        def of_image(logits, deltas, size):
            options = (*limits, self.proposal_threshold, self.convention)
            return propose(logits, deltas, anchors, size, *options)

        return jax.vmap(of_image)(features.logits, features.deltas, features.size)

    def pool(self, features: Features, boxes: jax.Array, bins: int) -> jax.Array:
        """Features of boxes [B, R, 4] on the canvas: float32 [B, R, bins, bins, C]."""
        maps = features.maps[:POOLED]
        scales = [1 / (4 * 2**level) for level in range(len(maps))]
        levels = level_of(boxes, len(maps), self.finest, self.convention)

        def of_image(maps, boxes, levels):
            return roi_align_levels(maps, boxes, levels, bins, scales, SAMPLING, self.convention)

        return jax.vmap(of_image)(maps, boxes, levels)

    def classify(self, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits [..., K] and deltas [..., K, 4] of pooled boxes."""
        return self.box_head(pooled)

    def mask_logits(self, features: Features, boxes: jax.Array, classes: jax.Array) -> jax.Array:
        """Of the class, from 0, of each box on the canvas: float32 [B, R, m, m]."""
        pooled = self.pool(features, boxes, MASK_BINS)
        logits = self.mask_head(pooled.reshape(-1, *pooled.shape[2:]))
        own = (classes.reshape(-1) + 1)[:, None, None, None]  # the first is the background's
        logits = jnp.take_along_axis(logits, own, axis=3)[..., 0]
        return logits.reshape(*classes.shape, *logits.shape[1:])

    def embed(self, features: Features, boxes: jax.Array) -> jax.Array:
        """Embeddings of boxes on the canvas, [B, R, E]: none here, E is 0."""
        return jnp.zeros((*boxes.shape[:2], 0))

    def detect(self, features: Features) -> Detections:
        """As `VISModel.detect`."""
        proposals, _, valid = self.propose(features)
        logits, deltas = self.classify(self.pool(features, proposals, BOX_BINS))

        def of_image(*arrays):
            limits = (self.score_threshold, self.nms_threshold, self.max_detections)
            return select(*arrays, *limits, self.convention)

        placing = (features.size, features.scale)
        found = jax.vmap(of_image)(proposals, valid, logits, deltas, *placing)
        placed = found.pop("placed")
        return Detections(
            masks=self.mask_logits(features, placed, found["classes"]),
            embeddings=self.embed(features, placed),
            **found,
        )

    def losses(
        self, batch: Mapping[str, jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As `VISModel.losses`, of the first frame of each example.

        batch: frames [B, T, H, W, 3] in 0..255 on one canvas, size int32 [B, 2], boxes
        [B, T, G, 4], masks bool [B, T, G, H, W], classes int32 [B, G] from 1, valid bool [B, T, G].
        """
        features = self.encode(batch_inputs(batch, 0), train=True)
        parts, *_ = self.detector_losses(features, batch, key)
        return sum(parts.values()), parts

    def detector_losses(
        self, features: Features, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[dict[str, jax.Array], Sampled, jax.Array]:
        """The losses by name, the boxes that were sampled, and where they are, [B, R, 4]."""
        boxes, valid = batch["boxes"][:, 0], batch["valid"][:, 0]
        keys = [jax.random.split(half, len(boxes)) for half in jax.random.split(key)]
        truth, geometry = (boxes, valid), self.convention
        anchors = np.concatenate(self.anchors(features))
        sampled = sample_anchors(
            keys[0], anchors, features.size, *truth, self.anchor_samples, geometry
        )
        said = (features.logits, features.deltas, anchors)
        parts = proposal_losses(*said, boxes, sampled, geometry)
        proposals, _, usable = self.propose(features, train=True)
        sampled, rois = sample_proposals(
            keys[1], proposals, usable, *truth, self.box_samples, geometry
        )
        return parts | self.roi_losses(features, batch, sampled, rois), sampled, rois

    def roi_losses(
        self, features: Features, batch: Mapping[str, jax.Array], sampled: Sampled, rois: jax.Array
    ) -> dict[str, jax.Array]:
        """The losses of sampled boxes rois [B, R, 4]: "class", "box" and "mask"."""
        classes, geometry = batch["classes"], self.convention
        said = self.classify(self.pool(features, rois, BOX_BINS))
        boxes = batch["boxes"][:, 0]
        parts = box_losses(*said, rois, boxes, classes, sampled, self.box_beta, geometry)
        first = slice(0, max(self.box_samples // 4, 1))  # no other can be positive
        sampled, rois = jax.tree.map(lambda x: x[:, first], (sampled, rois))
        logits = self.mask_logits(features, rois, jnp.maximum(sampled.objects(classes) - 1, 0))
        slots, side = jnp.maximum(sampled.slot, 0), logits.shape[2]
        targets = jax.vmap(lambda *x: mask_targets(*x, side, geometry))(
            batch["masks"][:, 0], slots, rois
        )
        return parts | {"mask": mask_losses(logits, targets, sampled.positive)}

    def masks(self, detections: Detections, size: tuple[int, int]) -> jax.Array:
        """As `VISModel.masks`."""
        geometry = self.convention

        def of_image(logits, boxes):
            soft = paste_masks(jax.nn.sigmoid(logits), boxes, size, geometry)
            return soft > 0.5 if geometry.inclusive else soft >= 0.5

        found = jax.vmap(of_image)(detections.masks, detections.boxes)
        return found & detections.valid[..., None, None]

    def start(self, features: Features) -> jax.Array:
        """The next identity of each video, int32 [B]."""
        return jnp.zeros(len(features.size), jnp.int32)

    def link(
        self, memory: jax.Array, features: Features, detections: Detections, real: jax.Array
    ) -> tuple[jax.Array, Linked]:
        """Every detection is an instance that was never seen before."""
        new = detections.valid & real[:, None]
        ids = jnp.where(new, memory[:, None] + jnp.cumsum(new, axis=1) - 1, -1)
        return memory + new.sum(axis=1), Linked(ids, detections)
